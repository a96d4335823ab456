"""What awaits is written twice in the client; nothing else may come to differ."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from service.client.aio import AsyncClient
from service.client.aio_sequence import AsyncSequence
from service.client.aio_stream import AsyncStream
from service.client.sequence import Sequence
from service.client.stream import Stream
from service.client.sync import Client

TWINS = [(Client, AsyncClient), (Stream, AsyncStream), (Sequence, AsyncSequence)]
# Where threads, tasks and what is awaited have to be spoken of.
TOLD_APART = {"Client.stream", "Client.open_stream", "Stream.send", "Stream.__init__"}

pytestmark = pytest.mark.parametrize(("one", "other"), TWINS, ids=lambda kind: kind.__name__)


def test_both_have_the_same_methods(one: type, other: type) -> None:
    """A method that one client has, the other has too, with the same parameters and defaults."""
    assert {name: _parameters(method) for name, method in _public(one)} == {
        name: _parameters(method) for name, method in _public(other)
    }


def test_both_say_the_same(one: type, other: type) -> None:
    """Docstrings are equal, but where they are known to differ."""
    texts = {name: inspect.getdoc(method) for name, method in _public(other)}
    apart = {
        f"{one.__name__}.{name}"
        for name, method in _public(one)
        if inspect.getdoc(method) != texts[name]
    }
    assert apart == {name for name in TOLD_APART if name.startswith(f"{one.__name__}.")}


def _public(kind: type) -> list[tuple[str, Callable[..., Any]]]:
    methods = {name: getattr(kind, name) for name in vars(kind) if not name.startswith("_")}
    return sorted({**methods, "__init__": vars(kind)["__init__"]}.items())


def _parameters(method: object) -> list[tuple[str, object, object]]:
    if not callable(method):
        return []  # a property
    values = inspect.signature(method).parameters.values()
    return [(value.name, value.kind, value.default) for value in values]
