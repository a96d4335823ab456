"""Requests that look like one before: recognised by their bytes, decoded without parsing.

A client that sends many requests of one shape sends the same bytes each time, but for the id and
the raw contents. Those bytes, the head, were judged when they came first; what was found is
kept as a plan. Later requests with an equal head are cut along field borders and become views on
the message: nothing is parsed, checked twice or copied.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from service.errors import RequestError
from service.inference.request import Key
from service.rpc.parameters import RequestParameters
from service.rpc.regions import NO_REGIONS, Regions, Window
from service.rpc.served import ServedModel
from service.rpc.sources import Sources
from service.tensors import BOOL, BYTES, Shape, Signature, Tensors, element_count

_MAX_HEAD: Final = 4096  # bytes of a head that is kept
_MAX_PLANS: Final = 512
# Tags of ModelInferRequest's fields, all length-delimited, in the order in which they are written.
_ID, _PARAMETER, _RAW = 0x1A, 0x22, 0x3A
_HEAD: Final = frozenset((0x0A, 0x12, 0x22, 0x2A, 0x32))


class Cut(NamedTuple):
    """A message cut along its fields.

    raws: start and end of each of the raw contents. parameters: where those of the request are in
    the head.
    """

    head: bytes
    request_id: bytes
    raws: list[tuple[int, int]]
    parameters: tuple[int, int] = (0, 0)

    @property
    def bare_head(self) -> bytes:
        """Return the head without the parameters of the request."""
        start, end = self.parameters
        return self.head[:start] + self.head[end:] if end else self.head


@dataclass(frozen=True, slots=True)
class PlannedInput:
    """One input as the head declares it.

    size: bytes of its contents. window: where they are in shared memory; None: in the message.
    """

    name: str
    dtype: np.dtype[Any]
    shape: Shape
    size: int
    window: Window | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a head was found to ask for."""

    served: ServedModel
    inputs: tuple[PlannedInput, ...]
    outputs: tuple[str, ...]
    rows: int
    key: Key
    parameters: RequestParameters
    generation: int = 0  # of the manager, when the head was judged
    may_bundle: bool = True  # its requests may be answered by the lane, as contents and no more
    windows: tuple[Window, ...] = ()  # that outputs are written to

    @property
    def is_batched(self) -> bool:
        """Tell whether axis 0 of every tensor has the rows."""
        return self.served.model.signature.batched

    @property
    def size(self) -> int:
        """Return the bytes of all contents of one request."""
        return sum([entry.size for entry in self.inputs])

    def decode(self, message: bytes, cut: Cut) -> Tensors | None:
        """Return the inputs as views on message; None if a size is not what the head says."""
        raws = cut.raws
        if len(raws) != len(self.inputs):
            return None
        arrays: Tensors = {}
        for entry, (start, end) in zip(self.inputs, raws, strict=True):
            if end - start != entry.size:
                return None
            flat = np.frombuffer(message, entry.dtype, element_count(entry.shape), start)
            arrays[entry.name] = flat.reshape(entry.shape)
        return arrays


@dataclass(frozen=True, slots=True)
class SharedPlan(Plan):
    """A plan with shared memory in it. Its windows are good while no name means anything else."""

    regions: Regions = NO_REGIONS
    regions_generation: int = -1  # when the windows were found

    def decode(self, message: bytes, cut: Cut) -> Tensors | None:
        """Return the inputs as views on message and on copies; None if it has to be judged anew."""
        if self.regions.generation != self.regions_generation:
            return None
        if len(cut.raws) != len([entry for entry in self.inputs if entry.window is None]):
            return None
        raws = iter(cut.raws)
        arrays: Tensors = {}
        for entry in self.inputs:
            if entry.window is not None:
                try:
                    contents, start = entry.window.read(), 0
                except RequestError:  # it is told by whoever judges it
                    return None
            else:
                contents, (start, end) = message, next(raws)
                if end - start != entry.size:
                    return None
            flat = np.frombuffer(contents, entry.dtype, element_count(entry.shape), start)
            arrays[entry.name] = flat.reshape(entry.shape)
        return arrays


class Plans:
    """The plans of all models, by head. Forgotten whenever the set of served versions changes."""

    def __init__(self) -> None:
        self._plans: dict[bytes, Plan] = {}
        self._generation = -1

    def get(self, head: bytes, generation: int) -> Plan | None:
        """Return the plan of a head that was judged under this generation of the manager."""
        if generation != self._generation:
            self._plans.clear()
            self._generation = generation
        return self._plans.get(head)

    def keep(self, head: bytes, plan: Plan) -> bool:
        """Remember what a head was found to ask for. False: all others were forgotten for it."""
        is_full = len(self._plans) >= _MAX_PLANS
        if len(head) > _MAX_HEAD:
            return True
        if is_full:
            self._plans.clear()
        self._plans[head] = plan
        return not is_full


_MAX_PARTS: Final = 1024  # more than wire.check_part_counts lets through


def cut_message(message: bytes) -> Cut | None:  # noqa: C901, PLR0911, PLR0912  one loop, for every request
    """Cut a serialised ModelInferRequest; None if it is not written as libraries write it.

    What is cut is not judged: a head is only good for looking up a plan.
    """
    at, end, last, parts = 0, len(message), 0, 0
    id_at = id_start = id_end = 0
    head_end = -1
    parameters_at = parameters_end = 0
    raws: list[tuple[int, int]] = []
    while at + 1 < end and (parts := parts + 1) <= _MAX_PARTS:
        tag, length, start = message[at], message[at + 1], at + 2
        if length > 0x7F:
            length &= 0x7F
            shift = 7
            while start < end and shift < 35:
                byte = message[start]
                start += 1
                length |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            else:
                return None
        stop = start + length
        if tag < last or stop > end:
            return None
        if tag == _RAW:
            if head_end < 0:
                head_end = at
            raws.append((start, stop))
        elif tag == _ID:
            if last == _ID:
                return None
            id_at, id_start, id_end = at, start, stop
        elif tag == _PARAMETER:
            if last != _PARAMETER:
                parameters_at = at
            parameters_end = stop
        elif tag not in _HEAD:
            return None
        last, at = tag, stop
    # Without raw contents everything is in shared memory; or typed, and then it is no plan's head.
    if at != end or (not raws and end > _MAX_HEAD):
        return None
    head_end = head_end if raws else end
    head = message[:id_at] + message[id_end:head_end] if id_end else message[:head_end]
    if not parameters_end:
        return Cut(head, message[id_start:id_end], raws)
    shift = id_end - id_at  # the id stands before them
    parameters = (parameters_at - shift, parameters_end - shift)
    return Cut(head, message[id_start:id_end], raws, parameters)


def planned_inputs(
    signature: Signature, inputs: Tensors, sources: Sources
) -> tuple[PlannedInput, ...]:
    """Return how the inputs of a judged request are decoded again; none if they cannot be.

    BOOL, BYTES and typed contents are not views on a message.
    """
    planned = []
    for name, source in sources.items():
        spec = signature.input(name)
        if source is None or spec is None or spec.datatype in (BOOL, BYTES):
            return ()
        window = source if isinstance(source, Window) else None
        shape = inputs[name].shape
        size = element_count(shape) * spec.datatype.itemsize
        planned.append(PlannedInput(name, spec.datatype.numpy, shape, size, window))
    return tuple(planned)
