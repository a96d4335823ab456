"""The method table and the ingress loop: events from the transport to the RPCs they belong to."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final, Protocol

from service.errors import RequestError, ShuttingDown
from service.rpc.health import HealthService
from service.rpc.infer import InferService
from service.rpc.methods import (
    CATEGORY_OF,
    HEALTH,
    INFER,
    INFERENCE,
    STREAM_INFER,
    AnyAnswer,
    Later,
    Service,
    Slow,
    inference_answers,
)
from service.rpc.reflection import VERSIONS, Reflection
from service.rpc.restrict import Restrictions
from service.rpc.slow_calls import SlowCalls
from service.rpc.status import status_of
from service.rpc.stream_infer import StreamCall, StreamInfer
from service.rpc.unary_infer import UnaryInfer
from service.transport.seam import (
    Arity,
    Bundle,
    Call,
    Code,
    Event,
    Kind,
    Metadata,
    Methods,
    Transport,
)

_LOG = logging.getLogger(__name__)
_BURST: Final = 256  # events taken at once


class Stream(Protocol):
    """What becomes of a streaming call. All but `drain` are called on the ingress thread."""

    def message(self, ticket: int, message: bytes) -> None:
        """Take one message. ticket: its place in the order of answers."""

    def half_closed(self) -> None:
        """Note that no message follows."""

    def cancelled(self) -> None:
        """Free everything: the caller has left."""

    def drain(self) -> None:
        """End the call as soon as what was accepted is answered."""


class Dispatcher:
    """Owns the ingress thread. Everything an RPC means is in what it is given."""

    def __init__(
        self,
        services: Iterable[Service],
        health: HealthService,
        infer: InferService,
        *,
        reflection: bool,
        restrictions: Restrictions | None = None,
    ) -> None:
        """services: answer the unary RPCs of GRPCInferenceService; others are UNIMPLEMENTED."""
        self._restrictions = restrictions or None  # None also if nothing is restricted
        self._health = health
        self._infer = infer
        self._unary = UnaryInfer(infer)
        self._answers: Mapping[str, AnyAnswer] = {
            **inference_answers(services),
            f"/{HEALTH}/Check": health.check,
            f"/{HEALTH}/List": health.list,
        }
        kinds = {answer.kind for answer in self._answers.values() if isinstance(answer, Slow)}
        self._slow = {kind: SlowCalls(kind) for kind in kinds}
        self._openers: dict[str, Callable[[StreamCall], Stream]] = {
            STREAM_INFER: lambda call: StreamInfer(infer, call),
            f"/{HEALTH}/Watch": health.watch,
        }
        if reflection:
            self._add_reflection()
        self._streams: dict[Call, Stream] = {}
        self._lock = threading.Lock()  # guards _streams against drain
        self._thread: threading.Thread | None = None

    @property
    def methods(self) -> Methods:
        """Return what the transport is to serve."""
        unary = dict.fromkeys([*self._answers, INFER], Arity.UNARY)
        return {**unary, **dict.fromkeys(self._openers, Arity.STREAM)}

    def start(self, transport: Transport) -> None:
        """Take events on a thread of our own until the transport is closed."""
        self._infer.use_lane(transport.lane, self.methods.__getitem__, self._infer_stream)
        self._thread = threading.Thread(
            target=self._loop, args=(transport,), name="ingress", daemon=True
        )
        self._thread.start()

    def request(self, call: Call, message: bytes) -> None:
        """Have a unary call other than ModelInfer answered; its caller may be on any thread."""
        try:
            if self._restrictions is not None:
                self._restrictions.check(CATEGORY_OF.get(call.method), call.metadata)
            answer = self._answers[call.method]
            if isinstance(answer, Slow):
                key = answer.key(message)
                self._slow[answer.kind].submit(call, key, answer.answer, message)
            elif isinstance(answer, Later):
                answer.begin(message, partial(_reply, call))
            else:
                _reply(call, answer(message))
        except RequestError as error:
            code, text = status_of(error)
            _LOG.debug("%s of %s: %s: %s", call.method, call.peer, code.name, text)
            call.finish(code, text)

    def left(self, call: Call) -> None:
        """Note that the caller of a call given to `request` has left."""
        for slow in self._slow.values():
            slow.cancelled(call)

    def drain(self) -> None:
        """Refuse new infer requests and end streams once they are answered."""
        self._health.draining = True
        self._health.changed()
        with self._lock:
            self._infer.drain(self._end_streams)
            streams = list(self._streams.values())
        for stream in streams:
            stream.drain()
        self._refuse_slow()

    def join(self, timeout: float) -> None:
        """Wait for the threads after the transport was closed."""
        self._refuse_slow()
        for slow in self._slow.values():
            slow.join(timeout)
        if self._thread is not None:
            self._thread.join(timeout)

    def _loop(self, transport: Transport) -> None:
        while not transport.closed:
            for event in transport.take(_BURST, None):
                self._try(event)
            self._infer.flush()

    def _try(self, event: Event) -> None:
        try:
            self._handle(event)
        except Exception as error:  # noqa: BLE001  one event must not stop all others
            self._give_up(event, error)

    def _give_up(self, event: Event, error: Exception) -> None:
        code, text = status_of(error)
        bundle = event.bundle
        if bundle is None:
            event.call.finish(code, text)
            self._cancelled(event.call)
        elif event.kind is Kind.BUNDLE:  # else it is on its way, and will be answered
            for call, _, _ in bundle.members():
                call.finish(code, text)
                self._cancelled(call)
            bundle.clear()

    def _handle(self, event: Event) -> None:
        kind, call, bundle = event.kind, event.call, event.bundle
        if bundle is not None:
            self._bundle(kind, bundle)
        elif kind is Kind.REQUEST:
            self._request(call, event.message)
        elif kind is Kind.OPENED:
            self._open(call)
        elif kind is Kind.CANCELLED:
            self._cancelled(call)
        elif (stream := self._streams.get(call)) is not None:  # else: we ended it before
            if kind is Kind.MESSAGE:
                stream.message(event.ticket, event.message)
            elif kind is Kind.HALF_CLOSED:
                stream.half_closed()
            elif isinstance(stream, StreamInfer):
                stream.writable()

    def _bundle(self, kind: Kind, bundle: Bundle) -> None:
        if kind is Kind.SHRUNK:
            self._infer.shrink(bundle)
        elif not self._infer.submit_bundle(bundle):
            for event in bundle.events():
                self._try(event)

    def _end_streams(self) -> None:
        """End the streams that waited for sequences to end."""
        with self._lock:
            streams = [s for s in self._streams.values() if isinstance(s, StreamInfer)]
        for stream in streams:
            stream.drain()

    def _infer_stream(self, call: Call) -> StreamInfer | None:
        stream = self._streams.get(call)
        return stream if isinstance(stream, StreamInfer) else None

    def _request(self, call: Call, message: bytes) -> None:
        if call.method == INFER:
            self._unary.request(call, message)
        else:
            self.request(call, message)

    def _cancelled(self, call: Call) -> None:
        with self._lock:
            stream = self._streams.pop(call, None)
        if stream is not None:
            stream.cancelled()
        else:
            self._unary.cancelled(call)
            self.left(call)

    def _refuse_slow(self) -> None:
        for slow in self._slow.values():
            slow.drain()

    def _add_reflection(self) -> None:
        services = [INFERENCE, HEALTH]
        services += [f"grpc.reflection.{version}.ServerReflection" for version in VERSIONS]
        for version in VERSIONS:
            method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
            self._openers[method] = lambda call, version=version: Reflection(  # type: ignore[misc]
                version, services, call
            )

    def _open(self, call: Call) -> None:
        if self._restrictions is not None:
            self._restrictions.check(CATEGORY_OF.get(call.method), call.metadata)
        tracked = _TrackedCall(call, self._forget)
        with self._lock:  # with `drain`: a stream is refused here, or ended there
            is_draining = self._infer.draining
            if not is_draining:
                self._streams[call] = self._openers[call.method](tracked)
        if is_draining:
            call.finish(*status_of(ShuttingDown()))

    def _forget(self, call: Call) -> None:
        with self._lock:
            self._streams.pop(call, None)


def _reply(call: Call, reply: bytes) -> None:
    _LOG.debug("%s of %s: OK", call.method, call.peer)
    call.finish(Code.OK, reply=reply)


class _TrackedCall:
    """A streaming call that tells when it has been finished, or need not be known any more."""

    def __init__(self, call: Call, on_finish: Callable[[Call], None]) -> None:
        self.send_initial_metadata = call.send_initial_metadata
        self.send = call.send
        self.settle = call.settle
        self.answer = call.answer
        self.detach = call.detach
        self.finish_answered = call.finish_answered
        self.method = call.method
        self.metadata = call.metadata
        self.peer = call.peer
        self.deadline = call.deadline
        self._call = call
        self._on_finish = on_finish

    def finish(
        self, code: Code, message: str = "", *, reply: bytes | None = None, trailers: Metadata = ()
    ) -> None:
        """End the call and forget it; see seam.Call."""
        self.forget()
        self._call.finish(code, message, reply=reply, trailers=trailers)

    def forget(self) -> None:
        """Note that nothing that happens to the call is of interest any more."""
        self._on_finish(self._call)
