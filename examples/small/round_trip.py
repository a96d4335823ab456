"""The round trip of every small example: export a trained model, serve it, ask for the test set."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from examples.serving import ExampleFailed, heading, serving
from exporter import export
from service.client import Client
from service.tensors import Array, Tensors

_ROWS: Final = 64  # of a request; the largest batch that an export proves by default


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model and how to serve it.

    examples: inputs by name for the proof. options: of the export. asked: the test set, by input.
    labels: what it is. scores: name of the output with a score for each class. source: the scores
    that the model itself gives.
    """

    model: Any
    examples: Any
    asked: Tensors
    labels: Array
    scores: str
    source: Array
    options: dict[str, Any] = field(default_factory=dict)


def main(
    name: str, text: str, train: Callable[[bool], Trained], argv: Sequence[str] | None = None
) -> int:
    """Run an example; return 0 if the server answers what the model itself says.

    train: makes the model; True: quickly, so that the way is tried and not the model.
    """
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--out", type=Path, default=Path("out") / name, metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="train less")
    arguments = parser.parse_args(argv)
    try:
        _run(name, text, train(arguments.quick), arguments.out / "models")
    except ExampleFailed as error:
        print(f"\nexample failed: {error}", file=sys.stderr)
        return 1
    return 0


def _run(name: str, text: str, trained: Trained, repository: Path) -> None:
    heading(1, text)
    own = _accuracy(trained.source, trained.labels)
    print(f"the model itself: {own:.4f} of {len(trained.labels)} held-out rows right")
    heading(2, "export it, and prove that ONNX Runtime computes the same")
    result = export(
        trained.model, trained.examples, name=name, repository=repository, **trained.options
    )
    worst = max(parity.max_rel for parity in result.parity)
    print(f"published {result.path}; largest difference {worst:.1e} of the largest value")
    heading(3, "serve it, and ask for the held-out rows over gRPC")
    with serving(repository) as address, Client(address) as client:
        answers = [
            client.infer(
                name, {key: array[at : at + _ROWS] for key, array in trained.asked.items()}
            )
            for at in range(0, len(trained.labels), _ROWS)
        ]
    served = np.concatenate([answer[trained.scores] for answer in answers])
    gap = float(np.abs(served - trained.source).max())
    print(
        f"the server: {_accuracy(served, trained.labels):.4f} right; scores differ by {gap:.1e} at "
        "most",
    )
    if not np.allclose(served, trained.source, rtol=1e-3, atol=1e-4):
        raise ExampleFailed(f"scores over gRPC differ from the model's own by {gap}")


def _accuracy(scores: Array, labels: Array) -> float:
    return float((scores.argmax(axis=1) == labels).mean())
