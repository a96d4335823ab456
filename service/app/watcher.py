"""Looks for new versions in the repository from time to time, when the operator wants it."""

import logging
import threading
from collections.abc import Callable
from typing import TypeAlias

from service.errors import RepositoryError
from service.repository.layout import ModelSource, Repository
from service.repository.manifest import MANIFEST_FILE, MODEL_FILE
from service.repository.model_config import CONFIG_FILE

_LOG = logging.getLogger(__name__)
_Fingerprint: TypeAlias = tuple[tuple[str, int, int], ...]

# Loads what should run and does not, and the other way round, while the second argument says so.
Apply: TypeAlias = Callable[[list[ModelSource], Callable[[], bool]], None]


class Watcher:
    """Owns a thread that applies the repository whenever its files change."""

    def __init__(self, repository: Repository, apply: Apply, interval_s: float) -> None:
        self._repository = repository
        self._apply = apply
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._seen: _Fingerprint = ()
        self._thread = threading.Thread(target=self._loop, name="watcher", daemon=True)

    def start(self, known: list[ModelSource]) -> None:
        """Look every interval for what differs from the sources that are known."""
        self._seen = _fingerprint(known)
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Look no more; waits so many seconds for a load in progress."""
        self._stop.set()
        self._thread.join(timeout)

    def _loop(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                sources = self._repository.scan()
            except RepositoryError as error:
                _LOG.warning("the repository cannot be read, what serves goes on: %s", error)
                continue
            seen = _fingerprint(sources)
            if seen != self._seen:
                self._seen = seen
                try:
                    self._apply(sources, lambda: not self._stop.is_set())
                except Exception:  # noqa: BLE001  it must look again
                    _LOG.exception("the repository could not be applied, what serves goes on")


def _fingerprint(sources: list[ModelSource]) -> _Fingerprint:
    entries: list[tuple[str, int, int]] = []
    for source in sources:
        paths = [source.directory / CONFIG_FILE]
        for version in source.versions:
            paths += [version.model_file(), version.directory / MANIFEST_FILE]
            paths += [version.directory / MODEL_FILE]
        for path in paths:
            try:
                status = path.stat()
            except OSError:
                continue
            entries.append((str(path), status.st_mtime_ns, status.st_size))
    return tuple(entries)
