"""One server a transport for the tests of sequences, with every model that keeps state."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.tensors import FP32
from service.transport.native import is_installed
from tests import models as examples
from tests.support import models, sequences, servers
from tests.support.sequences import accumulator_config
from tests.support.servers import RunningServer
from tests.support.stub import Stub

_TRANSPORTS = ["native", "threaded"] if is_installed() else ["threaded"]
_BRIEF = "max_sequence_idle_microseconds: 100000 oldest { }"


@pytest.fixture(scope="session")
def stateful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a repository of models with states."""
    root = tmp_path_factory.mktemp("stateful")
    total = sequences.accumulator()
    for name, config in {
        "total": accumulator_config("total", "max_sequence_idle_microseconds: 60000000 oldest { }"),
        "brief": accumulator_config("brief", _BRIEF),
        "single": accumulator_config(
            "single",
            "max_sequence_idle_microseconds: 60000000 oldest { max_candidate_sequences: 1 }",
            'parameters { key: "max_sequence_backlog" value: { string_value: "1" } }',
        ),
        "one_of_stream": accumulator_config(
            "one_of_stream", "oldest { max_candidate_sequences: 1 }",
            'parameters { key: "sequence_scope" value: { string_value: "stream" } }',
        ),
        "of_stream": accumulator_config(
            "of_stream", "oldest { }",
            'parameters { key: "sequence_scope" value: { string_value: "stream" } }',
        ),
    }.items():  # fmt: skip
        models.publish(root, name, total, config=config)
    final = 'parameters { key: "response_policy" value: { string_value: "final" } }'
    models.publish(root, "at_end", total, config=accumulator_config("at_end", extra=final))
    models.publish(root, "started", sequences.started(), config=sequences.STARTED_CONFIG)
    examples.write(root, ["simple_dyna_sequence", "simple_string_dyna_sequence"])
    models.publish(root, "inferred", total)
    models.publish(root, "crossed", sequences.crossed())
    models.publish(root, "growing", sequences.growing())
    models.publish(root, "gru", sequences.gru())
    models.publish(root, "stateless", models.identity(FP32))
    models.publish(root, "poisonable", sequences.poisonable(), config=sequences.POISONABLE_CONFIG)
    return root


@pytest.fixture(scope="session", params=_TRANSPORTS)
def server(stateful: Path, request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """Serve the repository; the server must outlive every test and stop cleanly."""
    with servers.serve(stateful, "--transport", request.param) as running:
        yield running


@pytest.fixture
def stub(server: RunningServer) -> Iterator[Stub]:
    """Connect to the server."""
    with server.stub() as connected:
        yield connected
