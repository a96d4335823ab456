"""Which requests are traced by which settings, and the file that traces go to."""

import errno
import io
import json
import threading
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from service.errors import SettingsError
from service.observability.trace_file import TraceFile
from service.observability.tracing import DEFAULTS, TENSORS, TIMESTAMPS, Tracer, TraceSettings
from service.tensors import FP32, TensorSpec

ON = (TIMESTAMPS,)


def traced(tracer: Tracer, model: str, requests: int) -> list[int]:
    """Return the numbers of the requests of a model that are traced to their end, from 1."""
    return [n for n in range(1, requests + 1) if is_traced(tracer, model)]


def is_traced(tracer: Tracer, model: str) -> bool:
    """Let one request of a model come and end."""
    trace = tracer.sample(model, "1")
    return trace is not None and tracer.count(trace)


@pytest.fixture
def tracer(tmp_path: Path) -> Tracer:
    """Make a tracer with a file."""
    return Tracer(str(tmp_path / "trace.json"))


def test_nothing_is_traced_before_it_is_asked_for(tracer: Tracer) -> None:
    """By default tracing is off, and costs one look at an attribute."""
    assert tracer.settings() == tracer.settings("m") == DEFAULTS
    assert not tracer.is_on
    assert traced(tracer, "m", 2000) == []


def test_one_of_rate_is_traced_until_count(tracer: Tracer) -> None:
    """Of each `rate` requests the last is traced, `count` times in all; then it is off again."""
    tracer.update("", {"level": ON, "rate": 3, "count": 2})
    assert tracer.traces("m")
    assert traced(tracer, "m", 20) == [3, 6]
    assert tracer.settings().count == 0
    assert not tracer.traces("m")
    tracer.update("", {"count": 1})
    assert traced(tracer, "m", 20) != []


def test_a_model_that_is_traced_again_with_all_others_is_told(tmp_path: Path) -> None:
    """Whoever has learned that a model is not traced is told when its own settings go."""
    changes: list[str] = []
    tracer = Tracer(str(tmp_path / "trace.json"), lambda: changes.append("changed"))
    tracer.update("", {"level": ON, "rate": 1})
    tracer.update("m", {"level": ()})
    assert not tracer.traces("m")
    changes.clear()
    tracer.update("m", {"level": None})
    assert tracer.traces("m")
    assert changes == ["changed"]


@pytest.mark.parametrize("off", [{"level": ()}, {"rate": 0}, {"count": 0}])
def test_what_turns_it_off(tracer: Tracer, off: dict[str, Any]) -> None:
    """No level, no rate or no count is no trace."""
    tracer.update("", {"level": ON, "rate": 1})
    assert tracer.traces("m")
    tracer.update("", off)
    assert not tracer.is_on
    assert not tracer.traces("m")
    assert traced(tracer, "m", 5) == []


def test_without_a_file_nothing_is_traced() -> None:
    """Settings are taken and told, and have no effect."""
    tracer = Tracer()
    tracer.update("", {"level": ON, "rate": 1})
    assert tracer.settings() == TraceSettings(ON, rate=1)
    assert not tracer.is_on
    assert not tracer.traces("m")


def test_a_model_inherits_what_it_has_not_set(tracer: Tracer) -> None:
    """Its own settings win one by one; None gives them up; other models are not touched."""
    tracer.update("m", {"rate": 12, "log_frequency": 34})
    tracer.update("", {"rate": 56, "count": 78, "level": ON})
    assert tracer.settings("m") == TraceSettings(ON, 12, 78, 34)
    assert tracer.settings("n") == tracer.settings() == TraceSettings(ON, 56, 78, 0)
    tracer.update("", {"rate": None, "count": None})
    assert tracer.settings() == TraceSettings(ON)
    assert tracer.settings("m") == TraceSettings(ON, 12, -1, 34)
    tracer.update("m", {"rate": None, "level": None})
    assert tracer.settings("m") == TraceSettings(ON, log_frequency=34)
    tracer.update("m", {"log_frequency": None})
    assert tracer.settings("m") == tracer.settings()


def test_one_model_alone(tracer: Tracer) -> None:
    """A model may be traced while the server's setting is off, and be left out while it is on."""
    tracer.update("m", {"level": ON, "rate": 1})
    assert (tracer.traces("m"), tracer.traces("n")) == (True, False)
    tracer.update("", {"level": ON, "rate": 1})
    tracer.update("m", {"level": ()})
    assert (tracer.traces("m"), tracer.traces("n")) == (False, True)
    assert traced(tracer, "n", 2) == [1, 2]
    assert traced(tracer, "m", 2) == []


def test_who_looks_at_requests_hears_of_changes(tmp_path: Path) -> None:
    """Whenever other models are traced than before, the end of a count included."""
    changes: list[bool] = []
    made = Tracer(str(tmp_path / "t"), lambda: changes.append(made.is_on))
    made.update("", {"rate": 1})
    assert changes == []
    made.update("", {"level": ON, "count": 2})
    made.update("", {"rate": 2})
    assert changes == [True]
    traced(made, "m", 4)
    assert changes == [True, False]
    made.update("m", {"level": ON, "count": 1})
    made.update("n", {"level": ON, "count": 1})
    assert changes == [True, False, True, True]


def test_a_count_is_kept_by_threads_together(tracer: Tracer) -> None:
    """However many are refused or end at once, as many are traced as the count says."""
    tracer.update("", {"level": ON, "rate": 1, "count": 100})
    got: list[int] = []

    def ask() -> None:
        for number in range(50):
            if number % 2:
                got.extend(traced(tracer, "m", 1))
            elif (refused := tracer.sample("m", "1")) is not None:
                tracer.discard(refused)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    got += traced(tracer, "m", 200)
    assert len(got) == 100


def test_a_request_that_is_refused_leaves_the_count(tracer: Tracer) -> None:
    """What was sampled and has no end is not counted; the next that is sampled is in its place."""
    tracer.update("", {"level": ON, "rate": 1, "count": 1})
    for _ in range(3):
        trace = tracer.sample("m", "1")
        assert trace is not None
        tracer.discard(trace)
    assert tracer.settings().count == 1
    assert traced(tracer, "m", 3) == [1]


def test_no_more_are_under_way_than_the_count_says(tracer: Tracer) -> None:
    """Requests that are sampled and have not ended are of the count, until one is refused."""
    tracer.update("m", {"level": ON, "rate": 1, "count": 2})
    first, second = tracer.sample("m", "1"), tracer.sample("m", "1")
    assert first is not None
    assert second is not None
    assert tracer.sample("m", "1") is None
    assert tracer.traces("m")  # it is looked at until all of them are counted
    tracer.discard(first)
    third = tracer.sample("m", "1")
    assert third is not None
    assert tracer.count(third)
    assert tracer.count(second)
    assert (second.id, third.id) == (2, 1)
    assert tracer.settings("m").count == 0
    assert not tracer.traces("m")


def test_a_count_that_is_set_anew_is_kept_from_then_on(tracer: Tracer) -> None:
    """What was under way before is of the new count, and not written if that is used up."""
    tracer.update("", {"level": ON, "rate": 1})
    before = [tracer.sample("m", "1") for _ in range(3)]
    tracer.update("", {"count": 2})
    assert tracer.sample("m", "1") is None
    assert [tracer.count(trace) for trace in before if trace] == [True, True, False]
    assert tracer.settings().count == 0


def test_what_a_trace_says(tmp_path: Path) -> None:
    """Levels choose between times and tensors; large and textual contents are left out."""
    path = tmp_path / "trace.json"
    tracer = Tracer(str(path))
    specs = [TensorSpec(name, FP32, (-1,)) for name in ("A", "B", "C")]
    for level in ((TIMESTAMPS,), (TENSORS,)):
        tracer.update("", {"level": level, "rate": 1})
        trace = tracer.sample("m", "3")
        assert trace is not None
        trace.request_id = "r"
        trace.note("REQUEST_START", 5)
        arrays = {"A": np.array([1.5, 2], np.float32), "B": np.zeros(50_000, np.float32)}
        trace.keep("TENSOR_QUEUE_INPUT", arrays, specs)
        assert tracer.count(trace)
        tracer.write(trace)
    tracer.close()
    first, second, small, large = json.loads(path.read_text())
    head = {"model_name": "m", "model_version": 3, "request_id": "r"}
    assert first == {"id": 1, **head, "timestamps": [{"name": "REQUEST_START", "ns": 5}]}
    assert second == {"id": 2, **head}
    tensor = {"name": "A", "shape": "2", "dtype": "FP32", "data": "1.5,2.0"}
    assert small == {"id": 2, "activity": "TENSOR_QUEUE_INPUT", "tensor": tensor}
    assert large["tensor"] == {"name": "B", "shape": "50000", "dtype": "FP32"}
    assert path.stat().st_mode & 0o777 == 0o600


def test_files_of_so_many_traces(tmp_path: Path) -> None:
    """With a frequency each so many traces make a file; what is left is whole too."""
    file = TraceFile(str(tmp_path / "t"))
    for number in range(5):
        file.put([{"id": number}, {"id": number}], 2)
    file.put([{"id": 9}], 0)
    file.close()
    ids = {
        path.name: [entry["id"] for entry in json.loads(path.read_text())]
        for path in tmp_path.iterdir()
    }
    assert ids == {"t": [9], "t.0": [0, 0, 1, 1], "t.1": [2, 2, 3, 3], "t.2": [4, 4]}


def test_a_full_disk_costs_traces_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be written is counted, the log says so once, and writing goes on."""
    file = TraceFile("/dev/full")
    for number in range(3):
        file.put([{"id": number}], 0)
    file.close()
    assert file.dropped == 3
    assert len(caplog.records) == 1
    assert "No space left" in caplog.text


def test_a_file_that_cannot_be_closed_is_not_written_to_again(tmp_path: Path) -> None:
    """Network file systems tell when a file is closed that they are full; tracing goes on."""
    file = TraceFile(str(tmp_path / "t"))

    class Quota(io.FileIO):
        def close(self) -> None:
            is_first = not self.closed
            super().close()
            if is_first:
                raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with patch("os.fdopen", lambda descriptor, *_, **__: Quota(descriptor, "wb")):
        for number in range(3):
            file.put([{"id": number}], 1)
        file.close()
    written = [json.loads((tmp_path / f"t.{number}").read_text()) for number in range(3)]
    assert written == [[{"id": 0}], [{"id": 1}], [{"id": 2}]]


def test_a_slow_disk_bounds_what_waits(tmp_path: Path) -> None:
    """More traces than may wait are left out, and putting them takes no time."""
    gate = threading.Event()

    class Slow(dict[str, int]):
        def items(self) -> Any:
            gate.wait()
            return super().items()

    file = TraceFile(str(tmp_path / "t"))
    for _ in range(1100):
        file.put([Slow(id=1)], 0)
    assert file.dropped >= 1100 - 1024 - 1
    gate.set()
    file.close()


@pytest.mark.parametrize("path", ["/absent/trace.json", "/"])
def test_a_place_that_cannot_be_written(path: str) -> None:
    """It is refused at start, by the name of its setting."""
    with pytest.raises(SettingsError, match=f"--trace-file is '{path}', expected a file"):
        TraceFile(path)
