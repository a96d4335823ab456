"""Reading bodies: bounded in size, time and memory."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from service.rest.exchange import Body, Budget, HttpRequest
from service.rest.status import ClientGone, HttpError


def part(content: bytes, *, more: bool = True) -> dict[str, Any]:
    """Return a message of ASGI with some of a body."""
    return {"type": "http.request", "body": content, "more_body": more}


def read(
    messages: Sequence[dict[str, Any]],
    *,
    declared: int | None = None,
    stall_s: float = 10.0,
    budget: Budget | None = None,
) -> bytes:
    """Read a body of at most 10 bytes that comes in these messages, and then in no more."""
    rest = list(messages)

    async def receive() -> dict[str, Any]:
        if rest:
            return rest.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def run() -> bytes:
        body = Body(receive, 10, stall_s, budget or Budget(1000))
        return await body.read(declared)

    return asyncio.run(run())


def test_parts_are_joined() -> None:
    """A body may come in any number of parts."""
    assert read([part(b"ab"), part(b""), part(b"c", more=False)]) == b"abc"


@pytest.mark.parametrize("declared", [None, 11])
def test_too_large(declared: int | None) -> None:
    """A body above the limit is refused, by its declared size before anything is read."""
    messages = [] if declared else [part(b"12345678"), part(b"123")]
    with pytest.raises(HttpError, match="larger than 10 bytes") as refused:
        read(messages, declared=declared)
    assert refused.value.status == 413


def test_stalled() -> None:
    """Who stops sending is refused."""
    with pytest.raises(HttpError, match=r"no more of the body came .* after 2 bytes") as refused:
        read([part(b"ab")], stall_s=0.01)
    assert refused.value.status == 408


def test_caller_who_leaves() -> None:
    """Who leaves in the middle of a body gets no answer."""
    with pytest.raises(ClientGone):
        read([part(b"ab"), {"type": "http.disconnect"}])


def test_budget() -> None:
    """All bodies together are bounded, and what is released may be held again."""
    budget = Budget(4)
    budget.hold(3)
    with pytest.raises(HttpError, match="received and unanswered") as refused:
        read([part(b"ab", more=False)], budget=budget)
    assert refused.value.status == 429
    budget.free(3)
    assert read([part(b"ab", more=False)], budget=budget) == b"ab"


@pytest.mark.parametrize("text", ["", "5", "5s", "-1S", "1.5S", "123456789S", "5 S"])
def test_wrong_deadline(text: str) -> None:
    """grpc-timeout has gRPC's form: up to eight digits and a unit."""

    async def receive() -> dict[str, Any]:
        raise AssertionError

    request = HttpRequest("POST", "/", {"grpc-timeout": text}, (), b"", "", receive)
    with pytest.raises(HttpError, match="grpc-timeout is") as refused:
        assert request.deadline
    assert refused.value.status == 400
