"""Where the contents of each input of a request are: in shared memory, raw or typed."""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from service.errors import InvalidRequest, shown
from service.pb.grpc_service_pb2 import ModelInferRequest
from service.rpc.regions import Regions, Window
from service.rpc.tensor_parameters import place_of

Input: TypeAlias = ModelInferRequest.InferInputTensor
# A window into shared memory; raw contents; None: typed contents, in the input itself.
Source: TypeAlias = Window | bytes | None
Sources: TypeAlias = Mapping[str, Source]


def locate_inputs(model: str, request: ModelInferRequest, regions: Regions) -> Sources:
    """Return the source of each input by its name, in the order of the request.

    request: names no input twice.
    Raises InvalidRequest for an input without exactly one, and RequestError as Regions does.
    """
    raws = request.raw_input_contents
    left = iter(raws)
    sources: dict[str, Source] = {}
    shared = 0  # bytes of the inputs that are in shared memory
    for tensor in request.inputs:
        window = _window(model, tensor, regions) if tensor.parameters else None
        if window is not None:
            sources[tensor.name] = window
            shared += window.size
        elif raws:
            sources[tensor.name] = _raw(model, tensor, left)
        elif tensor.HasField("contents") or 0 in tensor.shape:
            sources[tensor.name] = None
        else:
            raise _no_data(model, tensor)
    regions.check_read(shared)
    return sources


def check_raw_count(model: str, request: ModelInferRequest, sources: Sources) -> None:
    """Raise InvalidRequest if there are raw contents of no input."""
    count = len(request.raw_input_contents)
    expected = sum([1 for source in sources.values() if isinstance(source, bytes)])
    if count != expected:
        raise InvalidRequest(
            f"expected {expected} raw_input_contents for model '{model}', one an input, got {count}"
        )


def _window(model: str, tensor: Input, regions: Regions) -> Window | None:
    place = place_of(tensor)
    if place is None:
        return None
    if tensor.HasField("contents"):
        raise InvalidRequest(
            "unexpected 'content' provided when using shared memory for input tensor "
            f"'{shown(tensor.name)}' for model '{model}'"
        )
    return regions.window(place)


def _raw(model: str, tensor: Input, left: Iterator[bytes]) -> bytes:
    if tensor.HasField("contents"):
        raise InvalidRequest(
            "contents field must not be specified when using raw_input_contents for "
            f"'{shown(tensor.name)}' for model '{model}'"
        )
    raw = next(left, None)
    if raw is None:
        raise _no_data(model, tensor)
    return raw


def _no_data(model: str, tensor: Input) -> InvalidRequest:
    return InvalidRequest(
        f"unable to find data for input tensor '{shown(tensor.name)}' for model '{model}' in "
        "request."
    )
