"""Threads and device of the models of a repository, by settings and config.pbtxt."""

import logging
from pathlib import Path

import pytest

from service.app.loader import ModelLoader
from service.config import Settings
from service.repository.layout import Repository
from service.runtime.cpus import Cpus
from service.runtime.session import SessionConfig
from tests.support.models import add_constant, publish

PARAMETER = 'parameters {{ key: "{}" value {{ string_value: "{}" }} }}'


def loaded(
    root: Path, configs: dict[str, str], log: pytest.LogCaptureFixture, threads: int = 0
) -> dict[str, str]:
    """Load models with these config.pbtxt on 8 CPUs; return what the log says of each one's."""
    for name, config in configs.items():
        publish(root, name, add_constant(1), config=config)
    loader = ModelLoader(Settings(str(root), device="cpu", threads=threads), Cpus(8))
    sources = Repository(root).scan()
    loader.plan(sources)
    with log.at_level(logging.INFO, "service.app.loader"):
        for source in sources:
            loader.load(source.versions[0], loader.read_config(source)).close(5)
    lines = [record.getMessage() for record in log.records if "is ready" in record.getMessage()]
    return {line.split()[1]: line.split(", ", 2)[2].rsplit(", loaded", 1)[0] for line in lines}


def test_cpus_are_divided_over_models(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each model gets its share, and the log says how many threads and why."""
    configs = {"a": "", "b": "instance_group { count: 3 }"}
    assert loaded(tmp_path, configs, caplog) == {
        "a": "2 threads a run, spinning off (8 CPUs for 4 instances)",
        "b": "4 threads a run, spinning off (8 CPUs for 4 instances)",
    }


def test_config_wins_over_the_flag(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What one model's file says is for that model; --threads is for the others."""
    asked = PARAMETER.format("intra_op_thread_count", 3)
    spins = PARAMETER.format("session.intra_op.allow_spinning", 1)
    assert loaded(tmp_path, {"a": f"{asked} {spins}", "b": ""}, caplog, threads=2) == {
        "a": "3 threads a run, spinning on (intra_op_thread_count in config.pbtxt)",
        "b": "2 threads a run, spinning off (--threads)",
    }


def test_model_that_cannot_be_read_takes_no_share(tmp_path: Path) -> None:
    """A broken config.pbtxt fails its own model; the plan goes on without complaint."""
    publish(tmp_path, "good", add_constant(1))
    publish(tmp_path, "bad", add_constant(1), config="nonsense: {")
    ModelLoader(Settings(str(tmp_path)), Cpus(8)).plan(Repository(tmp_path).scan())


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("", SessionConfig(intra_op_threads=8)),
        (
            PARAMETER.format("execution_mode", 1),
            SessionConfig(intra_op_threads=8, inter_op_threads=8, parallel=True),
        ),
        (
            PARAMETER.format("execution_mode", 1) + PARAMETER.format("inter_op_thread_count", 2),
            SessionConfig(intra_op_threads=8, inter_op_threads=2, parallel=True),
        ),
        ("optimization { graph { level: 1 } }", SessionConfig(intra_op_threads=8, graph_level=1)),
    ],
)
def test_session_config(tmp_path: Path, config: str, expected: SessionConfig) -> None:
    """What config.pbtxt asks of ONNX Runtime reaches the session."""
    from service.app.placement import Placement

    publish(tmp_path, "m", add_constant(1), config=config)
    (source,) = Repository(tmp_path).scan()
    given = ModelLoader(Settings(str(tmp_path))).read_config(source)
    placement = Placement(Settings(str(tmp_path)), Cpus(8))
    assert placement.session_config(placement.threads("m", given), given) == expected
