"""Restricted RPCs by a client that nobody here wrote; see test_programs.py for how it is run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.foreign.conftest import tapped
from tests.foreign.test_programs import HERE, run_program
from tests.support import models, servers


@pytest.fixture(scope="module")
def restricted(tmp_path_factory: pytest.TempPathFactory, transport: str) -> Iterator[str]:
    """Serve one model, administered and asked with a secret, at this HOST:PORT."""
    root: Path = tmp_path_factory.mktemp("restricted")
    models.publish(root, "simple", models.simple(), config=models.SIMPLE_CONFIG)
    flags = ["--transport", transport, "--model-control", "explicit", "--load-model", "simple"]
    flags += ["--restrict", "model-repository,statistics,trace,logging:admin=secret"]
    flags += ["--restrict", "inference:app=secret"]
    with servers.serve(root, *flags) as server, tapped(server.address) as tap:
        yield tap.address


@pytest.mark.foreign
@pytest.mark.client("tritonclient")
def test_tritonclient_sends_secrets(restricted: str) -> None:
    """Triton's own client gives its secrets as headers, and is refused without them."""
    run_program(HERE / "triton_restricted" / "restricted.py", ".venv-clients", restricted)
