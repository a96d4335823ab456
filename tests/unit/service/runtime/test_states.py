"""States behind a backend: the batch on any axis, and what stays on the device between steps.

On the CPU the device is the host; the calls are those that a GPU gets.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.errors import BackendError
from service.inference.backend import Interrupt
from service.inference.batch import join_inputs, split_batch
from service.repository.sequences import SequenceSpec
from service.repository.signature import Graph, resolve
from service.repository.stateful import inferred, sequence_spec
from service.runtime.providers import Device
from service.runtime.session import Session, SessionConfig
from service.runtime.states import DeviceState, StateBackend
from service.tensors import Array, Signature, Tensors
from tests.support import sequences

NAMES = ("y", "hn")
FEATURES, HIDDEN = 3, 4


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """Load a GRU whose state has its batch on axis 1."""
    file = tmp_path / "model.onnx"
    file.write_bytes(sequences.gru(HIDDEN, FEATURES))
    loaded = Session(file, SessionConfig(Device.CPU))
    yield loaded
    loaded.close()


def described(session: Session) -> tuple[SequenceSpec, Signature]:
    """Return how its sequences are served, and what its graph takes with the batch first."""
    graph = Graph(session.inputs, session.outputs)
    hidden = inferred(graph, None)
    assert hidden is not None
    model = resolve(hidden.visible(graph), None, None)
    spec = sequence_spec(graph, hidden, model, None, Path())
    return spec, spec.graph_signature(model.signature)


def backend(session: Session, *, binds: bool) -> StateBackend:
    """Return a backend of the GRU."""
    spec, signature = described(session)
    return StateBackend(session, signature, spec.states, binds=binds, owns=False)


def steps(rows: int, count: int = 6) -> Array:
    """Return inputs of so many sequences, [rows, count, features]."""
    return np.random.default_rng(rows).standard_normal((rows, count, FEATURES)).astype(np.float32)


def run(made: StateBackend, inputs: Tensors) -> Tensors:
    """Run once."""
    return made.run(inputs, NAMES, Interrupt())


def whole(session: Session, x: Array) -> Array:
    """Return what the graph gives for whole sequences at once."""
    start = np.zeros((1, len(x), HIDDEN), np.float32)
    return session.run({"x": x, "h0": start}, ("y",), Interrupt())["y"]


def test_graph_is_seen_with_its_batch_first(session: Session) -> None:
    """The state of the GRU is [1,batch,hidden] inside and [batch,1,hidden] outside."""
    spec, signature = described(session)
    assert spec.states[0].axis == 1
    state = signature.input("h0")
    assert state is not None
    assert state.shape == (-1, 1, HIDDEN)
    outputs = run(backend(session, binds=False), {"x": steps(3), "h0": np.zeros((3, 1, 4), "<f4")})
    assert outputs["hn"].shape == (3, 1, HIDDEN)


@pytest.mark.parametrize("binds", [False, True], ids=["host", "device"])
def test_steps_equal_the_whole(session: Session, *, binds: bool) -> None:
    """A sequence run step by step on what the step before left is the sequence run at once."""
    made, x = backend(session, binds=binds), steps(1, 50)
    state: Array = np.zeros((1, 1, HIDDEN), np.float32)
    got = []
    for index in range(x.shape[1]):
        outputs = run(made, {"x": x[:, index : index + 1], "h0": state})
        state = outputs["hn"]
        assert isinstance(state, DeviceState) is binds
        assert (state.shape, state.ndim, state.nbytes) == ((1, 1, HIDDEN), 3, 4 * HIDDEN)
        got.append(outputs["y"][0, 0])
    assert np.allclose(got, whole(session, x)[0], atol=1e-6)


def test_states_of_the_device_can_be_batched(session: Session) -> None:
    """Steps that ran alone are run together next, and alone again after that."""
    made, x = backend(session, binds=True), steps(3)
    start = np.zeros((1, 1, HIDDEN), np.float32)
    alone = [run(made, {"x": x[row : row + 1, :1], "h0": start}) for row in range(3)]
    members = [{"x": x[row : row + 1, 1:2], "h0": alone[row]["hn"]} for row in range(3)]
    parts = split_batch(run(made, join_inputs(members)), [1, 1, 1])
    last = [
        run(made, {"x": x[row : row + 1, 2:3], "h0": part["hn"].copy()})
        for row, part in enumerate(parts)
    ]
    for row, expected in enumerate(whole(session, x)):
        got = [one["y"][0, 0] for one in (alone[row], parts[row], last[row])]
        assert np.allclose(got, expected[:3], atol=1e-6)


def test_failed_run_on_the_device_is_a_backend_error(session: Session) -> None:
    """What the runtime refuses is told as of any other run, and the next run is none the worse."""
    made = backend(session, binds=True)
    good = {"x": steps(1), "h0": np.zeros((1, 1, HIDDEN), np.float32)}
    with pytest.raises(BackendError):
        run(made, {**good, "x": np.zeros((1, 2, FEATURES + 1), np.float32)})
    assert run(made, good)["y"].shape == (1, 6, HIDDEN)
