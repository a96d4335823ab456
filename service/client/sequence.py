"""A sequence for threads: steps of one model that share a state at the server."""

import threading
from collections.abc import Generator, Iterable
from types import TracebackType
from typing import Self, Unpack

from service.client.link import Link
from service.client.options import RequestOptions, Wishes, replaced
from service.client.requests import Inputs
from service.client.responses import Outputs
from service.client.steps import Steps
from service.client.stream import Stream


class Sequence:
    """One sequence. The first step starts it, one with last=True ends it.

    A sequence that is left without its last step is not told to the server, for an end needs
    inputs to run: the server frees it when it has been idle for as long as the model allows, or,
    if its state belongs to a stream, at once. An error ends the sequence. `id` is its id.
    """

    def __init__(
        self,
        link: Link,
        model: str,
        wishes: Wishes,
        sequence_id: int | str | None,
        *,
        is_stream: bool,
    ) -> None:
        self._link = link
        self._model = model
        self._wishes = wishes
        self._steps = Steps(model, sequence_id, is_stream=is_stream)
        self._lock = threading.Lock()
        self._stream: Stream | None = None
        if is_stream:  # decoupled: a model may answer the last step alone, and then says so
            self._stream = Stream(link, model, wishes, window=1, is_decoupled=True)
        self.id = self._steps.id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def step(
        self, inputs: Inputs, *, last: bool = False, **options: Unpack[RequestOptions]
    ) -> Outputs:
        """Take one step and return its outputs. options: in place of those of the sequence.

        Raises RequestRefused and the other ClientErrors, SequenceEnded after the last step or
        an error, and TypeError for an array that no datatype can carry, which ends nothing.
        """
        wishes = replaced(self._wishes, options)
        encoded = self._link.encode(self._model, inputs, wishes)
        with self._lock, self._steps.step(last=last) as flags:
            if self._stream is not None:
                self._stream.send_encoded(encoded, wishes, flags)
                return self._stream.recv().result()
            call = self._link.core.infer_call(self._model, encoded, wishes, **flags)
            return self._link.run(call, wishes, is_step=True)

    def run(self, inputs: Iterable[Inputs]) -> Generator[Outputs, None, None]:
        """Take a step for each element of inputs and yield the outputs; the last step ends it.

        A step is taken when the element behind it is there, or there is none.
        """
        each = iter(inputs)
        current = next(each, None)
        while current is not None:
            following = next(each, None)
            yield self.step(current, last=following is None)
            current = following

    def close(self) -> None:
        """Take no more steps."""
        self._steps.close()
        if self._stream is not None:
            self._stream.close()
