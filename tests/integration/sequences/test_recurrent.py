"""Plain recurrent modules of PyTorch: exported with a free batch, served with no configuration."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import torch

from exporter import export
from service.cli import main
from service.client import AsyncClient, Client, InvalidArgument
from service.tensors import Array, Tensors
from tests.support.servers import RunningServer, serve
from tests.support.waiting import WAIT_S

_LAYERS, _FEATURES, _HIDDEN, _STEPS = 2, 4, 8, 12
_SEQUENCES: Final = 16
_STATES: Final = {"gru": ("h0",), "lstm": ("h0", "c0")}
_KINDS: Final = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}
_EACH = pytest.mark.parametrize("name", _STATES)


def module_of(name: str) -> torch.nn.RNNBase:
    """Return a module with fixed weights."""
    torch.manual_seed(len(name))
    return _KINDS[name](_FEATURES, _HIDDEN, num_layers=_LAYERS, batch_first=True).eval()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the modules as they are: states [layers,batch,hidden], found by their names."""
    root = tmp_path_factory.mktemp("recurrent")
    for name, states in _STATES.items():
        x, state = torch.zeros(2, 3, _FEATURES), torch.zeros(_LAYERS, 2, _HIDDEN)
        given = state if len(states) == 1 else (state, state)
        export(
            module_of(name), (x, given), name=name, repository=root, max_batch_size=16,
            input_names=["x", *states], output_names=["y", *(f"{s[0]}n" for s in states)],
            dynamic_axes={"x": {1: "time"}, **{state: {1: "batch"} for state in states}},
            labels=[f"class {number}" for number in range(_HIDDEN)],
        )  # fmt: skip
    return root


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[RunningServer]:
    """Serve them; a stream is a sequence."""
    with serve(repository, "--stream-state") as running:
        yield running


def signals(count: int, steps: int = _STEPS) -> Array:
    """Return random sequences [count,steps,features]."""
    return np.random.default_rng(7).standard_normal((count, steps, _FEATURES)).astype(np.float32)


def whole(name: str, x: Array, states: Tensors | None = None) -> Array:
    """Return what the module itself makes of whole sequences."""
    given = None
    if states:
        tensors = [torch.from_numpy(states[state]) for state in _STATES[name]]
        given = tensors[0] if len(tensors) == 1 else tuple(tensors)
    with torch.no_grad():
        y = module_of(name)(torch.from_numpy(x), given)[0]
    return np.asarray(y)


def close(got: Array, want: Array) -> None:
    """Compare within what the exporter itself allows."""
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


@_EACH
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
def test_sequences_at_once_equal_the_module(
    server: RunningServer, name: str, *, stream: bool
) -> None:
    """Steps of many sequences, gathered into batches, are the module's on each whole sequence."""
    x = signals(_SEQUENCES)

    async def one(client: AsyncClient, signal: Array) -> Array:
        async with client.sequence(name, stream=stream) as sequence:
            parts = [await sequence.step({"x": signal[None, i : i + 2]}) for i in range(0, 12, 2)]
        return np.concatenate([part["y"][0] for part in parts])

    async def all_of_them() -> list[Array]:
        async with asyncio.timeout(WAIT_S), AsyncClient(server.address) as client:
            return await asyncio.gather(*(one(client, signal) for signal in x))

    close(np.stack(asyncio.run(all_of_them())), whole(name, x))


@_EACH
def test_stream_is_a_sequence(server: RunningServer, name: str) -> None:
    """Without an id and without states, a stream steps through the module's sequence."""
    x = signals(1)
    with (
        Client(server.address) as client,
        client.sequence(name, stream=True, sequence_id=0) as sequence,
    ):
        answers = [sequence.step({"x": x[:, i : i + 1]})["y"] for i in range(_STEPS)]
    close(np.concatenate(answers, axis=1), whole(name, x))


@_EACH
@pytest.mark.parametrize("rows", [1, 3])
def test_states_may_be_brought_along(server: RunningServer, name: str, rows: int) -> None:
    """Who sends the states has them answered, with so many rows as they have on axis 1."""
    x, random = signals(rows), np.random.default_rng(1)
    states = {
        state: random.standard_normal((_LAYERS, rows, _HIDDEN)).astype(np.float32)
        for state in _STATES[name]
    }
    with Client(server.address) as client:
        answer = client.infer(name, {"x": x, **states})
    close(answer["y"], whole(name, x, states))
    assert answer["hn"].shape == (_LAYERS, rows, _HIDDEN)


def test_states_of_other_rows_are_refused(server: RunningServer) -> None:
    """Rows of the input and of its state that do not fit each other are an error of the caller."""
    state = np.zeros((_LAYERS, 2, _HIDDEN), np.float32)
    says = r"'h0' of model 'gru' has 2 rows on axis 1, but 'x' has 3 on axis 0"
    with Client(server.address) as client, pytest.raises(InvalidArgument, match=says):
        client.infer("gru", {"x": signals(3), "h0": state})


def test_inspect_tells_that_steps_are_batched(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`penstock inspect` shows the states, and up to how many steps run at once."""
    assert main(["inspect", str(repository)]) == 0
    told = capsys.readouterr().out
    assert told.count("steps of sequences, up to 16 rows") == len(_STATES)
    assert "cn into c0, hn into h0, by manifest.json" in told
