"""What grpclib, an HTTP/2 and gRPC stack of its own in Python, gets from Penstock.

Run in an environment of its own by test_programs.py. Its messages are generated from
Penstock's .proto files.
"""

import asyncio
import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from grpc_tools import protoc  # type: ignore[import-untyped]  # ships no types
from grpclib.client import Channel, StreamStreamMethod, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError

PROTOS = Path(__file__).resolve().parents[3] / "protos"
SERVICE = "/inference.GRPCInferenceService"
ELEMENTS = 1 << 20  # 4 MiB of FP32: 64 times the initial window of HTTP/2


def generated() -> Any:
    """Return the module of the messages, generated from the .proto files."""
    with tempfile.TemporaryDirectory() as directory:
        names = ["grpc_service.proto", "model_config.proto"]
        arguments = ["protoc", f"-I{PROTOS}", f"--python_out={directory}", *names]
        assert protoc.main(arguments) == 0
        sys.path.insert(0, directory)
        return importlib.import_module("grpc_service_pb2")


pb = generated()


def infer(channel: Channel) -> UnaryUnaryMethod:
    """Return ModelInfer on a channel."""
    path = f"{SERVICE}/ModelInfer"
    return UnaryUnaryMethod(channel, path, pb.ModelInferRequest, pb.ModelInferResponse)


def stream(channel: Channel) -> StreamStreamMethod:
    """Return ModelStreamInfer on a channel."""
    path = f"{SERVICE}/ModelStreamInfer"
    return StreamStreamMethod(channel, path, pb.ModelInferRequest, pb.ModelStreamInferResponse)


def request(values: np.ndarray, model: str = "identity_fp32", request_id: str = "") -> Any:
    """Return a request to an identity."""
    tensor = pb.ModelInferRequest.InferInputTensor(
        name="INPUT0", datatype="FP32", shape=values.shape
    )
    raw = [values.tobytes()]
    return pb.ModelInferRequest(
        model_name=model, id=request_id, inputs=[tensor], raw_input_contents=raw
    )


def connect(address: str) -> Channel:
    """Return the channel of a case."""
    host, _, port = address.rpartition(":")
    return Channel(host, int(port))


async def test_unary(channel: Channel) -> None:
    """A hundred requests at once on one connection each get their own answer."""
    values = [np.array([index], np.float32) for index in range(100)]
    answers = await asyncio.gather(*(infer(channel)(request(value)) for value in values))
    assert [a.raw_output_contents[0] for a in answers] == [value.tobytes() for value in values]


async def test_error_in_trailers(channel: Channel) -> None:
    """A refused request ends with code and message, and the connection goes on."""
    values = np.zeros(1, np.float32)
    try:
        await infer(channel)(request(values, "absent"))
    except GRPCError as error:
        assert error.status is Status.NOT_FOUND
        assert error.message == "Request for unknown model: 'absent' is not found"
    else:
        raise AssertionError("the server accepted what it should refuse")
    await infer(channel)(request(values))


async def test_flow_control(channel: Channel) -> None:
    """Messages far larger than the windows of HTTP/2 pass both ways, several at once."""
    values = [np.full(ELEMENTS, index, np.float32) for index in range(4)]
    answers = await asyncio.gather(*(infer(channel)(request(value)) for value in values))
    for value, answer in zip(values, answers, strict=True):
        assert answer.raw_output_contents[0] == value.tobytes()


async def test_half_close(channel: Channel) -> None:
    """A stream that is half-closed before anything is read still has every answer, in order."""
    async with stream(channel).open() as call:
        for index in range(100):
            values = np.array([index], np.float32)
            await call.send_message(request(values, request_id=str(index)), end=index == 99)
        answers = [answer async for answer in call]
    assert [a.infer_response.id for a in answers] == [str(index) for index in range(100)]


async def test_error_on_a_stream(channel: Channel) -> None:
    """A refused request is answered in its place, with its id, and the stream ends with OK."""
    values = np.zeros(1, np.float32)
    async with stream(channel).open() as call:
        for index, model in enumerate(("identity_fp32", "absent", "identity_fp32")):
            await call.send_message(request(values, model, str(index)), end=index == 2)
        answers = [answer async for answer in call]
    assert [a.infer_response.id for a in answers] == ["0", "1", "2"]
    assert [bool(a.error_message) for a in answers] == [False, True, False]


async def test_cancelled_stream(channel: Channel) -> None:
    """A stream that is reset leaves the other calls of its connection alone."""
    values = np.zeros(1, np.float32)
    async with stream(channel).open() as call:
        await call.send_message(request(values))
        assert (await call.recv_message()).infer_response.outputs
        await call.cancel()
    await infer(channel)(request(values))
