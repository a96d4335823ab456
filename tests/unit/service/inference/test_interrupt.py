"""Stopping a run from outside, before, during and after it."""

from collections.abc import Callable

import pytest

from service.inference.backend import Interrupt


@pytest.mark.parametrize(
    ("order", "stops", "is_clean"),
    [
        ("bind unbind", 0, True),
        ("bind unbind request", 0, True),
        ("bind request unbind", 1, False),
        ("request bind unbind", 1, False),
        ("bind request request unbind", 2, False),
    ],
)
def test_order_of_request_and_end(order: str, stops: int, *, is_clean: bool) -> None:
    """A stop reaches the run it was meant for; once the run is over, none comes any more."""
    calls: list[str] = []
    interrupt = Interrupt()
    answers: list[bool] = []
    steps: dict[str, Callable[[], object]] = {
        "bind": lambda: interrupt.bind(lambda: calls.append("stop")),
        "request": interrupt.request,
        "unbind": lambda: answers.append(interrupt.unbind()),
    }
    for step in order.split():
        steps[step]()
    assert (len(calls), answers) == (stops, [is_clean])
