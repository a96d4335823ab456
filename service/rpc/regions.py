"""Memory that clients have registered: names, windows into it, and who still uses it.

Knows neither RPCs nor where memory comes from: whoever registers a region brings it opened.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeAlias, TypeVar

from service.errors import (
    InvalidRequest,
    RegionExists,
    RegionLimit,
    RequestError,
    UnknownRegion,
    Unsupported,
    shown,
)
from service.inference.request import OnEnd, Outcome

_MAX_NAME: Final = 1024  # characters
DISABLED: Final = "Client shared memory is disabled. Start the server with --allow-client-shm"


class Memory(Protocol):
    """Memory of a client, opened. Its methods may be called by any thread."""

    def read(self, offset: int, size: int) -> bytes:
        """Return a copy of size bytes. Raises RequestError if the memory is no longer that long."""

    def write(self, offset: int, contents: bytes) -> None:
        """Write contents there and nowhere else. Raises RequestError if it cannot be done."""

    def close(self) -> None:
        """Let go of it. Nothing uses it any more."""


@dataclass(frozen=True, slots=True)
class SystemOrigin:
    """Where memory of the system is: what the client calls the object, and a byte offset in it."""

    key: str
    offset: int


@dataclass(frozen=True, slots=True)
class CudaOrigin:
    """Where memory of a GPU is."""

    device_id: int


Origin: TypeAlias = SystemOrigin | CudaOrigin
KindOfOrigin = TypeVar("KindOfOrigin", SystemOrigin, CudaOrigin)


class Region:
    """Registered memory. What is let go of is closed once nothing in flight uses it any more."""

    def __init__(self, name: str, memory: Memory, byte_size: int, origin: Origin) -> None:
        self.name = name
        self.memory = memory
        self.byte_size = byte_size
        self.origin = origin
        self._lock = threading.Lock()
        self._users = 1  # the registration
        self._on_closed: Callable[[], None] = lambda: None

    def hold(self) -> None:
        """Keep the memory open until `release`. Raises UnknownRegion if it is closed already."""
        with self._lock:
            if not self._users:  # another thread has unregistered it since it was found
                raise unknown_region(self.name)
            self._users += 1

    def release(self) -> None:
        """Undo a `hold`."""
        with self._lock:
            self._users -= 1
            is_last = not self._users
        if is_last:
            self.memory.close()
            self._on_closed()

    def retire(self, on_closed: Callable[[], None]) -> None:
        """Undo the registration. on_closed: called, on any thread, when the memory is closed."""
        self._on_closed = on_closed
        self.release()


class Countdown:
    """Calls back when it has been counted down, on the thread that does it."""

    def __init__(self, left: int, on_zero: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._left = left
        self._on_zero = on_zero

    def count(self) -> None:
        """Count one."""
        with self._lock:
            self._left -= 1
            is_zero = not self._left
        if is_zero:
            self._on_zero()


class Place(NamedTuple):
    """Where a request says that a tensor is: byte offset and size in the region of that name."""

    region: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a region, inside its bounds."""

    region: Region
    offset: int
    size: int

    def read(self) -> bytes:
        """Return a copy of what is there now. Raises RequestError as Memory.read does."""
        self.region.hold()
        try:
            return self.region.memory.read(self.offset, self.size)
        finally:
            self.region.release()

    def write(self, contents: bytes) -> None:
        """Put contents, no larger than the window, at its start; for one who has a Lease on it.

        Raises RequestError as Memory.write does.
        """
        self.region.memory.write(self.offset, contents)


class Lease:
    """Keeps the regions of windows open until a request has ended."""

    def __init__(self, windows: Iterable[Window]) -> None:
        """Raise UnknownRegion if one of them is closed already."""
        self._regions: list[Region] = []
        try:
            for window in windows:
                window.region.hold()
                self._regions.append(window.region)
        except RequestError:
            self.release()
            raise

    def until(self, on_end: OnEnd) -> OnEnd:
        """Return on_end, followed by the release."""

        def ended(outcome: Outcome) -> None:
            try:
                on_end(outcome)
            finally:
                self.release()

        return ended

    def release(self) -> None:
        """Let go of them; once."""
        for region in self._regions:
            region.release()


class Regions:
    """The regions of all clients in one space of names. Its methods may be called by any thread."""

    def __init__(self, *, enabled: bool, limit: int = 0, max_read_bytes: int = 0) -> None:
        """limit: regions at once. max_read_bytes: of the inputs of one request.

        enabled: clients may register memory.
        """
        self.enabled = enabled
        self.max_read_bytes = max_read_bytes
        self._limit = limit
        self.generation = 0  # another one whenever a name means something else than before
        self._lock = threading.Lock()
        self._regions: dict[str, Region] = {}

    def check_new(self, name: str) -> None:
        """Raise RequestError unless a region of this name could be registered now."""
        self.check_enabled()
        if not 0 < len(name) <= _MAX_NAME:
            raise InvalidRequest(
                f"failed to register shared memory region '{shown(name)}': invalid args: the name "
                f"has {len(name)} characters, expected 1 to {_MAX_NAME}",
            )
        with self._lock:
            self._check_free(name)

    def register(self, region: Region) -> None:
        """Make a region known by its name. Raises RequestError as `check_new` does."""
        with self._lock:
            self._check_free(region.name)
            self._regions[region.name] = region
            self.generation += 1

    def unregister(
        self, kind: type[Origin], name: str, on_closed: Callable[[], None] = lambda: None
    ) -> None:
        """Forget the region of that name and kind, if there is one; all of the kind for no name.

        The names are free at once. Memory that a request still writes to is closed after that.
        on_closed: called when all of it is closed; perhaps at once, on any thread.
        """
        with self._lock:
            gone = [
                region
                for region in self._regions.values()
                if isinstance(region.origin, kind) and name in ("", region.name)
            ]
            for region in gone:
                del self._regions[region.name]
            self.generation += bool(gone)
        pending = Countdown(1 + len(gone), on_closed)
        for region in gone:
            region.retire(pending.count)
        pending.count()

    def registered(self, kind: type[KindOfOrigin]) -> Mapping[str, tuple[Region, KindOfOrigin]]:
        """Return the regions of one kind by name."""
        with self._lock:
            regions = list(self._regions.values())
        return {
            region.name: (region, region.origin)
            for region in regions
            if isinstance(region.origin, kind)
        }

    def window(self, place: Place) -> Window:
        """Return the window that a request names.

        Raises UnknownRegion, InvalidRequest if it is not inside, Unsupported if none can be.
        """
        self.check_enabled()
        with self._lock:
            region = self._regions.get(place.region)
        if region is None:
            raise unknown_region(place.region)
        name = shown(place.region)
        if not 0 <= place.offset < region.byte_size:
            raise InvalidRequest(f"Invalid offset for shared memory region: '{name}'")
        if place.offset + place.size > region.byte_size:
            raise InvalidRequest(f"Invalid offset + byte size for shared memory region: '{name}'")
        return Window(region, place.offset, place.size)

    def check_read(self, size: int) -> None:
        """Raise RequestError if the inputs of one request in shared memory are too large."""
        if size > self.max_read_bytes:
            raise RegionLimit(
                f"inputs in shared memory of {size} bytes, at most {self.max_read_bytes} are read "
                "for one request, as many as a message may have"
            )

    def close(self) -> None:
        """Forget all regions."""
        self.unregister(SystemOrigin, "")
        self.unregister(CudaOrigin, "")

    def check_enabled(self) -> None:
        """Raise Unsupported unless clients may register memory."""
        if not self.enabled:
            raise Unsupported(DISABLED)

    def _check_free(self, name: str) -> None:
        if name in self._regions:
            raise RegionExists(f"shared memory region '{shown(name)}' already in manager")
        if len(self._regions) >= self._limit:
            raise RegionLimit(
                f"{len(self._regions)} shared memory regions are registered, which is the most: "
                "unregister what is no longer used, or raise --max-shm-regions",
            )


NO_REGIONS: Final = Regions(enabled=False)


def unknown_region(name: str) -> UnknownRegion:
    """Return what whoever asks for a region that is not registered is told."""
    return UnknownRegion(f"Unable to find shared memory region: '{shown(name)}'")
