"""Long, many and short-lived sequences over a GRU from our exporter, against PyTorch."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import exporter
from service.pb.grpc_service_pb2 import ModelInferRequest
from service.tensors import Array
from tests.support.requests import answer
from tests.support.sequences import step
from tests.support.servers import RunningServer, serve
from tests.support.stub import Stub
from tests.support.waiting import eventually

FEATURES, HIDDEN, OUTPUTS = 4, 16, 3
STEPS = 10_000
SEQUENCES, EACH = 500, 8
TOLERANCE = 1e-4
LONG_S = 100.0


class Gru(nn.Module):
    """One step of a GRU, with its state batch first."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(FEATURES, HIDDEN, batch_first=True)
        self.out = nn.Linear(HIDDEN, OUTPUTS)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return y and the state after x. x: [batch,1,features]; h: [batch,1,hidden]."""
        y, after = self.gru(x, h.transpose(0, 1))
        return {"y": self.out(y), "h_next": after.transpose(0, 1)}


@pytest.fixture(scope="module")
def module() -> Gru:
    """Make a GRU with seeded weights."""
    torch.manual_seed(11)
    made = Gru()
    made.eval()
    return made


@pytest.fixture(scope="module")
def server(module: Gru, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Export the GRU with its state marked, and serve it without any configuration."""
    root: Path = tmp_path_factory.mktemp("gru")
    example = (torch.zeros(2, 1, FEATURES), torch.zeros(2, 1, HIDDEN))
    exporter.export(module, example, name="gru", repository=root, state={"h": "h_next"})
    with serve(root, "--stream-state", "--max-batch-size", "32") as running:
        yield running


@pytest.fixture
def stub(server: RunningServer) -> Iterator[Stub]:
    """Connect to the server."""
    with server.stub() as connected:
        yield connected


def whole(module: Gru, x: Array) -> Array:
    """Return what PyTorch gives for whole sequences. x: [sequences,steps,features]."""
    with torch.no_grad():
        states, _ = module.gru(torch.from_numpy(x))
        result: Array = module.out(states).numpy()
    return result


def sequence(x: Array, name: int | None = None) -> list[ModelInferRequest]:
    """Return the requests of one sequence. x: [steps,features]."""
    last = len(x) - 1
    return [
        step("gru", row[None, None], name, start=i == 0, end=i == last, tensor="x")
        for i, row in enumerate(x)
    ]


def answers(stub: Stub, requests: list[ModelInferRequest]) -> list[Array]:
    """Send requests on one stream and return y of each."""
    replies = list(stub.stream(iter(requests), timeout=LONG_S))
    assert [reply.error_message for reply in replies] == [""] * len(requests)
    return [answer(reply.infer_response, "y")[0, 0] for reply in replies]


def test_ten_thousand_steps_equal_the_whole(module: Gru, stub: Stub) -> None:
    """A stream of 10,000 steps gives what PyTorch gives for the sequence at once."""
    x = np.random.default_rng(1).standard_normal((STEPS, FEATURES)).astype(np.float32)
    got = np.array(answers(stub, sequence(x)))
    expected = whole(module, x[None])[0]
    assert np.abs(got - expected).max() < TOLERANCE
    fresh = whole(module, x[-1:][None])[0, -1]
    assert np.abs(got[-1] - fresh).max() > 100 * TOLERANCE  # without its state it is another


def test_five_hundred_interleaved_sequences_do_not_mix(
    module: Gru, server: RunningServer, stub: Stub
) -> None:
    """Steps of 500 sequences in random order, batched as they come, are each its own."""
    random = np.random.default_rng(2)
    x = random.standard_normal((SEQUENCES, EACH, FEATURES)).astype(np.float32)
    mine = [iter(sequence(x[name], name + 1)) for name in range(SEQUENCES)]
    order = random.permutation(np.repeat(np.arange(SEQUENCES), EACH)).tolist()
    before = server.sample("penstock_batch_rows_count", model="gru", version="1")
    got = answers(stub, [next(mine[name]) for name in order])
    after = server.sample("penstock_batch_rows_count", model="gru", version="1")
    expected, done = whole(module, x), [0] * SEQUENCES
    for name, y in zip(order, got, strict=True):
        assert np.abs(y - expected[name, done[name]]).max() < TOLERANCE
        done[name] += 1
    assert after - before < SEQUENCES * EACH  # they were batched


def test_ten_thousand_sequences_leave_nothing(server: RunningServer, stub: Stub) -> None:
    """Memory after 10,000 sequences is what it was, whether they ended or were abandoned."""
    x = np.zeros((2, FEATURES), np.float32)

    def many(count: int) -> None:
        for base in range(0, count, 1000):
            # Every other one is left without its END: it dies with the stream.
            requests = [
                request
                for name in range(base + 1, base + 1001)
                for request in sequence(x, name)[: 1 + name % 2]
            ]
            answers(stub, requests)

    many(2000)
    before = server.rss_mib()
    many(10_000)
    eventually(
        lambda: server.sample("penstock_sequences_open", model="gru", version="1") == 0,
        "the end of all sequences",
    )
    assert server.rss_mib() - before < 24
