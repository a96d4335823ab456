"""Model control with versions that are made of nothing: what is loaded when, and races."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from service.errors import LoadError, ShuttingDown, UnknownModel, UnloadableModel
from service.lifecycle.control import ModelControl
from service.lifecycle.manager import Manager
from service.lifecycle.states import State
from service.pb.model_config_pb2 import ModelConfig
from service.repository.layout import ModelSource, Repository, VersionSource
from service.repository.model_config import read_config
from tests.support.waiting import WAIT_S


@dataclass
class Made:
    """A loaded version. text: what its file said."""

    version: VersionSource
    text: str
    batch: int
    closed: bool = False
    on_close: Callable[[], None] = lambda: None

    def close(self, timeout: float) -> bool:
        """Note that it was closed, once."""
        del timeout
        assert not self.closed
        self.on_close()
        self.closed = True
        return True


@dataclass
class World:
    """A repository of text files, and what its versions became.

    on_load: called before a version is made.
    """

    root: Path
    made: list[Made] = field(default_factory=list)
    plans: list[list[str]] = field(default_factory=list)
    on_load: Callable[[VersionSource], None] = lambda _: None

    def __post_init__(self) -> None:
        self.manager: Manager[Made] = Manager(self._read, self._load)
        repository = Repository(self.root, may_be_empty=True)
        self.control = ModelControl(repository, self.manager, self._read, self._plan)
        self.manager.apply([])

    def write(self, text: str, name: str = "m", version: int = 1) -> Path:
        """Put a version into the repository."""
        path = self.root / name / str(version) / "model.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def text(self, name: str = "m", version: str = "") -> str:
        """Return what the version that serves was made of."""
        return self.manager.find(name, version).text

    def states(self, name: str = "m") -> dict[int, State]:
        """Return the state of each version of a model."""
        return {s.version: s.state for s in self.control.index() if s.model == name}

    def _read(self, source: ModelSource) -> ModelConfig | None:
        return source.config if source.config is not None else read_config(source.directory)

    def _plan(self, sources: Iterable[ModelSource]) -> None:
        self.plans.append([source.name for source in sources])

    def _load(self, version: VersionSource, config: ModelConfig | None) -> Made:
        self.on_load(version)
        text = version.model_file().read_text()
        if text == "broken":
            raise LoadError("it is broken")
        made = Made(version, text, config.max_batch_size if config is not None else 0)
        self.made.append(made)
        return made


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Make an empty world; at its end everything that was made has been closed."""
    made = World(tmp_path)
    yield made
    made.manager.close(1.0)
    made.control.close()
    assert all(version.closed for version in made.made)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Run things at once."""
    with ThreadPoolExecutor(32) as made:
        yield made


def test_only_what_has_changed_is_loaded_again(world: World) -> None:
    """Of two versions the one whose file has changed; with the configuration both."""
    (world.root / "m").mkdir()
    config = world.root / "m" / "config.pbtxt"
    config.write_text("version_policy { all { } }")
    world.write("a")
    world.write("b", version=2)
    world.control.load("m")
    assert [made.text for made in world.made] == ["a", "b"]
    world.write("c", version=2)
    world.control.load("m")
    assert [made.text for made in world.made] == ["a", "b", "c"]
    config.write_text("version_policy { all { } } max_batch_size: 2")
    world.control.load("m")
    assert [made.text for made in world.made[3:]] == ["a", "c"]
    world.control.load("m")
    assert len(world.made) == 5


def test_same_size_and_time_do_not_hide_a_change(world: World) -> None:
    """A file that was replaced by one of its size, with the old time set back, is read again."""
    import os

    path = world.write("a")
    before = path.stat()
    world.control.load("m")
    path.write_text("b")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    world.control.load("m")
    assert world.text() == "b"


def test_links_are_followed(world: World) -> None:
    """A version that is a link to a directory elsewhere, as in mounted volumes, is watched too."""
    real = world.write("a", "elsewhere")
    (world.root / "m").mkdir()
    (world.root / "m" / "1").symlink_to(real.parent)
    world.control.load("m")
    real.write_text("b")
    world.control.load("m")
    assert world.text() == "b"


def test_what_serves_is_closed_after_the_new_serves(world: World) -> None:
    """At no time between two loads is there no version."""
    world.write("a")
    world.control.load("m")
    seen: list[str] = []
    world.made[0].on_close = lambda: seen.append(world.text())
    world.write("b")
    world.control.load("m")
    assert seen == ["b"]


def test_all_or_nothing(world: World) -> None:
    """If one version cannot be loaded the others are closed, and what served goes on."""
    world.write("a")
    world.control.load("m")
    world.write("b", version=2)
    world.write("broken", version=3)
    with pytest.raises(LoadError, match="version 3 is at UNAVAILABLE state: it is broken"):
        world.control.load("m", '{"version_policy": {"all": {}}}')
    assert world.text() == "a"
    assert world.states() == {1: State.READY, 2: State.UNLOADED, 3: State.FAILED}
    assert [made.text for made in world.made] == ["a", "a", "b"]
    assert [made.closed for made in world.made] == [False, True, True]
    world.write("c", version=3)
    world.control.load("m")
    assert world.text() == "c"


def test_a_model_that_left_the_repository_can_be_unloaded(world: World) -> None:
    """It goes on serving until then; a load that finds nothing changes nothing."""
    path = world.write("a")
    world.control.load("m")
    path.unlink()
    path.parent.rmdir()
    path.parent.parent.rmdir()
    with pytest.raises(UnloadableModel):
        world.control.load("m")
    assert world.text() == "a"
    world.control.unload("m")
    with pytest.raises(UnknownModel):
        world.text()


def test_threads_are_planned_with_what_serves(world: World) -> None:
    """Before a model is loaded all that will serve are told, each once."""
    for name in ("m", "n"):
        world.write("a", name)
        world.control.load(name)
    world.write("b", "n")
    world.control.load("n")
    assert world.plans == [["m"], ["m", "n"], ["m", "n"]]


def test_two_loads_of_one_model_load_once(world: World, pool: ThreadPoolExecutor) -> None:
    """The second one finds the first one's work done."""
    world.write("a")
    begun, gate = threading.Event(), threading.Event()

    def wait(_version: VersionSource) -> None:
        begun.set()
        assert gate.wait(WAIT_S)

    world.on_load = wait
    first = pool.submit(world.control.load, "m")
    assert begun.wait(WAIT_S)
    assert world.states() == {1: State.LOADING}
    second = pool.submit(world.control.load, "m")
    gate.set()
    first.result(WAIT_S)
    second.result(WAIT_S)
    assert len(world.made) == 1


def test_other_models_are_loaded_meanwhile(world: World, pool: ThreadPoolExecutor) -> None:
    """A load that takes for ever holds up its own model alone."""
    world.write("a", "stuck")
    world.write("b", "free")
    gate = threading.Event()
    world.on_load = lambda version: version.model == "free" or gate.wait(WAIT_S)  # type: ignore[assignment]
    stuck = pool.submit(world.control.load, "stuck")
    pool.submit(world.control.load, "free").result(WAIT_S)
    assert world.text("free") == "b"
    gate.set()
    stuck.result(WAIT_S)


def test_load_while_it_is_unloaded(world: World, pool: ThreadPoolExecutor) -> None:
    """A load waits for the unload before it, which waits for the requests that were accepted."""
    world.write("a")
    world.control.load("m")
    begun, gate = threading.Event(), threading.Event()

    def drain() -> None:
        begun.set()
        assert gate.wait(WAIT_S)

    world.made[0].on_close = drain
    unload = pool.submit(world.control.unload, "m")
    assert begun.wait(WAIT_S)
    assert world.states() == {1: State.UNLOADING}
    with pytest.raises(UnknownModel, match="has no available versions"):
        world.text()
    load = pool.submit(world.control.load, "m")
    gate.set()
    unload.result(WAIT_S)
    load.result(WAIT_S)
    assert world.text() == "a"
    assert len(world.made) == 2


def test_an_unload_and_the_end_close_a_version_once(world: World, pool: ThreadPoolExecutor) -> None:
    """Whoever comes first closes it; the other leaves it alone."""
    world.write("a")
    world.control.load("m")
    begun, gate = threading.Event(), threading.Event()

    def drain() -> None:
        begun.set()
        assert gate.wait(WAIT_S)

    world.made[0].on_close = drain
    unload = pool.submit(world.control.unload, "m")
    assert begun.wait(WAIT_S)
    assert world.manager.close(1.0)
    gate.set()
    unload.result(WAIT_S)
    assert world.made[0].closed


def test_a_load_that_ends_after_the_server_has_no_effect(
    world: World, pool: ThreadPoolExecutor
) -> None:
    """What it loaded is closed, and its caller is told that the server goes away."""
    world.write("a")
    begun, gate = threading.Event(), threading.Event()

    def wait(_version: VersionSource) -> None:
        begun.set()
        assert gate.wait(WAIT_S)

    world.on_load = wait
    load = pool.submit(world.control.load, "m")
    assert begun.wait(WAIT_S)
    world.manager.close(1.0)
    gate.set()
    with pytest.raises(ShuttingDown):
        load.result(WAIT_S)
    assert world.manager.servables() == []
    assert world.made[0].closed


def test_files_of_a_load_that_never_ends_are_removed(
    world: World, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the server removes what callers gave, whatever becomes of it."""
    temporary = world.root.parent / f"{world.root.name}-given"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    begun, gate = threading.Event(), threading.Event()

    def wait(_version: VersionSource) -> None:
        begun.set()
        assert gate.wait(WAIT_S)

    world.on_load = wait
    load = pool.submit(world.control.load, "m", "{}", {"1/model.onnx": b"a"})
    assert begun.wait(WAIT_S)
    assert len(list(temporary.iterdir())) == 1
    world.manager.close(1.0)
    world.control.close()
    assert list(temporary.iterdir()) == []
    gate.set()
    with pytest.raises(LoadError, match="No such file"):
        load.result(WAIT_S)


def test_the_last_one_of_many_decides(world: World, pool: ThreadPoolExecutor) -> None:
    """Whatever 32 threads load and unload at once, afterwards one load or unload is the truth."""
    world.write("a")

    def some(seed: int) -> None:
        for step in range(20):
            if (seed + step) % 3:
                world.control.load("m")
            else:
                world.control.unload("m")

    futures: list[Future[None]] = [pool.submit(some, seed) for seed in range(32)]
    for future in futures:
        future.result(WAIT_S)
    world.control.load("m")
    assert world.text() == "a"
    assert sum(not made.closed for made in world.made) == 1
    world.control.unload("m")
    assert world.states() == {1: State.UNLOADED}
    assert all(made.closed for made in world.made)


def test_files_of_callers_bring_no_code(world: World) -> None:
    """A backend that runs code in the server's process is served from the repository alone."""
    config = (
        '{"backend": "python", "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [1]}],'
        '"output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [1]}]}'
    )
    with pytest.raises(UnloadableModel):
        world.control.load("m", config, {"1/model.py": b""})
    world.write("a")
    world.control.load("m", config)  # the loader decides, as at start
    assert world.text() == "a"
