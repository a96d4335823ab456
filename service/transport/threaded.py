"""The transport on grpcio's thread-based server: runs anywhere, needs no compiler.

Every call in progress holds one thread, a stream holds two: one reads, one writes. It is the
reference that other transports are compared with.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any, Final

import grpc

from service.errors import SettingsError
from service.transport.grpcio_options import options_of
from service.transport.seam import Arity, Event, Kind, Limits, Methods, Tls
from service.transport.threaded_calls import StreamCall, UnaryCall
from service.transport.tls_files import TlsFiles

_WAKE: Final = None  # wakes up `take` when the transport is closed


class ThreadedTransport:
    """A gRPC server on grpcio; see seam.Transport."""

    name = "threaded"
    lane = None

    def __init__(
        self,
        addresses: Sequence[str],
        methods: Methods,
        limits: Limits | None = None,
        tls: Tls | None = None,
        *,
        compress_replies: bool = False,
    ) -> None:
        """Set up without listening yet.

        addresses: "HOST:PORT" or "unix:PATH"; port 0: any.
        compress_replies: with gzip, for peers that take it and where it pays.
        """
        self._addresses = addresses
        self._limits = limits or Limits()
        self._tls = TlsFiles(tls) if tls else None
        self._events: SimpleQueue[Event | None] = SimpleQueue()
        self._counts = _Counts()
        self._handlers = _Handlers(
            methods, self._limits, self._events.put, self._counts, compresses=compress_replies
        )
        self._pool = ThreadPoolExecutor(self._limits.concurrent_calls, "grpc-call")
        self._server = grpc.server(
            self._pool,
            handlers=[self._handlers],
            options=options_of(self._limits, compress_replies=compress_replies),
            maximum_concurrent_rpcs=self._limits.concurrent_calls,
        )
        self._closed = False

    def start(self) -> Sequence[str]:
        """Listen; see seam.Transport."""
        bound = [self._bind(address) for address in self._addresses]
        self._server.start()
        return bound

    def take(self, max_events: int, timeout: float | None) -> list[Event]:
        """Wait for events; see seam.Transport."""
        events: list[Event] = []
        try:
            event = self._events.get(not self._closed, timeout)
            while event is not _WAKE:
                events.append(event)
                if len(events) == max_events:
                    return events
                event = self._events.get_nowait()
        except Empty:
            pass
        return events

    def drain(self, timeout: float) -> bool:
        """Refuse new calls and wait for those in progress; see seam.Transport."""
        deadline = time.monotonic() + timeout
        self._handlers.refuses = True
        finished = self._counts.wait_until_idle(timeout)
        # What comes after it was stopped, grpcio ends as CANCELLED, which clients do not try
        # elsewhere: until they have noticed, calls are refused as UNAVAILABLE.
        self._counts.wait_until_quiet(min(deadline, time.monotonic() + _CALM_S))
        self._server.stop(max(0.0, deadline - time.monotonic())).wait(_ABORT_S)
        return finished

    def reload_tls(self) -> None:
        """Load the TLS files now; see seam.Transport."""
        if self._tls is not None:
            self._tls.reload()

    def close(self) -> None:
        """Abort what is left; see seam.Transport."""
        self._server.stop(0).wait(_ABORT_S)
        self._closed = True
        self._events.put(_WAKE)
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def closed(self) -> bool:
        """True after close."""
        return self._closed

    def counters(self) -> Mapping[str, int]:
        """Return totals; see seam.Transport."""
        counts = self._counts.snapshot()
        if self._tls is not None:
            counts["tls_reloads_total"] = self._tls.reloads
            counts["tls_reload_failures_total"] = self._tls.failures
        return counts

    def _bind(self, address: str) -> str:
        # grpcio takes a Unix socket away from the server that listens on it.
        if address.startswith("unix:") and _is_answered(address.removeprefix("unix:")):
            raise SettingsError(f"cannot listen on {address}: Address already in use")
        try:
            if self._tls is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, self._tls.credentials())
        except RuntimeError as error:
            raise SettingsError(f"cannot listen on {address}: {_bind_error(address)}") from error
        return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


_ABORT_S: Final = 5.0  # for handlers to notice that their calls were aborted
_QUIET_S: Final = 0.1  # without a new call, and the clients have noticed that the server leaves
_CALM_S: Final = 2.0  # for them to notice


class _Counts:
    """Calls in progress and totals."""

    def __init__(self) -> None:
        self._idle = threading.Condition()
        self._active = 0
        self._last_call = 0.0  # when the last one came
        self._totals = {
            "calls_total": 0,
            "streams_total": 0,
            "resets_total": 0,  # the peer left, or the deadline passed
            "refused_draining_total": 0,
        }

    def opened(self, *, streaming: bool) -> None:
        with self._idle:
            self._active += 1
            self._last_call = time.monotonic()
            self._totals["calls_total"] += 1
            self._totals["streams_total"] += streaming

    def refused(self) -> None:
        with self._idle:
            self._last_call = time.monotonic()
            self._totals["refused_draining_total"] += 1

    def ended(self, *, cancelled: bool) -> None:
        with self._idle:
            self._active -= 1
            self._totals["resets_total"] += cancelled
            if not self._active:
                self._idle.notify_all()

    def wait_until_idle(self, timeout: float) -> bool:
        with self._idle:
            return self._idle.wait_for(lambda: not self._active, timeout)

    def wait_until_quiet(self, deadline: float) -> None:
        """Wait until no call has come for a while, or until deadline."""
        with self._idle:
            while (until := min(deadline, self._last_call + _QUIET_S)) > (now := time.monotonic()):
                self._idle.wait(until - now)

    def snapshot(self) -> dict[str, int]:
        with self._idle:
            return {**self._totals, "calls": self._active}


class _Handlers(grpc.GenericRpcHandler):
    """Finds the handler of a method by its full name."""

    def __init__(
        self,
        methods: Methods,
        limits: Limits,
        emit: Callable[[Event], None],
        counts: _Counts,
        *,
        compresses: bool,
    ) -> None:
        self._limits = limits
        self._emit = emit
        self._counts = counts
        self._methods = methods
        self._compresses = compresses
        self.refuses = False

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        details = (handler_call_details.method, handler_call_details.invocation_metadata)
        arity = self._methods.get(details[0])
        if self.refuses and arity is not None:
            return grpc.stream_stream_rpc_method_handler(self._refuse)
        if arity is Arity.UNARY:
            return grpc.unary_unary_rpc_method_handler(
                lambda message, context: self._unary(details, message, context)
            )
        if arity is Arity.STREAM:
            return grpc.stream_stream_rpc_method_handler(
                lambda messages, context: self._stream(details, messages, context)
            )
        return None

    def _refuse(self, _messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._counts.refused()
        return iter(context.abort(grpc.StatusCode.UNAVAILABLE, "The server is shutting down"))

    def _unary(self, details: Any, message: bytes, context: grpc.ServicerContext) -> bytes:
        call = UnaryCall(details, context, compresses=self._compresses)
        self._counts.opened(streaming=False)
        try:
            if not context.add_callback(lambda: self._terminated(call)):
                call.abandon()
                return b""
            self._emit(Event(Kind.REQUEST, call, message))
            return call.wait()
        finally:
            self._counts.ended(cancelled=call.abandoned)

    def _stream(
        self, details: Any, messages: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        call = StreamCall(
            details,
            context,
            self._limits,
            lambda call: self._emit(Event(Kind.WRITABLE, call)),
            compresses=self._compresses,
        )
        self._counts.opened(streaming=True)
        try:
            if not context.add_callback(lambda: self._terminated(call)):
                call.abandon()
                return
            self._emit(Event(Kind.OPENED, call))
            reader = threading.Thread(
                target=self._read, args=(call, messages), name="grpc-read", daemon=True
            )
            reader.start()
            yield from call.answers()
        finally:
            self._counts.ended(cancelled=call.abandoned)

    def _read(self, call: StreamCall, messages: Iterator[bytes]) -> None:
        try:
            for message in messages:
                ticket = call.admit(len(message))
                if ticket is None:
                    return
                self._emit(Event(Kind.MESSAGE, call, message, ticket))
        except grpc.RpcError:
            return  # the call was cancelled: its termination tells the engine
        call.emit_unless_ended(lambda: self._emit(Event(Kind.HALF_CLOSED, call)))

    def _terminated(self, call: UnaryCall | StreamCall) -> None:
        if call.abandon():
            self._emit(Event(Kind.CANCELLED, call))


def _is_answered(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _bind_error(address: str) -> str:
    """Find out why an address cannot be bound: grpcio does not say."""
    if address.startswith("unix:"):
        return "not a path where a socket can be made"
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        number = int(port)
        family = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, number))
    except OSError as error:
        return error.strerror or str(error)
    except (ValueError, OverflowError):
        return "not HOST:PORT"
    return "gRPC could not bind it"
