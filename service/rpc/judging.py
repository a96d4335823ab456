"""What a request asks for that is not recognised: it is checked, and made into a plan."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from service.errors import RequestError, shown
from service.inference.model import Model
from service.inference.request import Parameter, batch_key
from service.lifecycle.manager import Manager
from service.pb.grpc_service_pb2 import ModelInferRequest
from service.rpc.decoding import decode_request
from service.rpc.parameters import request_parameters
from service.rpc.plan import Plan, PlannedInput, SharedPlan, planned_inputs
from service.rpc.regions import Regions
from service.rpc.sequences import Placed
from service.rpc.served import ServedModel
from service.tensors import Tensors


class Context(NamedTuple):
    """What matters of the call that a request came on.

    stream: None for a call of its own. forwarded: parameters that come from its headers, and win.
    """

    stream: object | None
    forwarded: Mapping[str, Parameter]


class Judge:
    """Makes a plan of any request, or refuses it."""

    def __init__(self, manager: Manager[Model], regions: Regions, *, stream_state: bool) -> None:
        """stream_state: streams are sequences of any model that says nothing else."""
        self._manager = manager
        self._regions = regions
        self._stream_state = stream_state

    def plan(
        self, served: ServedModel, request: ModelInferRequest, context: Context
    ) -> tuple[Plan, Tensors]:
        """Return what a request asks for of its model, and its inputs.

        The plan has inputs only if requests that look like this one can be decoded by it.
        Raises RequestError with the id of the request before the text.
        """
        model = served.model
        regions_generation = self._regions.generation  # before any window is looked for
        try:
            parameters = request_parameters(request)
            if context.forwarded:
                custom = {**parameters.custom, **context.forwarded}
                parameters = replace(parameters, custom=custom)
            placed = Placed(context.stream, self._stream_state)
            parameters, signature = placed.step_of(model, request, parameters)
            decoded = decode_request(model.name, signature, request, self._regions)
        except RequestError as error:
            prefix = f"[request id: {shown(request.id) or '<id_unknown>'}] "
            raise type(error)(prefix + str(error)) from None
        inputs, delivery = decoded.inputs, decoded.delivery
        planned: tuple[PlannedInput, ...] = ()
        has_step = model.sequences is not None and parameters.sequence is not None
        if parameters.is_plain or (has_step and not decoded.is_shared):
            planned = planned_inputs(signature, inputs, decoded.sources)
        rows, outputs, key = decoded.rows, decoded.outputs, batch_key(signature, inputs)
        generation = self._manager.generation
        if delivery is None and not decoded.is_shared:
            return Plan(served, planned, outputs, rows, key, parameters, generation), inputs
        plan = SharedPlan(
            served if delivery is None else served.delivering(delivery),
            planned,
            outputs,
            rows,
            key,
            parameters,
            generation,
            may_bundle=False,
            windows=() if delivery is None else tuple(delivery.windows.values()),
            regions=self._regions,
            regions_generation=regions_generation,
        )
        return plan, inputs
