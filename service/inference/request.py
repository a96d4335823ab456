"""One request on its way through the scheduler, and its single end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from service.errors import RequestCancelled, RequestError
from service.inference.backend import Interrupt
from service.tensors import Array, Signature, Tensors

Key: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]
Parameter: TypeAlias = bool | int | float | str
_NO_PARAMETERS: Mapping[str, Parameter] = {}


# These are made for every request; freezing them would triple the cost of making them.
@dataclass(slots=True)
class Timings:
    """Where the time of one answered request went, in nanoseconds."""

    queue_ns: int  # from acceptance to the start of its batch
    compute_ns: int  # assembling, running and splitting its batch
    infer_ns: int = 0  # of that, running
    input_ns: int = 0  # of that, assembling


NO_TIMINGS = Timings(0, 0)


@dataclass(slots=True)
class Outcome:
    """How a request ended: with outputs, or with the error.

    Neither: it was answered by any number of responses before, and nothing is left to say.
    """

    outputs: Tensors | None
    error: RequestError | None
    timings: Timings


OnEnd: TypeAlias = Callable[[Outcome], None]
OnResponse: TypeAlias = Callable[[Tensors], bool]


def _no_responses(_outputs: Tensors) -> bool:
    raise TypeError("this request takes one answer, which ends it")


@dataclass(frozen=True, slots=True)
class SequenceStep:
    """Which sequence a request belongs to, and whether it begins or ends it.

    id: an integer of 64 bits without sign, or a text; 0 and "" name no sequence. An integer and
    the text of it are different sequences. scope: what the id is private to; None: the model.
    """

    id: int | str
    start: bool
    end: bool
    scope: object = None


@dataclass(slots=True)
class Run:
    """One execution and how many still wait for it. Owned by the scheduler, under its lock."""

    members: int
    interrupt: Interrupt = field(default_factory=Interrupt)


class Request:
    """A valid request, or several that are served as one. It ends once, whoever ends it first.

    inputs: arrays valid against the signature; freed when the request ends.
    outputs: names of the outputs wanted, in the caller's order.
    rows: rows in axis 0 of a batched model, 1 otherwise.
    count: how many requests of callers it stands for.
    came: when it came, by the scheduler's clock, if it waited elsewhere before.
    is_part: its success is none of a caller's: more parts of the same request follow.
    idle_rows: those of its rows that are there for their place only, and belong to nobody.
    deadline: time.monotonic seconds at which the last caller gives up; None: never.
    first_deadline: at which the first one does; the same unless it is given.
    priority: level of the queue, 1 the highest; 0: the model's default.
    timeout_us: longest wait in the queue that the caller asks for; 0: the model's default.
    key: batch_key of the inputs, if the caller knows it.
    size: bytes of the inputs, if the caller knows it.
    parameters: of the request, that the model may look at.
    sequence: the step of a sequence that this is; None: it belongs to none.
    on_end: told the outcome once, on the thread that ends the request.
    on_response: told each response before the end, for those that take several; returns False
    when its producer is to wait until `resume`.
    id: as the caller gave it, for models that look at it.
    """

    __slots__ = (
        "_on_end", "arrived", "bytes", "came", "count", "deadline", "first_deadline", "id",
        "idle_rows", "inputs", "is_part", "key", "on_leave", "on_response", "on_room", "outputs",
        "parameters", "priority", "rows", "run", "sequence", "timeout_us", "waiting",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913  what a request is made of, by keyword
        self,
        inputs: Tensors,
        outputs: tuple[str, ...],
        *,
        rows: int,
        on_end: OnEnd,
        deadline: float | None = None,
        priority: int = 0,
        timeout_us: int = 0,
        key: Key | None = None,
        count: int = 1,
        size: int | None = None,
        parameters: Mapping[str, Parameter] = _NO_PARAMETERS,
        sequence: SequenceStep | None = None,
        on_response: OnResponse = _no_responses,
        id: str = "",  # noqa: A002  the protocol's word
    ) -> None:
        self.id = id
        self.on_response = on_response
        self.inputs = inputs
        self.outputs = outputs
        self.rows = rows
        self.count = count
        self.idle_rows = 0
        self.came: float | None = None
        self.is_part = False
        self.deadline = self.first_deadline = deadline
        self.priority = priority
        self.timeout_us = timeout_us
        self.bytes = (
            sum([array_bytes(array) for array in inputs.values()]) if size is None else size
        )
        self.key = key
        self.parameters = parameters
        self.sequence = sequence
        # The rest belongs to the scheduler.
        self.arrived = 0.0
        self.waiting = False
        self.run: Run | None = None
        self.on_leave: Callable[[Request], None] | None = None
        self.on_room: Callable[[], None] | None = None
        self._on_end = [on_end]

    @property
    def ended(self) -> bool:
        """True once the outcome has been told, or is being told."""
        return not self._on_end

    def claim(self) -> Tensors:
        """Return the inputs, at the moment when the request is run. Empty if it has ended."""
        return self.inputs

    def strip(self) -> None:
        """Let go of what nobody waits for any more, while some still wait."""

    def singles(self) -> "Sequence[Request]":
        """Return what can be run for itself when a run with others has failed."""
        return (self,)

    @property
    def is_counted(self) -> bool:
        """Tell whether its success is one of a caller's, who has not left."""
        return not (self.is_part or self.ended)

    def waits(self, queue_ns: int) -> Sequence[tuple[int, int]]:
        """Return how long the requests waited that it stands for, and how many so long.

        Those whose callers have left while others wait are none of them.
        queue_ns: since `arrived`, in nanoseconds, which the result is in as well.
        """
        if self.came is not None:
            queue_ns += max(0, int((self.arrived - self.came) * 1e9))
        return ((queue_ns, self.count),)

    def respond(self, outputs: Tensors) -> bool:
        """Give one response that is not the end. False: wait until `on_room` is called.

        Called by one thread at a time. After the end it does nothing.
        """
        return self.ended or self.on_response(outputs)

    def resume(self) -> None:
        """Say that there is room for more responses."""
        if (on_room := self.on_room) is not None:
            on_room()

    def complete(self, outputs: Tensors | None, timings: Timings = NO_TIMINGS) -> bool:
        """End the request with its outputs, or None after its responses. False if it had ended."""
        return self._end(Outcome(outputs, None, timings))

    def fail(self, error: RequestError) -> bool:
        """End the request with an error. False if it had ended before."""
        return self._end(Outcome(None, error, NO_TIMINGS))

    def cancel(self) -> bool:
        """End the request because its caller has left. False if it had ended before."""
        return self._end(Outcome(None, RequestCancelled(), NO_TIMINGS))

    def _end(self, outcome: Outcome) -> bool:
        try:
            on_end = self._on_end.pop()  # atomic: of two threads that end it, one gets it
        except IndexError:
            return False
        self.inputs = {}
        if (on_leave := self.on_leave) is not None:
            on_leave(self)
        on_end(outcome)
        return True


def array_bytes(array: Array) -> int:
    """Return the bytes that an array holds; of strings the characters, not the references."""
    if array.dtype.hasobject:
        return array.nbytes + sum(map(len, array.reshape(-1).tolist()))
    return array.nbytes


def batch_key(signature: Signature, inputs: Tensors) -> Key:
    """Return what requests must have in common to share a batch: names and row shapes."""
    skip = 1 if signature.batched else 0
    return tuple([(name, array.shape[skip:]) for name, array in inputs.items()])
