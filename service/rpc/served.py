"""A model version with what encodes its answers and counts them."""

from service.inference.model import Model
from service.lifecycle.manager import Manager
from service.rpc.codec import ReplyEncoder
from service.rpc.delivery import DeliveringEncoder, Delivery
from service.transport.seam import Code


class ServedModel:
    """A model version as the infer RPCs use it."""

    __slots__ = ("asked", "encoder", "model", "scheduler")

    def __init__(self, model: Model, asked: str = "", encoder: ReplyEncoder | None = None) -> None:
        """model: to be used. asked: the version that requests name; "": the newest one.

        encoder: None: one that sends outputs as they are.
        """
        self.model = model
        self.asked = asked
        self.scheduler = model.scheduler
        self.encoder = encoder or ReplyEncoder(model.name, model.version, model.signature)

    def delivering(self, delivery: Delivery) -> "ServedModel":
        """Return the same for one request that wants its outputs elsewhere or otherwise."""
        model = self.model
        encoder = DeliveringEncoder(
            model.name, model.version, model.signature, model.labels, delivery
        )
        return ServedModel(model, self.asked, encoder)

    def record(self, code: Code, count: int = 1) -> None:
        """Count answers."""
        self.scheduler.stats.record_outcome(code.name, count)


class ServedModels:
    """The versions that requests have named, found once. For one thread."""

    def __init__(self, manager: Manager[Model]) -> None:
        self._manager = manager
        self._known: dict[tuple[str, str], ServedModel] = {}
        self._generation = -1

    def find(self, name: str, version: str) -> ServedModel:
        """Return the version that a request names. Raises as Manager.find."""
        model = self._manager.find(name, version)
        if self._generation != self._manager.generation:  # what is gone is let go of
            self._known.clear()
            self._generation = self._manager.generation
        key = (model.name, model.version if version else "")
        served = self._known.get(key)
        if served is None or served.model is not model:
            served = self._known[key] = ServedModel(model, key[1])
        return served
