"""Every RPC of protos/ that this version serves has a handler, and what it does not is known."""

from pathlib import Path

import pytest

from service.app.server import Server
from service.config import Settings
from service.pb import grpc_service_pb2, health_pb2, reflection_v1_pb2, reflection_v1alpha_pb2
from service.rpc.methods import CATEGORY_OF
from service.transport.seam import Arity

FILES = (grpc_service_pb2, health_pb2, reflection_v1_pb2, reflection_v1alpha_pb2)


def rpcs() -> dict[str, Arity]:
    """Return every RPC of the protos with its arity."""
    return {
        f"/{service.full_name}/{method.name}": (
            Arity.STREAM if method.client_streaming or method.server_streaming else Arity.UNARY
        )
        for file in FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """Make a server that does not listen."""
    return Server(Settings(str(tmp_path), port=0, http_port=0))


def test_every_rpc_has_a_handler(server: Server) -> None:
    """The method table has each RPC of the protos, with its arity, and no other."""
    served = dict(server.dispatcher.methods)
    server.abort()
    assert served == rpcs()


def test_reflection_can_be_left_out(tmp_path: Path) -> None:
    """Without reflection its two services are not in the table, and all else is."""
    server = Server(Settings(str(tmp_path), port=0, http_port=0, reflection=False))
    served = dict(server.dispatcher.methods)
    server.abort()
    assert served == {name: arity for name, arity in rpcs().items() if "reflection" not in name}


def test_every_rpc_has_a_category() -> None:
    """Whatever --restrict can restrict is all there is, but for reflection, which is no secret."""
    open_to_all = set(rpcs()) - set(CATEGORY_OF)
    assert {name.split("/")[1].rpartition(".")[2] for name in open_to_all} == {"ServerReflection"}
    assert set(CATEGORY_OF) <= set(rpcs())
