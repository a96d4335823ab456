"""Tables that must stay complete: a status for every error, a handler for every RPC."""

from service.app.server import Server
from service.config import Settings
from service.errors import RequestError
from service.pb import grpc_service_pb2, health_pb2, reflection_v1_pb2, reflection_v1alpha_pb2
from service.rpc.status import CODES
from service.transport.seam import Arity, Code


def _all_below(kind: type[RequestError]) -> set[type[RequestError]]:
    return {kind} | {found for below in kind.__subclasses__() for found in _all_below(below)}


def test_every_error_of_a_request_has_a_status() -> None:
    """Each class below RequestError has its own row, and none says OK or UNKNOWN."""
    assert set(CODES) == _all_below(RequestError) - {RequestError}
    assert not {Code.OK, Code.UNKNOWN} & set(CODES.values())


def test_every_rpc_of_the_protos_has_a_handler() -> None:
    """The method table holds each RPC with its arity, and nothing that no proto declares."""
    files = (grpc_service_pb2, health_pb2, reflection_v1_pb2, reflection_v1alpha_pb2)
    declared = {
        f"/{service.full_name}/{method.name}": Arity.STREAM
        if method.client_streaming or method.server_streaming
        else Arity.UNARY
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    server = Server(Settings(repository="unused", port=0, http_port=0))
    try:
        assert dict(server.dispatcher.methods) == declared
    finally:
        server.abort()
