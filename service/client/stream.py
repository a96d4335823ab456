"""One stream: requests as the window allows, answers in order."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import grpc

from service.client.errors import MalformedAnswer, RequestRefused
from service.client.wire import read_outputs
from service.pb import grpc_service_pb2 as pb
from service.tensors import Tensors


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request of a stream got. index: its place in the stream, from 0.

    outputs: by name, empty if it failed. error: why it failed, None if it did not.
    """

    index: int
    outputs: Tensors
    error: RequestRefused | None = None

    def result(self) -> Tensors:
        """Return the outputs. Raises RequestRefused if the request failed."""
        if self.error is not None:
            raise self.error
        return self.outputs


class WindowedRequests:
    """The requests of one stream, handed to gRPC as the window allows."""

    def __init__(self, window: int, requests: Iterator[pb.ModelInferRequest]) -> None:
        self._slots = threading.Semaphore(window)
        self._requests = requests
        self._stopped = False
        self.sent = 0
        self.failure: Exception | None = None

    def __iter__(self) -> Iterator[pb.ModelInferRequest]:
        while True:
            self._slots.acquire()
            if self._stopped:
                return
            try:
                request = next(self._requests, None)
            except Exception as error:  # noqa: BLE001 -- of the caller's iterable: raised to him
                self.failure = error
                return
            if request is None:
                return
            request.id = str(self.sent)
            self.sent += 1
            yield request

    def settle(self) -> None:
        """Allow one more request."""
        self._slots.release()

    def stop(self) -> None:
        """Give no more requests; wakes up whoever waits for the window."""
        self._stopped = True
        self._slots.release()


def read_answer(message: pb.ModelStreamInferResponse, index: int) -> Answer:
    """Return the answer to request number index. Raises MalformedAnswer if it is another's."""
    got = message.infer_response.id
    if got and got != str(index):
        raise MalformedAnswer(f"the server answered request {got} where {index} was due")
    if message.error_message:
        refusal = RequestRefused(grpc.StatusCode.UNKNOWN, message.error_message)
        return Answer(index, {}, refusal)
    return Answer(index, read_outputs(message.infer_response))
