"""On a GPU: the answers are those of the CPU, through buffers, CUDA graphs and bounded memory."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.app.loader import ModelLoader
from service.config import Settings
from service.errors import LoadError
from service.inference.backend import Interrupt
from service.inference.model import Model
from service.repository.layout import Repository
from service.repository.signature import Graph, resolve
from service.runtime.bound import BoundBackend, backend_of
from service.runtime.buckets import bucket_sizes
from service.runtime.pinning import pin_for_cuda
from service.runtime.providers import CUDA, Device, has_cuda
from service.runtime.session import Session, SessionConfig
from tests.support import models

pytestmark = pytest.mark.gpu
MAX_ROWS = 8
SIZES = bucket_sizes(MAX_ROWS)


@pytest.fixture(autouse=True)
def _gpu() -> None:
    if not has_cuda():
        pytest.skip("the installed onnxruntime has no CUDA: nothing of the GPU is tested here")
    if not Path("/proc/driver/nvidia/version").exists():
        pytest.skip("no NVIDIA driver is loaded: nothing of the GPU is tested here")


@pytest.fixture(params=[False, True], ids=["host buffers", "CUDA graphs"])
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
    """Load the MLP on the GPU, with and without CUDA graphs."""
    loaded = load(tmp_path, models.mlp(), graphs=request.param)
    yield loaded
    loaded.close()


def load(directory: Path, model: bytes, *, graphs: bool = False, memory_mib: int = 0) -> Session:
    """Load a model on the GPU."""
    path = directory / "model.onnx"
    path.write_bytes(model)
    config = SessionConfig(Device.CUDA, cuda_graphs=graphs, gpu_memory_bytes=memory_mib << 20)
    return Session(path, config)


def loaded_by_server(directory: Path, model: bytes) -> Model:
    """Load a model as the server with --device cuda --cuda-graphs would."""
    models.publish(directory, "m", model)
    (source,) = Repository(directory).scan()
    loader = ModelLoader(Settings(str(directory), device="cuda", cuda_graphs=True))
    return loader.load(source.versions[0], None)


def test_answers_are_those_of_the_cpu(session: Session, tmp_path: Path) -> None:
    """Batches of every size, in any order, captured and replayed, equal the CPU's."""
    assert session.provider == CUDA
    cpu = Session(tmp_path / "model.onnx", SessionConfig(Device.CPU))
    signature = resolve(Graph(session.inputs, session.outputs), None, None).signature
    backend = backend_of(session, signature, SIZES)
    assert isinstance(backend, BoundBackend)
    random = np.random.default_rng(5)
    for _ in range(3):
        for rows in random.permutation(np.arange(1, MAX_ROWS + 1)):
            x = {"X": random.standard_normal((rows, 784)).astype(np.float32)}
            got = backend.run(x, ["Y"], Interrupt())["Y"]
            expected = cpu.run(x, ["Y"], Interrupt())["Y"]
            np.testing.assert_allclose(got, expected, rtol=1e-2, atol=1e-3)  # TF32
    cpu.close()


def test_plain_runs_leave_graphs_alone(session: Session) -> None:
    """A run around the buffers, of any shape, neither captures nor disturbs a graph."""
    signature = resolve(Graph(session.inputs, session.outputs), None, None).signature
    backend = backend_of(session, signature, SIZES)
    x = np.ones((2, 784), np.float32)
    before = backend.run({"X": x}, ["Y"], Interrupt())["Y"]
    for rows in (MAX_ROWS + 1, 100):
        many = {"X": np.ones((rows, 784), np.float32)}
        assert backend.run(many, ["Y"], Interrupt())["Y"].shape == (rows, 10)
    np.testing.assert_array_equal(backend.run({"X": x}, ["Y"], Interrupt())["Y"], before)


def test_server_captures_graphs(tmp_path: Path) -> None:
    """With --cuda-graphs a model of static shapes is served by graphs: its notes say nothing."""
    model = loaded_by_server(tmp_path, models.mlp())
    assert not [note for note in model.notes if "graph" in note]
    assert model.close(10)


def test_model_of_open_shapes_is_served_without_graphs(tmp_path: Path) -> None:
    """A model that cannot be captured serves all the same, and its notes say why."""
    model = loaded_by_server(tmp_path, models.two_axes())
    assert any("no CUDA graph can be captured" in note for note in model.notes)
    assert model.close(10)


def test_memory_is_bounded(tmp_path: Path) -> None:
    """A session takes no more of the GPU than its share: one that needs more does not load."""
    model = models.mlp(sizes=(784, 16384, 10))  # 49 MiB of weights
    load(tmp_path, model, memory_mib=256).close()
    with pytest.raises(LoadError):
        load(tmp_path, model, memory_mib=16)


def test_host_memory_is_pinned(caplog: pytest.LogCaptureFixture) -> None:
    """CUDA takes the buffers of the host, and gives them back, as often as one likes."""
    array = np.zeros((64, 784), np.float32)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            pin_for_cuda(array)()
    assert "pageable" not in caplog.text
