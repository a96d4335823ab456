"""REST clients that nobody here wrote: tritonclient's two, and that of KServe's SDK."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import models as triton_models
from tests.foreign.conftest import tapped
from tests.foreign.test_programs import HERE, run_program
from tests.support import servers, tap_http1


@pytest.fixture(scope="module")
def http_address(examples_root: Path) -> Iterator[str]:
    """Serve Triton's examples at this HOST:PORT, as a server that is to pass for Triton."""
    flags = ["--server-name", "triton", "--allow-client-shm", "--allow-python-backend"]
    flags += ["--model-control", "explicit", "--compression", "gzip"]
    flags += [f"--load-model={name}" for name in triton_models.NAMES]
    with (
        servers.serve(examples_root, *flags) as server,
        tapped(server.http_address, tap_http1.readers) as tap,
    ):
        yield tap.address


@pytest.mark.foreign
@pytest.mark.parametrize(
    "program",
    [
        pytest.param(program, id=program.stem, marks=pytest.mark.client(program.stem))
        for program in sorted((HERE / "rest").glob("*.py"))
    ],
)
def test_rest_client(program: Path, http_address: str) -> None:
    """The client gets from Penstock what the cases of its program state."""
    run_program(program, ".venv-clients", http_address)
