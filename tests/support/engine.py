"""An engine for a transport alone: it takes events, answers some methods by itself, records all."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from service.transport.seam import Arity, Call, Code, Event, Kind, Methods, Transport
from tests.support.waiting import WAIT_S

ECHO = "/test.Echo/Unary"  # the reply is the message
ECHO_STREAM = "/test.Echo/Stream"  # every message is sent back, the end is answered by the end
STATUS = "/test.Echo/Status"  # the message is JSON: code and text to finish with
HOLD = "/test.Hold/Unary"  # nothing happens: the test answers
HOLD_STREAM = "/test.Hold/Stream"
METHODS: Methods = {
    ECHO: Arity.UNARY,
    STATUS: Arity.UNARY,
    HOLD: Arity.UNARY,
    ECHO_STREAM: Arity.STREAM,
    HOLD_STREAM: Arity.STREAM,
}
_BURST = 64
_JOIN_S = 10.0


@dataclass
class Engine:
    """A running transport and everything that has come up from it."""

    transport: Transport
    addresses: list[str]
    events: list[Event] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        """Return the first address as a client takes it."""
        return self.addresses[0]

    def start(self) -> None:
        """Take events until the transport is closed."""
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the transport and join the thread."""
        self.transport.close()
        assert self._thread is not None
        self._thread.join(_JOIN_S)
        assert not self._thread.is_alive(), "take did not return after close"

    def seen(self, kind: Kind, method: str | None = None) -> list[Event]:
        """Return the events of a kind so far, in order."""
        with self._changed:
            return [
                event
                for event in self.events
                if event.kind is kind and method in (None, event.call.method)
            ]

    def of(self, call: Call) -> list[Kind]:
        """Return the kinds of the events of a call so far, in order."""
        with self._changed:
            return [event.kind for event in self.events if event.call is call]

    def wait_for(self, kind: Kind, method: str | None = None, count: int = 1) -> list[Event]:
        """Wait until so many events of a kind have come, and return them."""
        with self._changed:
            found: Callable[[], bool] = lambda: len(self.seen(kind, method)) >= count  # noqa: E731
            assert self._changed.wait_for(found, WAIT_S), f"{kind}: {self.events}"
            return self.seen(kind, method)

    def _loop(self) -> None:
        while not self.transport.closed:
            for event in self.transport.take(_BURST, None):
                _answer(event)
                with self._changed:
                    self.events.append(event)
                    self._changed.notify_all()


def _answer(event: Event) -> None:
    call = event.call
    if event.kind is Kind.REQUEST and call.method == ECHO:
        call.finish(Code.OK, reply=event.message)
    elif event.kind is Kind.REQUEST and call.method == STATUS:
        wanted = json.loads(event.message)
        call.finish(Code(wanted["code"]), wanted["text"])
    elif call.method == ECHO_STREAM and event.kind is Kind.MESSAGE:
        call.send(event.message, settles=1)
    elif call.method == ECHO_STREAM and event.kind is Kind.HALF_CLOSED:
        call.finish(Code.OK)
