"""grpc.health.v1: Check, List and Watch for the server and for each model."""

import threading
from collections.abc import Callable, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from service.errors import InvalidRequest, UnknownModel, shown
from service.pb.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)
from service.transport.seam import Call, Code

SERVER: Final = ("", "inference.GRPCInferenceService")
LIVENESS: Final = "liveness"  # serving as long as the process answers, for liveness probes

Serving = HealthCheckResponse.ServingStatus


class HealthService:
    """Answers from the state of the server at the moment; watchers hear of every change."""

    def __init__(
        self,
        is_ready: Callable[[], bool],
        model_names: Callable[[], Sequence[str]],
        is_model_ready: Callable[[str], bool],
    ) -> None:
        self._is_ready = is_ready
        self._model_names = model_names
        self._is_model_ready = is_model_ready
        self._lock = threading.Lock()
        self._watches: set[HealthWatch] = set()
        self.draining = False

    def status(self, name: str) -> int:
        """Return the ServingStatus of a name; SERVICE_UNKNOWN if it is not known."""
        if name == LIVENESS:
            return Serving.SERVING
        if name in SERVER:
            ready = self._is_ready()
        elif name in self._model_names():
            ready = self._is_model_ready(name)
        else:
            return Serving.SERVICE_UNKNOWN
        return Serving.SERVING if ready and not self.draining else Serving.NOT_SERVING

    def check(self, message: bytes) -> bytes:
        """Answer Check. Raises UnknownModel (NOT_FOUND) for an unknown name."""
        name = _parse_name(message)
        status = self.status(name)
        if status == Serving.SERVICE_UNKNOWN:
            raise UnknownModel(f"unknown service '{shown(name)}'")
        return HealthCheckResponse(status=status).SerializeToString()  # type: ignore[arg-type]

    def list(self, message: bytes) -> bytes:
        """Answer List."""
        try:
            HealthListRequest.FromString(message)
        except DecodeError:
            raise InvalidRequest("malformed request: not a HealthListRequest") from None
        names = (*SERVER, LIVENESS, *self._model_names())
        statuses = {
            name: HealthCheckResponse(status=self.status(name))  # type: ignore[arg-type]
            for name in names
        }
        return HealthListResponse(statuses=statuses).SerializeToString()

    def watch(self, call: Call) -> "HealthWatch":
        """Open a Watch on a call."""
        return HealthWatch(self, call)

    def changed(self) -> None:
        """Tell every watcher whose status has changed."""
        with self._lock:
            watches = list(self._watches)
        for watch in watches:
            watch.update()

    def add(self, watch: "HealthWatch") -> None:
        """Keep a watch informed."""
        with self._lock:
            self._watches.add(watch)

    def discard(self, watch: "HealthWatch") -> None:
        """Forget a watch."""
        with self._lock:
            self._watches.discard(watch)


class HealthWatch:
    """One Watch call: the status at once, then every change, until the caller leaves."""

    def __init__(self, service: HealthService, call: Call) -> None:
        self._service = service
        self._call = call
        self._lock = threading.Lock()
        self._name: str | None = None
        self._last = -1

    def message(self, ticket: int, message: bytes) -> None:
        """Take the request."""
        del ticket  # it is not answered by one message, but by any number
        if self._name is not None:
            self._service.discard(self)
            self._call.finish(Code.INVALID_ARGUMENT, "Watch takes one request")
            return
        try:
            self._name = _parse_name(message)
        except InvalidRequest as error:
            self._call.finish(Code.INVALID_ARGUMENT, str(error))
            return
        self._call.settle(1)
        self._service.add(self)
        self.update()

    def half_closed(self) -> None:
        """Go on: a caller of Watch closes its side after the request."""
        if self._name is None:
            self._call.finish(Code.INVALID_ARGUMENT, "Watch takes one request, got none")

    def cancelled(self) -> None:
        """Forget the caller."""
        self._service.discard(self)

    def drain(self) -> None:
        """End the call: the server is going away."""
        self._service.discard(self)
        self._call.finish(Code.UNAVAILABLE, "the server is shutting down")

    def update(self) -> None:
        """Send the status if it is not what was sent last."""
        with self._lock:
            status = self._service.status(self._name or "")
            if status != self._last:
                self._last = status
                answer = HealthCheckResponse(status=status)  # type: ignore[arg-type]
                self._call.send(answer.SerializeToString())


def _parse_name(message: bytes) -> str:
    try:
        return HealthCheckRequest.FromString(message).service
    except DecodeError:
        raise InvalidRequest("malformed request: not a HealthCheckRequest") from None
