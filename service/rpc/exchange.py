"""What a request brings along: who asks, and where the answer goes."""

from typing import Protocol

from service.inference.request import Outcome
from service.rpc.served import ServedModel
from service.tensors import Tensors
from service.transport.seam import Metadata


class Exchange(Protocol):
    """One request and the place where its answer goes."""

    served: ServedModel
    request_id: str
    wants_empty_final: bool

    def begin(self, served: ServedModel) -> None:
        """Note which model answers. Raises Unsupported if its answers cannot be given here."""

    def responded(self, outputs: Tensors) -> bool:
        """Give one of several responses. False: the next one is to wait for room."""

    def ended(self, outcome: Outcome) -> None:
        """Answer with the outcome."""


class Identified(Protocol):
    """A call, or what will become one."""

    @property
    def metadata(self) -> Metadata:
        """What its caller sent; see seam.Call."""
