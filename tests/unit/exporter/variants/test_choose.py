"""The choice among variants: what is tried, refused and taken, with timings that are given."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from exporter.bench import Entry, Timing
from exporter.errors import ChildCrashed, CompressionFailed, GateFailed, UsageError
from exporter.gate import Gate
from exporter.variants import compress, trials
from exporter.variants.make import Job, make
from exporter.variants.subject import Predict
from service.tensors import Tensors
from tests.unit.exporter.graphs import cases, convolution, linear, plain

_DATA = {"x": np.random.default_rng(0).random((64, 16), np.float32)}


def _timer(**ratios: float) -> Callable[[Sequence[Entry], Sequence[Tensors]], list[Timing]]:
    """Return a timer that gives each kind a ratio, by the directory that the file lies in."""

    def time(entries: Sequence[Entry], feeds: Sequence[Tensors]) -> list[Timing]:
        found = []
        for feed in feeds:
            rows = len(next(iter(feed.values())))
            for index, entry in enumerate(entries):
                ratio = ratios.get(entry.path.parent.name.replace("-", "_"), 1.0)
                found.append(Timing(index, rows, 100.0 / ratio, ratio, ratio, ratio))
        return found

    return time


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the variants here: a child a variant would cost a second each."""
    monkeypatch.setattr(trials, "run_job", lambda job, timeout_s: make(job))  # noqa: ARG005


def test_the_fastest_that_passes_is_taken(tmp_path: Path) -> None:
    """Both int8 kinds pass; the faster one is chosen, and the report has both."""
    source = linear(tmp_path / "m.onnx")
    choice = compress(source, tmp_path, cases=cases(16), calibration=_DATA,
                      timer=_timer(int8_dynamic=2.0, int8_static=3.0))  # fmt: skip
    assert choice.variant == "int8-static"
    assert choice.path == tmp_path / "int8-static" / "model.onnx"
    report = choice.report.to_json()
    assert [(t["name"], t["passed"]) for t in report["trials"]] == [
        ("int8-static", True), ("int8-dynamic", True),
    ]  # fmt: skip
    assert [s["rows"] for s in report["trials"][0]["speed"]] == [1, 16]


def test_static_int8_is_taken_where_dynamic_is_hardly_faster(tmp_path: Path) -> None:
    """In dynamic int8 the rows of a batch depend on each other, which must pay."""
    source = linear(tmp_path / "m.onnx")
    hardly = _timer(int8_dynamic=2.1, int8_static=2.0)
    clearly = _timer(int8_dynamic=2.5, int8_static=2.0)
    chosen = [
        compress(source, tmp_path, cases=cases(16), calibration=_DATA, timer=timer).variant
        for timer in (hardly, clearly)
    ]
    assert chosen == ["int8-static", "int8-dynamic"]


def test_rows_that_spoil_each_other_are_refused(tmp_path: Path) -> None:
    """A batch with one row of huge values: alone the others are exact, together they are not."""
    rows = cases(16)
    rows[-1].inputs["x"][7] *= 1e4
    with pytest.raises(GateFailed, match=r"a row in a batch is .* off the same row alone"):
        compress(linear(tmp_path / "m.onnx"), tmp_path, cases=rows, request="int8-dynamic",
                 calibration=_DATA, timer=_timer(int8_dynamic=9.0))  # fmt: skip


def test_auto_keeps_the_model_where_nothing_is_faster(tmp_path: Path) -> None:
    """The speed gate refuses, the model is returned untouched, and the report says why."""
    source = linear(tmp_path / "m.onnx")
    choice = compress(source, tmp_path, cases=cases(16), timer=_timer(int8_dynamic=0.9))
    assert (choice.variant, choice.path) == ("fp32", source)
    assert "it is slower: 0.90x" in choice.report.to_markdown()


def test_dynamic_int8_on_a_convolution_is_refused(tmp_path: Path) -> None:
    """Auto does not try it; by name it is an error with the way out."""
    source = convolution(tmp_path / "m.onnx")
    choice = compress(source, tmp_path, cases=cases(3, 8, 8))
    assert choice.variant == "fp32"
    assert "needs --calibration" in choice.report.reason
    with pytest.raises(CompressionFailed, match="up to 8 times as long"):
        compress(source, tmp_path, cases=cases(3, 8, 8), request="int8-dynamic")


def test_a_slow_static_convolution_is_refused_by_the_speed_gate(tmp_path: Path) -> None:
    """What is right and slow is not published."""
    data = {"x": np.random.default_rng(0).random((16, 3, 8, 8), np.float32)}
    with pytest.raises(GateFailed, match=r"int8-static is not published: .*0\.50x"):
        compress(convolution(tmp_path / "m.onnx"), tmp_path, cases=cases(3, 8, 8),
                 request="int8-static", calibration=data,
                 timer=_timer(int8_static=0.5, int8_static_percentile=0.5))  # fmt: skip


def _wrong_scale(job: Job, *, timeout_s: float) -> Any:
    """Quantise, with ranges as a broken calibration finds them."""
    assert timeout_s > 0
    variant = make(job)
    model = onnx.load(str(variant.path))
    for tensor in model.graph.initializer:
        if tensor.name == "x_scale":
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor) / 50, tensor.name)
            )
    onnx.save(model, str(variant.path))
    return variant


def test_bad_calibration_is_refused_by_the_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges that cut off what the model lives on fail the accuracy gate, both methods of them."""
    monkeypatch.setattr(trials, "run_job", _wrong_scale)
    with pytest.raises(GateFailed, match=r"int8-static: it.*int8-static-percentile: it"):
        compress(linear(tmp_path / "m.onnx"), tmp_path, cases=cases(16), request="int8-static",
                 calibration=_DATA, timer=_timer(int8_static=9.0))  # fmt: skip


def test_auto_survives_a_step_that_crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The crash is told in the report, and the model itself is taken."""

    def crash(job: Job, *, timeout_s: float) -> Any:
        raise ChildCrashed(f"making {job.kind} crashed (SIGSEGV) in {timeout_s}")

    monkeypatch.setattr(trials, "run_job", crash)
    choice = compress(linear(tmp_path / "m.onnx"), tmp_path, cases=cases(16))
    assert choice.variant == "fp32"
    assert "crashed (SIGSEGV)" in choice.report.to_markdown()
    with pytest.raises(ChildCrashed):
        compress(linear(tmp_path / "m.onnx"), tmp_path, cases=cases(16), request="int8-dynamic")


def test_auto_publishes_nothing_that_cannot_be_timed(tmp_path: Path) -> None:
    """A variant that could be slower is not taken because the clock failed."""

    def fail(_entries: Sequence[Entry], _feeds: Sequence[Tensors]) -> list[Timing]:
        raise ChildCrashed("timing the variants crashed (SIGSEGV)")

    choice = compress(linear(tmp_path / "m.onnx"), tmp_path, cases=cases(16), timer=fail)
    assert choice.variant == "fp32"
    assert "cannot be timed" in choice.report.to_markdown()


def test_the_users_metric_decides(tmp_path: Path) -> None:
    """A variant that loses more than the gate allows is refused, though its error is small."""
    scores = iter((0.95, 0.93))

    def evaluate(predict: Predict) -> float:
        assert predict(_DATA["x"])["y"].shape == predict(_DATA)["y"].shape == (64, 4)
        return next(scores)

    choice = compress(linear(tmp_path / "m.onnx"), tmp_path, cases=cases(16), evaluate=evaluate,
                      timer=_timer(int8_dynamic=3.0))  # fmt: skip
    assert choice.variant == "fp32"
    assert "falls from 0.9500 to 0.9300" in choice.report.to_markdown()


def _raises(_predict: Predict) -> float:
    raise KeyError("labels")


@pytest.mark.parametrize(
    ("evaluate", "says"),
    [
        (_raises, r"raised KeyError: 'labels' \(test_choose\.py:\d+: raise KeyError"),
        (lambda _predict: float("nan"), "returned nan"),
        (lambda _predict: "good", r"raised ValueError: could not convert"),
    ],
)
def test_an_evaluation_that_fails_is_told(evaluate: Any, says: str, tmp_path: Path) -> None:
    """With what was raised and where."""
    with pytest.raises(UsageError, match=says):
        compress(linear(tmp_path / "m.onnx"), tmp_path, cases=cases(16), evaluate=evaluate)


def test_what_changes_nothing_is_said_to(tmp_path: Path) -> None:
    """Four bits on small layers: asked for by name it is an error, and no file stays."""
    with pytest.raises(GateFailed, match="w4 is not published: it changed nothing"):
        compress(linear(tmp_path / "m.onnx"), tmp_path, cases=cases(16), request="w4")
    assert not (tmp_path / "w4").exists()


def test_a_graph_without_layers_has_nothing_to_try(tmp_path: Path) -> None:
    """Auto says so."""
    choice = compress(plain(tmp_path / "m.onnx"), tmp_path, cases=cases(4))
    assert "nothing was tried" in choice.report.reason


def _normed(path: Path) -> Path:
    """Write a linear graph with a LayerNormalization, for which session options are tried."""
    model = onnx.load(str(linear(path, (16, 32, 4))))
    for name in ("scale", "offset"):
        array = np.ones(32, np.float32) if name == "scale" else np.zeros(32, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    norm = onnx.helper.make_node("LayerNormalization", ["h0", "scale", "offset"], ["n0"])
    model.graph.node[1].input[0] = "n0"
    model.graph.node.insert(1, norm)
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize(
    ("ratio", "low", "optimizers"),
    [
        (1.2, 1.1, ("SkipLayerNormFusion",)),
        (1.02, 1.01, ()),
        (1.2, 0.8, ()),
    ],
)
def test_session_options_are_recommended_where_they_gain(
    ratio: float, low: float, optimizers: tuple[str, ...], tmp_path: Path
) -> None:
    """More than noise, and not only in the median."""

    def time(entries: Sequence[Entry], feeds: Sequence[Tensors]) -> list[Timing]:
        return [
            Timing(index, len(feed["x"]), 1.0, ratio, low, 2.0)
            if entry.options.disabled_optimizers and entry.path == entries[0].path
            else Timing(index, len(feed["x"]), 1.0, 1.0, 1.0, 1.0)
            for feed in feeds
            for index, entry in enumerate(entries)
        ]

    choice = compress(_normed(tmp_path / "m.onnx"), tmp_path, cases=cases(16), timer=time)
    assert (choice.variant, choice.session.disabled_optimizers) == ("fp32", optimizers)


def test_none_measures_nothing(tmp_path: Path) -> None:
    """The model is returned without a look at it."""
    source = linear(tmp_path / "m.onnx")
    choice = compress(source, tmp_path, cases=cases(16), request="none")
    assert (choice.path, choice.report.trials) == (source, ())


def test_half_precision_for_a_gpu_is_not_timed_on_a_cpu(tmp_path: Path) -> None:
    """Its answers are judged, its speed is not known here."""
    choice = compress(linear(tmp_path / "m.onnx"), tmp_path, cases=cases(16), device="cuda")
    assert choice.variant == "fp16"
    assert choice.report.trials[0].timings == ()
    assert "speed was not measured" in choice.report.to_markdown()


def test_a_smaller_file_alone_can_be_enough(tmp_path: Path) -> None:
    """Who says speedup=0 gets the variant, slower or not."""
    choice = compress(linear(tmp_path / "m.onnx"), tmp_path, cases=cases(16),
                      request="int8-dynamic", gate=Gate(min_speedup=0.0),
                      timer=_timer(int8_dynamic=0.7))  # fmt: skip
    assert choice.variant == "int8-dynamic"


def test_calibration_of_another_shape_is_told(tmp_path: Path) -> None:
    """Before anything is made."""
    data = {"x": np.ones((32, 15), np.float32)}
    with pytest.raises(UsageError, match=r"has shape \[32,15\], expected \[-1,16\]"):
        compress(linear(tmp_path / "m.onnx"), tmp_path, cases=cases(16), calibration=data)
