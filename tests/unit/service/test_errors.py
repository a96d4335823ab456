"""Texts of errors: short, printable, one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import DeadlineUnmeetable, QueueFull, dims, listed, shown


@given(st.text(max_size=300))
def test_echo_is_printable_and_short(text: str) -> None:
    """Whatever a caller sends, its echo is one printable line of bounded length."""
    echo = shown(text)
    assert echo.isprintable()
    assert len(echo) <= 68 * 8
    assert len(echo) <= 68 or not text[:65].isprintable()


def test_plain_text_is_echoed_as_it_is() -> None:
    """Short printable text is not changed."""
    assert shown("pixels/0:größer") == "pixels/0:größer"
    assert shown("a\nb") == "a\\x0ab"


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((), "[]"),
        ((1, 784), "[1,784]"),
        ((None, -1, 3), "[-1,-1,3]"),
        ((1,) * 17, "[" + "1," * 16 + "...]"),
    ],
)
def test_shape_as_text(shape: tuple[int | None, ...], text: str) -> None:
    """Shapes are written in brackets, any extent as -1, endless ones cut."""
    assert dims(shape) == text


def test_names_as_text() -> None:
    """Lists of names are cut with the number of those left out."""
    assert listed(["a", "b"]) == "['a','b']"
    assert listed([f"n{i}" for i in range(10)]).endswith("'n7', and 2 more]")


def test_overload_names_model_and_figures() -> None:
    """Errors of overload say which model, and how much waits."""
    assert "8 requests wait for model 'digits'" in str(QueueFull("digits", "8 requests"))
    text = str(DeadlineUnmeetable("digits", 0.25, 0.1))
    assert text == (
        "the deadline is 100 ms away, but about 250 ms of work is queued for model 'digits'"
    )
