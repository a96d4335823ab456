"""Loads that do not return: what goes on beside them, and how they are given up."""

from contextlib import ExitStack
from pathlib import Path

import grpc

from service.pb.grpc_service_pb2 import RepositoryModelUnloadRequest
from tests.integration.conftest import Serve
from tests.integration.control.conftest import Controlled, load_request
from tests.support import python_models
from tests.support.stub import WAIT_S, refusal
from tests.support.waiting import eventually

CODE = grpc.StatusCode
LOADS = 4  # that go on at once
FLAGS = ("--model-control", "explicit", "--allow-python-backend")
HUNG = """
import time
from pathlib import Path

class Model:
    def __init__(self, context):
        while not Path({gate!r}).exists():
            time.sleep(0.01)

    def infer(self, request):
        return {{"Y": request.inputs["X"]}}
"""


def publish_hung(root: Path, name: str, gate: Path) -> None:
    """Write a model whose load ends when a file is there."""
    python_models.publish(root, name, HUNG.format(gate=str(gate)))


def test_loads_hold_up_nothing_else(tmp_path: Path, serve: Serve) -> None:
    """As many as go on at once: all other calls are answered, and deadlines are kept.

    A load goes on when its caller has left.
    """
    root, gate = tmp_path / "models", tmp_path / "gate"
    names = [f"hung{number}" for number in range(LOADS + 1)]
    for name in names:
        publish_hung(root, name, gate)
    with ExitStack() as stack:
        server = stack.enter_context(serve(root, *FLAGS))
        stub = stack.enter_context(server.stub())
        c = Controlled(server, stub, root)
        c.publish(1)
        c.load()
        loads = [stub.load.future(load_request(name), timeout=WAIT_S) for name in names[:LOADS]]
        loading = [(name, "1", "LOADING", "") for name in names[:LOADS]]
        known = [("plus", "1", "READY", "")]
        eventually(lambda: [s for s in c.index() if s[2] == "LOADING"] == loading, "all load")
        for name in (names[0], names[-1]):
            code, _ = refusal(stub.load, load_request(name), timeout=0.2)
            assert code is CODE.DEADLINE_EXCEEDED
        loads[0].cancel()
        assert c.index() == [*loading, (names[-1], "", "", ""), *known]
        assert c.value() == ("1", 1.0)
        assert c.is_ready()
        assert server.get("/v2/health/ready")[0] == 200
        assert not c.is_model_ready(name=names[0])
        gate.touch()
        for load in loads[1:]:
            load.result(WAIT_S)
        ready = [(name, "1", "READY", "") for name in names[:LOADS]]
        eventually(lambda: c.index()[:LOADS] == ready, "they are ready")


def test_a_load_is_given_up(tmp_path: Path, serve: Serve) -> None:
    """The caller and the index tell so, what served goes on, and the server ends in order."""
    root, never = tmp_path / "models", tmp_path / "never"
    publish_hung(root, "hung", never)
    with serve(root, *FLAGS, "--load-timeout", "0.5") as server, server.stub() as stub:
        c = Controlled(server, stub, root)
        reason = "it was not loaded within 0.5 s (--load-timeout)"
        text = "load failed for model 'hung': version 1 is at UNAVAILABLE state: "
        assert c.refused("hung") == (CODE.INVALID_ARGUMENT, text + reason)
        assert c.index() == [("hung", "1", "UNAVAILABLE", reason)]
        code, again = c.refused("hung")
        assert code is CODE.INVALID_ARGUMENT
        assert again.startswith(f"{text}an earlier load of it has not ended")
        stub.unload(RepositoryModelUnloadRequest(model_name="hung"), timeout=WAIT_S)
        assert c.index() == [("hung", "1", "UNAVAILABLE", "unloaded")]
