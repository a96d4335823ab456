"""The whole way: train, export, verify, serve, stream. `make demo` runs this.

Everything is done as a user would do it: the commands are printed before they run.
"""

import argparse
import selectors
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import numpy as np
import torch

from examples.digits import client
from examples.digits.data import Digits, load
from examples.digits.picture import draw
from examples.digits.train import Settings, Training, accuracy, fit, save

_READY_S: Final = 60.0  # until the server must be ready
_STOP_S: Final = 30.0  # until it must have stopped
_REPEATS: Final = 10  # passes over the test set, so that percentiles mean something


class DemoFailed(Exception):
    """A step of the demo did not do what it should; the text says which."""


@dataclass(frozen=True, slots=True)
class _Server:
    process: subprocess.Popen[str]
    address: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return 0 if every step did what it should."""
    parser = argparse.ArgumentParser(prog="python -m examples.digits.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/digits"), metavar="DIR")
    arguments = parser.parse_args(argv)
    start = time.monotonic()
    try:
        _demo(arguments.out)
    except DemoFailed as error:
        print(f"\ndemo failed: {error}", file=sys.stderr)
        return 1
    print(f"\ndone in {time.monotonic() - start:.0f} s")
    return 0


def _demo(out: Path) -> None:
    _heading(1, "train a multilayer perceptron on handwritten digits")
    digits = load()
    training = fit(digits, Settings())
    if not training.converged:
        raise DemoFailed(f"the training did not converge in {len(training.history)} epochs")
    weights, _ = save(training, out)
    print(f"converged after {len(training.history)} epochs; wrote {weights}")

    _heading(2, "export it, and prove that ONNX Runtime computes the same")
    models = out / "models"
    _run(
        [sys.executable, "-m", "exporter", "examples.digits.model:build_model",
         "--weights", str(weights), "--name", client.MODEL, "--repository", str(models)],
    )  # fmt: skip

    _heading(3, "serve it")
    with _serving(models) as server, grpc.insecure_channel(server.address) as channel:
        _heading(4, "send the held-out test set, one image a request, many in flight")
        images = np.tile(digits.test_images, (_REPEATS, 1))
        client.unary(channel, digits.test_images)  # connection and caches warm
        streamed = client.stream(channel, images)
        called = client.unary(channel, images)
        _report(training, digits, streamed, called)
        _heading(5, "stop the server")
    print("the server drained and exited with code 0")

    _heading(6, "draw")
    picture = out / "demo.png"
    draw(
        picture,
        training.history,
        digits.test_images,
        digits.test_labels,
        streamed.predictions[: len(digits.test_labels)],
    )
    print(f"training curve and predictions: {picture.resolve()}")


@contextmanager
def _serving(models: Path) -> Iterator[_Server]:
    """Run the server as a process of its own; at the end it must stop with exit code 0."""
    command = [sys.executable, "-m", "service", "serve", str(models), "--port", "0",
               "--http-port", "0"]  # fmt: skip
    _show(command)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 (ours)
        try:
            server = _Server(process, _wait_until_ready(process))
            yield server
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"the server did not stop within {_STOP_S:.0f} s") from None
        finally:
            if process.poll() is None:
                process.kill()
    if code != 0:
        raise DemoFailed(f"the server exited with code {code}, not 0")


def _wait_until_ready(process: subprocess.Popen[str]) -> str:
    """Return the gRPC address that the server prints when it is ready."""
    if process.stdout is None:
        raise DemoFailed("the server has no standard output")
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(timeout=_READY_S):
            raise DemoFailed(f"the server was not ready within {_READY_S:.0f} s")
    line = process.stdout.readline().strip()
    fields = dict(part.split("=", 1) for part in line.split() if "=" in part)
    if not line.startswith("penstock ready") or "grpc" not in fields:
        raise DemoFailed(f"the server said {line!r} instead of being ready")
    print(line)
    return fields["grpc"]


def _report(training: Training, digits: Digits, streamed: client.Pass, called: client.Pass) -> None:
    """Print accuracy, latency and throughput. Raises DemoFailed if an accuracy differs."""
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
            raise DemoFailed(f"{name}: accuracy {got} over gRPC, but {expected} in PyTorch")


def _run(command: Sequence[str]) -> None:
    _show(command)
    finished = subprocess.run(command, check=False)  # noqa: S603 (ours)
    if finished.returncode != 0:
        raise DemoFailed(f"{command[2]} exited with code {finished.returncode}")


def _show(command: Sequence[str]) -> None:
    shown = shlex.join(["python", *command[1:]])
    for module, script in (("exporter", "penstock-export"), ("service", "penstock")):
        shown = shown.replace(f"python -m {module} ", f"{script} ")
    print(f"$ {shown}", flush=True)


def _heading(number: int, text: str) -> None:
    print(f"\n== {number}. {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
