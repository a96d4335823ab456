"""An infer request that is nothing but one tensor's contents, for models where that says it all."""

from service.errors import InvalidRequest, dims, shown
from service.pb.grpc_service_pb2 import ModelInferRequest
from service.rest.request import Forms
from service.tensors import BYTES, Shape, Signature, TensorSpec, element_count, join_bytes


def read_raw(
    model: str, version: str, signature: Signature, body: bytes
) -> tuple[ModelInferRequest, Forms]:
    """Return the request of one row whose only input has these contents; all answers are binary.

    The body of a BYTES tensor is its one element. Raises InvalidRequest if that leaves open what
    is meant: several inputs, or several extents that are not fixed.
    """
    if len(signature.inputs) != 1:
        raise InvalidRequest(
            f"a body without JSON (Inference-Header-Content-Length: 0) is for models with one "
            f"input, '{shown(model)}' has {len(signature.inputs)}"
        )
    (spec,) = signature.inputs
    shape = _shape(spec, len(body), is_batched=signature.batched)
    request = ModelInferRequest(model_name=model, model_version=version)
    request.inputs.add(name=spec.name, datatype=spec.datatype.wire, shape=shape)
    raw = join_bytes([body]) if spec.datatype is BYTES else body
    request.raw_input_contents.append(raw)
    return request, Forms(others=True, named={})


def _shape(spec: TensorSpec, size: int, *, is_batched: bool) -> Shape:
    """Return the extents with what is not fixed worked out of the size; the codec checks it."""
    shape = [1, *spec.shape[1:]] if is_batched else list(spec.shape)
    if spec.datatype is BYTES:
        shape = [1 if extent == -1 else extent for extent in shape]
        if element_count(shape) != 1:
            raise InvalidRequest(
                f"a body without JSON is one BYTES element, input '{spec.name}' has shape "
                f"{dims(spec.shape)}"
            )
        return tuple(shape)
    open_axes = [axis for axis, extent in enumerate(shape) if extent == -1]
    if len(open_axes) > 1:
        raise InvalidRequest(
            f"a body without JSON is for one extent that is not fixed, input '{spec.name}' has "
            f"shape {dims(spec.shape)}"
        )
    if open_axes:
        fixed = element_count(extent for extent in shape if extent != -1) * spec.datatype.itemsize
        shape[open_axes[0]] = size // fixed if fixed else 0
    return tuple(shape)
