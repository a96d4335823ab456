"""The server under test, as the native client asks it: what a model takes, and its statistics."""

import argparse
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar

from google.protobuf.message import DecodeError, Message

from service.cli.usage import UsageError
from service.errors import PenstockError, listed
from service.pb import grpc_service_pb2 as pb
from service.tensors import BY_WIRE, TensorSpec
from service.transport.seam import Code

SERVICE: Final = "/inference.GRPCInferenceService/"
_ANSWER_S: Final = 10.0
_BUNDLES: Final = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
M = TypeVar("M", bound=Message)


class ServerUnreachable(PenstockError):
    """Nothing answers at the address, or not in HTTP/2."""


class RequestRefused(PenstockError):
    """The server answered a request with a status that is not OK. code: that status."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(f"{code.name}: {text}" if text else code.name)
        self.code = code


@dataclass(frozen=True, slots=True)
class Totals:
    """What a server has counted for a model: sums over requests, and executions."""

    requests: int = 0
    rows: int = 0
    executions: int = 0
    queue_ns: int = 0
    compute_ns: int = 0

    def __sub__(self, other: "Totals") -> "Totals":
        return Totals(
            self.requests - other.requests,
            self.rows - other.rows,
            self.executions - other.executions,
            self.queue_ns - other.queue_ns,
            self.compute_ns - other.compute_ns,
        )


class Server:
    """A server at an address. Raises ServerUnreachable and RequestRefused."""

    def __init__(self, address: str, peer: Any) -> None:
        """peer: a penstock_transport.Peer."""
        self.address = address
        self.peer = peer

    def only_model(self) -> str:
        """Return the name of the only model. Raises UsageError if it cannot be told."""
        try:
            names = sorted({entry.name for entry in self._index()})
        except RequestRefused as error:
            raise UsageError(
                f"--model is missing, and the server does not list its models: {error}"
            ) from None
        if len(names) != 1:
            raise UsageError(f"--model is missing; the server has {listed(names)}")
        return names[0]

    def metadata(self, model: str, version: str) -> pb.ModelMetadataResponse:
        """Return what a model takes and gives."""
        request = pb.ModelMetadataRequest(name=model, version=version)
        try:
            return self.ask("ModelMetadata", request, pb.ModelMetadataResponse)
        except RequestRefused as error:
            raise self._with_ready_models(error, model) from None

    def totals(self, model: str, version: str) -> Totals | None:
        """Return the statistics of a model; None if the server keeps none, or is gone."""
        request = pb.ModelStatisticsRequest(name=model, version=version)
        try:
            answer = self.ask("ModelStatistics", request, pb.ModelStatisticsResponse)
        except (RequestRefused, ServerUnreachable):
            return None
        return _sum(answer)

    def ask(self, method: str, request: Message, kind: type[M]) -> M:
        """Call a method and return its answer."""
        contents = request.SerializeToString()
        try:
            code, text, reply = self.peer.call(SERVICE + method, contents, _ANSWER_S)
        except OSError as error:
            raise ServerUnreachable(
                f"no server answers at {self.address}: {error}. Does `penstock serve` run there?"
            ) from error
        if code:
            raise RequestRefused(Code(code), text)
        try:
            return kind.FromString(reply)
        except DecodeError as error:
            raise RequestRefused(
                Code.INTERNAL, f"the answer to {method} is no {kind.DESCRIPTOR.name}: {error}"
            ) from error

    def _index(self) -> list[pb.RepositoryIndexResponse.ModelIndex]:
        request = pb.RepositoryIndexRequest()
        return list(self.ask("RepositoryIndex", request, pb.RepositoryIndexResponse).models)

    def _with_ready_models(self, error: RequestRefused, model: str) -> RequestRefused:
        if error.code is not Code.NOT_FOUND:
            return error
        try:
            ready = [entry for entry in self._index() if entry.state == "READY"]
        except (RequestRefused, ServerUnreachable):
            return error
        nearest = [entry for entry in ready if entry.name == model] or ready
        known = listed([f"{entry.name} {entry.version}" for entry in nearest])
        text = str(error).removeprefix("NOT_FOUND: ")
        return RequestRefused(error.code, f"{text}; ready are {known}")


def specs_of(metadata: pb.ModelMetadataResponse) -> list[TensorSpec]:
    """Return the inputs of a model.

    Raises UsageError if the server declares none, or a datatype that nobody here knows.
    """
    if not metadata.inputs:
        raise UsageError(
            f"the server does not declare the inputs of model '{metadata.name}': give each as "
            "--input NAME:TYPE[N,N]"
        )
    unknown = [each.datatype for each in metadata.inputs if each.datatype not in BY_WIRE]
    if unknown:
        raise UsageError(
            f"model '{metadata.name}' has inputs of {listed(unknown)}, expected types are "
            f"{listed(list(BY_WIRE))}"
        )
    return [
        TensorSpec(each.name, BY_WIRE[each.datatype], tuple(each.shape)) for each in metadata.inputs
    ]


def native_client() -> Any:
    """Return the module penstock_transport. Raises UsageError if it is not there, or is too old."""
    if find_spec("penstock_transport") is not None:
        import penstock_transport  # noqa: PLC0415  optional: only where it is used

        if hasattr(penstock_transport, "Load"):
            return penstock_transport
    raise UsageError(
        "the load generator is part of penstock-transport, which is not installed, or too old: "
        "`pip install ./transport` in a checkout, or `make native` (both need cargo). Nothing "
        "in Python would be fast enough to measure with"
    )


def peer_of(address: str, headers: Sequence[tuple[str, str]], arguments: argparse.Namespace) -> Any:
    """Return the penstock_transport.Peer that the flags ask for. headers: of every call.

    Raises UsageError for flags that do not go together and files that cannot be used.
    """
    if bool(arguments.tls_certificate) != bool(arguments.tls_key):
        raise UsageError("--tls-certificate and --tls-key go together; one is missing")
    if arguments.tls_insecure and (arguments.tls or arguments.tls_ca):
        raise UsageError("--tls-insecure trusts anybody: --tls and --tls-ca do not go with it")
    uses_tls = bool(arguments.tls or arguments.tls_ca or arguments.tls_insecure)
    if not uses_tls and (arguments.tls_certificate or arguments.tls_name):
        raise UsageError("--tls-certificate and --tls-name need --tls or --tls-ca FILE")
    ca = arguments.tls_ca or (_system_roots() if arguments.tls else None)
    for flag, path in (
        ("--tls-ca", ca),
        ("--tls-certificate", arguments.tls_certificate),
        ("--tls-key", arguments.tls_key),
    ):
        _check_readable(flag, path)
    try:
        return native_client().Peer(
            address,
            metadata=headers,
            tls=uses_tls,
            tls_ca=ca,
            tls_certificate=arguments.tls_certificate or None,
            tls_key=arguments.tls_key or None,
            tls_name=arguments.tls_name or None,
            tls_verify=not arguments.tls_insecure,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def _check_readable(flag: str, path: str | None) -> None:
    try:
        if path:
            Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{flag} {path}: cannot be read: {error.strerror}") from error


def _system_roots() -> str:
    known = (ssl.get_default_verify_paths().cafile, *_BUNDLES)
    found = next((path for path in known if path and Path(path).is_file()), None)
    if found is None:
        raise UsageError("--tls: this system has no file of root certificates: give --tls-ca FILE")
    return found


def _sum(answer: pb.ModelStatisticsResponse) -> Totals:
    requests = rows = executions = queue_ns = compute_ns = 0
    for model in answer.model_stats:
        stats = model.inference_stats
        requests += stats.success.count
        rows += model.inference_count
        executions += model.execution_count
        queue_ns += stats.queue.ns
        compute_ns += stats.compute_input.ns + stats.compute_infer.ns + stats.compute_output.ns
    return Totals(requests, rows, executions, queue_ns, compute_ns)
