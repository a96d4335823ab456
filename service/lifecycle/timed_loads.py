"""Loads that are given up when they take too long.

What loads a version cannot be stopped: it goes on, on a thread of its own, and what it brings is
closed. It is not begun once more meanwhile, so that there is one such thread a version at most.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

from service.errors import LoadError
from service.pb.model_config_pb2 import ModelConfig
from service.repository.layout import VersionSource

_LOG = logging.getLogger(__name__)
_FLAG: Final = "--load-timeout"


class Servable(Protocol):
    """What a loaded version is."""

    def close(self, timeout: float) -> bool:
        """Refuse new requests, answer those accepted, free everything."""


S = TypeVar("S", bound=Servable)
Loader: TypeAlias = Callable[[VersionSource, ModelConfig | None], S]


class TimedLoads(Generic[S]):
    """Loads versions within a time. May be called from any thread."""

    def __init__(self, load: Loader[S], limit_s: float) -> None:
        """limit_s: for one version; 0: any, on the thread of the caller."""
        self._load = load
        self._limit_s = limit_s
        self._lock = threading.Lock()  # guards what follows
        self._going = 0  # loads that have not ended
        self._given_up: set[tuple[str, int]] = set()  # and not ended

    @property
    def is_busy(self) -> bool:
        """Tell whether anything is being loaded, what was given up included."""
        return self._going > 0

    def __call__(self, source: VersionSource, config: ModelConfig | None) -> S:
        """Return the version. Raises what its load raises, or LoadError if it takes too long."""
        if not self._limit_s:
            return self._make(source, config)
        key = source.model, source.version
        with self._lock:
            if key in self._given_up:
                raise LoadError(
                    "an earlier load of it has not ended, though it was given up after "
                    f"{self._limit_s:g} s ({_FLAG}); it cannot be loaded again before it ends"
                )
        future: Future[S] = Future()
        threading.Thread(
            target=self._work,
            args=(future, source, config),
            name=f"load-{source.model}-{source.version}",
            daemon=True,
        ).start()
        try:
            return future.result(self._limit_s)
        except TimeoutError:
            with self._lock:
                is_late = future.cancel()
                if is_late:
                    self._given_up.add(key)
            if not is_late:  # it has just ended, or has raised this itself
                return future.result()
            raise LoadError(f"it was not loaded within {self._limit_s:g} s ({_FLAG})") from None
        finally:
            del future  # it keeps what it raises, and that keeps this frame

    def _work(self, future: Future[S], source: VersionSource, config: ModelConfig | None) -> None:
        try:
            servable = self._make(source, config)
        except BaseException as error:  # noqa: BLE001  it belongs to whoever waits
            if self._is_awaited(future, source):
                future.set_exception(error)
            return
        if self._is_awaited(future, source):
            future.set_result(servable)
        else:
            servable.close(0.0)  # nobody has used it

    def _make(self, source: VersionSource, config: ModelConfig | None) -> S:
        with self._lock:
            self._going += 1
        try:
            return self._load(source, config)
        finally:
            with self._lock:
                self._going -= 1

    def _is_awaited(self, future: Future[S], source: VersionSource) -> bool:
        with self._lock:
            is_awaited = future.set_running_or_notify_cancel()
            if not is_awaited:
                self._given_up.discard((source.model, source.version))
        if not is_awaited:
            _LOG.warning(
                "model %s version %d: its load has ended, too late; it can be loaded again",
                source.model,
                source.version,
            )
        return is_awaited
