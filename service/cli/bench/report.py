"""What was measured as text for people. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from service.cli.bench.knee import Advice
from service.cli.bench.result import Level
from service.cli.table import table

_HEADERS: Final = (
    "LOAD", "REQUESTS/S", "MEAN", "p50", "p90", "p95", "p99", "p99.9", "MAX",
    "QUEUE", "COMPUTE", "ROWS/RUN", "FAILED", "CLIENT", "WAITED", "WINDOWS",
)  # fmt: skip
_LONGEST_TEXT: Final = 160


@dataclass(frozen=True, slots=True)
class Subject:
    """What was measured, in words. method: "unary" or "stream"."""

    model: str
    version: str
    address: str
    method: str
    rows: int
    inputs: str
    machine: str


def render(subject: Subject, levels: Sequence[Level], advice: Advice) -> str:
    """Return title, table, notes and recommendation."""
    if not levels:
        return "nothing was measured"
    closed = levels[0].load.per_second is None
    parts = [
        _title(subject, closed=closed),
        table(_HEADERS, [_row(level) for level in levels]),
        _legend(levels, closed=closed),
        *_notes(levels),
        recommendation(levels, advice),
    ]
    return "\n".join(part for part in parts if part)


def recommendation(levels: Sequence[Level], advice: Advice) -> str:
    """Return the last lines: the knee, and what to run at."""
    lines = []
    if advice.knee is not None and advice.knee != advice.recommended:
        lines.append(f"knee: {_described(levels[advice.knee])}")
    if advice.recommended is None:
        lines.append(f"recommended: none, {advice.reason}")
    else:
        lines.append(f"recommended: {_described(levels[advice.recommended])} -- {advice.reason}")
    return "\n".join(lines)


def _title(subject: Subject, *, closed: bool) -> str:
    version = f" version {subject.version}" if subject.version else ""
    rows = f"{subject.rows} {'row' if subject.rows == 1 else 'rows'} a request"
    loop = "closed loop" if closed else "open loop, Poisson arrivals"
    return (
        f"{subject.model}{version} at {subject.address}: {subject.method}, {loop}, {rows} "
        f"({subject.inputs})\n{subject.machine}"
    )


def _row(level: Level) -> tuple[str, ...]:
    latency, server = level.latency, level.server
    spread = (
        latency.mean_s, latency.p50_s, latency.p90_s, latency.p95_s, latency.p99_s,
        latency.p999_s, latency.max_s,
    )  # fmt: skip
    rows = server.rows_per_execution if server else None
    mark = {"stable": "", "not stable": " *", "failing": " !", "interrupted": " ^"}[level.end]
    return (
        str(level.load),
        f"{level.per_second:,.0f}",
        *(_ms(value) if level.answered else "-" for value in spread),
        _ms(server.queue_mean_s) if server else "-",
        _ms(server.compute_mean_s) if server else "-",
        f"{rows:.1f}" if rows else "-",
        f"{level.failed:,}" if level.failed else "0",
        f"{level.client.cpu_share:.0%}",
        f"{level.client.waiting_share:.0%}",
        f"{level.windows}{mark}",
    )


def _legend(levels: Sequence[Level], *, closed: bool) -> str:
    load = "requests in flight" if closed else "requests that arrive"
    counted = "Latencies in ms, from when a request was to be sent."
    lines = [
        f"LOAD: {load}. {counted}",
        "CLIENT: share of a CPU that it had. WAITED: share of the time that it waited for one.",
    ]
    sources = {level.server.source for level in levels if level.server}
    if sources:
        lines.append(
            "QUEUE, COMPUTE: means in the server, in ms, by its "
            f"{' and '.join(sorted(sources))}. ROWS/RUN: rows in one run of the model."
        )
    ends = {level.end for level in levels}
    lines += [text for end, text in _ENDS.items() if end in ends]
    return "\n".join(lines)


_ENDS: Final = {
    "not stable": "*: no three windows in a row agreed in the time of --max-s; the last three.",
    "failing": "!: no request was answered any more.",
    "interrupted": "^: interrupted; what there was.",
}


def _notes(levels: Sequence[Level]) -> list[str]:
    held_up: dict[str, list[str]] = {}
    for level in levels:
        if level.client.bottleneck:
            held_up.setdefault(level.client.bottleneck, []).append(str(level.load))
    notes = [f"at {', '.join(loads)}: {reason}" for reason, loads in held_up.items()]
    for level in levels:
        notes += [
            f"at {level.load}: {failure.count:,} failed with {failure.code}"
            + (f": {_cut(failure.text)}" if failure.text else "")
            for failure in level.failures
        ]
        if level.reconnects:
            notes.append(f"at {level.load}: connections were lost {level.reconnects} times")
    return notes


def _described(level: Level) -> str:
    load = level.load
    what = f"{load.in_flight} in flight" if load.per_second is None else f"{load} arriving"
    spread = f" on {load.streams} streams" if load.streams > 1 else ""
    if load.connections > 1:
        spread += f" over {load.connections} connections"
    return (
        f"{what}{spread}: {level.per_second:,.0f} requests/s, p50 {_ms(level.latency.p50_s)} ms, "
        f"p99 {_ms(level.latency.p99_s)} ms"
    )


def _ms(seconds: float) -> str:
    ms = seconds * 1e3
    return f"{ms:.3f}" if ms < 10 else f"{ms:.1f}" if ms < 1000 else f"{ms:,.0f}"


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_TEXT else line[: _LONGEST_TEXT - 3] + "..."
