"""A ModelInferRequest into tensors, checked step by step in the order of Triton.

So of several faults the same one is told: first names that stand twice, then where the inputs
are, where the outputs go, which outputs there are, and at last what is wrong with the inputs.
"""

from typing import NamedTuple

from service.errors import InvalidRequest, shown
from service.inference.validation import (
    as_text,
    batch_rows,
    check_input_names,
    check_shape,
    check_unique,
)
from service.pb.grpc_service_pb2 import ModelInferRequest
from service.rpc.contents import to_tensor
from service.rpc.delivery import Delivery, wanted_outputs
from service.rpc.regions import NO_REGIONS, Regions, Window
from service.rpc.sources import Sources, check_raw_count, locate_inputs
from service.rpc.wire import check_counts
from service.tensors import BY_WIRE, BYTES, Signature, Tensors


class Decoded(NamedTuple):
    """What a request brings and wants.

    sources: where the inputs were. outputs: names of those to compute. delivery: None if they go
    into the answer as they are.
    """

    inputs: Tensors
    sources: Sources
    rows: int
    outputs: tuple[str, ...]
    delivery: Delivery | None

    @property
    def is_shared(self) -> bool:
        """Tell whether an input was in shared memory."""
        return any(isinstance(source, Window) for source in self.sources.values())


def decode_request(
    model: str, signature: Signature, request: ModelInferRequest, regions: Regions = NO_REGIONS
) -> Decoded:
    """Return what a request brings and wants, valid against the signature.

    Raw contents become read-only views. What is in shared memory is copied: nothing that its
    client changes later reaches the model.
    Raises InvalidRequest with Triton's texts, and RequestError as Regions does.
    """
    check_counts("inputs", request.inputs)
    check_counts("outputs", request.outputs)
    check_unique("input", [tensor.name for tensor in request.inputs])
    check_unique("output", [output.name for output in request.outputs])
    sources = locate_inputs(model, request, regions)
    outputs, delivery = wanted_outputs(model, signature, request, regions)
    inputs = _decode_inputs(model, signature, request, sources)
    return Decoded(inputs, sources, batch_rows(model, signature, inputs), outputs, delivery)


def _decode_inputs(
    model: str, signature: Signature, request: ModelInferRequest, sources: Sources
) -> Tensors:
    check_input_names(model, signature, list(sources))
    check_raw_count(model, request, sources)  # which Triton passes over
    arrays: Tensors = {}
    has_bytes = False
    for tensor in request.inputs:
        spec = signature.input(tensor.name)
        if spec is None:
            raise InvalidRequest(f"unexpected inference input '{shown(tensor.name)}'")
        shape = tuple(tensor.shape)
        datatype = BY_WIRE.get(tensor.datatype)
        check_shape(model, spec, datatype, tensor.datatype, shape, batched=signature.batched)
        has_bytes = has_bytes or spec.datatype is BYTES
        arrays[spec.name] = to_tensor(model, spec, shape, tensor, sources[spec.name])
    return as_text(arrays, signature) if has_bytes and not signature.takes_bytes else arrays
