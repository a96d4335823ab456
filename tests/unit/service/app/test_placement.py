"""Threads and device of the models of a repository, by settings and config.pbtxt."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from service.app.loader import ModelLoader
from service.app.placement import Placement
from service.config import Settings
from service.errors import LoadError
from service.inference.backend import Backend
from service.repository.layout import Repository
from service.runtime.cpus import Cpus
from service.runtime.session import OnnxBackend, Session, SessionConfig
from service.tensors import FP32, Signature
from tests.support import sequences
from tests.support.models import add_constant, identity, mlp, publish

PARAMETER = 'parameters {{ key: "{}" value {{ string_value: "{}" }} }}'


SHORT = "1 thread a run, spinning off (its runs are too short for more)"
OPEN = identity(FP32)  # of any width, so that nobody knows how long its runs are


def loaded(
    root: Path,
    configs: dict[str, str],
    log: pytest.LogCaptureFixture,
    *,
    model: bytes = OPEN,
    threads: int = 0,
) -> dict[str, str]:
    """Load models with these config.pbtxt on 8 CPUs; return what the log says of each one's."""
    for name, config in configs.items():
        publish(root, name, model, config=config)
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


@pytest.mark.parametrize(
    ("sizes", "threads", "expected"),
    [
        ((784, 128, 10), 0, SHORT),
        ((784, 4096, 10), 0, "8 threads a run, spinning off (8 CPUs)"),
        ((784, 128, 10), 2, "2 threads a run, spinning off (--threads)"),
    ],
    ids=["short", "long", "asked for"],
)
def test_short_runs_have_one_thread(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    sizes: tuple[int, ...],
    threads: int,
    expected: str,
) -> None:
    """A run that is over before another thread is awake has none, unless somebody wants it."""
    found = loaded(tmp_path, {"m": ""}, caplog, model=mlp(sizes=sizes), threads=threads)
    assert found == {"m": expected}


@pytest.mark.parametrize(
    ("model", "config", "expected"),
    [
        (sequences.accumulator(), sequences.accumulator_config("m"), SHORT),
        (sequences.gru(time=1), "", SHORT),
        (sequences.gru(), "", "8 threads a run, spinning off (8 CPUs)"),
    ],
    ids=["states in config.pbtxt", "states by names", "steps of any length"],
)
def test_short_steps_have_one_thread(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, model: bytes, config: str, expected: str
) -> None:
    """Of a model with states it is a batch of steps whose run may be too short for threads."""
    assert loaded(tmp_path, {"m": config}, caplog, model=model) == {"m": expected}


def test_config_wins_over_the_flag(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What one model's file says is for that model; --threads is for the others."""
    asked = PARAMETER.format("intra_op_thread_count", 3)
    spins = PARAMETER.format("session.intra_op.allow_spinning", 1)
    assert loaded(tmp_path, {"a": f"{asked} {spins}", "b": ""}, caplog, threads=2) == {
        "a": "3 threads a run, spinning on (intra_op_thread_count in config.pbtxt)",
        "b": "2 threads a run, spinning off (--threads)",
    }


def test_model_that_cannot_be_read_takes_no_share(tmp_path: Path) -> None:
    """A broken config.pbtxt fails its own model; the plan goes on, and the others have its CPUs."""
    publish(tmp_path, "good", OPEN)
    publish(tmp_path, "bad", OPEN, config="nonsense: {")
    loader = ModelLoader(Settings(str(tmp_path), device="cpu"), Cpus(8))
    sources = Repository(tmp_path).scan()
    loader.plan(sources)
    good = next(source for source in sources if source.name == "good")
    model = loader.load(good.versions[0], None)
    model.close(5)
    assert model.threads == 8


@pytest.mark.parametrize(
    ("settings", "config", "graphs", "share_mib"),
    [
        ({}, "", False, 0),
        ({"cuda_graphs": True, "gpu_memory_mib": 90}, "", True, 30),
        ({"gpu_memory_mib": 90}, "version_policy { all {} }", False, 22),
        ({"gpu_memory_mib": 80, "watch": 5.0}, "", False, 20),
        ({}, "optimization { cuda { graphs: true } }", True, 0),
        (
            {"cuda_graphs": True, "gpu_memory_mib": 90},
            "instance_group { kind: KIND_CPU }",
            False,
            0,
        ),
        ({"cuda_graphs": True, "device": "cpu"}, "", False, 0),
    ],
)
def test_gpu_is_shared(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    config: str,
    graphs: bool,  # noqa: FBT001
    share_mib: int,
) -> None:
    """GPU memory is divided over what may run there, and over the version that a swap loads."""
    monkeypatch.setattr("service.app.placement.has_cuda", lambda: True)
    for name in ("a", "b"):
        publish(tmp_path, name, add_constant(1))
    publish(tmp_path, "m", add_constant(1), config=config)
    publish(tmp_path, "m", add_constant(1), version=2)
    placement = Placement(Settings(str(tmp_path), **settings), Cpus(8))
    loader = ModelLoader(Settings(str(tmp_path)))
    pairs = [(source, loader.read_config(source)) for source in Repository(tmp_path).scan()]
    placement.plan(pairs)
    given = {source.name: config for source, config in pairs}["m"]
    wanted = placement.session_config(placement.threads("m", given), given)
    assert (wanted.cuda_graphs, wanted.gpu_memory_bytes >> 20) == (graphs, share_mib)


def test_model_larger_than_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can never fit is refused before it is tried, with both sizes and what to do."""
    monkeypatch.setattr("service.app.placement.has_cuda", lambda: True)
    publish(tmp_path, "m", mlp(sizes=(784, 1024, 10)))
    (source,) = Repository(tmp_path).scan()
    loader = ModelLoader(Settings(str(tmp_path), gpu_memory_mib=1))
    with pytest.raises(LoadError, match=r"3 MiB, but its share of --gpu-memory-mib is 1 MiB: "):
        loader.load(source.versions[0], None)


def test_model_without_graphs_is_served_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no CUDA graph can be captured the model is loaded without, and its notes say why."""

    def refuse(session: Session, signature: Signature, sizes: Sequence[int]) -> Backend:
        del sizes
        if session.config.cuda_graphs:
            raise LoadError("no CUDA graph can be captured: 'X' is open")
        return OnnxBackend(session, signature)

    monkeypatch.setattr("service.app.placement.has_cuda", lambda: True)
    monkeypatch.setattr("service.app.loader.backend_of", refuse)
    publish(tmp_path, "m", add_constant(1))
    (source,) = Repository(tmp_path).scan()
    model = ModelLoader(Settings(str(tmp_path), cuda_graphs=True)).load(source.versions[0], None)
    model.close(5)
    assert model.notes[0] == "no CUDA graph can be captured: 'X' is open"


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
    publish(tmp_path, "m", add_constant(1), config=config)
    (source,) = Repository(tmp_path).scan()
    given = ModelLoader(Settings(str(tmp_path))).read_config(source)
    placement = Placement(Settings(str(tmp_path)), Cpus(8))
    assert placement.session_config(placement.threads("m", given), given) == expected
