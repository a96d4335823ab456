"""The classification extension: the best elements of an output in place of all of them."""

from dataclasses import dataclass
from typing import Any

from service.client.errors import MalformedAnswer
from service.client.responses import Outputs


@dataclass(frozen=True, slots=True)
class Ranked:
    """One of the best elements of an output. index: its place among them. label: "" if none."""

    value: float
    index: int
    label: str


def rankings(outputs: Outputs) -> dict[str, Any]:
    """Return the best elements of each output, best first: a list, or lists of them for a batch.

    Raises MalformedAnswer for what is no VALUE:INDEX[:LABEL].
    """
    return {name: _nested(name, texts.tolist()) for name, texts in outputs.items()}


def _nested(name: str, texts: Any) -> Any:
    if isinstance(texts, list):
        return [_nested(name, each) for each in texts]
    try:
        value, index, *label = texts.decode().split(":", 2)
        return Ranked(float(value), int(index), label[0] if label else "")
    except (AttributeError, ValueError):
        raise MalformedAnswer(
            f"output '{name}' has {texts!r} where VALUE:INDEX or VALUE:INDEX:LABEL was due"
        ) from None
