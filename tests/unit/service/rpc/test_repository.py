"""What the RPCs of the repository tell of why a model is not served."""

import pytest

from service.lifecycle.states import State, VersionStatus
from service.pb.grpc_service_pb2 import RepositoryIndexResponse
from service.rpc.repository import RepositoryService


class Failed:
    """A control whose only model has failed."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def load(self, *_: object) -> None:
        """Not asked for."""

    def unload(self, name: str) -> None:
        """Not asked for."""

    def index(self) -> list[VersionStatus]:
        """Return the version that failed."""
        return [VersionStatus("m", 1, State.FAILED, self._reason)]


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("/srv/models/m/1/model.onnx: no such file", "m/1/model.onnx: no such file"),
        ("/srv/models/m: no version in it", "m: no version in it"),
        ("/tmp/penstock-model-x1/m/1/model.onnx: bad", "m/1/model.onnx: bad"),  # noqa: S108
        ("No such file: '/etc/penstock/token' (line 2)", "No such file: 'token' (line 2)"),
        ("failed:/build/core/graph/load.h:46 void f()", "failed:load.h:46 void f()"),
        ("'../../x/y' and a/b/c: 1/2 of it", "'../../x/y' and a/b/c: 1/2 of it"),
    ],
)
def test_reasons_tell_no_directories(reason: str, told: str) -> None:
    """A caller learns what is wrong with the model, not where on the host anything lies."""
    service = RepositoryService(Failed(reason), is_explicit=True, hidden="/srv/models/")
    (model,) = RepositoryIndexResponse.FromString(service.index(b"")).models
    assert model.reason == told


def test_reasons_are_one_printable_line() -> None:
    """Names in a file that a caller gave stand in the reason, whatever is in them."""
    service = RepositoryService(Failed("no input\n\x1b[31m\0" * 99), is_explicit=True, hidden="-")
    (model,) = RepositoryIndexResponse.FromString(service.index(b"")).models
    assert model.reason.startswith(r"no input\x0a\x1b[31m\x00no input")
    assert model.reason.isprintable()
    assert len(model.reason) <= 512
