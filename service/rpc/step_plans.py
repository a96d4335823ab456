"""Plans of requests that belong to sequences: recognised by their heads, but for the parameters.

The parameters tell which step of which sequence a request is, and differ from one to the next;
what they say is remembered by their bytes, and all else is a plan as of any other request.
"""

from dataclasses import replace
from typing import Final

from google.protobuf.message import DecodeError

from service.errors import RequestError
from service.pb.grpc_service_pb2 import ModelInferRequest
from service.rpc.parameters import RequestParameters, request_parameters
from service.rpc.plan import Cut, Plan, Plans
from service.rpc.sequences import Placed

_MAX_PARAMETERS: Final = 4096  # steps whose parameters are remembered
_MAX_BYTES: Final = 512  # of parameters that are


class StepPlans:
    """The plans of steps, by what is left of a head without its parameters."""

    def __init__(self) -> None:
        self._plans = Plans()
        self._parameters: dict[bytes, RequestParameters] = {}
        self._is_used = False

    def find(self, cut: Cut, generation: int, placed: Placed) -> Plan | None:
        """Return the plan of a step that came in like others before; None: it is to be judged."""
        if not self._is_used:
            return None
        plan = self._plans.get(cut.bare_head, generation)
        if plan is None:
            return None
        engine, parameters = plan.served.model.sequences, self._parameters_of(cut)
        if engine is None or parameters is None:
            return None
        step = placed.step(engine.spec, parameters.sequence)
        if step is None:
            return None
        if step is not parameters.sequence:  # its scope is the stream that it came on
            parameters = replace(parameters, sequence=step)
        return replace(plan, parameters=parameters)

    def keep(self, cut: Cut, plan: Plan) -> None:
        """Remember what a step was found to ask for."""
        self._is_used = True
        self._plans.get(cut.bare_head, plan.generation)  # those of an older one are forgotten
        self._plans.keep(cut.bare_head, plan)

    def _parameters_of(self, cut: Cut) -> RequestParameters | None:
        """Return what parameters say; None if they are wrong, which is told by who judges them."""
        start, end = cut.parameters
        text = cut.head[start:end]
        known = self._parameters.get(text)
        if known is None:
            try:
                known = request_parameters(ModelInferRequest.FromString(text))
            except (RequestError, DecodeError):
                return None
            if len(text) <= _MAX_BYTES:
                if len(self._parameters) >= _MAX_PARAMETERS:
                    self._parameters.clear()
                self._parameters[text] = known
        return known
