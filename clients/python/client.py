"""A complete client of the Open Inference Protocol with grpcio: client.py ADDRESS [MODEL].

ADDRESS is HOST:PORT or unix:PATH. MODEL adds and subtracts two INT32 tensors, as Triton's
`simple` does: OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1. Prints a line a step; the exit
code is 0 only if every answer was right.
"""

import argparse
import queue
import sys
from pathlib import Path

import grpc
import grpc_service_pb2 as pb
import health_pb2
import numpy as np
from grpc_service_pb2_grpc import GRPCInferenceServiceStub
from health_pb2_grpc import HealthStub

DEADLINE_S = 10.0
IN_FLIGHT = 100
MAX_MESSAGE_BYTES = 64 * 1024 * 1024  # gRPC receives no more than 4 MiB by default
UNKNOWN_MODEL = "no_such_model"

Shape = list[int]


class WrongAnswer(Exception):
    """The server answered, but not what was expected."""


def main() -> int:
    """Take every step against the server that the command line names."""
    arguments = parse_arguments()
    model = arguments.model
    try:
        with connect(arguments.address, arguments.ca) as channel:
            stub = GRPCInferenceServiceStub(channel)
            check_health(HealthStub(channel))
            show_server(stub)
            shape = show_model(stub, model)
            infer_once(stub, model, shape)
            infer_stream(stub, model, shape)
            refused_call(stub, shape)
            refused_in_stream(stub, model, shape)
    except grpc.RpcError as error:
        print(f"error: {error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    except WrongAnswer as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def connect(address: str, ca: Path | None) -> grpc.Channel:
    """Open a channel, with TLS if the certificate of an authority is given."""
    options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
    if ca is None:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca.read_bytes()), options)


def check_health(stub: HealthStub) -> None:
    """Ask the standard health service; the empty name stands for the server as a whole."""
    answer = stub.Check(health_pb2.HealthCheckRequest(service=""), timeout=DEADLINE_S)
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    require(status == "SERVING", f"health is {status}, expected SERVING")
    print(f"health: {status}")


def show_server(stub: GRPCInferenceServiceStub) -> None:
    """Print the name and version of the server."""
    server = stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=DEADLINE_S)
    print(f"server: {server.name} {server.version}")


def show_model(stub: GRPCInferenceServiceStub, model: str) -> Shape:
    """Print the signature of the model and return the shape of its inputs, with a batch of 1."""
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name=model), timeout=DEADLINE_S)
    inputs = [(tensor.name, tensor.datatype) for tensor in metadata.inputs]
    wanted = [("INPUT0", "INT32"), ("INPUT1", "INT32")]
    require(inputs == wanted, f"{model} takes {inputs}, this client knows {wanted}")
    print(f"model: {metadata.name}: {signature(metadata.inputs)} -> {signature(metadata.outputs)}")
    return [abs(extent) for extent in metadata.inputs[0].shape]  # -1 is any batch size


def infer_once(stub: GRPCInferenceServiceStub, model: str, shape: Shape) -> None:
    """Send one request and check every value of the answer."""
    answer = stub.ModelInfer(request("single", model, shape, 0), timeout=DEADLINE_S)
    check(answer, "single", shape, 0)
    count = np.prod(shape)
    print(f"unary: {count} sums and {count} differences are right")


def infer_stream(stub: GRPCInferenceServiceStub, model: str, shape: Shape) -> None:
    """Send many requests on one stream without waiting, and read the answers as they come."""
    # gRPC takes the requests from this iterator in a thread of its own, as fast as the server
    # lets it, while the loop below reads.
    requests = (request(str(number), model, shape, number) for number in range(IN_FLIGHT))
    number = 0
    for answer in stub.ModelStreamInfer(requests, timeout=DEADLINE_S):
        require(not answer.error_message, f"request {number}: {answer.error_message}")
        check(answer.infer_response, str(number), shape, number)
        number += 1
    require(number == IN_FLIGHT, f"{number} answers, expected {IN_FLIGHT}")
    print(f"stream: {number} answers in order, all right")


def refused_call(stub: GRPCInferenceServiceStub, shape: Shape) -> None:
    """Ask for a model that is not there: a call fails with a code and a text."""
    try:
        stub.ModelInfer(request("single", UNKNOWN_MODEL, shape, 0), timeout=DEADLINE_S)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        print(f"refused call: {error.code().name}: {error.details()}")
    else:
        raise WrongAnswer(f"{UNKNOWN_MODEL} gave an answer, expected NOT_FOUND")


def refused_in_stream(stub: GRPCInferenceServiceStub, model: str, shape: Shape) -> None:
    """Ask for it in a stream: the error is a message there, and the stream stays open."""
    requests: queue.SimpleQueue[pb.ModelInferRequest | None] = queue.SimpleQueue()
    answers = stub.ModelStreamInfer(iter(requests.get, None), timeout=DEADLINE_S)
    requests.put(request("bad", UNKNOWN_MODEL, shape, 1))
    refusal = next(answers)
    require(refusal.infer_response.id == "bad", f"the refusal has id {refusal.infer_response.id}")
    require(refusal.error_message, f"{UNKNOWN_MODEL} gave no error in the stream")
    print(f"refused in a stream: {refusal.error_message}")
    requests.put(request("good", model, shape, 2))
    check(next(answers).infer_response, "good", shape, 2)
    requests.put(None)  # no more: the server ends the stream when all are answered
    require(next(answers, None) is None, "the stream gave a third answer")
    print("the stream went on")


def request(name: str, model: str, shape: Shape, seed: int) -> pb.ModelInferRequest:
    """Make a request with raw tensors: one little-endian block of bytes an input, in order."""
    left, right = operands(shape, seed)
    return pb.ModelInferRequest(
        model_name=model,
        id=name,
        inputs=[
            pb.ModelInferRequest.InferInputTensor(name=tensor, datatype="INT32", shape=shape)
            for tensor in ("INPUT0", "INPUT1")
        ],
        raw_input_contents=[left.tobytes(), right.tobytes()],
    )


def check(response: pb.ModelInferResponse, name: str, shape: Shape, seed: int) -> None:
    """Compare an answer with what the model is known to compute."""
    require(response.id == name, f"the answer has id {response.id}, expected {name}")
    require(
        len(response.outputs) == len(response.raw_output_contents) == 2,
        f"{len(response.outputs)} outputs, {len(response.raw_output_contents)} with raw contents",
    )
    outputs = {
        tensor.name: np.frombuffer(raw, "<i4").reshape(tensor.shape)
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
    left, right = operands(shape, seed)
    for tensor, expected in (("OUTPUT0", left + right), ("OUTPUT1", left - right)):
        got = outputs.get(tensor)
        require(np.array_equal(got, expected), f"{name}: {tensor} is {got}, expected {expected}")


def operands(shape: Shape, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return INPUT0 and INPUT1 of a request: little-endian INT32 that differ between seeds."""
    index = np.arange(np.prod(shape), dtype="<i4").reshape(shape)
    return index + np.int32(seed), index * index - np.int32(50)


def signature(tensors: list[pb.ModelMetadataResponse.TensorMetadata]) -> str:
    """Write tensors as NAME DATATYPE[SHAPE]."""
    return ", ".join(
        f"{tensor.name} {tensor.datatype}[{','.join(map(str, tensor.shape))}]" for tensor in tensors
    )


def require(condition: object, otherwise: str) -> None:
    """Raise WrongAnswer unless the condition holds."""
    if not condition:
        raise WrongAnswer(otherwise)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", metavar="ADDRESS", help="HOST:PORT or unix:PATH")
    parser.add_argument("model", metavar="MODEL", nargs="?", default="simple")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="TLS: PEM file of the authority")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
