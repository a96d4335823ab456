"""`penstock bench` against real servers on both transports."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.transport.native import is_installed
from tests.support import models
from tests.support.commands import NOBODY, Run
from tests.support.servers import RunningServer, serve

pytestmark = pytest.mark.skipif(not is_installed(), reason="penstock-transport is not installed")

_QUICK = ("--warm-up-s", "0.1", "--window-s", "0.1", "--max-s", "0.4")


@pytest.fixture(scope="module", params=["native", "threaded"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """Serve a small model, on TCP and on a Unix socket, with each transport."""
    root = tmp_path_factory.mktemp("bench")
    models.publish(root, "mlp", models.mlp())
    with serve(root, "--transport", request.param) as running:
        yield running


def test_counts_add_up(penstock: Run, server: RunningServer, tmp_path: Path) -> None:
    """Every answer is one latency and lies in one second; the server has counted as many."""
    path = tmp_path / "result.json"
    ran = penstock("bench", server.address, *_QUICK, "--concurrency", "1,8", "--json", path)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"mlp at {server.address}: unary, closed loop, 1 row a request")
    assert "recommended: " in ran.out
    document = json.loads(path.read_text())
    assert [level["load"]["in_flight"] for level in document["levels"]] == [1, 8]
    for level in document["levels"]:
        assert level["answered"] > 10
        assert level["per_second"] == pytest.approx(level["answered"] / level["seconds"])
        assert (level["failed"], level["server"]["source"]) == (0, "trailers")


def test_nobody_there(penstock: Run) -> None:
    """Where nothing listens the text names the address and what to start."""
    ran = penstock("bench", NOBODY, *_QUICK)
    assert ran.code == 1
    assert f"no server answers at {NOBODY}" in ran.err
    assert "Does `penstock serve` run there?" in ran.err
