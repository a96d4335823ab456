"""Every error of a request has its status, and nothing unexpected reaches a caller."""

from collections.abc import Iterator

import pytest

from service import errors
from service.errors import PenstockError, RequestError
from service.rpc.status import CODES, status_of
from service.transport.seam import Code


def below(kind: type[RequestError]) -> Iterator[type[RequestError]]:
    """Yield every class below a class."""
    for child in kind.__subclasses__():
        yield child
        yield from below(child)


REQUEST_ERRORS = sorted(below(RequestError), key=lambda kind: kind.__name__)


def test_every_request_error_has_a_row() -> None:
    """The table of codes has each class below RequestError and no other."""
    assert set(CODES) == set(REQUEST_ERRORS)


def test_no_error_is_told_as_unknown_or_ok() -> None:
    """No error of ours leaves as OK or UNKNOWN."""
    assert not {Code.OK, Code.UNKNOWN} & set(CODES.values())


def test_overload_is_not_for_trying_again_at_once() -> None:
    """What is full is RESOURCE_EXHAUSTED, which client libraries do not retry by themselves."""
    full = (errors.QueueFull, errors.DeadlineUnmeetable, errors.StatesFull, errors.RegionLimit,
            errors.TooBusy)  # fmt: skip
    assert {CODES[kind] for kind in full} == {Code.RESOURCE_EXHAUSTED}


def test_what_is_unavailable_in_triton_is_so_here() -> None:
    """Its clients look for that code: versions that are not ready, drains, time-outs, refusals."""
    unavailable = (errors.ModelNotReady, errors.ShuttingDown, errors.QueueTimeout,
               errors.SequenceTimeout, errors.SequenceBacklogFull, errors.NotPermitted)  # fmt: skip
    assert {CODES[kind] for kind in unavailable} == {Code.UNAVAILABLE}


@pytest.mark.parametrize("kind", REQUEST_ERRORS, ids=lambda kind: kind.__name__)
def test_text_of_a_request_error_reaches_its_caller(kind: type[RequestError]) -> None:
    """The text goes out as it is, cut where it would not fit into a header."""
    error = kind.__new__(kind)
    error.args = ("x" * 5000,)
    assert status_of(error) == (CODES[kind], "x" * 1024)
    error.args = ("\N{SNOWMAN}" * 5000,)
    assert status_of(error) == (CODES[kind], "\N{SNOWMAN}" * 682)


@pytest.mark.parametrize("error", [ValueError("/secret/path"), KeyError("token"), PenstockError()])
def test_unexpected_error_keeps_its_secrets(error: Exception) -> None:
    """Any other error is INTERNAL with a fixed text and an id."""
    code, text = status_of(error)
    assert code is Code.INTERNAL
    assert text.startswith("internal error (error id ")
    assert "secret" not in text
    assert "token" not in text
    assert status_of(error)[1] != text  # each occurrence has an id of its own


def test_tree_of_errors_is_drawn_as_it_is() -> None:
    """The docstring of service.errors names every class, in its place."""
    drawn = [line.split("── ")[1].split()[0] for line in (errors.__doc__ or "").splitlines()
             if "── " in line]  # fmt: skip
    defined = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type)
        and issubclass(value, PenstockError)
        and value is not PenstockError
    ]
    assert drawn == defined
