"""Which sequence a request belongs to: by its parameters, or by the stream that it came on."""

from dataclasses import replace

from service.errors import InvalidRequest, shown
from service.inference.model import Model
from service.inference.request import SequenceStep
from service.pb.grpc_service_pb2 import ModelInferRequest
from service.repository.sequences import Scope


def step_of(
    model: Model,
    request: ModelInferRequest,
    wanted: SequenceStep | None,
    stream: object | None,
    *,
    stream_state: bool,
) -> SequenceStep | None:
    """Return the step of a sequence that a request is; None if it is none.

    wanted: what its parameters say. stream: the stream that it came on. stream_state: streams are
    sequences of any model that says nothing else.
    Raises InvalidRequest if a client sends what the server keeps for it.
    """
    engine = model.sequences
    if engine is None:
        return None  # as Triton, which reads the parameters of sequences where there are some
    spec = engine.spec
    if spec.scope is Scope.ID or (spec.scope is Scope.DEFAULT and not stream_state):
        stream = None
    sent = next((t.name for t in request.inputs if t.name in engine.hidden_inputs), None)
    if spec.is_inferred:
        if not (wanted is not None and wanted.id) and (sent is not None or stream is None):
            return None  # it brings its states along, as if nobody kept any
        if sent is None and stream is None and wanted is None:
            return None
    if sent is not None:
        raise InvalidRequest(
            f"input '{shown(sent)}' of model '{model.name}' is kept by the server from one request "
            "of a sequence to the next: leave it out"
        )
    if stream is None:
        return wanted
    return replace(wanted or SequenceStep(0, start=False, end=False), scope=stream)
