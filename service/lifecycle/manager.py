"""The manager: loads, swaps and unloads versions, and hands out the one a request names.

Generic over what a version becomes (`Servable`), so that it can be tested without a runtime. A
request holds a counted handle while it needs its version: a swap waits for handles, never for
traffic.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from service.errors import LoadError, ModelNotReady, ShuttingDown, UnknownModel, shown
from service.lifecycle.states import UNLOADED, State, VersionStatus, parse_version_text
from service.lifecycle.timed_loads import Loader, Servable, TimedLoads
from service.lifecycle.version_policy import served_versions
from service.pb.model_config_pb2 import ModelConfig
from service.repository.layout import ModelSource, VersionSource

_LOG = logging.getLogger(__name__)
_CLOSE_S: Final = 30.0  # a version that is replaced may finish its requests for so long

S = TypeVar("S", bound=Servable)


@dataclass(slots=True)
class _Entry(Generic[S]):
    state: State
    reason: str = ""
    servable: S | None = None


Reader = Callable[[ModelSource], ModelConfig | None]
Listener = Callable[[], None]


class Manager(Generic[S]):
    """Every model that is known, and its versions. Methods may be called from any thread."""

    def __init__(self, read_config: Reader, load: Loader[S], load_limit_s: float = 0.0) -> None:
        """load_limit_s: within which a version must be loaded; 0: any."""
        self._read_config = read_config
        self._load = TimedLoads(load, load_limit_s)
        self._lock = threading.Lock()
        self._models: dict[str, dict[int, _Entry[S]]] = {}
        self._newest: dict[str, S] = {}  # replaced whole under the lock, read without it
        self._listeners: list[Listener] = []
        self._ready = False
        self._closed = False
        self.generation = 0  # raised with every change of what is served

    def on_change(self, listener: Listener) -> None:
        """Call listener after every change of state, on the thread that made it."""
        self._listeners.append(listener)

    def announce(self, sources: Iterable[ModelSource]) -> None:
        """Make the models known as LOADING, before any is loaded."""
        with self._lock:
            for source in sources:
                self._models.setdefault(source.name, {})
                for version in source.versions[-1:]:
                    entry: _Entry[S] = _Entry(State.LOADING)
                    self._models[source.name].setdefault(version.version, entry)
        self._changed()

    def apply(
        self, sources: Iterable[ModelSource], goes_on: Callable[[], bool] = lambda: True
    ) -> None:
        """Load what should run and does not; unload what runs and should not.

        goes_on: asked before each model; the rest is left as it is once it says no.
        A version that fails stays out with its reason, and the others go on. A newer version
        serves before the old one is unloaded.
        """
        wanted = list(sources)
        for source in wanted:
            if not goes_on():
                return
            self._apply_model(source)
        with self._lock:
            gone = [name for name in self._models if name not in {s.name for s in wanted}]
        for name in gone:
            self._unload(name, keep=())
        with self._lock:
            self._ready = True
        self._changed()

    def find(self, name: str, version: str = "") -> S:
        """Return the version that a request names: the newest ready one, or the one given.

        Raises UnknownModel, ModelNotReady, or InvalidRequest if version is not a version.
        """
        if not version and (newest := self._newest.get(name)) is not None:
            return newest
        number = parse_version_text(version)
        versions = self._models.get(name)
        if versions is None:
            raise UnknownModel(f"Request for unknown model: '{shown(name)}' is not found")
        if number is None:
            raise UnknownModel(f"Request for unknown model: '{name}' has no available versions")
        entry = versions.get(number)
        if entry is None:
            raise UnknownModel(f"Request for unknown model: '{name}' version {number} is not found")
        if entry.state is not State.READY or entry.servable is None:
            raise ModelNotReady(
                f"Request for unknown model: '{name}' version {number} is not at ready state",
            )
        return entry.servable

    def ready_versions(self, name: str) -> list[int]:
        """Return the ready versions of a model, ascending."""
        versions = self._models.get(name, {})
        return sorted(v for v, e in list(versions.items()) if e.state is State.READY)

    def servables(self) -> list[S]:
        """Return every ready version, by name and version."""
        with self._lock:
            return [
                entry.servable
                for _, versions in sorted(self._models.items())
                for _, entry in sorted(versions.items())
                if entry.state is State.READY and entry.servable is not None
            ]

    def index(self) -> list[VersionStatus]:
        """Return the state of every version that is known, by name and version."""
        with self._lock:
            return [
                VersionStatus(name, version, entry.state, entry.reason)
                for name, versions in sorted(self._models.items())
                for version, entry in sorted(versions.items())
            ]

    def is_ready(self) -> bool:
        """Tell whether the first load is over and no model failed without a version that serves.

        A version that is loading or has failed beside one that serves takes nobody out of
        rotation, nor does a model that was unloaded.
        """
        with self._lock:
            return self._ready and not any(map(_is_failed, self._models.values()))

    def model_names(self) -> list[str]:
        """Return the names of all known models."""
        return sorted(self._models)

    def reload(
        self, source: ModelSource, config: ModelConfig | None, unchanged: Collection[int] = ()
    ) -> None:
        """Serve a model as its source has it now: all versions that should run, or none of it.

        What serves goes on serving until all of the new is ready, and if a part of it fails.
        unchanged: versions that are not loaded again if they serve.
        Raises LoadError, or ShuttingDown.
        """
        present = {version.version: version for version in source.versions}
        try:
            wanted = _wanted(source, config)
        except LoadError as error:
            self._fail(source, error)
            raise
        kept = {number for number in self.ready_versions(source.name) if number in unchanged}
        fresh: dict[int, S] = {}
        try:
            for number in wanted:
                if number not in kept:
                    fresh[number] = self._make(present[number], config)
            self._swap(source.name, fresh, wanted)
        except (LoadError, ShuttingDown):
            for number, servable in fresh.items():
                servable.close(0.0)  # nobody has used it
                if self._state(source.name, number) is State.LOADING:
                    self._set(source.name, number, _Entry(State.UNLOADED, UNLOADED))
            raise

    def unload(self, name: str) -> None:
        """Unload every version of a model, which stays known. Nothing happens to an unknown one.

        Returns when the requests that its versions had accepted are answered.
        """
        if name in self._models:
            self._unload(name, keep=(), remember=True)

    def close(self, timeout: float) -> bool:
        """Unload everything. True if every accepted request was answered by its model.

        timeout: seconds for all of it; what comes last has been answering meanwhile.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            self._closed = True  # a load that is under way ends without effect
        clean = True
        for name in self.model_names():
            left_s = max(0.0, deadline - time.monotonic())
            clean = self._unload(name, keep=(), timeout=left_s) and clean
        return clean

    @property
    def is_loading(self) -> bool:
        """Tell whether a load has not ended, though it may have been given up."""
        return self._load.is_busy

    def invalidate(self) -> None:
        """Make everybody ask again what they have found out about requests."""
        self._changed()

    def _apply_model(self, source: ModelSource) -> None:
        try:
            if source.problem:
                raise LoadError(source.problem)
            config = self._read_config(source)
            wanted = _wanted(source, config)
        except LoadError as error:
            self._fail(source, error)
            return
        present = {version.version: version for version in source.versions}
        for number in wanted:
            self._load_version(present[number], config)
        self._unload(source.name, keep=wanted)

    def _load_version(self, source: VersionSource, config: ModelConfig | None) -> None:
        if self._state(source.model, source.version) is State.READY:
            return
        with suppress(LoadError):  # told by `_make`
            servable = self._make(source, config)
            self._set(source.model, source.version, _Entry(State.READY, "", servable))

    def _make(self, source: VersionSource, config: ModelConfig | None) -> S:
        """Return the version, loaded; its state says LOADING or FAILED unless it serves already.

        Raises LoadError.
        """
        self._set_unless_ready(source, _Entry(State.LOADING))
        try:
            return self._load(source, config)
        except LoadError as error:
            _LOG.error("model %s version %d: %s", source.model, source.version, error)
            reason = str(error)
        except Exception as error:  # noqa: BLE001  whatever is wrong with one must not stop others
            _LOG.exception("model %s version %d cannot be loaded", source.model, source.version)
            reason = f"cannot be loaded: {type(error).__name__}: {error}"
        self._set_unless_ready(source, _Entry(State.FAILED, reason))
        raise LoadError(f"version {source.version} is at UNAVAILABLE state: {reason}")

    def _fail(self, source: ModelSource, error: LoadError) -> None:
        _LOG.error("model %s: %s", source.name, error)
        version = source.versions[-1].version if source.versions else 0
        with self._lock:
            known = self._models.setdefault(source.name, {})
            serving = any(entry.state is State.READY for entry in known.values())
        if not serving:  # what serves goes on serving
            self._set(source.name, version, _Entry(State.FAILED, str(error)))

    def _swap(self, name: str, fresh: Mapping[int, S], wanted: Collection[int]) -> None:
        """Put what was loaded in the place of what serves, at once, and unload what was there."""
        with self._lock:
            if self._closed:
                raise ShuttingDown
            versions = self._models.setdefault(name, {})
            replaced = [versions[number].servable for number in fresh if number in versions]
            for number, servable in fresh.items():
                versions[number] = _Entry(State.READY, "", servable)
        self._changed()
        for old in replaced:
            if old is not None:
                old.close(_CLOSE_S)
        self._unload(name, keep=wanted, remember=True)

    def _unload(
        self,
        name: str,
        *,
        keep: Collection[int],
        timeout: float = _CLOSE_S,
        remember: bool = False,
    ) -> bool:
        """Unload all versions but some. remember: they stay known, as unloaded."""
        deadline = time.monotonic() + timeout
        kept = set(keep)
        with self._lock:
            versions = self._models.get(name, {})
            if kept and not any(v in kept and e.state is State.READY for v, e in versions.items()):
                kept |= {v for v, e in versions.items() if e.state is State.READY}
            gone = [v for v in versions if v not in kept]
            closing = []
            for version in gone:
                entry = versions[version]
                if entry.servable is not None:  # else another thread closes it
                    closing.append(entry.servable)
                versions[version] = _Entry(State.UNLOADING)
        self._changed()
        clean = True
        for servable in closing:
            clean = servable.close(max(0.0, deadline - time.monotonic())) and clean
        with self._lock:
            for version in gone:
                if remember and version:
                    versions[version] = _Entry(State.UNLOADED, UNLOADED)
                else:
                    versions.pop(version, None)
            if not versions and not kept:
                self._models.pop(name, None)
        self._changed()
        return clean

    def _state(self, name: str, version: int) -> State:
        with self._lock:
            entry = self._models.get(name, {}).get(version)
            return State.UNKNOWN if entry is None else entry.state

    def _set_unless_ready(self, source: VersionSource, entry: _Entry[S]) -> None:
        if self._state(source.model, source.version) is not State.READY:
            self._set(source.model, source.version, entry)

    def _set(self, name: str, version: int, entry: _Entry[S]) -> None:
        with self._lock:
            self._models.setdefault(name, {})[version] = entry
        self._changed()

    def _changed(self) -> None:
        with self._lock:
            self._newest = {
                name: newest
                for name, versions in self._models.items()
                if (newest := _newest_ready(versions)) is not None
            }
            self.generation += 1
        for listener in list(self._listeners):
            listener()


def _wanted(source: ModelSource, config: ModelConfig | None) -> list[int]:
    """Return the versions to serve. Raises LoadError if there is none."""
    policy = config.version_policy if config is not None else None
    present = [version.version for version in source.versions]
    if not present:
        raise LoadError(f"{source.directory}: no version (VERSION/model.onnx or model.py) in it")
    wanted = served_versions(policy, present)
    if not wanted:
        raise LoadError(
            f"{source.directory}: version_policy asks for versions "
            f"{list(config.version_policy.specific.versions) if config else []}, "
            f"present are {sorted(present)}",
        )
    return wanted


def _is_failed(versions: Mapping[int, _Entry[S]]) -> bool:
    states = {entry.state for entry in versions.values()}
    return State.FAILED in states and not states & {State.READY, State.LOADING}


def _newest_ready(versions: Mapping[int, _Entry[S]]) -> S | None:
    for _, entry in sorted(versions.items(), reverse=True):
        if entry.state is State.READY:
            return entry.servable
    return None
