"""What the operator has chosen for infer requests."""

from dataclasses import dataclass, field
from typing import Final

from service.observability.tracing import Tracer
from service.rpc.forward import Forward
from service.rpc.restrict import Restrictions


@dataclass(frozen=True, slots=True)
class InferOptions:
    """How infer requests are taken.

    stream_state: a stream is a sequence, for models with states that say nothing else.
    forward: picks the headers that become parameters of requests. restrictions: who may infer.
    tracer: which requests are traced.
    """

    stream_state: bool = False
    forward: Forward | None = None
    restrictions: Restrictions | None = None
    tracer: Tracer = field(default_factory=Tracer)


DEFAULT_OPTIONS: Final = InferOptions()
