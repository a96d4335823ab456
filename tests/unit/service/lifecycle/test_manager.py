"""The manager with versions that are made of nothing: states, swaps, failures, lookups."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from google.protobuf import text_format

from service.errors import ConfigError, InvalidRequest, LoadError, ModelNotReady, UnknownModel
from service.lifecycle.manager import Manager
from service.lifecycle.states import State, parse_version_text
from service.pb.model_config_pb2 import ModelConfig
from service.repository.layout import ModelSource, VersionSource


@dataclass
class Fake:
    """A loaded version."""

    name: str
    version: int
    closed: bool = False
    on_close: Callable[[], None] = lambda: None
    had_s: float = 0.0

    def close(self, timeout: float) -> bool:
        """Note that it was closed, and how long it could have taken."""
        self.had_s = timeout
        self.on_close()
        self.closed = True
        return True


@dataclass
class World:
    """A manager, and what its loader has made."""

    broken: set[tuple[str, int]] = field(default_factory=set)
    configs: dict[str, str] = field(default_factory=dict)
    made: list[Fake] = field(default_factory=list)
    changes: list[dict[str, list[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.manager: Manager[Fake] = Manager(self._read, self._load)
        self.manager.on_change(lambda: self.changes.append(self.serving()))

    def serving(self) -> dict[str, list[int]]:
        """Return the ready versions of every model."""
        return {name: self.manager.ready_versions(name) for name in self.manager.model_names()}

    def apply(self, **versions: list[int]) -> None:
        """Apply a repository with these versions of these models."""
        self.manager.apply(source(name, *numbers) for name, numbers in versions.items())

    def reason(self, name: str) -> str:
        """Return the reason of the only failed version of a model."""
        (status,) = (s for s in self.manager.index() if s.model == name and s.state is State.FAILED)
        return status.reason

    def _read(self, model: ModelSource) -> ModelConfig | None:
        text = self.configs.get(model.name)
        if text == "broken":
            raise ConfigError("config.pbtxt:1: broken")
        return None if text is None else text_format.Parse(text, ModelConfig())

    def _load(self, version: VersionSource, config: ModelConfig | None) -> Fake:
        del config
        if (version.model, version.version) in self.broken:
            raise LoadError(f"version {version.version} is broken")
        self.made.append(Fake(version.model, version.version))
        return self.made[-1]


def source(name: str, *versions: int) -> ModelSource:
    """Return a model that lies nowhere."""
    directory = Path(name)
    return ModelSource(
        name, directory, tuple(VersionSource(name, v, directory / str(v)) for v in versions)
    )


@pytest.fixture
def world() -> World:
    """Make an empty world."""
    return World()


def test_newest_version_is_served(world: World) -> None:
    """Without a policy the newest version is loaded, and no other."""
    world.apply(m=[1, 2, 10])
    assert world.serving() == {"m": [10]}
    assert world.manager.find("m").version == 10
    assert world.manager.find("m", "10").version == 10
    assert [fake.version for fake in world.made] == [10]


def test_versions_side_by_side(world: World) -> None:
    """By policy several versions are served, each found by its number."""
    world.configs["m"] = "version_policy { all { } }"
    world.apply(m=[1, 2])
    assert world.manager.find("m", "1").version == 1
    assert world.manager.find("m").version == 2


def test_new_version_serves_before_the_old_is_closed(world: World) -> None:
    """At no time between two versions is there none."""
    world.apply(m=[1])
    (old,) = world.made
    seen: list[int] = []
    old.on_close = lambda: seen.append(world.manager.find("m").version)
    world.changes.clear()
    world.apply(m=[1, 2])
    assert all(change["m"] for change in world.changes)
    assert seen == [2]
    assert old.closed
    assert world.serving() == {"m": [2]}


def test_broken_version_leaves_the_old_one_serving(world: World) -> None:
    """A version that fails stays out with its reason; the old one is not closed."""
    world.apply(m=[1])
    world.broken.add(("m", 2))
    world.apply(m=[1, 2])
    assert world.manager.find("m").version == 1
    assert not world.made[0].closed
    assert world.reason("m") == "version 2 is broken"
    with pytest.raises(ModelNotReady, match="'m' version 2 is not at ready state"):
        world.manager.find("m", "2")
    assert world.manager.is_ready()  # every model has a version that serves


def test_version_that_was_mended_is_loaded(world: World) -> None:
    """A failed version is tried again when the repository is applied again."""
    world.broken.add(("m", 1))
    world.apply(m=[1])
    with pytest.raises(UnknownModel, match="'m' has no available versions"):
        world.manager.find("m")
    world.broken.clear()
    world.apply(m=[1])
    assert world.manager.find("m").version == 1
    assert world.manager.is_ready()


def test_version_that_serves_is_not_loaded_again(world: World) -> None:
    """Applying the same repository twice loads once."""
    world.apply(m=[1])
    world.apply(m=[1])
    assert len(world.made) == 1


def test_broken_configuration_leaves_the_model_serving(world: World) -> None:
    """What serves goes on serving although its configuration can no longer be read."""
    world.apply(m=[1])
    world.configs["m"] = "broken"
    world.apply(m=[1, 2])
    assert world.serving() == {"m": [1]}
    fresh = World(configs={"m": "broken"})
    fresh.apply(m=[1])
    assert fresh.reason("m") == "config.pbtxt:1: broken"


def test_model_that_is_gone_is_closed(world: World) -> None:
    """A model that is not in the repository any more is closed and unknown."""
    world.apply(m=[1], n=[1])
    world.apply(n=[1])
    assert world.serving() == {"n": [1]}
    assert [fake.closed for fake in world.made] == [True, False]
    with pytest.raises(UnknownModel, match="'m' is not found"):
        world.manager.find("m")


def test_policy_without_a_present_version(world: World) -> None:
    """A policy that asks for versions that are not there fails with both lists."""
    world.configs["m"] = "version_policy { specific { versions: [ 7 ] } }"
    world.apply(m=[1, 2])
    assert "asks for versions [7], present are [1, 2]" in world.reason("m")


def test_model_without_versions(world: World) -> None:
    """A directory without versions is a failed model, listed without a version."""
    world.apply(m=[])
    assert "no version" in world.reason("m")
    (status,) = world.manager.index()
    assert status.version == 0


def test_announced_models_are_loading(world: World) -> None:
    """Before the first load models are known, not ready, and the server is not ready."""
    world.manager.announce([source("m", 1, 2)])
    (status,) = world.manager.index()
    assert (status.version, status.state) == (2, State.LOADING)
    assert not world.manager.is_ready()
    with pytest.raises(UnknownModel, match="has no available versions"):
        world.manager.find("m")
    world.apply(m=[1, 2])
    assert world.manager.is_ready()


def test_failed_model_makes_the_server_not_ready(world: World) -> None:
    """Strict readiness: everything that should be served is, or the server is not ready."""
    world.broken.add(("bad", 1))
    world.apply(bad=[1], good=[1])
    assert not world.manager.is_ready()
    assert [fake.name for fake in world.manager.servables()] == ["good"]


def test_close_closes_everything(world: World) -> None:
    """After close nothing is served."""
    world.configs["m"] = "version_policy { all { } }"
    world.apply(m=[1, 2], n=[1])
    assert world.manager.close(1.0)
    assert all(fake.closed for fake in world.made)
    assert world.manager.servables() == []


def test_unknown_version(world: World) -> None:
    """A version that does not exist is told with its number."""
    world.apply(m=[1])
    with pytest.raises(UnknownModel, match="'m' version 9 is not found"):
        world.manager.find("m", "9")


@pytest.mark.parametrize("text", ["1", "42", "9" * 18])
def test_good_version_strings(text: str) -> None:
    """Decimal numbers from 1 are versions."""
    assert parse_version_text(text) == int(text)


def test_no_version_string_is_the_newest() -> None:
    """An empty version asks for none in particular."""
    assert parse_version_text("") is None


@pytest.mark.parametrize("text", ["x", "1.0", "1 ", " 1", "+1", "1e3", "٣", "latest", "-", "1abc"])
def test_version_strings_that_are_no_numbers(text: str) -> None:
    """What is no decimal number is refused as Triton's clients expect it."""
    with pytest.raises(InvalidRequest, match="failed to get model version from specified version"):
        parse_version_text(text)


@pytest.mark.parametrize("text", ["0", "-1", "01", "-0", "9" * 5000])
def test_version_strings_that_are_no_versions(text: str) -> None:
    """Numbers that are not positive, or not written plainly, are refused."""
    with pytest.raises(InvalidRequest, match="invalid model version specified"):
        parse_version_text(text)


def test_close_takes_no_longer_for_more_models(world: World) -> None:
    """One that takes all the time leaves none to the others, which were asked to hurry as well."""
    world.apply(a=[1], b=[1])
    for made in world.made:
        made.on_close = lambda: time.sleep(0.02)
    world.manager.close(0.02)
    assert [made.had_s for made in world.made][1] == 0.0
