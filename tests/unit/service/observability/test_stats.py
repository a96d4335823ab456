"""Counts of a model version, and the families that they become."""

import json
import logging
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.observability.logs import configure
from service.observability.metrics import ServerCollector, Source
from service.observability.stats import BATCH_BOUNDS, BatchTiming, Histogram, ModelStats


@given(st.lists(st.integers(0, 1000)))
def test_histogram_counts_every_value_once(values: list[int]) -> None:
    """Each value is in the first bucket whose bound is not below it."""
    histogram = Histogram(BATCH_BOUNDS)
    for value in values:
        histogram.add(value)
    assert histogram.count == len(values)
    assert histogram.total == sum(values)
    low = -1
    for bound, count in zip(histogram.bounds, histogram.buckets, strict=False):
        assert count == sum(low < value <= bound for value in values)
        low = bound


def test_batches_are_counted_by_their_rows() -> None:
    """Executions are counted once a batch, durations once a request, as Triton does."""
    stats = ModelStats()
    stats.record_batch(BatchTiming(8, 10, 100, 1), [(5, 1), (6, 1), (7, 2)])
    stats.record_batch(BatchTiming(1, 10, 100, 1), [(0, 1)])
    totals = stats.snapshot()
    assert totals.rows == 9
    assert totals.queue_ns.count == 5
    assert totals.queue_ns.total == 25
    assert totals.infer_ns == 500
    assert {rows: batch.executions for rows, batch in totals.batches.items()} == {8: 1, 1: 1}
    assert totals.batches[8].infer_ns == 100
    assert totals.last_inference_ms > 0


def test_rows_of_nobody_are_no_inferences() -> None:
    """Rows that fill places of a batch are in its size, and not in what was inferred."""
    stats = ModelStats()
    stats.record_batch(BatchTiming(8, 10, 100, 1, idle_rows=6), [(5, 2)])
    totals = stats.snapshot()
    assert totals.rows == 2
    assert list(totals.batches) == [8]


def test_snapshot_does_not_change() -> None:
    """A copy that was taken stays as it was."""
    stats = ModelStats()
    before = stats.snapshot()
    stats.record_outcome("OK")
    stats.record_failure(5)
    assert before.outcomes == {}
    after = stats.snapshot()
    assert (after.outcomes, after.failed, after.failed_ns) == ({"OK": 1}, 1, 5)


def test_counts_of_many_threads_add_up() -> None:
    """Nothing is lost when threads count at once."""
    stats = ModelStats()

    def count() -> None:
        for _ in range(1000):
            stats.record_outcome("OK")

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stats.snapshot().outcomes["OK"] == 8000


def test_metrics_are_read_by_the_official_parser() -> None:
    """Histograms are cumulative, in seconds, and labels are escaped."""
    stats, unknown = ModelStats(), ModelStats()
    stats.record_batch(BatchTiming(3, 0, 2_000_000, 0), [(60_000, 1), (20_000_000_000, 1)])
    stats.record_outcome("OK")
    unknown.record_outcome("NOT_FOUND")
    registry = CollectorRegistry()
    counters = {"calls_total": 4, "calls": 2, "refused_calls_total": 1, "refused_memory_total": 3}
    source = Source('qu"ote', "1", stats.snapshot(), 7, 1, 0.25, 31, 2)
    registry.register(ServerCollector(lambda: [source], unknown, lambda: counters))
    samples = {
        (
            sample.name,
            sample.labels.get("model") or sample.labels.get("reason"),
            sample.labels.get("le"),
        ): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }
    assert samples["penstock_queue_depth", 'qu"ote', None] == 7
    assert samples["penstock_batches_in_progress", 'qu"ote', None] == 1
    assert samples["penstock_run_mean_seconds", 'qu"ote', None] == 0.25
    assert samples["penstock_inline_rows", 'qu"ote', None] == 31
    assert samples["penstock_run_threads", 'qu"ote', None] == 2
    assert samples["penstock_queue_seconds_bucket", 'qu"ote', "0.0001"] == 1
    assert samples["penstock_queue_seconds_bucket", 'qu"ote', "10"] == 1
    assert samples["penstock_queue_seconds_bucket", 'qu"ote', "+Inf"] == 2
    assert samples["penstock_compute_seconds_sum", 'qu"ote', None] == pytest.approx(0.004)
    assert samples["penstock_batch_rows_bucket", 'qu"ote', "4"] == 1
    assert samples["penstock_requests_total", "_unknown", None] == 1
    assert samples["penstock_transport_calls_total", None, None] == 4
    assert samples["penstock_transport_calls", None, None] == 2
    assert samples["penstock_transport_refused_total", "calls", None] == 1
    assert samples["penstock_transport_refused_total", "memory", None] == 3


@pytest.fixture
def _root_logger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the root logger back its handlers afterwards."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)


@pytest.mark.usefixtures("_root_logger")
def test_text_log_is_one_line_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    """Line breaks and escapes in a message are escaped."""
    configure("info", "text")
    logging.getLogger("test").info("model %s", "x\nFORGED\x1b[31m")
    logging.getLogger("test").debug("below the level")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("Z INFO model x\\x0aFORGED\\x1b[31m")


@pytest.mark.usefixtures("_root_logger")
def test_json_log_is_one_object_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    """Every event is a JSON object with time, level and message, exceptions in it."""
    configure("info", "json")
    try:
        raise ValueError("cause\nof it")
    except ValueError:
        logging.getLogger("test").exception("failed %d", 1)
    (line,) = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["message"], entry["logger"]) == ("error", "failed 1", "test")
    assert "cause" in entry["exception"]
    assert entry["time"].endswith("Z")
