"""The calls of the threaded transport: what its pool's threads and the engine share of each."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc

from service.transport.metadata import check_metadata
from service.transport.seam import Code, Limits, Metadata

_STATUS: Final = {code: grpc.StatusCode[code.name] for code in Code}
_NEVER_S: Final = 1e9  # seconds; no caller means a deadline 30 years away
_GZIP_FROM: Final = 2 * 1460  # bytes; two packets of Ethernet: what fits gains nothing
_MAX_STATUS_BYTES: Final = 6 << 10  # peers take 8 KiB of headers by default, trailers included


class _Call:
    """What both kinds of call have in common. Its condition guards its state."""

    def __init__(self, details: Any, context: grpc.ServicerContext, *, compresses: bool) -> None:
        self.method: str = details[0]
        self.metadata: Metadata = tuple((key, value) for key, value in details[1] or ())
        left = context.time_remaining()  # some centuries, where the caller sets no deadline
        self.deadline = None if left is None or left > _NEVER_S else time.monotonic() + left
        self.abandoned = False
        self._context = context
        self._changed = threading.Condition()
        self._status: tuple[Code, str] | None = None
        self._has_begun = False
        self._compresses = compresses

    @property
    def peer(self) -> str:
        """Return the address of the peer."""
        return str(self._context.peer())

    def abandon(self) -> bool:
        """Note that the peer has left. True if the call had not been finished."""
        with self._changed:
            if self._status is not None or self.abandoned:
                return False
            self.abandoned = True
            self._changed.notify_all()
            return True

    def send_initial_metadata(self, metadata: Metadata) -> None:
        """Send the headers of the answer; see seam.Call."""
        check_metadata(metadata)
        with self._changed:
            if self.abandoned or self._status is not None:
                return
            if self._has_begun:
                raise ValueError("initial metadata goes before everything else, and once")
            self._has_begun = True
        self._context.send_initial_metadata(metadata)

    def _leave_plain_unless_it_pays(self, message: bytes) -> None:
        if self._compresses and len(message) < _GZIP_FROM:
            self._context.disable_next_message_compression()

    def _set_status(self, code: Code, message: str, trailers: Metadata) -> bool:
        """Finish, under the condition. True the first time, unless the peer has left."""
        if self._status is not None or self.abandoned:
            return False
        if trailers:
            self._context.set_trailing_metadata(trailers)
        self._status = (code, message)
        return True

    def _abort_unless_ok(self) -> None:
        code, message = self._status or (Code.CANCELLED, "")
        if code is not Code.OK:
            self._context.abort(_STATUS[code], _fitting(message))


class UnaryCall(_Call):
    """A call with one message each way: a thread of the pool waits for `finish`."""

    def __init__(self, details: Any, context: grpc.ServicerContext, *, compresses: bool) -> None:
        super().__init__(details, context, compresses=compresses)
        self._reply = b""

    def wait(self) -> bytes:
        """Wait for the end of the call and return its reply; raises to end it with an error."""
        with self._changed:
            while self._status is None and not self.abandoned:
                self._changed.wait()  # ends at the latest with the call: `abandon`
            if self.abandoned:
                return b""
        self._abort_unless_ok()
        self._leave_plain_unless_it_pays(self._reply)
        return self._reply

    def send(self, message: bytes, *, settles: int = 0) -> bool:
        """Not for unary calls."""
        del message, settles
        raise TypeError("send on a unary call: finish it with a reply")

    def detach(self, ticket: int) -> None:
        """Not for unary calls."""
        del ticket
        raise TypeError("detach on a unary call: finish it with a reply")

    def answer(self, ticket: int, message: bytes) -> bool:
        """Not for unary calls."""
        del ticket, message
        raise TypeError("answer on a unary call: finish it with a reply")

    def finish_answered(self, code: Code, message: str = "", *, trailers: Metadata = ()) -> None:
        """Not for unary calls."""
        del code, message, trailers
        raise TypeError("finish_answered on a unary call: finish it with a reply")

    def settle(self, count: int) -> None:
        """Do nothing: there is one message."""

    def finish(
        self, code: Code, message: str = "", *, reply: bytes | None = None, trailers: Metadata = ()
    ) -> None:
        """End the call; see seam.Call."""
        check_metadata(trailers)
        with self._changed:
            if self._set_status(code, message, trailers):
                self._reply = reply or b""
                self._changed.notify_all()


class StreamCall(_Call):
    """A call with many messages: one thread reads while another writes."""

    def __init__(
        self,
        details: Any,
        context: grpc.ServicerContext,
        limits: Limits,
        on_room: Callable[["StreamCall"], None],
        *,
        compresses: bool,
    ) -> None:
        """on_room: told, under the condition, that there is room again; see seam.Kind."""
        super().__init__(details, context, compresses=compresses)
        self._limits = limits
        self._on_room = on_room
        self._is_awaited = False  # `send` found no room
        self._outgoing: deque[tuple[bytes, int]] = deque()
        self._outgoing_bytes = 0
        self._sizes: deque[int] = deque()  # of the unsettled messages, oldest first
        self._unsettled_bytes = 0
        self._tickets = 0  # handed out
        self._next = 0  # the ticket whose answer leaves next
        self._early: dict[int, bytes] = {}
        self._detached: set[int] = set()  # tickets to pass over when their turn comes
        self._unfinished = 0  # detached messages that are not settled
        self._last_word: tuple[Code, str, Metadata] | None = None

    def admit(self, size: int) -> int | None:
        """Wait until a message of this size may be handed up. None if the call has ended.

        Returns the message's place in the order of answers.
        """
        limits = self._limits
        with self._changed:
            while not self._ended and (
                len(self._sizes) >= limits.stream_window
                or self._unsettled_bytes >= limits.stream_window_bytes
            ):
                self._changed.wait()  # ends at the latest with the call: `abandon`
            if self._ended:
                return None
            self._sizes.append(size)
            self._unsettled_bytes += size
            self._tickets += 1
            return self._tickets - 1

    def emit_unless_ended(self, emit: Callable[[], None]) -> None:
        """Call emit if the call goes on."""
        with self._changed:
            goes_on = not self._ended
        if goes_on:
            emit()

    def answers(self) -> Iterator[bytes]:
        """Yield what was sent, until the call ends; raises to end it with an error."""
        while (answer := self._next_answer()) is not None:
            message, settles = answer
            self._leave_plain_unless_it_pays(message)
            yield message
            self._settle(settles)  # grpcio comes back when the network has taken the message
        if not self.abandoned:
            self._abort_unless_ok()

    def send(self, message: bytes, *, settles: int = 0) -> bool:
        """Queue one answer; see seam.Call."""
        with self._changed:
            if self._ended:
                return True
            self._queue(message, settles)
            has_room = self._has_room()
            self._is_awaited = self._is_awaited or not has_room
            self._finish_detached(settles)
            self._changed.notify_all()
            return has_room

    def detach(self, ticket: int) -> None:
        """Take a message out of the order of answers; see seam.Call."""
        with self._changed:
            if not self._ended and self._is_open(ticket):
                self._detached.add(ticket)
                self._unfinished += 1
                self._promote()
                self._changed.notify_all()

    def answer(self, ticket: int, message: bytes) -> bool:
        """Queue the answer to one message in its place; see seam.Call."""
        with self._changed:
            if self._ended or not self._next <= ticket < self._tickets:
                return True
            if self._is_open(ticket):
                self._early[ticket] = message
                self._promote()
                self._say_last_word()
                self._changed.notify_all()
            return self._has_room()

    def finish_answered(self, code: Code, message: str = "", *, trailers: Metadata = ()) -> None:
        """End the call behind its last answer; see seam.Call."""
        check_metadata(trailers)
        with self._changed:
            self._last_word = (code, message, trailers)
            self._say_last_word()
            self._changed.notify_all()

    def _is_open(self, ticket: int) -> bool:
        is_ahead = self._next <= ticket < self._tickets
        return is_ahead and ticket not in self._early and ticket not in self._detached

    def _promote(self) -> None:
        """Queue the answers whose turn has come."""
        while True:
            if (due := self._early.pop(self._next, None)) is not None:
                self._queue(due, 1)
            elif self._next in self._detached:
                self._detached.remove(self._next)
            else:
                return
            self._next += 1

    def _queue(self, message: bytes, settles: int) -> None:
        self._has_begun = True
        self._outgoing.append((message, settles))
        self._outgoing_bytes += len(message)

    def _has_room(self, share: int = 1) -> bool:
        """Tell whether the outgoing window, or one share of so many, is not full."""
        is_short = len(self._outgoing) * share < self._limits.stream_window
        return is_short and self._outgoing_bytes * share <= self._limits.outgoing_window_bytes

    def _finish_detached(self, count: int) -> None:
        self._unfinished = max(0, self._unfinished - count)
        self._say_last_word()

    def _say_last_word(self) -> None:
        is_complete = self._next == self._tickets and not self._unfinished
        if self._last_word is not None and is_complete:
            self._set_status(*self._last_word)

    def settle(self, count: int) -> None:
        """Let the peer send count more messages; see seam.Call."""
        with self._changed:
            self._finish_detached(count)
        self._settle(count)

    def _settle(self, count: int) -> None:
        if not count:
            return
        with self._changed:
            for _ in range(min(count, len(self._sizes))):
                self._unsettled_bytes -= self._sizes.popleft()
            self._changed.notify_all()

    def finish(
        self, code: Code, message: str = "", *, reply: bytes | None = None, trailers: Metadata = ()
    ) -> None:
        """End the call behind what was sent; see seam.Call."""
        del reply  # a stream sends its answers
        check_metadata(trailers)
        with self._changed:
            if self._set_status(code, message, trailers):
                self._changed.notify_all()

    @property
    def _ended(self) -> bool:
        return self.abandoned or self._status is not None

    def _next_answer(self) -> tuple[bytes, int] | None:
        with self._changed:
            while not self._outgoing and not self._ended:
                self._changed.wait()  # ends at the latest with the call: `abandon`
            if self.abandoned or not self._outgoing:
                return None
            answer = self._outgoing.popleft()
            self._outgoing_bytes -= len(answer[0])
            if self._is_awaited and not self._ended and self._has_room(share=2):
                self._is_awaited = False
                self._on_room(self)
            return answer


def _fitting(message: str) -> str:
    """Return as much of a status message as peers take: it travels percent-encoded in a header."""
    if message.isascii() and len(message) * 3 <= _MAX_STATUS_BYTES:
        return message
    size = 0
    for index, character in enumerate(message):
        encoded = character.encode(errors="replace")
        size += sum(1 if 0x20 <= byte < 0x7F and byte != ord("%") else 3 for byte in encoded)
        if size > _MAX_STATUS_BYTES:
            return message[:index].encode(errors="replace").decode() + "..."
    return message.encode(errors="replace").decode()
