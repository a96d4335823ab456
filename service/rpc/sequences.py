"""Which sequence a request belongs to: by its parameters, or by the stream that it came on."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from service.errors import InvalidRequest, RequestError, shown
from service.inference.model import Model
from service.inference.request import SequenceStep
from service.lifecycle.manager import Manager
from service.pb.grpc_service_pb2 import ModelInferRequest
from service.repository.sequences import Scope, SequenceSpec
from service.rpc.parameters import RequestParameters
from service.tensors import Signature


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a request came in.

    stream: None for a call of its own. stream_state: streams are sequences of any model that says
    nothing else.
    """

    stream: object | None
    stream_state: bool

    def step(self, spec: SequenceSpec, wanted: SequenceStep | None) -> SequenceStep | None:
        """Return the step that a request is which sends no state; None if it is none.

        wanted: what its parameters say.
        """
        scope = self.scope_in(spec.scope)
        if scope is None:
            return wanted if wanted is not None and (wanted.id or not spec.is_inferred) else None
        if wanted is None:
            return SequenceStep(0, start=False, end=False, scope=scope)
        return replace(wanted, id=wanted.id or 0, scope=scope)  # "" too names the stream's own

    def scope_in(self, scope: Scope) -> object | None:
        """Return the stream if it is what ids are private to; None if that is the model."""
        is_stream = scope is Scope.STREAM or (scope is Scope.DEFAULT and self.stream_state)
        return self.stream if is_stream else None

    def step_of(
        self, model: Model, request: ModelInferRequest, parameters: RequestParameters
    ) -> tuple[RequestParameters, Signature]:
        """Return what a request means to a model with states, and what it is to be valid against.

        Raises InvalidRequest if a client sends what the server keeps for it.
        """
        engine = model.sequences
        if engine is None:
            return parameters, model.signature
        wanted, scope = parameters.sequence, self.scope_in(engine.spec.scope)
        names = (tensor.name for tensor in request.inputs)
        sent = next((name for name in names if name in engine.hidden_inputs), None)
        has_id = wanted is not None and bool(wanted.id)
        if engine.spec.is_inferred and not has_id and (sent is not None or scope is None):
            # It brings its states along, as if nobody kept any.
            _check_states(model, engine.hidden_inputs, request)
            return replace(parameters, sequence=None), model.signature
        if sent is not None:
            raise InvalidRequest(
                f"input '{shown(sent)}' of model '{model.name}' is kept by the server from one "
                "request of a sequence to the next: leave it out"
            )
        step = self.step(engine.spec, wanted)
        return replace(parameters, sequence=step), engine.signature


def _check_states(model: Model, states: Collection[str], request: ModelInferRequest) -> None:
    """Tell who sends all inputs but the states, and forgot the id perhaps, what to do."""
    given = {tensor.name for tensor in request.inputs}
    required = [spec.name for spec in model.signature.inputs if not spec.optional]
    missing = [name for name in required if name not in given]
    if missing and all(name in states for name in missing) and given.isdisjoint(states):
        raise InvalidRequest(
            f"missing required input(s) {missing} of model '{model.name}', which are its state: "
            "give a sequence_id for the server to keep it, and sequence_start with the first "
            "request; or use a stream of a server with --stream-state; or send the state"
        )


def goes_on(manager: Manager[Model], request: ModelInferRequest) -> bool:
    """Tell whether a request may belong to a sequence, which a server that drains lets end.

    A model that can also be called without any refuses that by itself.
    """
    try:
        return manager.find(request.model_name, request.model_version).sequences is not None
    except RequestError:
        return False


def drain_sequences(manager: Manager[Model], on_fewer: Callable[[], None]) -> None:
    """Refuse new sequences of every model; see SequenceEngine.drain."""
    for model in manager.servables():
        if model.sequences is not None:
            model.sequences.drain(on_fewer)
