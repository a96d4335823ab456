"""Requests are judged step by step: of two faults the one is told that Triton finds first."""

from collections.abc import Callable
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pytest

from service.errors import RegionLimit, RequestError
from service.pb.grpc_service_pb2 import ModelInferRequest
from service.rpc.decoding import decode_request
from service.rpc.regions import Place, Region, Regions, SystemOrigin, Window
from service.tensors import FP32, Signature, TensorSpec
from tests.support.requests import raw_request
from tests.support.shared import place

SIGNATURE = Signature(
    tuple(TensorSpec(name, FP32, (-1, 2)) for name in ("A", "B")),
    tuple(TensorSpec(name, FP32, (-1, 2)) for name in ("Z", "Y")),
    batched=True,
)


class Memory:
    """Memory of zeros that remembers how often it was read."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self, offset: int, size: int) -> bytes:  # noqa: ARG002  it is the same everywhere
        """Return zeros."""
        self.reads += 1
        return bytes(size)

    def write(self, offset: int, contents: bytes) -> None:
        """Write nothing."""

    def close(self) -> None:
        """Close nothing."""


class CountingRegions(Regions):
    """A region "r" of 64 bytes, half of which one request may read, and how often it is found."""

    def __init__(self) -> None:
        super().__init__(enabled=True, limit=1, max_read_bytes=32)
        self.memory = Memory()
        self.found = 0
        self.register(Region("r", self.memory, 64, SystemOrigin("/k", 0)))

    def window(self, place: Place) -> Window:
        """Count what is found."""
        window = super().window(place)
        self.found += 1
        return window


def good_request() -> ModelInferRequest:
    """Return a request for Y with both inputs in the message."""
    sent = {name: (FP32, np.zeros((1, 2), np.float32)) for name in ("A", "B")}
    return raw_request("m", sent, outputs=["Y"])


def shared_request(size: int = 8) -> ModelInferRequest:
    """Return a request for Y with both inputs and the output in shared memory."""
    request = good_request()
    request.ClearField("raw_input_contents")
    for index, tensor in enumerate(request.inputs):
        place(tensor, "r", size, index * 16)
    place(request.outputs[0], "r", size, 32)
    return request


class Fault(NamedTuple):
    """What is done to a good request, and the text with which it is refused then."""

    name: str
    apply: Callable[[ModelInferRequest], object]
    text: str


def _twice(request: ModelInferRequest) -> None:
    request.inputs.add().CopyFrom(request.inputs[0])
    request.raw_input_contents.append(bytes(8))


def _shape(request: ModelInferRequest) -> None:
    request.inputs[0].shape[1] = 3


def _rows(request: ModelInferRequest) -> None:
    request.inputs[1].shape[0] = 2
    request.raw_input_contents[1] = bytes(16)


# Each can be combined with each, and leaves the others what they are.
FAULTS = [  # in the order in which they are found
    Fault("input twice", _twice, "input 'A' already exists in request"),
    Fault("output twice", lambda r: r.outputs.add(name="Y"),
          "output 'Y' already exists in request"),
    Fault("input in no region", lambda r: place(r.inputs[0], "none", 8),
          "Unable to find shared memory region: 'none'"),
    Fault("two sources", lambda r: r.inputs[1].contents.fp32_contents.append(1),
          "contents field must not be specified when using raw_input_contents"),
    Fault("output in no region", lambda r: place(r.outputs[0], "nowhere", 8),
          "Unable to find shared memory region: 'nowhere'"),
    Fault("unknown output", lambda r: r.outputs.add(name="?"),
          "unexpected inference output '?' for model 'm'"),
    Fault("unknown input", lambda r: setattr(r.inputs[1], "name", "C"),
          "unexpected inference input 'C' for model 'm'"),
    Fault("raw contents of nothing", lambda r: r.raw_input_contents.append(b""),
          "expected 2 raw_input_contents for model 'm', one an input, got 3"),
    Fault("datatype", lambda r: setattr(r.inputs[0], "datatype", "INT32"),
          "inference input 'A' data-type is 'INT32', but model 'm' expects 'FP32'"),
    Fault("shape", _shape, "unexpected shape for input 'A' for model 'm'"),
    Fault("size", lambda r: r.raw_input_contents.__setitem__(0, b""),
          "input byte size mismatch for input 'A' for model 'm'"),
    Fault("rows", _rows, "input 'B' batch size does not match other inputs for 'm'"),
]  # fmt: skip


def refusal(request: ModelInferRequest) -> str:
    """Return the text with which a request is refused."""
    with pytest.raises(RequestError) as caught:
        decode_request("m", SIGNATURE, request, CountingRegions())
    return str(caught.value)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault(fault: Fault) -> None:
    """A request with one fault is refused for it."""
    request = good_request()
    fault.apply(request)
    assert fault.text in refusal(request)


@pytest.mark.parametrize(
    ("first", "second"), [*combinations(FAULTS, 2)], ids=lambda fault: fault.name
)
def test_order_of_two_faults(first: Fault, second: Fault) -> None:
    """Of two faults the one is told that comes first in the order, not in the message."""
    request = good_request()
    second.apply(request)
    first.apply(request)
    assert first.text in refusal(request)


def test_inputs_are_located_one_after_another() -> None:
    """Of two inputs that are nowhere the first one is told, whatever each of them lacks."""
    request = good_request()
    request.ClearField("raw_input_contents")
    place(request.inputs[1], "none", 8)
    assert "unable to find data for input tensor 'A'" in refusal(request)
    request = good_request()
    request.ClearField("raw_input_contents")
    place(request.inputs[0], "none", 8)
    assert "Unable to find shared memory region: 'none'" in refusal(request)


def test_typed_contents_beside_shared_memory_come_before_the_region() -> None:
    """An input in two places is refused before its region is looked for."""
    request = shared_request()
    place(request.inputs[0], "none", 8)
    request.inputs[0].contents.fp32_contents.append(1)
    assert "unexpected 'content' provided when using shared memory" in refusal(request)


def test_each_window_is_found_once() -> None:
    """What is in shared memory is found once and read once, and an output is not read."""
    regions = CountingRegions()
    decoded = decode_request("m", SIGNATURE, shared_request(), regions)
    assert (regions.found, regions.memory.reads) == (3, 2)
    assert decoded.is_shared
    assert [array.tolist() for array in decoded.inputs.values()] == [[[0, 0]]] * 2
    assert decoded.delivery is not None
    assert list(decoded.delivery.windows) == ["Y"]


def test_too_much_shared_memory_is_not_read() -> None:
    """When all inputs together are too large, none of them is read."""
    regions = CountingRegions()
    with pytest.raises(RegionLimit, match="inputs in shared memory of 34 bytes, at most 32"):
        decode_request("m", SIGNATURE, shared_request(17), regions)
    assert regions.memory.reads == 0


def test_outputs_default_to_all() -> None:
    """A request that names no outputs gets all, in the order of the model."""
    request = good_request()
    request.ClearField("outputs")
    decoded = decode_request("m", SIGNATURE, request)
    assert (decoded.outputs, decoded.delivery, decoded.rows) == (("Z", "Y"), None, 1)
    assert not decoded.is_shared
