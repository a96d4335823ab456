"""What was found out at one load, and the form of it in JSON. Pure."""

from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol, TypeAlias

from service.transport.seam import Code

SCHEMA: Final = 1  # of the JSON; grows when a field changes its meaning or goes
QUANTILES: Final = (0.5, 0.9, 0.95, 0.99, 0.999)
_FULL: Final = 0.9  # share of a CPU above which a thread has hardly anything left
_BUSY: Final = 0.95  # share of the time above which a thread hardly waits for the network
_WAITING: Final = 0.2  # share of the time above which waiting for a CPU shows in the latencies
_LATE_S: Final = 1e-3  # requests sent later than this are late
_LATE_SHARE: Final = 0.2  # unless it hardly matters beside the latency

Shares: TypeAlias = tuple[float, float, float]  # see Client


class Sample(Protocol):
    """What is needed of a penstock_transport.Sample."""

    @property
    def seconds(self) -> float: ...  # noqa: D102
    @property
    def answered(self) -> int: ...  # noqa: D102
    @property
    def failures(self) -> list[tuple[int, int, str]]: ...  # noqa: D102
    @property
    def series(self) -> list[int]: ...  # noqa: D102
    @property
    def usage(self) -> list[tuple[float, float, float]]: ...  # noqa: D102
    @property
    def stream_limit(self) -> int | None: ...  # noqa: D102
    @property
    def reconnects(self) -> int: ...  # noqa: D102
    def count(self, kind: str) -> int: ...  # noqa: D102
    def quantile_s(self, kind: str, quantile: float) -> float: ...  # noqa: D102
    def mean_s(self, kind: str) -> float: ...  # noqa: D102
    def max_s(self, kind: str) -> float: ...  # noqa: D102
    def then(self, later: Any) -> Any: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Load:
    """How often requests are sent: in_flight in a closed loop, or per_second in an open one."""

    in_flight: int | None
    per_second: float | None
    connections: int
    streams: int  # 0: unary calls

    def __str__(self) -> str:
        return f"{self.in_flight}" if self.per_second is None else f"{self.per_second:,g}/s"


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution of durations, in seconds."""

    mean_s: float
    p50_s: float
    p90_s: float
    p95_s: float
    p99_s: float
    p999_s: float
    max_s: float

    @classmethod
    def of(cls, sample: Sample, kind: str) -> "Spread":
        """Return that of one kind of durations."""
        p50, p90, p95, p99, p999 = (sample.quantile_s(kind, each) for each in QUANTILES)
        return cls(sample.mean_s(kind), p50, p90, p95, p99, p999, sample.max_s(kind))


@dataclass(frozen=True, slots=True)
class Failure:
    """Requests that failed with one status. text: what the first of them was told."""

    code: str
    count: int
    text: str


@dataclass(frozen=True, slots=True)
class ServerSide:
    """What the server says of itself. source: "trailers" of the answers, or "statistics"."""

    source: str
    queue_mean_s: float
    compute_mean_s: float
    rows_per_execution: float | None


@dataclass(frozen=True, slots=True)
class Client:
    """What the load generator itself used: shares of the time, for its busiest thread.

    cpu: it had one. busy: it waited for neither the network nor the schedule. waiting: for a CPU.
    bottleneck: why the figures may be the client's and not the server's; None: they are not.
    """

    cpu_share: float
    busy_share: float
    waiting_share: float
    cpu_us_per_request: float
    bottleneck: str | None


@dataclass(frozen=True, slots=True)
class Level:
    """What was measured at one load. end: "stable", "not stable", "failing" or "interrupted"."""

    load: Load
    end: str
    windows: int
    seconds: float
    answered: int
    per_second: float
    rows_per_second: float
    latency: Spread
    lag: Spread | None  # how much later than scheduled requests were sent
    failures: tuple[Failure, ...]
    reconnects: int
    server: ServerSide | None
    client: Client
    series: tuple[int, ...]  # answers in each whole second

    @property
    def failed(self) -> int:
        """Requests that failed."""
        return sum(failure.count for failure in self.failures)

    @property
    def failed_share(self) -> float:
        """Share of the requests that failed."""
        return self.failed / max(1, self.failed + self.answered)


def level_of(
    load: Load, end: str, windows: int, sample: Sample, rows: int, server: ServerSide | None
) -> Level:
    """Return what a sample says. rows: of one request."""
    seconds = max(sample.seconds, 1e-9)
    per_second = sample.answered / seconds
    latency = Spread.of(sample, "latency")
    lag = Spread.of(sample, "lag") if load.per_second is not None else None
    return Level(
        load=load,
        end=end,
        windows=windows,
        seconds=sample.seconds,
        answered=sample.answered,
        per_second=per_second,
        rows_per_second=per_second * rows,
        latency=latency,
        lag=lag,
        failures=tuple(
            Failure(Code(code).name, count, text) for code, count, text in sample.failures
        ),
        reconnects=sample.reconnects,
        server=server,
        client=_client(sample, seconds, latency, lag),
        series=tuple(sample.series),
    )


def bottleneck(
    shares: Shares,
    latency: Spread,
    lag: Spread | None,
    stream_limit: int | None,
) -> str | None:
    """Return in words why the client, and not the server, may have set the pace; None: it did not.

    stream_limit: calls that the server allows on a connection, if requests waited for one.
    """
    cpu, busy, waiting = shares
    if cpu >= _FULL:
        return f"the client's thread used {cpu:.0%} of a CPU: give it more --threads"
    if stream_limit is not None:
        return (
            f"requests waited in the client, as the server allows {stream_limit} calls on a "
            "connection: give more --connections"
        )
    if lag is not None and lag.p99_s > max(_LATE_S, _LATE_SHARE * latency.p99_s):
        return (
            f"requests were sent late, p99 {lag.p99_s * 1e3:.1f} ms: the client had no CPU when "
            "they were due"
        )
    if waiting >= _WAITING or busy >= _BUSY:
        return "the client waited for a CPU, and latencies have a part of that"
    return None


def as_json(level: Level) -> dict[str, Any]:
    """Return a level for JSON: the fields of the classes above, durations in seconds."""
    return {**asdict(level), "failed": level.failed}


def server_side(
    sample: Sample, queue: str, compute: str, rows_per_execution: float | None
) -> ServerSide | None:
    """Return what the trailers of the answers say; None: there are none."""
    if not (sample.count(queue) and sample.count(compute)):
        return None
    queue_s, compute_s = sample.mean_s(queue), sample.mean_s(compute)
    return ServerSide("trailers", queue_s, compute_s, rows_per_execution)


def _client(sample: Sample, seconds: float, latency: Spread, lag: Spread | None) -> Client:
    cpu_s, busy_s, waiting_s = zip(*sample.usage, strict=True)
    # A thread that waits for the network is in the kernel for a part of that time.
    busy = max(*cpu_s, *busy_s) / seconds
    shares = (max(cpu_s) / seconds, min(1.0, busy), max(waiting_s) / seconds)
    found = bottleneck(shares, latency, lag, sample.stream_limit)
    return Client(*shares, sum(cpu_s) / max(1, sample.answered) * 1e6, found)
