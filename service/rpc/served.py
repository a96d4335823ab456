"""A model version with what encodes its answers and counts them."""

from service.inference.model import Model
from service.rpc.codec import ReplyEncoder
from service.transport.seam import Code


class ServedModel:
    """A model version as the infer RPCs use it."""

    __slots__ = ("encoder", "model", "scheduler")

    def __init__(self, model: Model) -> None:
        self.model = model
        self.scheduler = model.scheduler
        self.encoder = ReplyEncoder(model.name, model.version, model.signature)

    def record(self, code: Code, count: int = 1) -> None:
        """Count answers."""
        self.scheduler.stats.record_outcome(code.name, count)
