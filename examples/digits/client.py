"""A gRPC client of the classifier: one image a request, many requests in flight.

Plain grpcio and the stubs of the protocol; any language does the same with the .proto files.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import grpc
import numpy as np
import numpy.typing as npt

from service.pb.grpc_service_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)

MODEL: Final = "digits"
_SERVICE: Final = "/inference.GRPCInferenceService"
_IN_FLIGHT: Final = 32  # requests whose answer is awaited
_DEADLINE_S: Final = 120.0  # of a whole pass

Images = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over the images. predictions: class of each image; latencies_s: of each request."""

    predictions: npt.NDArray[np.int64]
    latencies_s: npt.NDArray[np.float64]
    seconds: float

    @property
    def requests_per_second(self) -> float:
        """Return how many requests a second were answered."""
        return len(self.latencies_s) / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """Return the latency that this share of the requests stayed below."""
        return float(np.percentile(self.latencies_s, percent)) * 1e3


class _Journal:
    """Times and answers of a pass, filled from gRPC's threads."""

    def __init__(self, count: int) -> None:
        self.window = threading.BoundedSemaphore(_IN_FLIGHT)
        self._sent = np.zeros(count)
        self._latencies = np.zeros(count)
        self._predictions = np.full(count, -1)
        self._start = time.perf_counter()

    def sent(self, index: int) -> None:
        self._sent[index] = time.perf_counter()

    def answered(self, response: ModelInferResponse) -> None:
        index = int(response.id)
        self._latencies[index] = time.perf_counter() - self._sent[index]
        scores = np.frombuffer(response.raw_output_contents[0], np.float32)
        self._predictions[index] = int(scores.argmax())

    def finish(self) -> Pass:
        seconds = time.perf_counter() - self._start
        missing = int((self._predictions < 0).sum())
        if missing:
            raise RuntimeError(f"{missing} requests were not answered")
        return Pass(self._predictions, self._latencies, seconds)


def stream(channel: grpc.Channel, images: Images) -> Pass:
    """Send every image over one bidirectional stream. Raises RuntimeError if one is refused."""
    call = channel.stream_stream(
        f"{_SERVICE}/ModelStreamInfer",
        request_serializer=ModelInferRequest.SerializeToString,
        response_deserializer=ModelStreamInferResponse.FromString,
    )
    journal = _Journal(len(images))

    def requests() -> Iterator[ModelInferRequest]:
        for index, image in enumerate(images):
            request = _request(index, image)
            if not journal.window.acquire(timeout=_DEADLINE_S):
                return
            journal.sent(index)
            yield request

    for message in call(requests(), timeout=_DEADLINE_S):
        if message.error_message:
            raise RuntimeError(message.error_message)
        journal.answered(message.infer_response)
        journal.window.release()
    return journal.finish()


def unary(channel: grpc.Channel, images: Images) -> Pass:
    """Send every image as a call of its own. Raises grpc.RpcError if one fails."""
    call = channel.unary_unary(
        f"{_SERVICE}/ModelInfer",
        request_serializer=ModelInferRequest.SerializeToString,
        response_deserializer=ModelInferResponse.FromString,
    )
    journal = _Journal(len(images))
    futures = []
    for index, image in enumerate(images):
        request = _request(index, image)
        if not journal.window.acquire(timeout=_DEADLINE_S):
            raise RuntimeError(f"no answer within {_DEADLINE_S:.0f} s")
        journal.sent(index)
        future = call.future(request, timeout=_DEADLINE_S)
        future.add_done_callback(_receiver(journal))
        futures.append(future)
    for future in futures:
        future.result()
    for _ in range(_IN_FLIGHT):  # callbacks may still run when the results are there
        journal.window.acquire(timeout=_DEADLINE_S)
    return journal.finish()


def _receiver(journal: _Journal) -> Callable[["grpc.Future[ModelInferResponse]"], None]:
    def receive(future: "grpc.Future[ModelInferResponse]") -> None:
        try:
            if future.exception() is None:
                journal.answered(future.result())
        finally:
            journal.window.release()

    return receive


def _request(index: int, image: Images) -> ModelInferRequest:
    request = ModelInferRequest(model_name=MODEL, id=str(index))
    request.inputs.add(name="image", datatype="FP32", shape=[1, image.size])
    request.raw_input_contents.append(image.tobytes())
    return request
