"""What both clients have in common: settings, encoding, errors. Sends nothing."""

from typing import Any, Final, TypeVar, Unpack

import grpc
from google.protobuf.message import DecodeError

from service.client.calls import INFER, Call, Signature, signature_of
from service.client.errors import ClientError, MalformedAnswer, translated
from service.client.options import (
    ClientOptions,
    ClientSettings,
    Parameter,
    Wishes,
    compression_of,
    pairs,
)
from service.client.requests import Encoded, Encoder, Inputs, encode_parameters
from service.client.responses import Decoder, Outputs
from service.pb import grpc_service_pb2 as pb

R = TypeVar("R")
_US: Final = 1e6


class Core:
    """The part of a client that neither sends nor waits. Its methods may run on any thread."""

    def __init__(self, address: str, **options: Unpack[ClientOptions]) -> None:
        """Raise ValueError for options that do not go together, OSError for a missing file."""
        self.address = address
        self.settings = ClientSettings(**options)
        self.credentials = self.settings.channel_credentials()
        self.encoder = Encoder()
        self.decoder = Decoder()
        self._metadata = pairs(self.settings.metadata)
        self._signatures: dict[tuple[str, str], Signature] = {}

    def arguments(self, wishes: Wishes, deadline: float | None) -> dict[str, Any]:
        """Return the arguments with which gRPC makes a call. deadline: seconds; None: none."""
        settings = self.settings
        arguments: dict[str, Any] = {"timeout": deadline}
        compression = wishes.compression or settings.compression
        if compression is not None:
            arguments["compression"] = compression_of(compression)
        if wishes.metadata or self._metadata:
            arguments["metadata"] = self._metadata + pairs(wishes.metadata)
        wait = wishes.wait_for_ready
        if wait or (wait is None and settings.wait_for_ready):
            arguments["wait_for_ready"] = True
        return arguments

    def unary_arguments(self, wishes: Wishes) -> dict[str, Any]:
        """Return the arguments of a unary call, which always has a deadline."""
        given = wishes.deadline
        return self.arguments(wishes, self.settings.deadline if given is None else given)

    def signature(self, model: str, version: str) -> Signature | None:
        """Return what is known of a model, None as long as nobody has noted it."""
        return self._signatures.get((model, version))

    def note(self, model: str, version: str, metadata: pb.ModelMetadataResponse) -> Signature:
        """Remember what a model takes and gives, and return it."""
        noted = self._signatures[model, version] = signature_of(metadata)
        return noted

    def encode(self, model: str, inputs: Inputs, wishes: Wishes, *, classes: int = 0) -> Encoded:
        """Return a request but for its id and parameters. Raises TypeError, ValueError."""
        known = self._signatures.get((model, wishes.version))
        return self.encoder.encode(
            model,
            wishes.version,
            inputs,
            wishes.outputs,
            known.bf16 if known else frozenset(),
            classes=classes,
        )

    def infer_call(
        self, model: str, encoded: Encoded, wishes: Wishes, **more: Parameter
    ) -> Call[Outputs]:
        """Return the unary call of a request. more: parameters besides those wished for."""
        request = encoded.message(wishes.request_id, parameters_of(wishes, **more))
        return Call(INFER, request, self._read_outputs, model, wishes.request_id)

    def finish(self, call: Call[R], data: bytes) -> R:
        """Return the result of a call. Raises MalformedAnswer if data is no answer to it."""
        try:
            return call.read(data)
        except DecodeError as error:
            text = f"the server's answer to {call.path} is no such message: {error}"
            raise MalformedAnswer(text, model=call.model, request_id=call.request_id) from None
        except ClientError as error:
            error.model, error.request_id = call.model, call.request_id
            raise

    def translated(self, error: grpc.RpcError, model: str, request_id: str = "") -> ClientError:
        """Return the error that gRPC's error means."""
        return translated(self.address, error, model=model, request_id=request_id)

    def _read_outputs(self, data: bytes) -> Outputs:
        return self.decoder.decode(data).outputs


def parameters_of(wishes: Wishes, **more: Parameter) -> bytes:
    """Return the parameters of a request with these wishes, and more, as its bytes."""
    if not (more or wishes.priority or wishes.queue_timeout_s or wishes.parameters):
        return b""
    given: dict[str, Parameter] = dict(wishes.parameters or {})
    if wishes.priority:
        given["priority"] = wishes.priority
    if wishes.queue_timeout_s:
        given["timeout"] = round(wishes.queue_timeout_s * _US)
    return encode_parameters(given | more)
