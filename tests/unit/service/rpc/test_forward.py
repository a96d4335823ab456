"""Headers that become parameters of requests."""

from collections.abc import Mapping

import pytest

from service.errors import InvalidRequest
from service.inference.request import Parameter, Request
from service.rpc.forward import Forward
from service.transport.seam import Metadata
from tests.support.bundle_rig import Exchange, infer_message, rig

METADATA: Metadata = (
    ("x-user", "ann"),
    ("x-user-agent", "b"),
    ("x-user", "bob"),
    ("x-user-bin", b"\x00"),
    ("triton-grpc-protocol-x-user", "secret"),
    ("authorization", "token"),
)


@pytest.mark.parametrize(
    ("pattern", "forwarded"),
    [
        ("x-user", {"x-user": "ann, bob"}),
        ("x-.*", {"x-user": "ann, bob", "x-user-agent": "b"}),
        ("user", {}),
        ("x-user|authorization", {"x-user": "ann, bob", "authorization": "token"}),
        (".*x-user", {"x-user": "ann, bob"}),
    ],
)
def test_whole_names_are_matched(pattern: str, forwarded: Mapping[str, str]) -> None:
    """Neither binary headers nor the secrets of restrictions are ever forwarded."""
    assert Forward(pattern)(METADATA) == forwarded


@pytest.mark.parametrize("name", ["sequence_id", "priority", "timeout", "triton_x"])
def test_reserved_names(name: str) -> None:
    """A header cannot set what the server reads; it is refused as Triton refuses it."""
    text = f"Header '{name}' is reserved for Triton usage and cannot be forwarded."
    with pytest.raises(InvalidRequest) as refused:
        Forward(".*")(((name, "1"),))
    assert str(refused.value) == text
    assert Forward("x")(((name, "1"),)) == {}


def test_forwarded_headers_reach_the_model() -> None:
    """They win over the parameters of the request, and no request without them is confused."""
    seen: list[Mapping[str, Parameter]] = []
    with rig() as r:
        submit = r.made.scheduler.submit

        def note(request: Request, *, deferred: bool = False) -> None:
            seen.append(request.parameters)
            submit(request, deferred=deferred)

        r.made.scheduler.submit = note  # type: ignore[method-assign]
        for forwarded in ({"x-user": "ann"}, {}, {"x-user": "bob"}):
            r.made.backend.permit()
            r.service.submit(infer_message(1), None, Exchange(), forwarded=forwarded)
            r.service.flush()
    assert seen == [{"x-user": "ann"}, {}, {"x-user": "bob"}]
