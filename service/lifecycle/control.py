"""Model control: what callers load and unload, from the repository or with files of their own.

Knows no RPC. Methods block until they are done and may be called from any thread; what is done to
one model is done one after another.
"""

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final, Generic, TypeAlias, TypeGuard, TypeVar

from service.errors import LoadError, RepositoryError, UnloadableModel
from service.lifecycle.manager import Manager, Reader
from service.lifecycle.states import State, VersionStatus
from service.lifecycle.timed_loads import Servable
from service.pb.model_config_pb2 import ModelConfig
from service.repository.layout import ModelSource, Repository, VersionSource
from service.repository.model_config import PYTHON, config_from_json
from service.repository.names import is_model_name
from service.repository.overrides import OverrideFiles

_LOG = logging.getLogger(__name__)
_MAX_FILES: Final = 10_000  # of one model, that are looked at for changes

S = TypeVar("S", bound=Servable)
# What tells a file from what it was before, by the directory below the model's that it lies in.
# The time of the last change of the inode is told, which no program can set back.
Stamps: TypeAlias = Mapping[str, frozenset[tuple[str, int, int, int]]]
Plan: TypeAlias = Callable[[Iterable[ModelSource]], None]


@dataclass(frozen=True, slots=True)
class _Origin:
    """What a model is loaded from.

    lying: stamps of what the repository has of it, also where files of a caller take its place.
    config: serialised, None if there is none.
    """

    source: ModelSource
    lying: Stamps
    stamps: Stamps
    config: bytes | None = None
    files: OverrideFiles | None = None

    def unchanged(self, before: "_Origin | None") -> Collection[int]:
        """Return the versions that are what they were before."""
        if before is None or (self.config, self.stamps.get("")) != (
            before.config,
            before.stamps.get(""),
        ):
            return ()
        keys = {version.version: _key(self.source, version) for version in self.source.versions}
        return {
            number for number, key in keys.items() if self.stamps.get(key) == before.stamps.get(key)
        }


class ModelControl(Generic[S]):
    """Loads and unloads single models of a repository."""

    def __init__(
        self, repository: Repository, manager: Manager[S], read_config: Reader, plan: Plan
    ) -> None:
        """plan: told all models that are to serve, before one of them is loaded."""
        self._repository = repository
        self._manager = manager
        self._read_config = read_config
        self._plan = plan
        self._changed = threading.Condition()  # guards _busy
        self._busy: set[str] = set()
        self._loaded: dict[str, _Origin] = {}  # each by whoever has made its name busy
        self._files: set[OverrideFiles] = set()  # that have not been removed

    def note(self, sources: Iterable[ModelSource]) -> None:
        """Know what the manager has loaded, so that it is not loaded again without need."""
        for source in sources:
            if self._manager.ready_versions(source.name):
                stamps = _stamps(source.directory)
                with suppress(LoadError):
                    self._loaded[source.name] = self._with_config(_Origin(source, stamps, stamps))

    def load(
        self, name: str, config: str | None = None, files: Mapping[str, bytes] | None = None
    ) -> None:
        """Load a model, or load it again if its files or its configuration have changed.

        config: counts in place of config.pbtxt, in protobuf's JSON form; with no other given also
        in later loads, until the repository's files change or the model is unloaded. files: counts
        in place of the model's directory, contents by path below it; config must be given too.
        Raises InvalidRequest for a path that leads elsewhere, UnloadableModel if there is no such
        model or what was given cannot be used, LoadError if it cannot be served, ShuttingDown.
        """
        with self._exclusive(name):
            before = self._loaded.get(name)
            try:
                origin = self._origin(name, before, config, files or {})
            except (LoadError, RepositoryError) as error:
                _LOG.error("model %s cannot be loaded: %s", name, error)
                raise UnloadableModel(name) from error
            try:
                self._load(origin, before)
            except BaseException:
                self._discard(origin, but=before)
                raise
            self._loaded[name] = origin
            self._discard(before, but=origin)

    def unload(self, name: str) -> None:
        """Unload a model once it has answered what it accepted. An unknown one is left alone."""
        with self._exclusive(name):
            self._manager.unload(name)
            if (loaded := self._loaded.pop(name, None)) is not None:
                _LOG.info("model %s is unloaded", name)
            self._discard(loaded)

    def index(self) -> list[VersionStatus]:
        """Return the state of every version that is known, and of models never loaded."""
        known = self._manager.index()
        names = {status.model for status in known}
        try:
            lying = {source.name for source in self._repository.scan()}
        except RepositoryError as error:
            _LOG.warning("the repository cannot be read: %s", error)
            lying = set()
        known += [VersionStatus(name, 0, State.UNKNOWN) for name in lying - names]
        return sorted(known, key=lambda status: (status.model, status.version))

    def close(self) -> None:
        """Remove what callers gave, also for loads that have not ended and have no effect now."""
        while self._files:
            self._files.pop().remove()

    @contextmanager
    def _exclusive(self, name: str) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: name not in self._busy)
            self._busy.add(name)
        try:
            yield
        finally:
            with self._changed:
                self._busy.discard(name)
                self._changed.notify_all()

    def _origin(
        self, name: str, before: _Origin | None, config: str | None, files: Mapping[str, bytes]
    ) -> _Origin:
        if not is_model_name(name):
            raise RepositoryError("no model can have this name")
        found = [source for source in self._repository.scan() if source.name == name]
        lying = _stamps(found[0].directory) if found else {}
        given = None if config is None else config_from_json(config, name)
        if files:
            if given is None:
                raise RepositoryError("files were given without a config")
            if given.backend == PYTHON:
                raise RepositoryError("code that runs in this process is not taken from callers")
            written = OverrideFiles(name, files)
            self._files.add(written)
            source = replace(written.source(), config=given)
            return self._with_config(
                _Origin(source, lying, _stamps(source.directory), files=written)
            )
        if given is None and _stays_in_force(before, lying):
            return before
        if not found:
            raise RepositoryError("it is not in the repository")
        if found[0].problem:
            raise RepositoryError(found[0].problem)
        return self._with_config(_Origin(replace(found[0], config=given), lying, lying))

    def _discard(self, origin: _Origin | None, but: _Origin | None = None) -> None:
        """Remove the files of an origin, unless another needs them."""
        files = origin.files if origin is not None else None
        if files is not None and (but is None or but.files is not files):
            files.remove()
            self._files.discard(files)

    def _with_config(self, origin: _Origin) -> _Origin:
        config = self._read_config(origin.source)
        encoded = None if config is None else config.SerializeToString(deterministic=True)
        return replace(origin, config=encoded)

    def _load(self, origin: _Origin, before: _Origin | None) -> None:
        others = [loaded.source for name, loaded in list(self._loaded.items())]
        name = origin.source.name
        self._plan([*(source for source in others if source.name != name), origin.source])
        config = None if origin.config is None else ModelConfig.FromString(origin.config)
        self._manager.reload(origin.source, config, origin.unchanged(before))


def _stays_in_force(before: _Origin | None, lying: Stamps) -> TypeGuard[_Origin]:
    """Tell whether what a caller gave counts on: the repository is what it was then."""
    return before is not None and before.source.config is not None and before.lying == lying


def _key(source: ModelSource, version: VersionSource) -> str:
    return "" if version.directory == source.directory else version.directory.name


def _stamps(directory: Path) -> Stamps:
    """Return what tells whether files of a model have changed, by the directory that they are in.

    Links are followed: mounted volumes are made of them.
    """
    stamps: dict[str, set[tuple[str, int, int, int]]] = {}
    for parent, name in islice(_files(directory), _MAX_FILES):
        below = Path(parent).relative_to(directory).parts
        path = Path(parent, name)
        with suppress(OSError):
            status = path.stat()
            stamp = (str(path), status.st_ctime_ns, status.st_size, status.st_ino)
            stamps.setdefault(below[0] if below else "", set()).add(stamp)
    return {key: frozenset(entries) for key, entries in stamps.items()}


def _files(directory: Path) -> Iterator[tuple[str, str]]:
    for parent, _, names in os.walk(directory, followlinks=True):
        for name in names:
            yield parent, name
