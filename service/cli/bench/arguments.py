"""The flags of `penstock bench` and what they mean together. Knows no server."""

import argparse
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from service.cli.bench.stability import WINDOWS, most_windows
from service.cli.connection import ADDRESS_HELP, add_tls_flags, default_address
from service.cli.usage import UsageError
from service.tensors import BY_WIRE, TensorSpec

_IN_FLIGHT: Final = (1, 2, 4, 8, 16, 32, 64)
_PER_CONNECTION: Final = 100  # calls at once that any server allows on a connection
_EPILOG: Final = """\
examples:
  penstock bench --model digits                        1 to 64 requests in flight
  penstock bench --model digits --rate 1000,5000       so many arrive a second, answered or not
  penstock bench --model digits --stream --streams 16  messages on streams that stay open
  penstock bench triton:8001 --model bert --shape tokens=1,128 --rows 4 --plot bert.png

Each load is warmed up and then measured in windows until three in a row agree in throughput and
p99. Latency counts from when a request was to be sent, so with --rate the time that it waited in
the client is part of it. More in docs/benchmarking.md.
exit code: 0 measured, 1 the server is not there or refused, 2 wrong usage, 3 requests failed
"""
_INPUT: Final = re.compile(r"(?P<name>.+):(?P<type>\w+)\[(?P<shape>((-1|\d+)(,(-1|\d+))*)?)\]")
N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured. in_flight: closed loops; per_second: open loops; one of them is empty."""

    address: str
    model: str  # "": the server's only one
    version: str  # "": the one served by default
    in_flight: tuple[int, ...]
    per_second: tuple[float, ...]
    streams: int  # 0: unary calls
    rows: int
    shapes: dict[str, tuple[int, ...]]
    inputs: tuple[TensorSpec, ...]  # (): those that the server declares
    headers: tuple[tuple[str, str], ...]
    data: str  # "": random inputs
    seed: int
    connections: int  # 0: as many as the load needs
    threads: int
    warm_up_s: float
    window_s: float
    max_s: float
    agreement: float  # how far windows may lie apart, as a share of their mean
    timeout_s: float
    latency_limit_s: float | None

    def connections_for(self, calls: int) -> int:
        """Return how many connections so many calls at once are spread over."""
        return self.connections or max(self.threads, math.ceil(calls / _PER_CONNECTION))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is sent, how often, and where the result goes."""
    parser.add_argument("address", nargs="?", metavar="ADDRESS", help=ADDRESS_HELP)
    group = parser.add_argument_group("requests")
    group.add_argument("--model", metavar="NAME", help="(default: the server's only one)")
    group.add_argument("--version", default="", metavar="N", help="(default: the server's choice)")
    group.add_argument(
        "--rows", type=_count, default=1, metavar="N", help="rows of a request (default: 1)"
    )
    group.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME=N,N",
        help="shape of an input that has free axes; repeatable",
    )
    group.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME:TYPE[N,N]",
        help="an input, where the server does not declare them; -1: any extent; repeatable",
    )
    group.add_argument(
        "--data", default="", metavar="FILE", help="real inputs: .npz, .npy or JSON, by input"
    )
    group.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="NAME=TEXT",
        help="metadata of every call, as an access token; repeatable",
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of inputs and arrivals")
    group = parser.add_argument_group("load")
    group.add_argument(
        "--concurrency",
        type=_listed(_count),
        metavar="N,N",
        help="requests in flight (default: 1,2,4,8,16,32,64)",
    )
    group.add_argument(
        "--rate",
        type=_listed(_positive),
        metavar="R,R",
        help="requests a second that arrive at random, in place of --concurrency",
    )
    group.add_argument("--stream", action="store_true", help="use ModelStreamInfer")
    group.add_argument("--streams", type=_count, metavar="N", help="streams at once (default: 1)")
    group.add_argument(
        "--connections",
        type=_count,
        default=0,
        metavar="N",
        help="(default: one a thread, and one for 100 calls)",
    )
    group.add_argument(
        "--threads", type=_count, default=1, metavar="N", help="of the client (default: 1)"
    )
    group.add_argument(
        "--timeout-s",
        type=_positive,
        default=60.0,
        metavar="S",
        help="an older request has failed (default: 60)",
    )
    group = parser.add_argument_group("measurement")
    group.add_argument(
        "--warm-up-s", type=_seconds, default=1.0, metavar="S", help="not counted (default: 1)"
    )
    group.add_argument("--window-s", type=_positive, default=1.0, metavar="S", help="(default: 1)")
    group.add_argument(
        "--max-s", type=_positive, default=15.0, metavar="S", help="of a load (default: 15)"
    )
    group.add_argument(
        "--agreement",
        type=_positive,
        default=10.0,
        metavar="PERCENT",
        help="how far three windows may lie apart (default: 10)",
    )
    group.add_argument(
        "--latency-limit-ms",
        type=_positive,
        metavar="MS",
        help="recommend the highest throughput with a p99 within it (default: the knee)",
    )
    group = parser.add_argument_group("result")
    group.add_argument("--json", metavar="FILE", help="write all figures; -: to standard output")
    group.add_argument("--plot", metavar="FILE.png", help="draw latency over throughput")
    add_tls_flags(parser)
    parser.add_argument(
        "--tls-insecure", action="store_true", help="use TLS and trust any certificate"
    )
    parser.epilog = _EPILOG


def plan_of(arguments: argparse.Namespace) -> Plan:
    """Return what the flags ask for.

    Raises UsageError for flags that do not go together and for files that cannot be written.
    """
    if arguments.concurrency and arguments.rate:
        raise UsageError("--concurrency and --rate are two ways to say how often: give one")
    if arguments.streams and not arguments.stream:
        raise UsageError("--streams needs --stream: without it each request is a call of its own")
    for flag in ("json", "plot"):
        _check_writable(f"--{flag}", getattr(arguments, flag))
    if most_windows(arguments.max_s, arguments.window_s) < WINDOWS:
        raise UsageError(
            f"--max-s {arguments.max_s:g} leaves no time for {WINDOWS} windows of "
            f"--window-s {arguments.window_s:g}: expected at least {WINDOWS * arguments.window_s:g}"
        )
    limit_ms = arguments.latency_limit_ms
    return Plan(
        address=arguments.address or default_address(),
        model=arguments.model or "",
        version=arguments.version,
        in_flight=() if arguments.rate else arguments.concurrency or _IN_FLIGHT,
        per_second=arguments.rate or (),
        streams=(arguments.streams or 1) if arguments.stream else 0,
        rows=arguments.rows,
        shapes=_shapes(arguments.shape),
        inputs=_inputs(arguments.input),
        headers=tuple(_header(text) for text in arguments.header),
        data=arguments.data,
        seed=arguments.seed,
        connections=arguments.connections,
        threads=arguments.threads,
        warm_up_s=arguments.warm_up_s,
        window_s=arguments.window_s,
        max_s=arguments.max_s,
        agreement=arguments.agreement / 100,
        timeout_s=arguments.timeout_s,
        latency_limit_s=None if limit_ms is None else limit_ms / 1e3,
    )


def _shapes(given: list[str]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for text in given:
        name, sign, extents = text.rpartition("=")
        try:
            shape = tuple(int(extent) for extent in extents.split(",")) if extents else ()
        except ValueError:
            shape = (-1,)
        if not (name and sign) or name in shapes or any(extent < 0 for extent in shape):
            raise UsageError(f"--shape {text}: expected NAME=N,N,..., each NAME once")
        shapes[name] = shape
    return shapes


def _inputs(given: list[str]) -> tuple[TensorSpec, ...]:
    specs = []
    for text in given:
        match = _INPUT.fullmatch(text)
        if match is None or match["type"] not in BY_WIRE:
            raise UsageError(
                f"--input {text}: expected NAME:TYPE[N,N,...], -1 for any extent, TYPE one of "
                f"{', '.join(BY_WIRE)}"
            )
        extents = match["shape"].split(",") if match["shape"] else []
        shape = tuple(int(extent) for extent in extents)
        specs.append(TensorSpec(match["name"], BY_WIRE[match["type"]], shape))
    return tuple(specs)


def _header(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise UsageError(f"--header {text}: expected NAME=TEXT")
    return name, value


def _check_writable(flag: str, path: str | None) -> None:
    """Raise UsageError now rather than after the measurement."""
    if not path or path == "-":
        return
    folder = Path(path).parent
    if Path(path).is_dir() or not folder.is_dir():
        reason = "is a directory" if Path(path).is_dir() else f"{folder} is no directory"
        raise UsageError(f"{flag} {path}: cannot be written: {reason}")


def _listed(one: Callable[[str], N]) -> Callable[[str], tuple[N, ...]]:
    def parse(text: str) -> tuple[N, ...]:
        return tuple(sorted({one(part) for part in text.split(",")}))

    parse.__name__ = "list"
    return parse


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not (value >= 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is less than 0 or endless")
    return value


def _positive(text: str) -> float:
    value = _seconds(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
