"""The figures of the exporter's compression: `python -m benchmarks.exporter --out out/exporter`.

Every figure is a ratio against the uncompressed model, timed in alternation with it in one process
on the CPU, and a figure that is missed is marked. Writes figures.json and figures.md.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from benchmarks.nets import TOKENS, DigitsCnn, Encoder, ResNet18, wide_mlp
from examples.digits.data import Digits, load
from examples.digits.model import PIXELS
from examples.digits.train import Settings, fit
from exporter import export
from exporter.bench import Effort, Entry, Timing, bench
from exporter.gate import Gate
from exporter.prune import prune
from exporter.variants import Choice, compress
from exporter.variants.kinds import DEFAULT_OPTIONS, described
from exporter.variants.report import Trial, cpu_facts
from service.tensors import Array, Tensors

_PAGE: Final = """# What compression gains and costs

Measured by `make bench-exporter` in one run: ratios against the uncompressed model, timed in
alternation with it in one process; in brackets the quartiles of the ratios. The digits models are
trained, and their accuracy is that of the held-out digits; ResNet-18, the encoder and the wide MLP
have random weights, so only speed, size and numerical error are theirs. A file counts as 4x smaller
from 3.95x on: its weights are 4x smaller, and the scales take the rest.

{table}"""
_POINTS: Final = 0.005  # half a point of accuracy
_ANY: Final = Gate(min_speedup=0.0)  # these figures are to be seen, also where they are missed


@dataclass(frozen=True, slots=True)
class Case:
    """Inputs of one size."""

    rows: int
    inputs: Tensors
    batch_axes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure. target: in words. speed: (rows, ratio, low, high) of each batch."""

    model: str
    variant: str
    target: str
    reached: bool
    size: str
    accuracy: str
    speed: tuple[tuple[int, float, float, float], ...]


class Bench:
    """Exports models, tries variants of them and keeps the figures."""

    def __init__(self, directory: Path, threads: int, budget_s: float) -> None:
        self._directory = directory
        self._effort = Effort(budget_s=budget_s, threads=threads)
        self.figures: list[Figure] = []

    def publish(self, module: nn.Module, name: str, example: torch.Tensor, rows: int) -> Path:
        """Export a module, proved, and return its file."""
        axes = {"tokens": {1: "length"}} if example.dtype == torch.int64 else None
        result = export(
            module.eval(), example, name=name, repository=self._directory / "models",
            max_batch_size=rows, dynamic_axes=axes,
        )  # fmt: skip
        return result.path / "model.onnx"

    def compress(self, model: Path, request: str, cases: Sequence[Case], **more: Any) -> Choice:
        """Try variants of a file."""
        where = self._directory / f"{model.parent.parent.name}-{request}-{time.monotonic_ns()}"
        return compress(model, where, request=request, cases=cases, timer=self.time, **more)

    def time(self, entries: Sequence[Entry], feeds: Sequence[Tensors]) -> tuple[Timing, ...]:
        """Time files against the first of them."""
        return bench(entries, feeds, effort=self._effort)

    def keep(
        self,
        model: str,
        trial: Trial,
        target: str,
        base_bytes: int,
        *,
        reached: Callable[[Sequence[Timing]], bool],
        baseline_metric: float | None = None,
    ) -> None:
        """Keep the figure of a variant."""
        made, found = trial.variant, trial.measured
        if made is None or found is None:
            raise SystemExit(f"{model}: {trial.name}: {'; '.join(trial.verdict.reasons)}")
        accuracy = f"rms error {found.relative_error:.2%}"
        if found.metric is not None and baseline_metric is not None:
            accuracy = f"{found.metric:.2%} (was {baseline_metric:.2%})"
        name = trial.name
        if trial.options != DEFAULT_OPTIONS:
            name = f"{name}, {described(trial.options)}"
        self._add(model, name, target, base_bytes, made.file_bytes, accuracy,
                  trial.timings, reached=reached(trial.timings))  # fmt: skip

    def keep_pair(
        self, model: str, variant: str, target: str, files: tuple[Path, Path], accuracy: str,
        cases: Sequence[Case], *, reached: Callable[[Sequence[Timing]], bool],
    ) -> None:  # fmt: skip
        """Time two files and keep the figure of the second."""
        timings = self.time([Entry(path) for path in files], [case.inputs for case in cases])
        own = [timing for timing in timings if timing.entry == 1]
        sizes = [path.stat().st_size for path in files]
        self._add(model, variant, target, sizes[0], sizes[1], accuracy, own, reached=reached(own))

    def keep_source(self, model: str, target: str) -> None:
        """Keep that the model itself was taken."""
        self.figures.append(Figure(f"{model}, auto", "the model itself", target, True, "", "", ()))
        print(_line(self.figures[-1]), flush=True)

    def _add(  # noqa: PLR0913 (what a line shows)
        self, model: str, variant: str, target: str, base_bytes: int, own_bytes: int,
        accuracy: str, timings: Sequence[Timing], *, reached: bool,
    ) -> None:  # fmt: skip
        size = f"{own_bytes / 1e6:.2f} MB ({base_bytes / own_bytes:.2f}x smaller)"
        speed = tuple((t.rows, t.ratio, t.low, t.high) for t in timings)
        self.figures.append(Figure(model, variant, target, reached, size, accuracy, speed))
        print(_line(self.figures[-1]), flush=True)


def digits(runs: Bench) -> None:
    """Accuracy of static int8 on the digits, what auto takes, and half of the hidden units gone."""
    data = load()
    calibration = {"image": data.train_images[:512]}
    cases = [Case(rows, {"image": data.test_images[:rows]}) for rows in (1, 64)]
    for name, module in (("digits MLP", _trained_mlp(data)), ("digits CNN", _trained_cnn(data))):
        model = runs.publish(module, name.replace(" ", "-").lower(),
                             torch.from_numpy(data.train_images[:2]), 64)  # fmt: skip
        evaluate = _accuracy_of(data)
        static = runs.compress(model, "int8-static", cases, calibration=calibration,
                               evaluate=evaluate, gate=_ANY)  # fmt: skip
        base = static.report.baseline_metric
        (trial, *_) = static.report.trials
        runs.keep(name, trial, "accuracy within 0.5 points", static.report.file_bytes,
                  reached=_is_within(trial, base), baseline_metric=base)  # fmt: skip
        auto = runs.compress(model, "auto", cases, calibration=calibration, evaluate=evaluate)
        _keep_auto(runs, name, auto)
    _keep_pruned(runs, data, cases)


def large(runs: Bench) -> None:
    """Speed and size of the larger networks, with random weights."""
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    model = runs.publish(_used(ResNet18()), "resnet18", torch.rand(2, 3, 224, 224), 8)
    images = random.random((40, 3, 224, 224), np.float32)
    cases = [Case(rows, {"image": images[:rows]}) for rows in (1, 8)]
    choice = runs.compress(model, "int8-static", cases, calibration={"image": images}, gate=_ANY)
    (trial, *_) = choice.report.trials
    smaller = choice.report.file_bytes / (trial.variant.file_bytes if trial.variant else 1)
    runs.keep(
        "ResNet-18, 224x224", trial, "2.5x at batch 1, 4x smaller", choice.report.file_bytes,
        reached=lambda t: t[0].ratio >= 2.5 and round(smaller, 1) >= 4.0,
    )  # fmt: skip

    tokens = random.integers(0, TOKENS, (8, 64))
    model = runs.publish(Encoder(), "encoder", torch.from_numpy(tokens[:2]), 8)
    cases = [Case(rows, {"tokens": tokens[:rows]}) for rows in (1, 8)]
    choice = runs.compress(model, "int8-dynamic", cases, gate=_ANY)
    runs.keep(
        "encoder 6x384, 64 tokens", choice.report.trials[0], "2.3x", choice.report.file_bytes,
        reached=lambda t: all(timing.ratio >= 2.3 for timing in t),
    )  # fmt: skip

    model = runs.publish(wide_mlp(), "wide", torch.rand(2, PIXELS), 64)
    rows = random.random((256, PIXELS), np.float32)
    cases = [Case(count, {"input": rows[:count]}) for count in (1, 64)]
    for request in ("int8-dynamic", "int8-static"):
        choice = runs.compress(model, request, cases, calibration={"input": rows}, gate=_ANY)
        runs.keep(
            "MLP 784-2048-2048-10", choice.report.trials[0], "3x", choice.report.file_bytes,
            reached=lambda t: all(timing.ratio >= 3 for timing in t),
        )  # fmt: skip


def to_markdown(figures: Sequence[Figure], threads: int) -> str:
    """Return the figures as a table."""
    heads = ("model", "variant", "to reach", "", "size", "accuracy", "speed (quartiles)")
    lines = [heads, ("---",) * len(heads)]
    for figure in figures:
        speed = ", ".join(
            f"batch {rows}: {ratio:.2f}x [{low:.2f}, {high:.2f}]"
            for rows, ratio, low, high in figure.speed
        )
        lines.append((figure.model, figure.variant, figure.target,
                      "reached" if figure.reached else "MISSED", figure.size, figure.accuracy,
                      speed))  # fmt: skip
    flags = ", ".join(cpu_facts()["flags"]) or "none of AVX2, AVX-512, VNNI, AMX"
    return (
        "\n".join(f"| {' | '.join(line)} |" for line in lines)
        + f"\n\n{threads} thread(s) a run; the CPU has {flags}.\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write the table. Exit code 1 if a figure is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exporter", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/exporter"), metavar="DIR")
    parser.add_argument("--threads", type=int, default=1, help="of each run (default: 1)")
    parser.add_argument("--seconds", type=float, default=4.0, help="a model and batch (default: 4)")
    parser.add_argument("--docs", type=Path, metavar="FILE.md", help="also write the page of docs")
    parser.add_argument("--only", choices=("digits", "large"), help="a part of it")
    arguments = parser.parse_args(argv)
    with TemporaryDirectory(prefix="penstock-bench-") as place:
        runs = Bench(Path(place), arguments.threads, arguments.seconds)
        for name, part in (("digits", digits), ("large", large)):
            if arguments.only in (None, name):
                part(runs)
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = {
        "threads": arguments.threads,
        "cpu": cpu_facts(),
        "figures": [asdict(figure) for figure in runs.figures],
    }
    (arguments.out / "figures.json").write_text(json.dumps(report, indent=2) + "\n")
    text = to_markdown(runs.figures, arguments.threads)
    (arguments.out / "figures.md").write_text(text)
    if arguments.docs is not None:
        arguments.docs.write_text(_PAGE.format(table=text))
    print(f"\n{text}\nwrote {arguments.out}/figures.md and figures.json")
    return 0 if all(figure.reached for figure in runs.figures) else 1


def _keep_auto(runs: Bench, name: str, auto: Choice) -> None:
    """Keep what auto took; it must be neither slower nor less accurate than the gate."""
    taken = next((t for t in auto.report.trials if t.name == auto.report.chosen), None)
    target = "never slower, never less accurate than the gate"
    if taken is None:
        runs.keep_source(name, target)
        return
    runs.keep(f"{name}, auto", taken, target, auto.report.file_bytes,
              reached=lambda t: taken.verdict.passed and all(x.ratio >= 0.95 for x in t),
              baseline_metric=auto.report.baseline_metric)  # fmt: skip


def _keep_pruned(runs: Bench, data: Digits, cases: Sequence[Case]) -> None:
    """Keep the MLP with half of its hidden units."""
    module = _trained_mlp(data)
    accuracy = _module_accuracy(data)
    example = torch.from_numpy(data.train_images[:2])
    pruned = prune(module, example, layers=["hidden"], share=0.5, evaluate=accuracy,
                   finetune=lambda m: _train(m, data, epochs=10, learning_rate=3e-4))  # fmt: skip
    before, _, after = pruned.report.metric
    if before is None or after is None:
        raise SystemExit("pruning reported no accuracy")
    files = (runs.publish(module, "mlp-whole", example, 64),
             runs.publish(pruned.module, "mlp-half", example, 64))  # fmt: skip
    runs.keep_pair(
        "digits MLP", "half of the hidden units", "1.2x, at most 1 point lost", files,
        f"{after:.2%} (was {before:.2%})", cases,
        reached=lambda t: before - after <= 0.01 and max(x.ratio for x in t) >= 1.2,
    )  # fmt: skip


def _is_within(trial: Trial, base: float | None) -> Callable[[Sequence[Timing]], bool]:
    metric = trial.measured.metric if trial.measured else None
    close = metric is not None and base is not None and base - metric <= _POINTS + 1e-9
    return lambda _timings: close


def _trained_mlp(data: Digits) -> nn.Module:
    return fit(data, Settings()).model


def _trained_cnn(data: Digits) -> nn.Module:
    torch.manual_seed(0)
    module = DigitsCnn()
    _train(module, data, epochs=6, learning_rate=1e-3)
    return module.eval()


def _train(module: nn.Module, data: Digits, *, epochs: int, learning_rate: float) -> None:
    shuffle = torch.Generator().manual_seed(0)
    images, labels = torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels)
    optimizer = torch.optim.Adam(module.parameters(), lr=learning_rate)
    module.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(labels), generator=shuffle).split(32):
            loss = nn.functional.cross_entropy(module(images[rows])["logits"], labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    module.eval()


def _accuracy_of(data: Digits) -> Callable[[Callable[[Tensors | Array], Tensors]], float]:
    def evaluate(predict: Callable[[Tensors | Array], Tensors]) -> float:
        scores = predict(data.test_images)["logits"]
        return float((scores.argmax(axis=1) == data.test_labels).mean())

    return evaluate


def _module_accuracy(data: Digits) -> Callable[[nn.Module], float]:
    def evaluate(module: nn.Module) -> float:
        with torch.no_grad():
            scores = module(torch.from_numpy(data.test_images))["logits"].numpy()
        return float((scores.argmax(axis=1) == data.test_labels).mean())

    return evaluate


def _used(module: nn.Module) -> nn.Module:
    """Give the batch norms a history, as training would."""
    module.train()
    with torch.no_grad():
        for _ in range(3):
            module(torch.rand(4, 3, 64, 64))
    return module.eval()


def _line(figure: Figure) -> str:
    return " | ".join(_cells(figure))


def _cells(figure: Figure) -> Iterator[str]:
    yield from (figure.model, figure.variant, "reached" if figure.reached else "MISSED")
    yield from (f"b{rows} {ratio:.2f}x" for rows, ratio, *_ in figure.speed)
    yield figure.accuracy


if __name__ == "__main__":
    sys.exit(main())
