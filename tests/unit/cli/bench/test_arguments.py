"""Flags become a plan, or an error that says what does not go together."""

import argparse
from pathlib import Path

import pytest

from service.cli.bench.arguments import Plan, add_arguments, plan_of
from service.cli.usage import UsageError
from service.tensors import FP32, INT64, TensorSpec


def plan(*flags: str) -> Plan:
    """Return what flags ask for."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return plan_of(parser.parse_args(["localhost:1", *flags]))


def test_defaults_sweep_the_concurrencies() -> None:
    """Without flags unary requests are sent, 1 to 64 in flight."""
    made = plan()
    assert made.in_flight == (1, 2, 4, 8, 16, 32, 64)
    assert (made.per_second, made.streams, made.rows, made.model) == ((), 0, 1, "")


def test_lists_are_sorted_and_unique() -> None:
    """Loads are measured in ascending order, each once; rates take the place of concurrencies."""
    assert plan("--concurrency", "8,1,8").in_flight == (1, 8)
    made = plan("--rate", "2000,10.5")
    assert (made.in_flight, made.per_second) == ((), (10.5, 2000.0))


def test_streams_are_one_unless_more_are_asked_for() -> None:
    """--stream alone means one stream."""
    assert plan("--stream").streams == 1
    assert plan("--stream", "--streams", "16").streams == 16


@pytest.mark.parametrize(
    ("flags", "calls", "connections"),
    [
        ((), 1, 1),
        ((), 100, 1),
        ((), 101, 2),
        (("--connections", "7"), 1, 7),
        (("--threads", "3"), 1, 3),
    ],
)
def test_connections_follow_the_calls(flags: tuple[str, ...], calls: int, connections: int) -> None:
    """A connection takes a hundred calls and each thread has one, unless a number is given."""
    assert plan(*flags).connections_for(calls) == connections


def test_shapes_and_limits_are_read() -> None:
    """--shape may be given for several inputs, also of no axes; limits are in their units."""
    made = plan("--shape", "a=1,128", "--shape", "b=", "--latency-limit-ms", "2.5")
    assert made.shapes == {"a": (1, 128), "b": ()}
    assert made.latency_limit_s == pytest.approx(0.0025)
    assert plan("--agreement", "5").agreement == pytest.approx(0.05)


def test_inputs_and_headers_are_read() -> None:
    """--input declares what the server does not; --header goes out as it is."""
    made = plan("--input", "a:b:FP32[-1,784]", "--input", "n:INT64[]", "--header", "token=a=b")
    assert made.inputs == (TensorSpec("a:b", FP32, (-1, 784)), TensorSpec("n", INT64, ()))
    assert made.headers == (("token", "a=b"),)


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (("--concurrency", "1", "--rate", "1"), "--concurrency and --rate"),
        (("--streams", "2"), "--streams needs --stream"),
        (("--shape", "a"), "--shape a: expected NAME=N,N"),
        (("--shape", "=1"), "--shape =1: expected"),
        (("--shape", "a=1,x"), "--shape a=1,x: expected"),
        (("--shape", "a=-1"), "--shape a=-1: expected"),
        (("--shape", "a=1", "--shape", "a=2"), "each NAME once"),
        (("--input", "x"), "--input x: expected NAME:TYPE[N,N,...]"),
        (("--input", "x:FP99[1]"), "TYPE one of BOOL, UINT8,"),
        (("--input", "x:FP32[1,]"), "--input x:FP32[1,]: expected"),
        (("--input", "x:FP32[-2]"), "--input x:FP32[-2]: expected"),
        (("--header", "token"), "--header token: expected NAME=TEXT"),
        (("--max-s", "2"), "expected at least 3"),
        (("--json", "no/such/file"), "--json no/such/file: cannot be written: no/such is no"),
        (("--plot", "."), "--plot .: cannot be written: is a directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_does_not_go_together(
    flags: tuple[str, ...], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text names the flag, what was given, and what was expected."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        plan(*flags)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    "flags",
    [
        ("--concurrency", "0"),
        ("--concurrency", "1,x"),
        ("--rate", "-1"),
        ("--rate", "inf"),
        ("--rate", "0"),
        ("--rows", "1.5"),
        ("--window-s", "nan"),
        ("--warm-up-s", "-0.1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_numbers_out_of_range(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """A number that cannot be measured with is refused with its flag."""
    with pytest.raises(SystemExit) as caught:
        plan(*flags)
    assert caught.value.code == 2
    assert f"argument {flags[0]}: " in capsys.readouterr().err
