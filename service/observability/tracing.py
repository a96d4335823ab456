"""Which requests are traced, and what a trace says. Off unless the server was given a file.

The settings are those of Triton: of the server, and of single models where they differ. Nothing
here is on the way of a request while `is_on` is False.
"""

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from service.observability.trace_file import TraceFile
from service.tensors import Array, Tensors, TensorSpec

TIMESTAMPS: Final = "TIMESTAMPS"
TENSORS: Final = "TENSORS"
_MAX_TENSOR: Final = 64 << 10  # bytes; of a larger one only name, shape and datatype are told

Value: TypeAlias = int | tuple[str, ...]
_SERVER: Final = ""  # stands for the settings of the server where models have names


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """level: what a trace tells, () is nothing. rate: of so many requests one is traced.

    count: how many more are traced, -1 is any. log_frequency: traces in one file, 0 is any.
    """

    level: tuple[str, ...] = ()
    rate: int = 1000
    count: int = -1
    log_frequency: int = 0

    @property
    def is_on(self) -> bool:
        """Tell whether they let anything be traced."""
        return bool(self.level and self.rate and self.count)


DEFAULTS: Final = TraceSettings()


@dataclass(slots=True)
class Trace:
    """One request that is traced. Times are nanoseconds of the monotonic clock.

    counter: whose count it is one of, by the name of its settings. id: given when it is counted.
    """

    model: str
    version: str
    settings: TraceSettings
    counter: str
    id: int = 0
    request_id: str = ""
    times: list[tuple[str, int]] = field(default_factory=list)
    tensors: list[dict[str, Any]] = field(default_factory=list)

    def note(self, name: str, ns: int) -> None:
        """Say when something happened."""
        self.times.append((name, ns))

    def keep(self, activity: str, arrays: Tensors, specs: Sequence[TensorSpec]) -> None:
        """Say what tensors were, if that is wanted; contents are copied. specs: of any."""
        if TENSORS not in self.settings.level:
            return
        for spec in specs:
            if (array := arrays.get(spec.name)) is not None:
                self.tensors.append({"activity": activity, "tensor": _described(spec, array)})

    def records(self) -> list[dict[str, Any]]:
        """Return the objects of Triton's form."""
        head: dict[str, Any] = {
            "id": self.id,
            "model_name": self.model,
            "model_version": int(self.version),
            "request_id": self.request_id,
        }
        if TIMESTAMPS in self.settings.level:
            head["timestamps"] = [{"name": name, "ns": ns} for name, ns in self.times]
        return [head, *({"id": self.id, **tensor} for tensor in self.tensors)]


class Tracer:
    """The settings, and the traces that they ask for. Methods may be called from any thread."""

    def __init__(self, path: str = "", on_change: Callable[[], None] = lambda: None) -> None:
        """Trace nothing yet.

        path: of the file; "": settings can be made, and nothing is traced. on_change: called when
        other models are traced than before.
        """
        self.path = path
        self.is_on = False  # whether any request may be traced; read without the lock
        self._on_change = on_change
        self._file = TraceFile(path) if path else None
        self._lock = threading.Lock()  # guards all that follows
        self._own: dict[str, dict[str, Value]] = {_SERVER: {}}
        self._seen: Counter[str] = Counter()
        self._begun: Counter[str] = Counter()  # traces that are not counted yet, by counter
        self._traced: dict[str, bool] = {_SERVER: False}  # which have settings, and trace
        self._ids = itertools.count(1)

    def settings(self, model: str = _SERVER) -> TraceSettings:
        """Return what holds for a model, or for all that have no settings of their own."""
        with self._lock:
            return self._resolve(model)

    def update(self, model: str, changes: Mapping[str, Value | None]) -> None:
        """Change settings by the names of TraceSettings; None gives up what was set before."""
        with self._lock:
            own = self._own.setdefault(model, {})
            for name, value in changes.items():
                if value is None:
                    own.pop(name, None)
                else:
                    own[name] = value
            if model and not own:
                del self._own[model]
        self._refresh()

    def traces(self, model: str) -> bool:
        """Tell whether requests of a model are looked at one by one."""
        return self.is_on and self.settings(model).is_on

    def sample(self, model: str, version: str) -> Trace | None:
        """Return the trace of a request that has come, None if it is not traced.

        Every trace goes to `count` or to `discard`, once.
        """
        with self._lock:
            settings = self._resolve(model)
            if not settings.is_on:
                return None
            scope = model if model in self._own else _SERVER
            self._seen[scope] += 1
            if self._seen[scope] % settings.rate:
                return None
            counter = model if "count" in self._own.get(model, {}) else _SERVER
            if 0 < settings.count <= self._begun[counter]:
                return None  # those that are under way are all that are asked for
            self._begun[counter] += 1
            return Trace(model, version, settings, counter)

    def count(self, trace: Trace) -> bool:
        """Count a trace, whose request ends. False if it is not wanted any more."""
        with self._lock:
            self._begun[trace.counter] -= 1
            own = self._own.get(trace.counter, {})
            count = own.get("count", -1)
            if isinstance(count, int) and count > 0:
                own["count"] = count - 1
            trace.id = next(self._ids)
        if count == 1:
            self._refresh()
        return count != 0

    def write(self, trace: Trace) -> None:
        """Hand a trace to the file, which is written by a thread of its own."""
        if self._file is not None:
            self._file.put(trace.records(), trace.settings.log_frequency)

    def discard(self, trace: Trace) -> None:
        """Forget a trace, of a request that was refused after all: another one is in its place."""
        with self._lock:
            self._begun[trace.counter] -= 1

    def dropped(self) -> int:
        """Return how many traces were not written."""
        return self._file.dropped if self._file is not None else 0

    def close(self) -> None:
        """Write what is left."""
        if self._file is not None:
            self._file.close()

    def _resolve(self, model: str) -> TraceSettings:
        return TraceSettings(**{**self._own[_SERVER], **self._own.get(model, {})})  # type: ignore[arg-type]

    def _refresh(self) -> None:
        with self._lock:
            traced = {model: self._resolve(model).is_on for model in self._own}
            # Also those that are not: which are looked at one by one hangs on both.
            changed = traced != self._traced
            self._traced = traced
            self.is_on = any(traced.values()) and self._file is not None
        if changed and self._file is not None:
            self._on_change()


def _described(spec: TensorSpec, array: Array) -> dict[str, str]:
    tensor = {"name": spec.name, "shape": _joined(array.shape), "dtype": spec.datatype.wire}
    if array.nbytes <= _MAX_TENSOR and not array.dtype.hasobject:
        tensor["data"] = _joined(array.reshape(-1).tolist())
    return tensor


def _joined(values: Sequence[object]) -> str:
    return ",".join(map(str, values))
