"""Sessions of ONNX Runtime: described, run, interrupted, refused; and the proof of batching."""

import threading
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from service.errors import BackendError, BackendInterrupted, LoadError, ProviderUnavailable
from service.inference.backend import Interrupt
from service.inference.batch import join_inputs, split_batch
from service.repository.signature import Graph, resolve
from service.runtime.providers import CUDA, Device, provider_options
from service.runtime.session import OnnxBackend, Session, SessionConfig
from service.runtime.warmup import close_enough, proves_batching, warm_up
from service.tensors import BYTES, DATATYPES, FP32, INT64, Datatype, Signature
from tests.support import forms, models
from tests.support.fake import WAIT_S
from tests.support.waiting import eventually

CPU = SessionConfig(Device.CPU)


def session(directory: Path, model: bytes) -> Session:
    """Load a model."""
    path = directory / "model.onnx"
    path.write_bytes(model)
    return Session(path, CPU)


def signature(loaded: Session) -> Signature:
    """Return how clients see a model without configuration."""
    return resolve(Graph(loaded.inputs, loaded.outputs), None, None).signature


@pytest.mark.parametrize("datatype", DATATYPES, ids=str)
def test_every_datatype_is_described_and_run(tmp_path: Path, datatype: Datatype) -> None:
    """Each datatype is known by its name in ONNX Runtime, and comes out as it went in."""
    loaded = session(tmp_path, models.identity(datatype))
    assert loaded.inputs[0].datatype is datatype
    assert loaded.inputs[0].shape == ("batch", "n")
    array = models.sample(np.random.default_rng(1), datatype, (2, 3))
    if datatype is BYTES:
        array = np.array([[e.decode() for e in line] for line in array], dtype=object)
    output = loaded.run({"X": array}, ["Y"], Interrupt())["Y"]
    assert output.dtype == datatype.numpy
    assert np.array_equal(output, array)


def test_read_only_and_unaligned_inputs_are_taken(tmp_path: Path) -> None:
    """Views on a message, at any offset in it, are inputs like any other."""
    loaded = session(tmp_path, models.mlp())
    row = np.random.default_rng(1).standard_normal((1, 784)).astype(np.float32)
    expected = loaded.run({"X": row}, ["Y"], Interrupt())["Y"]
    for offset in range(9):
        message = bytes(offset) + row.tobytes()
        view = np.frombuffer(message, np.float32, 784, offset).reshape(1, 784)
        np.testing.assert_array_equal(loaded.run({"X": view}, ["Y"], Interrupt())["Y"], expected)


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 32, 64])
def test_row_in_any_batch_equals_the_row_alone(tmp_path: Path, rows: int) -> None:
    """Rows joined, run and split are those run alone, within a stated tolerance."""
    backend = OnnxBackend(loaded := session(tmp_path, models.mlp()), signature(loaded))
    random = np.random.default_rng(rows)
    members = [{"X": random.standard_normal((1, 784)).astype(np.float32)} for _ in range(rows)]
    together = split_batch(backend.run(join_inputs(members), ["Y"], Interrupt()), [1] * rows)
    for member, part in zip(members, together, strict=True):
        alone = backend.run(member, ["Y"], Interrupt())
        np.testing.assert_allclose(part["Y"], alone["Y"], rtol=1e-4, atol=1e-5)
    backend.close()


def test_run_is_interrupted(tmp_path: Path) -> None:
    """A run that takes hours ends at once when it is stopped, and the next one works."""
    loaded = session(tmp_path, models.slow())
    interrupt = Interrupt()
    ends: list[BaseException] = []

    def run() -> None:
        try:
            loaded.run({"X": np.array([[100_000_000]])}, ["Y"], interrupt)
        except BackendInterrupted as error:
            ends.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: interrupt.request() or ends, "the run has ended")  # type: ignore[func-returns-value]
    thread.join(WAIT_S)
    assert loaded.run({"X": np.array([[2]])}, ["Y"], Interrupt())["Y"].tolist() == [[2]]


def test_run_that_was_stopped_before_it_began(tmp_path: Path) -> None:
    """A stop that comes before the run stops it all the same."""
    loaded = session(tmp_path, models.slow())
    interrupt = Interrupt()
    interrupt.request()
    with pytest.raises(BackendInterrupted):
        loaded.run({"X": np.array([[100_000_000]])}, ["Y"], interrupt)


@pytest.mark.parametrize(
    ("config", "more"),
    [
        (SessionConfig(Device.CPU, intra_op_threads=1), 0),
        (SessionConfig(Device.CPU, intra_op_threads=4), 3),
        (SessionConfig(Device.CPU, intra_op_threads=2, inter_op_threads=3, parallel=True), 3),
    ],
    ids=["one", "four", "parallel"],
)
def test_session_has_the_threads_that_it_was_given(
    tmp_path: Path, config: SessionConfig, more: int
) -> None:
    """Beside the caller there are as many threads as were asked for, and no more."""
    path = tmp_path / "model.onnx"
    path.write_bytes(models.mlp())
    tasks = Path("/proc/self/task")
    before = set(tasks.iterdir())
    loaded = Session(path, config)
    loaded.run({"X": np.zeros((64, 784), np.float32)}, ["Y"], Interrupt())
    assert len(set(tasks.iterdir()) - before) == more
    loaded.close()


@pytest.mark.parametrize("is_late", [True, False])
def test_stop_of_one_run_does_not_hit_the_next(tmp_path: Path, *, is_late: bool) -> None:
    """A stop that comes when its run is over, or in time, leaves the session as good as new."""
    loaded = session(tmp_path, models.slow())
    for _ in range(3):
        interrupt = Interrupt()
        if is_late:
            loaded.run({"X": np.array([[2]])}, ["Y"], interrupt)
            interrupt.request()
        else:
            interrupt.request()
            with pytest.raises(BackendInterrupted):
                loaded.run({"X": np.array([[2]])}, ["Y"], interrupt)
    assert loaded.run({"X": np.array([[2]])}, ["Y"], Interrupt())["Y"].tolist() == [[2]]


def test_run_that_failed_does_not_hit_the_next(tmp_path: Path) -> None:
    """After an error the session runs as before."""
    loaded = session(tmp_path, models.gather())
    with pytest.raises(BackendError):
        loaded.run({"X": np.array([[99]])}, ["Y"], Interrupt())
    assert loaded.run({"X": np.array([[1]])}, ["Y"], Interrupt())["Y"].tolist() == [[[2.0, 3.0]]]


def test_failing_run_is_a_backend_error(tmp_path: Path) -> None:
    """What the runtime refuses is our error with its first line, and no interrupt."""
    loaded = session(tmp_path, models.gather())
    with pytest.raises(BackendError, match="indices element out of data bounds") as caught:
        loaded.run({"X": np.array([[99]])}, ["Y"], Interrupt())
    assert not isinstance(caught.value, BackendInterrupted)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"no model", b"\x08\x0a\xff"], ids=["empty", "text", "cut"]
)
def test_file_that_is_no_model(tmp_path: Path, content: bytes) -> None:
    """A file that ONNX Runtime cannot load is a LoadError that names it."""
    with pytest.raises(LoadError, match=r"model\.onnx: "):
        session(tmp_path, content)


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is a LoadError that says so."""
    with pytest.raises(LoadError, match=r"none\.onnx: no such file"):
        Session(tmp_path / "none.onnx", CPU)


def test_cuda_is_never_replaced_silently() -> None:
    """Without CUDA, 'auto' means the CPU and 'cuda' is an error that says how to get it."""
    if CUDA in ort.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    assert provider_options(Device.AUTO) == provider_options(Device.CPU)
    with pytest.raises(ProviderUnavailable, match="pip install --force-reinstall onnxruntime-gpu"):
        provider_options(Device.CUDA)


@pytest.mark.parametrize(
    ("model", "is_proved"),
    [
        (models.mlp(), True),
        (models.two_axes(), True),
        (models.gather(), True),
        (models.identity(BYTES), True),
        (models.coupled(), False),
    ],
    ids=["mlp", "two axes", "gather", "bytes", "coupled"],
)
def test_independence_of_rows_is_proved(tmp_path: Path, model: bytes, is_proved: bool) -> None:  # noqa: FBT001
    """A model is batched only if each row of a batch comes out as it does alone."""
    loaded = session(tmp_path, model)
    assert signature(loaded).batched
    assert proves_batching(loaded, signature(loaded)) is is_proved


def test_warm_up_takes_any_model(tmp_path: Path) -> None:
    """Zeros that a model refuses are no fault: the warm-up leaves it as it is."""
    for model in (models.mlp(), models.scalar(), models.fixed_batch(), models.identity(BYTES)):
        loaded = session(tmp_path, model)
        warm_up(loaded, signature(loaded), (1, 4))


@pytest.mark.parametrize(
    ("got", "want", "is_close"),
    [
        ([1.0, 100.0], [1.0, 100.05], True),
        ([1.0, 100.0], [1.0, 100.2], False),
        ([1.0, np.nan], [1.0, np.nan], True),
        ([1.0, np.nan], [1.0, 2.0], False),
        ([np.inf, 1.0], [np.inf, 1.0], True),
        ([np.nan], [np.nan], True),
        ([1e-7], [0.0], True),
        ([1.0], [1.0, 1.0], False),
    ],
)
def test_closeness(got: list[float], want: list[float], is_close: bool) -> None:  # noqa: FBT001
    """Floating tensors are compared relative to the largest value; NaN must meet NaN."""
    first, second = np.array(got, np.float32), np.array(want, np.float32)
    assert close_enough(first, second, 1e-3, 1e-6) is is_close


def test_other_datatypes_are_compared_exactly() -> None:
    """Whole numbers and text are the same or not."""
    assert close_enough(np.array([1, 2]), np.array([1, 2]), 1.0, 1.0)
    assert not close_enough(np.array([1, 2]), np.array([1, 3]), 1.0, 1.0)


def test_datatypes_of_the_graph(tmp_path: Path) -> None:
    """Names, datatypes and shapes are those of the graph, outputs too."""
    loaded = session(tmp_path, models.gather())
    (x,), (y,) = loaded.inputs, loaded.outputs
    assert (x.name, x.datatype, x.shape) == ("X", INT64, ("batch", 1))
    assert (y.name, y.datatype, y.wire_shape) == ("Y", FP32, (-1, 1, 2))


def test_inputs_with_a_default_are_known(tmp_path: Path) -> None:
    """What a graph does without is optional: an input with an initializer, or of such a type."""
    loaded = session(tmp_path, forms.with_default())
    assert [(t.name, t.optional) for t in (*loaded.inputs, *loaded.defaults)] == [
        ("X", False),
        ("D", True),
    ]
    loaded = session(tmp_path, forms.optional_type())
    assert [(t.name, t.datatype, t.optional) for t in loaded.inputs] == [
        ("X", FP32, False),
        ("O", FP32, True),
    ]
    assert loaded.defaults == ()
