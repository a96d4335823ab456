"""On a GPU: the states of a step that runs alone stay on the device, and answers are the CPU's."""

from pathlib import Path

import numpy as np
import pytest

from service.inference.backend import Interrupt
from service.inference.batch import join_inputs, split_batch
from service.repository.signature import Graph, resolve
from service.repository.stateful import inferred, sequence_spec
from service.runtime.providers import CUDA, Device, has_cuda
from service.runtime.session import Session, SessionConfig
from service.runtime.states import DeviceState, StateBackend
from service.tensors import Array
from tests.support import sequences

pytestmark = pytest.mark.gpu
FEATURES, HIDDEN, STEPS = 3, 4, 30


@pytest.fixture(autouse=True)
def _gpu() -> None:
    if not has_cuda():
        pytest.skip("the installed onnxruntime has no CUDA: nothing of the GPU is tested here")
    if not Path("/proc/driver/nvidia/version").exists():
        pytest.skip("no NVIDIA driver is loaded: nothing of the GPU is tested here")


def test_steps_equal_the_whole_on_the_cpu(tmp_path: Path) -> None:
    """Steps alone, then in a batch, then alone: as one run of the whole on the CPU."""
    file = tmp_path / "model.onnx"
    file.write_bytes(sequences.gru(HIDDEN, FEATURES))
    gpu, cpu = (Session(file, SessionConfig(device)) for device in (Device.CUDA, Device.CPU))
    assert gpu.provider == CUDA
    graph = Graph(gpu.inputs, gpu.outputs)
    hidden = inferred(graph, None)
    assert hidden is not None
    model = resolve(hidden.visible(graph), None, None)
    spec = sequence_spec(graph, hidden, model, None, Path())
    made = StateBackend(gpu, spec.graph_signature(model.signature), spec.states)
    x = np.random.default_rng(4).standard_normal((2, STEPS, FEATURES)).astype(np.float32)
    states: list[Array] = [np.zeros((1, 1, HIDDEN), np.float32) for _ in x]
    got: list[list[Array]] = [[] for _ in x]
    for at in range(STEPS):
        members = [{"x": x[row : row + 1, at : at + 1], "h0": states[row]} for row in range(2)]
        if at == STEPS // 2:
            parts = split_batch(made.run(join_inputs(members), ("y", "hn"), Interrupt()), [1, 1])
        else:
            parts = [made.run(member, ("y", "hn"), Interrupt()) for member in members]
            assert all(isinstance(part["hn"], DeviceState) for part in parts)
        for row, part in enumerate(parts):
            states[row] = part["hn"]
            got[row].append(part["y"][0, 0])
    start = np.zeros((1, 2, HIDDEN), np.float32)
    expected = cpu.run({"x": x, "h0": start}, ("y",), Interrupt())["y"]
    assert np.abs(np.array(got) - expected).max() < 1e-3
    made.close()
    cpu.close()
