"""CPU time of the engine for one request, without a network: bursts in, replies out.

    python benchmarks/engine.py MODEL.onnx [--burst 64] [--requests 50000] [--stream]

A transport that exists only in memory hands the dispatcher bursts of the same request and counts
the answers, so that a profiler sees decoding, scheduling, the run and encoding, and nothing else.
"""

import argparse
import threading
import time
from collections.abc import Mapping, Sequence

import numpy as np

from service.app.server import Server
from service.config import Settings
from service.pb.grpc_service_pb2 import ModelInferRequest
from service.rpc.methods import INFER, STREAM_INFER
from service.tensors import to_raw
from service.transport.seam import Code, Event, Kind, Metadata


class MemoryCall:
    """A call whose answers are counted and dropped."""

    def __init__(self, method: str, done: "Counter") -> None:
        self.method = method
        self.metadata: Metadata = ()
        self.peer = "memory"
        self.deadline = None
        self._done = done

    def send_initial_metadata(self, metadata: Metadata) -> None:
        """Drop it."""

    def send(self, message: bytes, *, settles: int = 0) -> bool:
        """Count one answer of a stream."""
        del message, settles
        self._done.add()
        return True

    def detach(self, ticket: int) -> None:
        """Do nothing: the model has one answer."""

    def answer(self, ticket: int, message: bytes) -> bool:
        """Count one answer of a stream."""
        del ticket
        return self.send(message)

    def finish_answered(self, code: Code, message: str = "", *, trailers: Metadata = ()) -> None:
        """Do nothing: the stream never ends."""

    def settle(self, count: int) -> None:
        """Do nothing: there is no window."""

    def finish(
        self, code: Code, message: str = "", *, reply: bytes | None = None, trailers: Metadata = ()
    ) -> None:
        """Count the answer of a unary call."""
        del reply, trailers
        if code is not Code.OK:
            raise SystemExit(f"{code.name}: {message}")
        self._done.add()


class Counter:
    """Counts answers; the last of a burst wakes up whoever waits."""

    def __init__(self) -> None:
        self.left = 0
        self._empty = threading.Event()
        self._empty.set()

    def expect(self, count: int) -> None:
        """Wait for the answers of the burst before, then expect count more."""
        self._empty.wait()
        self._empty.clear()
        self.left = count

    def add(self) -> None:
        """Count one."""
        self.left -= 1
        if not self.left:
            self._empty.set()


class MemoryTransport:
    """Bursts of one request until there were enough."""

    name = "memory"
    lane = None

    def __init__(self, message: bytes, burst: int, requests: int, *, stream: bool) -> None:
        self._message = message
        self._burst = burst
        self._left = requests
        self._counter = Counter()
        self._stream = MemoryCall(STREAM_INFER, self._counter) if stream else None
        self._opened = False
        self.closed = False

    def start(self) -> Sequence[str]:
        """Listen nowhere."""
        return []

    def take(self, max_events: int, timeout: float | None) -> list[Event]:
        """Return the next burst once the one before is answered."""
        del max_events, timeout
        if self._stream is not None and not self._opened:
            self._opened = True
            return [Event(Kind.OPENED, self._stream)]
        self._counter.expect(self._burst)
        if self._left <= 0:
            self.closed = True
            return []
        self._left -= self._burst
        if self._stream is not None:
            return [Event(Kind.MESSAGE, self._stream, self._message)] * self._burst
        return [
            Event(Kind.REQUEST, MemoryCall(INFER, self._counter), self._message)
            for _ in range(self._burst)
        ]

    def drain(self, timeout: float) -> bool:
        """Nothing is left."""
        del timeout
        return True

    def close(self) -> None:
        """Do nothing."""

    def reload_tls(self) -> None:
        """There is none."""

    def counters(self) -> Mapping[str, int]:
        """Count nothing."""
        return {}


def main() -> None:
    """Run and print microseconds of CPU a request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--burst", type=int, default=64)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--stream", action="store_true")
    arguments = parser.parse_args()
    server = Server(Settings(repository=arguments.model, port=0, http_port=0, threads=1))
    server.start()
    model = server.manager.servables()[0]
    message = request_of(model.name, model.signature.inputs)
    transport = MemoryTransport(
        message, arguments.burst, arguments.requests, stream=arguments.stream
    )
    wall, cpu = time.perf_counter(), time.process_time()
    server.dispatcher.start(transport)
    server.dispatcher.join(600)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    each = 1e6 / arguments.requests
    print(f"burst {arguments.burst}: {wall * each:.1f} us, {cpu * each:.1f} us CPU a request")
    server.abort()


def request_of(name: str, inputs: Sequence[object]) -> bytes:
    """Return a request of one row of ones for a model."""
    request = ModelInferRequest(model_name=name, id="7")
    for spec in inputs:
        shape = [1 if extent < 0 else extent for extent in spec.shape]  # type: ignore[attr-defined]
        datatype = spec.datatype  # type: ignore[attr-defined]
        request.inputs.add(name=spec.name, datatype=datatype.wire, shape=shape)  # type: ignore[attr-defined]
        request.raw_input_contents.append(to_raw(datatype, np.ones(shape, datatype.numpy)))
    return request.SerializeToString()


if __name__ == "__main__":
    main()
