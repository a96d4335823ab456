"""A model version with what encodes its answers and counts them."""

from service.inference.model import Model
from service.rpc.codec import ReplyEncoder
from service.rpc.delivery import DeliveringEncoder, Delivery
from service.transport.seam import Code


class ServedModel:
    """A model version as the infer RPCs use it."""

    __slots__ = ("encoder", "model", "scheduler")

    def __init__(self, model: Model, encoder: ReplyEncoder | None = None) -> None:
        """model: to be used. encoder: None: one that sends outputs as they are."""
        self.model = model
        self.scheduler = model.scheduler
        self.encoder = encoder or ReplyEncoder(model.name, model.version, model.signature)

    def delivering(self, delivery: Delivery) -> "ServedModel":
        """Return the same for one request that wants its outputs elsewhere or otherwise."""
        model = self.model
        encoder = DeliveringEncoder(
            model.name, model.version, model.signature, model.labels, delivery
        )
        return ServedModel(model, encoder)

    def record(self, code: Code, count: int = 1) -> None:
        """Count answers."""
        self.scheduler.stats.record_outcome(code.name, count)
