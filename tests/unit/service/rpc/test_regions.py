"""Names of regions, windows into them, and the end of their memory."""

import threading

import pytest

from service.errors import (
    InvalidRequest,
    RegionExists,
    RegionLimit,
    RequestError,
    UnknownRegion,
    Unsupported,
)
from service.inference.request import NO_TIMINGS, Outcome
from service.rpc.regions import (
    CudaOrigin,
    Lease,
    Origin,
    Place,
    Region,
    Regions,
    SystemOrigin,
)


class FakeMemory:
    """Memory that counts how often it was closed."""

    def __init__(self) -> None:
        self.closed = 0
        self.written: list[tuple[int, bytes]] = []

    def read(self, offset: int, size: int) -> bytes:
        """Return the offsets."""
        return bytes(range(offset, offset + size))

    def write(self, offset: int, contents: bytes) -> None:
        """Note what is written."""
        self.written.append((offset, contents))

    def close(self) -> None:
        """Count."""
        self.closed += 1


SYSTEM, CUDA = SystemOrigin("/k", 0), CudaOrigin(0)


def regions_with(*names: str, origin: Origin = SYSTEM) -> tuple[Regions, dict[str, FakeMemory]]:
    """Return regions of 100 bytes with these names, and their memories."""
    regions, memories = Regions(enabled=True, limit=8), {name: FakeMemory() for name in names}
    for name, memory in memories.items():
        regions.check_new(name)
        regions.register(Region(name, memory, 100, origin))
    return regions, memories


@pytest.mark.parametrize(
    ("offset", "size", "text"),
    [
        (100, 0, "Invalid offset for shared memory region: 'r'"),
        ((1 << 63) - 1, (1 << 63) - 1, "Invalid offset for shared memory region: 'r'"),
        (-1, 1, "Invalid offset for shared memory region: 'r'"),
        (0, 101, r"Invalid offset \+ byte size for shared memory region: 'r'"),
        (99, 2, r"Invalid offset \+ byte size for shared memory region: 'r'"),
        (1, (1 << 63) - 1, r"Invalid offset \+ byte size for shared memory region: 'r'"),
    ],
)
def test_window_must_be_inside(offset: int, size: int, text: str) -> None:
    """A window that is not wholly inside its region is refused in Triton's words."""
    regions, _ = regions_with("r")
    with pytest.raises(InvalidRequest, match=f"^{text}$"):
        regions.window(Place("r", offset, size))


def test_window_reads_and_writes_its_place() -> None:
    """A window passes its own offset on."""
    regions, memories = regions_with("r")
    window = regions.window(Place("r", 10, 3))
    assert window.read() == bytes([10, 11, 12])
    window.write(b"ab")
    assert memories["r"].written == [(10, b"ab")]
    regions.window(Place("r", 0, 100))
    regions.window(Place("r", 99, 1))


def test_unknown_region_is_told() -> None:
    """The text names the region as the request does, fit to be read."""
    with pytest.raises(UnknownRegion, match=r"^Unable to find shared memory region: 'a\\x0ab'$"):
        regions_with("r")[0].window(Place("a\nb", 0, 1))


def test_names_are_one_space() -> None:
    """A name that is taken cannot be registered, of whatever kind, until it is free again."""
    regions, _ = regions_with("r")
    for origin in (SYSTEM, CUDA):
        with pytest.raises(RegionExists, match=r"^shared memory region 'r' already in manager$"):
            regions.register(Region("r", FakeMemory(), 1, origin))
    regions.unregister(CudaOrigin, "r")  # not of this kind
    assert list(regions.registered(SystemOrigin)) == ["r"]
    regions.unregister(SystemOrigin, "r")
    regions.check_new("r")


@pytest.mark.parametrize("name", ["", "n" * 1025])
def test_names_have_bounds(name: str) -> None:
    """Nothing is registered under no name, which means all, nor under an endless one."""
    with pytest.raises(InvalidRequest, match="the name has"):
        regions_with()[0].check_new(name)


def test_number_of_regions_is_bounded() -> None:
    """At the limit nothing more is registered, until something is forgotten."""
    regions, _ = regions_with(*(f"r{number}" for number in range(8)))
    with pytest.raises(
        RegionLimit, match=r"8 shared memory regions are registered, .* raise --max-"
    ):
        regions.check_new("more")
    regions.unregister(SystemOrigin, "r7")
    regions.check_new("more")


def test_disabled_regions_refuse() -> None:
    """Without the setting nothing can be registered or used, and the text says which it is."""
    regions = Regions(enabled=False)
    for call in (lambda: regions.check_new("r"), lambda: regions.window(Place("r", 0, 1))):
        with pytest.raises(Unsupported, match="Start the server with --allow-client-shm"):
            call()
    regions.unregister(SystemOrigin, "")  # as clients begin with


def test_memory_outlives_its_name_while_it_is_used() -> None:
    """Unregistering frees the name at once, and closes the memory after the last request."""
    regions, memories = regions_with("r")
    ended: list[Outcome] = []
    first, second = (Lease([regions.window(Place("r", 0, 1))]) for _ in range(2))
    told: list[int] = []
    regions.unregister(SystemOrigin, "r", lambda: told.append(memories["r"].closed))
    assert not regions.registered(SystemOrigin)
    regions.register(Region("r", FakeMemory(), 1, SYSTEM))  # the name is free
    first.until(ended.append)(Outcome({}, None, NO_TIMINGS))
    assert (len(ended), memories["r"].closed, told) == (1, 0, [])
    second.release()
    assert (memories["r"].closed, told) == (1, [1])


def test_who_unregisters_is_told_once_and_of_all() -> None:
    """Where nothing is in use, or nothing there, at once; else when the last of all is closed."""
    regions, _ = regions_with("a", "b", "c")
    told: list[str] = []
    regions.unregister(SystemOrigin, "never there", lambda: told.append("nothing"))
    regions.unregister(SystemOrigin, "c", lambda: told.append("unused"))
    assert told == ["nothing", "unused"]
    leases = [Lease([regions.window(Place(name, 0, 1))]) for name in ("a", "b")]
    regions.unregister(SystemOrigin, "", lambda: told.append("all"))
    leases[0].release()
    assert told == ["nothing", "unused"]
    leases[1].release()
    assert told == ["nothing", "unused", "all"]


def test_memory_that_is_closed_is_not_touched() -> None:
    """Who has found a region and is overtaken by its end is told that there is none."""
    regions, memories = regions_with("r", "s")
    window, other = (regions.window(Place(name, 0, 1)) for name in ("r", "s"))
    regions.unregister(SystemOrigin, "r")
    with pytest.raises(UnknownRegion, match="'r'"):
        window.read()
    with pytest.raises(UnknownRegion, match="'r'"):
        Lease([other, window])
    regions.close()
    assert [memory.closed for memory in memories.values()] == [1, 1]


def test_generation_tells_that_names_have_changed() -> None:
    """Whoever has kept a window sees that its name may mean something else now."""
    regions, _ = regions_with("r")
    seen = {regions.generation}
    regions.register(Region("s", FakeMemory(), 1, SYSTEM))
    seen.add(regions.generation)
    regions.unregister(SystemOrigin, "r")
    seen.add(regions.generation)
    regions.window(Place("s", 0, 1)).read()
    assert len(seen | {regions.generation}) == 3


def test_lease_ends_with_its_request_whatever_happens() -> None:
    """An answer that cannot be given does not keep the memory open."""
    regions, memories = regions_with("r")

    def failing(_outcome: Outcome) -> None:
        raise RequestError("no answer")

    on_end = Lease([regions.window(Place("r", 0, 1))]).until(failing)
    regions.close()
    with pytest.raises(RequestError):
        on_end(Outcome({}, None, NO_TIMINGS))
    assert memories["r"].closed == 1


def test_each_kind_is_forgotten_apart() -> None:
    """No name means all regions of the kind, and none of the other."""
    regions, memories = regions_with("a", "b")
    regions.register(Region("c", FakeMemory(), 1, CUDA))
    regions.unregister(SystemOrigin, "")
    assert [memory.closed for memory in memories.values()] == [1, 1]
    assert list(regions.registered(CudaOrigin)) == ["c"]
    regions.unregister(CudaOrigin, "never there")
    assert list(regions.registered(CudaOrigin)) == ["c"]


def test_threads_close_memory_once() -> None:
    """Of many that let go at once, the last one closes, and only that."""
    regions, memories = regions_with("r")
    leases = [Lease([regions.window(Place("r", 0, 1))]) for _ in range(64)]
    regions.close()
    start = threading.Barrier(8)

    def let_go(mine: list[Lease]) -> None:
        start.wait()
        for lease in mine:
            lease.release()

    threads = [threading.Thread(target=let_go, args=(leases[index::8],)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert memories["r"].closed == 1
