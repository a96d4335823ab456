"""h2load as the client: what it is to do, what it did, and whether it was answered."""

import re
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import numpy as np

from service.pb.grpc_service_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)

SERVICE: Final = "/inference.GRPCInferenceService/"
STREAM_MESSAGES: Final = 100  # messages of one stream, all sent at once
_PROBE_S: Final = 10.0
_MAX_LOAD_S: Final = 120.0


class CannotServe(Exception):
    """A server that does not answer as it should. The text says how."""


@dataclass(frozen=True)
class Case:
    """What h2load does. in_flight: requests or streams at once, over all connections."""

    name: str
    in_flight: int
    stream: bool = False
    connections: int = 1

    @property
    def method(self) -> str:
        """Return the path of the RPC."""
        return SERVICE + ("ModelStreamInfer" if self.stream else "ModelInfer")

    @property
    def messages(self) -> int:
        """Return the messages of one request of h2load."""
        return STREAM_MESSAGES if self.stream else 1


class Requests:
    """The request of one model, framed in files for h2load."""

    def __init__(self, directory: Path, input_name: str, shape: tuple[int, ...]) -> None:
        """Write the files. shape: of the input, with the batch."""
        self.message = ModelInferRequest(model_name="model", id="1")
        self.message.inputs.add(name=input_name, datatype="FP32", shape=shape)
        self.message.raw_input_contents.append(np.ones(shape, np.float32).tobytes())
        payload = self.message.SerializeToString()
        framed = struct.pack(">BI", 0, len(payload)) + payload
        self._bodies = {}
        for count in (1, STREAM_MESSAGES):
            self._bodies[count] = directory / f"body-{count}"
            self._bodies[count].write_bytes(framed * count)

    def body(self, case: Case) -> Path:
        """Return the file with the body of one request of h2load."""
        return self._bodies[case.messages]

    def probe(self, address: str, *, stream: bool) -> int:
        """Ask once, or for a short stream, and return the bytes of an answer.

        h2load sees HTTP only, for which an error of gRPC is a success. Raises CannotServe.
        """
        try:
            with grpc.insecure_channel(address) as channel:
                return self._stream(channel) if stream else self._unary(channel)
        except grpc.RpcError as error:
            raise CannotServe(f"{error.code().name}: {str(error.details())[:100]}") from error

    def _unary(self, channel: grpc.Channel) -> int:
        ask = channel.unary_unary(
            SERVICE + "ModelInfer",
            ModelInferRequest.SerializeToString,
            ModelInferResponse.FromString,
        )
        return _size(ask(self.message, timeout=_PROBE_S, wait_for_ready=True))

    def _stream(self, channel: grpc.Channel) -> int:
        ask = channel.stream_stream(
            SERVICE + "ModelStreamInfer",
            ModelInferRequest.SerializeToString,
            ModelStreamInferResponse.FromString,
        )
        answers = list(ask(iter([self.message] * 3), timeout=_PROBE_S, wait_for_ready=True))
        if len(answers) != 3:
            raise CannotServe(f"{len(answers)} answers to 3 messages")
        for answer in answers:
            if answer.error_message:
                raise CannotServe(answer.error_message[:100])
        return min(_size(answer.infer_response) for answer in answers)


@dataclass(frozen=True)
class Load:
    """What came of it. rate: messages a second."""

    rate: float
    messages: int


def drive(
    address: str,
    case: Case,
    body: Path,
    requests: int,
    *,
    answer_bytes: int,
) -> Load:
    """Send so many requests and return the rate of messages.

    answer_bytes: of one message at least, else it was no answer. Raises CannotServe.
    """
    command = ["h2load", "-n", str(requests), "-c", str(case.connections)]
    command += ["-m", str(-(-case.in_flight // case.connections)), "-d", str(body)]
    command += ["-H", "te: trailers", "-H", "content-type: application/grpc"]
    command += [f"http://{address}{case.method}"]
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_MAX_LOAD_S
        )
    except FileNotFoundError:
        raise SystemExit("h2load is not here: apt-get install nghttp2-client") from None
    except subprocess.TimeoutExpired:
        raise CannotServe(f"not done after {_MAX_LOAD_S:.0f} s") from None
    rate = re.search(r"([\d.]+) req/s", run.stdout)
    succeeded = re.search(r"(\d+) succeeded", run.stdout)
    data = re.search(r"\((\d+)\) data", run.stdout)
    if rate is None or succeeded is None or data is None or int(succeeded[1]) != requests:
        raise CannotServe(f"h2load failed: {run.stdout[-200:]!r} {run.stderr[-100:]!r}")
    messages = requests * case.messages
    if int(data[1]) < messages * answer_bytes:
        raise CannotServe(f"{int(data[1])} bytes for {messages} answers of {answer_bytes} bytes")
    return Load(float(rate[1]) * case.messages, messages)


def _size(answer: ModelInferResponse) -> int:
    if len(answer.outputs) != 1 or not answer.raw_output_contents:
        raise CannotServe("an answer of another form")
    return int(answer.ByteSize()) + 5  # the frame of gRPC
