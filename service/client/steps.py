"""The steps of a sequence: its id, its flags, and when it is over. Waits for nothing."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from service.client.errors import SequenceEnded
from service.client.options import Parameter

_ID_BITS: Final = 63  # ids leave as int64, and are positive


class Steps:
    """What the requests of one sequence say of it. One step at a time."""

    def __init__(self, model: str, sequence_id: int | str | None, *, is_stream: bool) -> None:
        """sequence_id: None: a random integer. Raises ValueError for one that names nothing."""
        if sequence_id is None:
            sequence_id = secrets.randbits(_ID_BITS) or 1
        if not (sequence_id or is_stream):
            raise ValueError(
                f"sequence_id is {sequence_id!r}, which names no sequence: that needs stream=True "
                "and a server that keeps states for streams"
            )
        if isinstance(sequence_id, int) and sequence_id >> _ID_BITS:
            raise ValueError(f"sequence_id is {sequence_id}, expected an integer of 0 to 2**63-1")
        self.id = sequence_id
        self.taken = 0
        self._model = model
        self._over = ""

    @contextmanager
    def step(self, *, last: bool) -> Iterator[dict[str, Parameter]]:
        """Give the parameters of the next step; an error inside of the block ends the sequence.

        Raises SequenceEnded if it is over.
        """
        if self._over:
            raise SequenceEnded(self._model, self._over)
        parameters: dict[str, Parameter] = {}
        if self.id:
            parameters["sequence_id"] = self.id
        if not self.taken:
            parameters["sequence_start"] = True
        if last:
            parameters["sequence_end"] = True
        try:
            yield parameters
        except BaseException as error:
            self._over = f"has ended at step {self.taken}, which failed: {error!r}"
            raise
        self.taken += 1
        if last:
            self._over = f"has had its last step, number {self.taken - 1}"

    def close(self) -> None:
        """Let there be no more steps."""
        self._over = self._over or "is closed"
