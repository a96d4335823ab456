"""What goes where: progress and text on stderr, JSON alone on stdout."""

import io
import json
import sys

import pytest

from exporter.console import Console
from exporter.errors import ConversionFailed
from exporter.progress import Steps


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        """Be a terminal."""
        return True


def test_without_a_terminal_each_step_is_a_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A log of CI has one line a step, with the seconds since the start, and no control codes."""
    console = Console()
    console.say("converting")
    console.say("proving")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("] ")[1] for line in lines] == ["converting", "proving"]
    assert "\x1b" not in "".join(lines)


def test_on_a_terminal_a_step_is_finished_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """The running step is told at once, and how long it took when it is done."""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    console = Console()
    console.say("converting")
    assert terminal.getvalue().endswith("converting ...")
    console.export_result("published", {})
    assert "converting: 0.0 s\n" in terminal.getvalue()
    assert terminal.getvalue().endswith("published\n")


def test_a_failure_on_a_terminal_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text of an error does not stand behind the step that failed."""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    console = Console()
    console.say("converting")
    console.fail("no", {})
    assert "converting ...\npenstock-export: no\n" in terminal.getvalue()


def test_json_has_stdout_to_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """Results are JSON on stdout if that is asked for, and else text."""
    Console(json=True).result("text", {"a": 1})
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    Console().result("text", {"a": 1})
    assert capsys.readouterr().out == "text\n"
    Console(quiet=True).result("text", {"a": 1})
    assert capsys.readouterr() == ("", "")


def test_steps_are_timed_and_name_their_errors() -> None:
    """Seconds add up by step, and an error says in which one it arose, the innermost first."""
    said: list[str] = []
    steps = Steps(said.append)
    with (
        pytest.raises(ConversionFailed) as caught,
        steps.step("verify", "proving"),
        steps.step("check"),
    ):
        raise ConversionFailed("no")
    assert caught.value.step == "check"
    assert said == ["proving"]
    assert list(steps.seconds) == ["check", "verify"]
