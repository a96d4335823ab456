"""The centre: what scheduling asks of a model, and nothing more."""

from collections.abc import Callable, Sequence
from typing import Protocol

from service.tensors import Signature, Tensors


class Interrupt:
    """Stops one run from another thread, before or while it runs. Its run is bound at most once."""

    def __init__(self) -> None:
        self.requested = False
        self._stop: Callable[[], None] | None = None

    def bind(self, stop: Callable[[], None]) -> None:
        """Set what stops the run; called at once if a stop was requested before."""
        self._stop = stop
        if self.requested:
            stop()

    def request(self) -> None:
        """Ask the run to stop; idempotent."""
        self.requested = True
        stop = self._stop  # read once: the run may end meanwhile
        if stop is not None:
            stop()

    def unbind(self) -> bool:
        """Forget what stops the run, which is over. True if it was not called and never will be.

        `request` sets its mark before it looks for what to call, and this the other way round: one
        of the two sees the other.
        """
        self._stop = None
        return not self.requested


class Backend(Protocol):
    """A loaded model. `run` may be called by several threads at once."""

    @property
    def signature(self) -> Signature:
        """What the model takes and gives, as clients see it."""

    def run(self, inputs: Tensors, outputs: Sequence[str], interrupt: Interrupt) -> Tensors:
        """Run the model once and return the outputs asked for, by name.

        inputs: valid against the signature; if it is batched, all with the same rows in axis 0.
        The arrays are borrowed: they may be read-only and are not kept after the return.
        outputs: names of the signature, at least one.
        Raises BackendError if the run fails, BackendInterrupted if it was stopped.
        """

    def close(self) -> None:
        """Free the model. Nothing runs any more when this is called."""
