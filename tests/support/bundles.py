"""Bundles and a lane without a transport: answers are written as seam.Bundle says."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from service.rpc.methods import INFER, STREAM_INFER
from service.rpc.wire import length_delimited
from service.transport.seam import Code, Event, Kind, Metadata


@dataclass(eq=False)
class FakeCall:
    """A call that notes what it was told. replies: messages of a unary call or of a stream."""

    method: str = INFER
    metadata: Metadata = ()
    peer: str = "unix"
    deadline: float | None = None
    has_left: bool = False
    replies: list[bytes] = field(default_factory=list)
    tickets: list[int] = field(default_factory=list)
    ends: list[tuple[Code, str]] = field(default_factory=list)

    def send_initial_metadata(self, metadata: Metadata) -> None:
        """Do nothing."""

    def send(self, message: bytes, *, settles: int = 0) -> bool:
        """Note a message of a stream."""
        del settles
        self.replies.append(message)
        return True

    def detach(self, ticket: int) -> None:
        """Do nothing: what a bundle has is answered by ticket."""

    def answer(self, ticket: int, message: bytes) -> bool:
        """Note the answer to a message of a stream."""
        self.tickets.append(ticket)
        self.replies.append(message)
        return True

    def finish_answered(self, code: Code, message: str = "", *, trailers: Metadata = ()) -> None:
        """Do nothing: the test knows."""

    def settle(self, count: int) -> None:
        """Do nothing."""

    def finish(
        self, code: Code, message: str = "", *, reply: bytes | None = None, trailers: Metadata = ()
    ) -> None:
        """Note the end."""
        del trailers
        self.ends.append((code, message))
        self.has_left = True  # nobody waits for a call that has ended
        if reply is not None:
            self.replies.append(reply)


@dataclass(frozen=True)
class Member:
    """A request in a bundle, with the contents of its inputs."""

    call: FakeCall
    contents: tuple[bytes, ...]
    ticket: int = 0
    request_id: str = ""
    message: bytes = b""


class FakeBundle:
    """A bundle of these members. trailers: of the last answer."""

    def __init__(self, plan: Any, members: Sequence[Member]) -> None:
        self.plan = plan
        self.owner: Any = None
        self.trailers: Sequence[int] = ()
        self._members = list(members)

    @property
    def count(self) -> int:
        """Return how many there are."""
        return len(self._members)

    @property
    def waiting(self) -> int:
        """Return how many callers have not left."""
        return sum(not member.call.has_left for member in self._members)

    @property
    def deadlines(self) -> tuple[float, float] | None:
        """Return the earliest and the latest."""
        found = [member.call.deadline for member in self._members]
        all_of_them = [deadline for deadline in found if deadline is not None]
        return (min(all_of_them), max(all_of_them)) if all_of_them else None

    def strip(self) -> int:
        """Take out those whose callers have left."""
        self._members = [member for member in self._members if not member.call.has_left]
        return len(self._members)

    def input(self, index: int) -> bytes:
        """Return the contents of one input."""
        return b"".join(member.contents[index] for member in self._members)

    def answer(
        self,
        fixed: bytes,
        outputs: Sequence[bytes],
        *,
        tail: bytes = b"",
        trailers: Sequence[int] = (),
        work_ns: int | None = None,
    ) -> None:
        """Give each caller its part."""
        del work_ns
        self.trailers = trailers
        members = self._take()
        for at, member in enumerate(members):
            body = fixed
            if member.request_id:
                body += length_delimited(3, member.request_id.encode())
            for output in outputs:
                size = len(output) // len(members)
                body += length_delimited(6, output[at * size : (at + 1) * size])
            if member.call.has_left:
                continue
            if member.call.method == STREAM_INFER:
                member.call.answer(member.ticket, length_delimited(2, body + tail))
            else:
                member.call.finish(Code.OK, reply=body)

    def release(self) -> None:
        """Let go of the contents."""
        self._members = [replace(member, contents=()) for member in self._members]

    def clear(self) -> None:
        """Empty it."""
        self._take()

    def members(self) -> Sequence[tuple[FakeCall, int, str]]:
        """Return call, ticket and id of each."""
        return [(member.call, member.ticket, member.request_id) for member in self._members]

    def split(self) -> Sequence["FakeBundle"]:
        """Empty it into bundles of one."""
        return [FakeBundle(self.plan, [member]) for member in self._take()]

    def events(self) -> Sequence[Event]:
        """Empty it into events."""
        return [
            Event(
                Kind.MESSAGE if member.call.method == STREAM_INFER else Kind.REQUEST,
                member.call,
                member.message,
                member.ticket,
            )
            for member in self._take()
        ]

    def _take(self) -> list[Member]:
        members, self._members = self._members, []
        self.owner = None
        return members


@dataclass(frozen=True)
class Lesson:
    """What a lane was taught of one head."""

    head: bytes
    sizes: tuple[int, ...]
    rows: int
    max_rows: int
    plan: Any


class FakeLane:
    """Notes what it is taught. left: bundles that `shrunk` returns."""

    def __init__(self) -> None:
        self.lessons: list[Lesson] = []
        self.left: list[FakeBundle] = []

    def learn(
        self, head: bytes, sizes: Sequence[int], rows: int, max_rows: int, plan: object
    ) -> None:
        """Note a lesson."""
        self.lessons.append(Lesson(head, tuple(sizes), rows, max_rows, plan))

    def forget(self) -> None:
        """Forget all lessons."""
        self.lessons.clear()

    def shrunk(self) -> Sequence[FakeBundle]:
        """Return what the test put into `left`."""
        left, self.left = self.left, []
        return left

    def overhead(self) -> tuple[Sequence[int], Sequence[int], int]:
        """Return that nothing was measured."""
        return (), (0,), 0
