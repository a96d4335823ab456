"""The whole way: train, export, verify, serve, stream. `make demo` runs this.

Everything is done as a user would do it: the commands are printed before they run.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import grpc
import numpy as np
import torch

from examples.digits import client
from examples.digits.data import Digits, load
from examples.digits.picture import draw
from examples.digits.train import Settings, Training, accuracy, fit, save
from examples.serving import ExampleFailed, heading, run, serving

_REPEATS: Final = 10  # passes over the test set, so that percentiles mean something


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return 0 if every step did what it should."""
    parser = argparse.ArgumentParser(prog="python -m examples.digits.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/digits"), metavar="DIR")
    arguments = parser.parse_args(argv)
    start = time.monotonic()
    try:
        _demo(arguments.out)
    except ExampleFailed as error:
        print(f"\ndemo failed: {error}", file=sys.stderr)
        return 1
    print(f"\ndone in {time.monotonic() - start:.0f} s")
    return 0


def _demo(out: Path) -> None:
    heading(1, "train a multilayer perceptron on handwritten digits")
    digits = load()
    training = fit(digits, Settings())
    if not training.converged:
        raise ExampleFailed(f"the training did not converge in {len(training.history)} epochs")
    weights, _ = save(training, out)
    print(f"converged after {len(training.history)} epochs; wrote {weights}")

    heading(2, "export it, and prove that ONNX Runtime computes the same")
    models = out / "models"
    run(
        [sys.executable, "-m", "exporter", "examples.digits.model:build_model",
         "--weights", str(weights), "--name", client.MODEL, "--repository", str(models)],
    )  # fmt: skip

    heading(3, "serve it")
    with serving(models) as address, grpc.insecure_channel(address) as channel:
        heading(4, "send the held-out test set, one image a request, many in flight")
        images = np.tile(digits.test_images, (_REPEATS, 1))
        client.unary(channel, digits.test_images)  # connection and caches warm
        streamed = client.stream(channel, images)
        called = client.unary(channel, images)
        _report(training, digits, streamed, called)
        heading(5, "stop the server")
    print("the server drained and exited with code 0")

    heading(6, "draw")
    picture = out / "demo.png"
    draw(
        picture,
        training.history,
        digits.test_images,
        digits.test_labels,
        streamed.predictions[: len(digits.test_labels)],
    )
    print(f"training curve and predictions: {picture.resolve()}")


def _report(training: Training, digits: Digits, streamed: client.Pass, called: client.Pass) -> None:
    """Print accuracy, latency and throughput. Raises ExampleFailed if an accuracy differs."""
    expected = accuracy(
        training.model, torch.from_numpy(digits.test_images), torch.from_numpy(digits.test_labels)
    )
    labels = np.tile(digits.test_labels, _REPEATS)
    print(f"{'':<24}{'accuracy':>9}{'requests/s':>12}{'p50 ms':>9}{'p90 ms':>9}{'p99 ms':>9}")
    print(f"{'PyTorch, in process':<24}{expected:>9.4f}")
    for name, served in (("ModelStreamInfer", streamed), ("ModelInfer", called)):
        got = float((served.predictions == labels).mean())
        print(
            f"{name:<24}{got:>9.4f}{served.requests_per_second:>12,.0f}"
            + "".join(f"{served.percentile_ms(percent):>9.2f}" for percent in (50, 90, 99)),
        )
        if abs(got - expected) > 1e-12:
            raise ExampleFailed(f"{name}: accuracy {got} over gRPC, but {expected} in PyTorch")


if __name__ == "__main__":
    sys.exit(main())
