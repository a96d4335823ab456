"""Runs through buffers: which set is taken, used again, freed; and that answers stay right."""

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from service.errors import BackendError, BackendInterrupted, LoadError
from service.inference.backend import Interrupt
from service.repository.signature import Graph, resolve
from service.runtime.bound import BoundBackend, backend_of
from service.runtime.buffers import Buffers, GraphBuffers, HostBuffers, Layout, layout_of
from service.runtime.pinning import leave_pageable, pin_for_cuda
from service.runtime.providers import Device, cuda_options
from service.runtime.session import OnnxBackend, Session, SessionConfig
from service.tensors import BYTES, FP32, Array, Datatype, Signature, Tensors, TensorSpec
from tests.support import models

SIZES = (1, 2, 4)


class FakeBuffers:
    """Doubles X. fails: raise instead of the next run."""

    def __init__(self, layout: Layout) -> None:
        self.rows = layout.inputs["X"][0][0]
        self.runs = 0
        self.closed = 0
        self.fails: BaseException | None = None

    def run(
        self, inputs: Tensors, rows: int | None, outputs: Sequence[str], interrupt: Interrupt
    ) -> Tensors:
        """See Buffers.run."""
        del interrupt
        assert len(inputs["X"]) == rows
        self.runs += 1
        if self.fails is not None:
            raise self.fails
        return dict.fromkeys(outputs, inputs["X"] * 2)

    def close(self) -> None:
        """Count."""
        self.closed += 1


class Bench:
    """A backend on fake buffers, over a session that doubles as well."""

    def __init__(self, directory: Path, *, one_at_a_time: bool = False) -> None:
        self.made: list[FakeBuffers] = []
        loaded = load(directory, models.mlp(sizes=(2, 2, 2)))
        signature = Signature(
            (TensorSpec("X", FP32, (-1, 2)),), (TensorSpec("Y", FP32, (-1, 2)),), True
        )
        self.backend = BoundBackend(
            loaded, signature, SIZES, self._make, one_at_a_time=one_at_a_time
        )

    def run(self, rows: int) -> None:
        """Run on so many rows and check the answer."""
        x = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
        np.testing.assert_array_equal(self.backend.run({"X": x}, ["Y"], Interrupt())["Y"], x * 2)

    def _make(self, layout: Layout) -> FakeBuffers:
        self.made.append(FakeBuffers(layout))
        return self.made[-1]


def load(directory: Path, model: bytes) -> Session:
    """Load a model on the CPU."""
    path = directory / "model.onnx"
    path.write_bytes(model)
    return Session(path, SessionConfig(Device.CPU))


def test_smallest_bucket_is_taken_and_used_again(tmp_path: Path) -> None:
    """Runs one after another make one set of buffers for each bucket that they need."""
    bench = Bench(tmp_path)
    for rows in (1, 3, 4, 1, 3):
        bench.run(rows)
    assert [(buffers.rows, buffers.runs) for buffers in bench.made] == [(1, 2), (4, 3)]
    bench.backend.close()
    assert [buffers.closed for buffers in bench.made] == [1, 1]


def test_warm_up_makes_every_bucket(tmp_path: Path) -> None:
    """After the warm-up nothing is made any more; each bucket ran often enough to be captured."""
    bench = Bench(tmp_path)
    bench.backend.warm_up()
    bench.run(2)
    assert [(buffers.rows, buffers.runs) for buffers in bench.made] == [(1, 2), (2, 3), (4, 2)]


def test_warm_up_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """When the last bucket fails, the buffers of those before it are freed as well."""
    bench = Bench(tmp_path)

    class Failing(FakeBuffers):
        def run(
            self, inputs: Tensors, rows: int | None, outputs: Sequence[str], interrupt: Interrupt
        ) -> Tensors:
            if rows == SIZES[-1]:
                raise BackendError("no")
            return super().run(inputs, rows, outputs, interrupt)

    def make(layout: Layout) -> FakeBuffers:
        bench.made.append(Failing(layout))
        return bench.made[-1]

    backend = BoundBackend(
        load(tmp_path, models.mlp(sizes=(2, 2, 2))),
        bench.backend.signature,
        SIZES,
        make,
        one_at_a_time=False,
    )
    with pytest.raises(BackendError):
        backend.warm_up()
    assert [buffers.closed for buffers in bench.made] == [1, 1, 1]


@pytest.mark.parametrize("error", [BackendError("bad"), BackendInterrupted("stop"), MemoryError()])
def test_buffers_of_a_failed_run_are_freed(tmp_path: Path, error: BaseException) -> None:
    """What a failed run left half written serves nobody; the next run gets new buffers."""
    bench = Bench(tmp_path)
    bench.run(2)
    bench.made[0].fails = error
    with pytest.raises(type(error)):
        bench.run(2)
    bench.run(2)
    assert [(buffers.runs, buffers.closed) for buffers in bench.made] == [(2, 1), (1, 0)]


@pytest.mark.parametrize("one_at_a_time", [True, False])
def test_runs_beside_each_other(tmp_path: Path, *, one_at_a_time: bool) -> None:
    """Each run has buffers to itself; with CUDA graphs it has the session to itself as well."""
    bench = Bench(tmp_path, one_at_a_time=one_at_a_time)
    inside, most = 0, 0
    lock = threading.Lock()
    both = threading.Barrier(2)

    class Slow(FakeBuffers):
        def run(
            self, inputs: Tensors, rows: int | None, outputs: Sequence[str], interrupt: Interrupt
        ) -> Tensors:
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
            if not one_at_a_time:
                both.wait(20)  # both are inside, or this breaks
            result = super().run(inputs, rows, outputs, interrupt)
            with lock:
                inside -= 1
            return result

    bench.backend = BoundBackend(
        load(tmp_path, models.mlp(sizes=(2, 2, 2))),
        bench.backend.signature,
        SIZES,
        Slow,
        one_at_a_time=one_at_a_time,
    )
    threads = [threading.Thread(target=bench.run, args=(2,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most == (1 if one_at_a_time else 2)


def test_too_many_rows_go_around_the_buffers(tmp_path: Path) -> None:
    """A batch that no bucket holds is an ordinary run of the session."""
    bench = Bench(tmp_path)
    x = np.ones((9, 2), np.float32)
    assert bench.backend.run({"X": x}, ["Y"], Interrupt())["Y"].shape == (9, 2)
    assert bench.made == []


@pytest.mark.parametrize(
    ("datatype", "shape", "batched", "expected"),
    [
        (FP32, (-1, 2), True, (4, 2)),
        (FP32, (3, 2), False, (3, 2)),
        (FP32, (-1, -1), True, None),
        (FP32, (-1, 2), False, None),
        (BYTES, (-1, 2), True, None),
    ],
)
def test_layout(
    datatype: Datatype, shape: tuple[int, ...], expected: tuple[int, ...] | None, *, batched: bool
) -> None:
    """Buffers have the shape of the bucket; what has no size beforehand is refused by name."""
    signature = Signature(
        (TensorSpec("X", datatype, shape),), (TensorSpec("Y", FP32, (-1, 1)),), batched
    )
    if expected is None:
        with pytest.raises(LoadError, match=r"'X' is .* known beforehand"):
            layout_of(signature, 4)
    else:
        signature = Signature(signature.inputs, signature.inputs, batched)
        assert layout_of(signature, 4).inputs["X"][0] == expected


@pytest.mark.parametrize("kind", [HostBuffers, partial(GraphBuffers, device_id=0)])
def test_answers_are_those_of_plain_runs(tmp_path: Path, kind: type[HostBuffers]) -> None:
    """Batches of changing sizes through the same buffers; an answer outlives the next run."""
    loaded = load(tmp_path, models.mlp(sizes=(8, 4, 3)))
    signature = resolve(Graph(loaded.inputs, loaded.outputs), None, None).signature
    pinned: list[Array] = []
    unpinned: list[Array] = []

    def pin(array: Array) -> "partial[None]":
        pinned.append(array)
        return partial(unpinned.append, array)

    def make(layout: Layout) -> Buffers:
        return kind(loaded, layout, pin=pin)

    backend = BoundBackend(loaded, signature, SIZES, make, one_at_a_time=True)
    random = np.random.default_rng(3)
    answers: list[tuple[Array, Array]] = []
    for rows in (3, 4, 1, 2, 3, 1, 4):
        x = random.standard_normal((rows, 8)).astype(np.float32)
        plain = loaded.run({"X": x}, ["Y"], Interrupt())["Y"]
        answers.append((backend.run({"X": x}, ["Y"], Interrupt())["Y"], plain))
    for got, expected in answers:
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    backend.close()
    assert sorted(map(id, pinned)) == sorted(map(id, unpinned))
    assert pinned


@pytest.mark.parametrize("kind", [HostBuffers, partial(GraphBuffers, device_id=0)])
def test_tensors_without_axes_go_through_buffers(tmp_path: Path, kind: type[HostBuffers]) -> None:
    """A model of rank 0 has buffers of one element."""
    loaded = load(tmp_path, models.scalar())
    signature = resolve(Graph(loaded.inputs, loaded.outputs), None, None).signature
    backend = BoundBackend(
        loaded,
        signature,
        (1,),
        lambda layout: kind(loaded, layout, pin=leave_pageable),
        one_at_a_time=True,
    )
    for value in (1.5, 2.5):
        answer = backend.run({"X": np.array(value, np.float32)}, ["Y"], Interrupt())["Y"]
        assert (answer.shape, float(answer)) == ((), value + 1)
    backend.close()


def test_inputs_that_may_be_left_out_have_no_buffers() -> None:
    """A model with optional inputs is told from those that buffers are for."""
    spec = TensorSpec("D", FP32, (-1, 1), optional=True)
    signature = Signature((spec,), (TensorSpec("Y", FP32, (-1, 1)),), batched=True)
    with pytest.raises(LoadError, match="'D' is optional"):
        layout_of(signature, 1)


def test_bound_run_is_interrupted(tmp_path: Path) -> None:
    """A stop ends a run through buffers as it ends any other, and the next one works."""
    loaded = load(tmp_path, models.slow())
    signature = resolve(Graph(loaded.inputs, loaded.outputs), None, None).signature
    backend = BoundBackend(
        loaded,
        signature,
        (1,),
        lambda layout: HostBuffers(loaded, layout, leave_pageable),
        one_at_a_time=False,
    )
    interrupt = Interrupt()
    interrupt.request()
    with pytest.raises(BackendInterrupted):
        backend.run({"X": np.array([[100_000_000]])}, ["Y"], interrupt)
    assert backend.run({"X": np.array([[2]])}, ["Y"], Interrupt())["Y"].tolist() == [[2]]


def test_cpu_has_no_buffers(tmp_path: Path) -> None:
    """On the CPU a run costs less without."""
    loaded = load(tmp_path, models.mlp())
    signature = resolve(Graph(loaded.inputs, loaded.outputs), None, None).signature
    assert isinstance(backend_of(loaded, signature, SIZES), OnnxBackend)


def test_memory_that_cannot_be_pinned_stays_pageable() -> None:
    """Without CUDA, or when it refuses, pinning does nothing and undoing it neither."""
    pin_for_cuda(np.zeros(0, np.float32))()


@pytest.mark.parametrize(
    ("graphs", "memory_bytes", "expected"),
    [
        (False, 0, {}),
        (True, 0, {"enable_cuda_graph": "1"}),
        (
            False,
            1 << 30,
            {"gpu_mem_limit": "1073741824", "arena_extend_strategy": "kSameAsRequested"},
        ),
    ],
)
def test_options_of_cuda(memory_bytes: int, expected: dict[str, str], *, graphs: bool) -> None:
    """What was asked for reaches the provider; convolutions are never benchmarked a shape."""
    always = {"device_id": "3", "cudnn_conv_algo_search": "HEURISTIC"}
    assert cuda_options(3, graphs=graphs, memory_bytes=memory_bytes) == always | expected
