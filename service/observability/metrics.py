"""Prometheus families of everything that is counted; collected when somebody asks.

Labels come from models that are served, never from what a client sends.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, TypeAlias

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from service.observability.logs import dropped_lines
from service.observability.stats import Histogram, ModelStats, SequenceCounts, Totals

_LABELS = ("model", "version")
# Upper bounds in microseconds, counts, one more of them, and the sum in nanoseconds.
Overhead: TypeAlias = tuple[Sequence[int], Sequence[int], int]


@dataclass(frozen=True, slots=True)
class Source:
    """What is read of one model version.

    inline_rows: rows in the largest batch that runs on the ingress thread. threads: of one run.
    sequences: None if the model keeps no state.
    """

    model: str
    version: str
    totals: Totals
    queue_depth: int
    batches_in_progress: int
    mean_run_s: float
    inline_rows: int
    threads: int
    sequences: SequenceCounts | None = None


class ServerCollector(Collector):
    """Collects from the server as it is at the moment."""

    def __init__(
        self,
        sources: Callable[[], Iterable[Source]],
        unknown: ModelStats,
        transport: Callable[[], Mapping[str, int]],
        overhead: Callable[[], Overhead | None] = lambda: None,
        dropped_traces: Callable[[], int] = lambda: 0,
    ) -> None:
        """unknown: outcomes of requests that name no served model. overhead: see seam.Lane."""
        self._dropped_traces = dropped_traces
        self._overhead = overhead
        self._sources = sources
        self._unknown = unknown
        self._transport = transport

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        sources = list(self._sources())
        yield self._requests(sources)
        yield from _histograms(sources)
        yield from _gauges(sources)
        yield from _sequences(sources)
        rows = CounterMetricFamily("penstock_rows", "Rows inferred.", labels=_LABELS)
        for source in sources:
            rows.add_metric((source.model, source.version), source.totals.rows)
        yield rows
        responses = CounterMetricFamily(
            "penstock_responses", "Responses of models with several a request.", labels=_LABELS
        )
        for source in sources:
            if source.totals.responses:
                count = sum(place.count for place in source.totals.responses.values())
                responses.add_metric((source.model, source.version), count)
        yield responses
        yield CounterMetricFamily(
            "penstock_log_lines_dropped", "Log lines that could not be written.", dropped_lines()
        )
        yield CounterMetricFamily(
            "penstock_traces_dropped", "Traces that were not written.", self._dropped_traces()
        )
        yield from _transport_families(self._transport())
        if (overhead := self._overhead()) is not None:
            yield _overhead_family(overhead)

    def _requests(self, sources: Iterable[Source]) -> Metric:
        family = CounterMetricFamily(
            "penstock_requests",
            "Infer requests by model, version and gRPC status.",
            labels=(*_LABELS, "outcome"),
        )
        for source in sources:
            for outcome, count in sorted(source.totals.outcomes.items()):
                family.add_metric((source.model, source.version, outcome), count)
        for outcome, count in sorted(self._unknown.snapshot().outcomes.items()):
            family.add_metric(("_unknown", "", outcome), count)
        return family


def _overhead_family(overhead: Overhead) -> Metric:
    bounds_us, counts, sum_ns = overhead
    family = HistogramMetricFamily(
        "penstock_overhead_seconds",
        "Time of unary requests in the server, from the last byte read to the first one written, "
        "less the run of the model. Of requests that the native transport bundles.",
    )
    below = list(accumulate(counts))
    labels = [*(str(bound / 1e6) for bound in bounds_us), "+Inf"]
    family.add_metric((), list(zip(labels, below, strict=True)), sum_ns / 1e9)
    return family


_REASONS = {
    "refused_": ("refused", "Connections, calls and messages that were refused, by reason."),
    "dropped_": ("dropped_connections", "Connections that were dropped, by reason."),
}


def _transport_families(counters: Mapping[str, int]) -> Iterator[Metric]:
    """Yield what the transport counts; see seam.Transport.counters for the names."""
    by_reason: dict[str, CounterMetricFamily] = {}
    for name, value in sorted(counters.items()):
        prefix = next(filter(name.startswith, _REASONS), None)
        if prefix is not None:
            short, text = _REASONS[prefix]
            family = by_reason.get(prefix) or by_reason.setdefault(
                prefix,
                CounterMetricFamily(f"penstock_transport_{short}", text, labels=("reason",)),
            )
            family.add_metric((name.removeprefix(prefix).removesuffix("_total"),), value)
        else:
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            yield kind(f"penstock_transport_{name}", "Of the transport, by its own count.", value)
    yield from by_reason.values()


_GAUGES: Final[tuple[tuple[str, str, Callable[[Source], float]], ...]] = (
    ("queue_depth", "Requests that wait for the model.", lambda s: s.queue_depth),
    ("batches_in_progress", "Batches that the model runs.", lambda s: s.batches_in_progress),
    ("run_mean_seconds", "Running mean of the time of one run.", lambda s: s.mean_run_s),
    ("inline_rows", "Largest batch that runs on the ingress thread.", lambda s: s.inline_rows),
    ("run_threads", "Threads of one run.", lambda s: s.threads),
)


def _gauges(sources: Iterable[Source]) -> Iterator[Metric]:
    sources = list(sources)
    for name, documentation, value in _GAUGES:
        family = GaugeMetricFamily(f"penstock_{name}", documentation, labels=_LABELS)
        for source in sources:
            family.add_metric((source.model, source.version), value(source))
        yield family


_OF_SEQUENCES: Final[tuple[tuple[str, str, Callable[[SequenceCounts], int]], ...]] = (
    ("sequences_open", "Sequences that are in progress.", lambda c: c.open),
    ("sequences_backlog", "Sequences that wait for a place.", lambda c: c.backlog),
    ("sequence_steps_waiting", "Requests behind others of their sequence.", lambda c: c.waiting),
    ("sequence_state_bytes", "States of the sequences in progress.", lambda c: c.state_bytes),
    ("sequences", "Sequences that were started.", lambda c: c.opened),
    ("sequences_reaped", "Sequences that ended because they were idle.", lambda c: c.reaped),
    ("sequences_replaced", "Sequences started anew before their end.", lambda c: c.replaced),
)
_EVER: Final = ("sequences", "sequences_reaped", "sequences_replaced")


def _sequences(sources: Iterable[Source]) -> Iterator[Metric]:
    """Yield what is counted of models that keep states; nothing if there are none."""
    counted = [(s, s.sequences) for s in sources if s.sequences is not None]
    for name, documentation, value in _OF_SEQUENCES if counted else ():
        kind = CounterMetricFamily if name in _EVER else GaugeMetricFamily
        family = kind(f"penstock_{name}", documentation, labels=_LABELS)
        for source, counts in counted:
            family.add_metric((source.model, source.version), value(counts))
        yield family


def _histograms(sources: Iterable[Source]) -> Iterator[Metric]:
    queue = _family("queue_seconds", "Time between acceptance and execution.")
    compute = _family("compute_seconds", "Time of the batch that a request was in.")
    total = _family("request_seconds", "Time between acceptance and answer.")
    batch = _family("batch_rows", "Rows in one execution.")
    for source in sources:
        labels = (source.model, source.version)
        _add(queue, labels, source.totals.queue_ns, 1e9)
        _add(compute, labels, source.totals.compute_ns, 1e9)
        _add(total, labels, source.totals.total_ns, 1e9)
        _add(batch, labels, source.totals.batch_rows, 1)
    yield from (queue, compute, total, batch)


def _family(name: str, documentation: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(f"penstock_{name}", documentation, labels=_LABELS)


def _add(
    family: HistogramMetricFamily, labels: tuple[str, str], histogram: Histogram, unit: float
) -> None:
    buckets: list[tuple[str, float]] = []
    running = 0
    for bound, count in zip(histogram.bounds, histogram.buckets, strict=False):
        running += count
        buckets.append((f"{bound / unit:g}", running))
    buckets.append(("+Inf", running + histogram.buckets[-1]))
    family.add_metric(labels, buckets, histogram.total / unit)
