"""Infer requests that must be refused, each with its code and the stable part of the text.

They are made for the repository of tests/integration/conftest.py.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from grpc import StatusCode

from service.pb.grpc_service_pb2 import ModelInferRequest
from service.tensors import BF16, BYTES, FP16, FP32, INT8, INT32, Array, Datatype
from tests.support.requests import one, raw_request, simple_request, typed_request
from tests.support.shared import place

INVALID: Final = StatusCode.INVALID_ARGUMENT
NOT_FOUND: Final = StatusCode.NOT_FOUND
UNIMPLEMENTED: Final = StatusCode.UNIMPLEMENTED


@dataclass(frozen=True, slots=True)
class Bad:
    """A request to refuse.

    make: gives it anew each time. loses_id: it is refused before its id is read, or by its id.
    """

    name: str
    make: Callable[[], ModelInferRequest]
    code: StatusCode
    text: str
    loses_id: bool = False


def _simple(change: Callable[[ModelInferRequest], object]) -> Callable[[], ModelInferRequest]:
    def make() -> ModelInferRequest:
        request = simple_request()
        change(request)
        return request

    return make


def _shape(*shape: int) -> Callable[[], ModelInferRequest]:
    return _simple(lambda request: _set_shape(request, shape))


def _set_shape(request: ModelInferRequest, shape: tuple[int, ...]) -> None:
    request.inputs[0].shape[:] = shape


def _raw_shape(model: str, *shape: int) -> Callable[[], ModelInferRequest]:
    def make() -> ModelInferRequest:
        request = raw_request(model, one(FP32, np.zeros((1, 1), np.float32)))
        _set_shape(request, shape)
        return request

    return make


def _datatype(name: str) -> Callable[[], ModelInferRequest]:
    return _simple(lambda request: setattr(request.inputs[0], "datatype", name))


def _raw_size(size: int) -> Callable[[], ModelInferRequest]:
    def change(request: ModelInferRequest) -> None:
        request.raw_input_contents[0] = b"\0" * size

    return _simple(change)


def _third_input(request: ModelInferRequest) -> None:
    request.inputs.add(name="X", datatype="INT32", shape=(1, 16))
    request.raw_input_contents.append(bytes(64))


def _no_rows(request: ModelInferRequest) -> None:
    for index in range(2):
        request.inputs[index].shape[:] = (0, 16)
        request.raw_input_contents[index] = b""


def _bytes(
    raw: bytes, *shape: int, model: str = "identity_bytes"
) -> Callable[[], ModelInferRequest]:
    def make() -> ModelInferRequest:
        request = ModelInferRequest(model_name=model)
        request.inputs.add(name="X", datatype="BYTES", shape=shape)
        request.raw_input_contents.append(raw)
        return request

    return make


def _element(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text


def _parameter(key: str, field: str, value: object) -> Callable[[], ModelInferRequest]:
    return _simple(lambda request: setattr(request.parameters[key], field, value))


def _many_parameters(request: ModelInferRequest) -> None:
    for index in range(65):
        request.parameters[f"key{index}"].bool_param = True


def _wanted(model: str, output: str, field: str, value: object) -> Callable[[], ModelInferRequest]:
    """Ask for classes of an output."""

    def make() -> ModelInferRequest:
        request = simple_request(model=model)
        setattr(request.outputs.add(name=output).parameters["classification"], field, value)
        return request

    return make


def _output_in_region() -> ModelInferRequest:
    request = simple_request()
    place(request.outputs.add(name="OUTPUT0"), "r", 64)
    return request


def _input_in_region() -> ModelInferRequest:
    request = simple_request()
    request.ClearField("raw_input_contents")
    for tensor in request.inputs:
        place(tensor, "r", 64)
    return request


def _typed(datatype: Datatype, field: str, values: list[object]) -> Callable[[], ModelInferRequest]:
    def make() -> ModelInferRequest:
        request = ModelInferRequest(model_name=f"identity_{datatype.wire.lower()}")
        tensor = request.inputs.add(name="X", datatype=datatype.wire, shape=(1, len(values)))
        getattr(tensor.contents, field).extend(values)
        return request

    return make


def _both_kinds() -> ModelInferRequest:
    request = typed_request("identity_int32", one(INT32, np.ones((1, 2), np.int32)))
    request.inputs[0].contents.fp32_contents.append(1.0)
    return request


def _raw_of(model: str, datatype: Datatype, array: Array) -> Callable[[], ModelInferRequest]:
    return lambda: raw_request(model, one(datatype, array))


_ROW: Final = np.zeros((1, 4), np.float32)

BAD: Final = (
    # names
    Bad("unknown model", lambda: simple_request(model="nope"), NOT_FOUND,
        "Request for unknown model: 'nope' is not found"),
    Bad("no model", lambda: simple_request(model=""), NOT_FOUND,
        "Request for unknown model: '' is not found"),
    Bad("traversal", lambda: simple_request(model="../simple"), NOT_FOUND,
        "Request for unknown model: '../simple' is not found"),
    Bad("shell in name", lambda: simple_request(model="$(id); %s%n {0}"), NOT_FOUND,
        "Request for unknown model: '$(id); %s%n {0}' is not found"),
    Bad("percent in name", lambda: simple_request(model="%2e%2e%2fsimple"), NOT_FOUND,
        "Request for unknown model: '%2e%2e%2fsimple' is not found"),
    Bad("control characters in name", lambda: simple_request(model="a\n\x1b[31mb\0"), NOT_FOUND,
        r"Request for unknown model: 'a\x0a\x1b[31mb\x00' is not found"),
    Bad("backslashes in name", lambda: simple_request(model="..\\simple"), NOT_FOUND,
        r"Request for unknown model: '..\simple' is not found"),
    Bad("name in wide letters", lambda: simple_request(model="\uff53imple"), NOT_FOUND,
        "Request for unknown model: '\uff53imple' is not found"),
    Bad("name that turns the line round", lambda: simple_request(model="a\u202eb"), NOT_FOUND,
        r"Request for unknown model: 'a\x202eb' is not found"),
    Bad("long name", lambda: simple_request(model="m" * 100_000), NOT_FOUND,
        f"Request for unknown model: '{'m' * 64}...' is not found"),
    Bad("unknown version", lambda: simple_request(version="99"), NOT_FOUND,
        "Request for unknown model: 'simple' version 99 is not found"),
    Bad("version is text", lambda: simple_request(version="latest"), INVALID,
        "failed to get model version from specified version string 'latest'"),
    Bad("version is a fraction", lambda: simple_request(version="1.0"), INVALID,
        "failed to get model version from specified version string '1.0'"),
    Bad("version in other digits", lambda: simple_request(version="\u0663"), INVALID,
        "failed to get model version from specified version string"),
    Bad("negative version", lambda: simple_request(version="-1"), INVALID,
        "invalid model version specified '-1' , version should be an integral value > 0"),
    Bad("leading zero", lambda: simple_request(version="01"), INVALID,
        "invalid model version specified '01'"),
    Bad("endless version", lambda: simple_request(version="9" * 6000), INVALID,
        "invalid model version specified '9999"),
    # inputs and outputs
    Bad("missing input", _simple(lambda r: (r.inputs.pop(), r.raw_input_contents.pop())), INVALID,
        "expected 2 inputs but got 1 inputs for model 'simple'. Got input(s) ['INPUT0'], but "
        "missing required input(s) ['INPUT1']. Please provide all required input(s)."),
    Bad("no inputs", lambda: ModelInferRequest(model_name="simple"), INVALID,
        "expected 2 inputs but got 0 inputs for model 'simple'"),
    Bad("unknown input", _simple(lambda r: setattr(r.inputs[1], "name", "input1")), INVALID,
        "unexpected inference input 'input1' for model 'simple', but missing required input(s) "
        "['INPUT1']. Please provide all required input(s)."),
    Bad("one input too many", _simple(_third_input), INVALID,
        "expected 2 inputs but got 3 inputs for model 'simple'. Got input(s) "
        "['INPUT0','INPUT1','X'], but the model has ['INPUT0','INPUT1']."),
    Bad("repeated input", _simple(lambda r: setattr(r.inputs[1], "name", "INPUT0")), INVALID,
        "input 'INPUT0' already exists in request"),
    Bad("unknown output", _simple(lambda r: r.outputs.add(name="OUTPUT2")), INVALID,
        "unexpected inference output 'OUTPUT2' for model 'simple'"),
    Bad("repeated output", _simple(
        lambda r: (r.outputs.add(name="OUTPUT0"), r.outputs.add(name="OUTPUT0"))), INVALID,
        "output 'OUTPUT0' already exists in request"),
    Bad("many outputs", _simple(
        lambda r: [r.outputs.add(name="OUTPUT0") for _ in range(10_000)]), INVALID,
        "too many outputs", loses_id=True),
    Bad("many inputs", _simple(
        lambda r: [r.inputs.add(name="INPUT0") for _ in range(300)]), INVALID,
        "too many inputs"),
    # datatype and shape
    Bad("wrong datatype", _datatype("FP32"), INVALID,
        "inference input 'INPUT0' data-type is 'FP32', but model 'simple' expects 'INT32'"),
    Bad("unknown datatype", _datatype("FP33"), INVALID,
        "unsupported datatype 'FP33' for input 'INPUT0'"),
    Bad("no datatype", _datatype(""), INVALID, "unsupported datatype '' for input 'INPUT0'"),
    Bad("datatype in lower case", _datatype("int32"), INVALID, "unsupported datatype 'int32'"),
    Bad("wrong extent", _shape(1, 15), INVALID,
        "unexpected shape for input 'INPUT0' for model 'simple'. Expected [-1,16], got [1,15]"),
    Bad("rank too low", _shape(16), INVALID, "Expected [-1,16], got [16]"),
    Bad("rank too high", _shape(1, 1, 16), INVALID, "Expected [-1,16], got [1,1,16]"),
    Bad("rank of a bomb", _shape(*[1] * 100_000), INVALID, "unexpected shape for input 'INPUT0'"),
    Bad("no shape", _shape(), INVALID,
        "input 'INPUT0' has no shape but model requires batch dimension for 'simple'"),
    Bad("negative extent", _shape(-1, 16), INVALID,
        "All input dimensions should be specified for input 'INPUT0' for model 'simple'"),
    Bad("every extent negative", _raw_shape("identity_fp32", -1, -1), INVALID,
        "All input dimensions should be specified for input 'X' for model 'identity_fp32'"),
    Bad("most negative extent", _shape(-(1 << 63), 16), INVALID, "negative dimension"),
    Bad("batch of 2^32+1", _shape((1 << 32) + 1, 16), INVALID,
        f"input byte size mismatch for input 'INPUT0' for model 'simple'. "
        f"Expected {((1 << 32) + 1) * 64}, got 64"),
    Bad("product that overflows", lambda: _overflowing(), INVALID,  # noqa: PLW0108  defined below
        f"Expected {(1 << 32) * (1 << 32) * 4}, got 16"),
    Bad("no rows", _simple(_no_rows), INVALID,
        "inference request batch-size must be at least 1 for 'simple'"),
    Bad("rows disagree", _simple(lambda r: _two_rows(r, 1)), INVALID,
        "input 'INPUT1' batch size does not match other inputs for 'simple'"),
    Bad("fixed batch exceeded", _raw_of("fixed", FP32, np.zeros((3, 3), np.float32)), INVALID,
        "unexpected shape for input 'X' for model 'fixed'. Expected [2,3], got [3,3]"),
    Bad("scalar with an axis", _raw_of("scalar", FP32, np.zeros(1, np.float32)), INVALID,
        "unexpected shape for input 'X' for model 'scalar'. Expected [], got [1]"),
    # contents
    Bad("raw and typed mixed", _simple(
        lambda r: r.inputs[0].contents.int_contents.append(1)), INVALID,
        "contents field must not be specified when using raw_input_contents for 'INPUT0' for "
        "model 'simple'"),
    Bad("raw for one input only", _simple(lambda r: r.raw_input_contents.pop()), INVALID,
        "unable to find data for input tensor 'INPUT1' for model 'simple' in request."),
    Bad("raw for one input too many", _simple(lambda r: r.raw_input_contents.append(b"")), INVALID,
        "expected 2 raw_input_contents for model 'simple', one an input, got 3"),
    Bad("no contents", _simple(lambda r: r.ClearField("raw_input_contents")), INVALID,
        "unable to find data for input tensor 'INPUT0' for model 'simple' in request."),
    Bad("raw too short", _raw_size(63), INVALID,
        "input byte size mismatch for input 'INPUT0' for model 'simple'. Expected 64, got 63"),
    Bad("raw too long", _raw_size(128), INVALID, "Expected 64, got 128"),
    Bad("raw empty", _raw_size(0), INVALID, "Expected 64, got 0"),
    Bad("typed too short", lambda: _typed_short(), INVALID,  # noqa: PLW0108  defined below
        "input byte size mismatch for input 'X' for model 'identity_int32'. Expected 8, got 4"),
    Bad("typed of the wrong kind", _typed(INT32, "fp32_contents", [1.0]), INVALID,
        "unexpected explicit tensor data for input tensor 'X' for model 'identity_int32' of type"),
    Bad("typed of two kinds", _both_kinds, INVALID, "unexpected explicit tensor data"),
    Bad("typed FP16", _typed(FP16, "fp32_contents", [1.0]), INVALID,
        "FP16 requires raw_input_contents"),
    Bad("typed BF16", _typed(BF16, "fp32_contents", [1.0]), INVALID,
        "BF16 requires raw_input_contents"),
    Bad("typed out of range", _typed(INT8, "int_contents", [300]), INVALID,
        "value out of range for input 'X': INT8 holds -128 to 127"),
    Bad("length past the end", _bytes(struct.pack("<I", 100) + b"abc", 1, 1), INVALID,
        "malformed BYTES element 0: length 100 passes the end, 3 bytes are left"),
    Bad("length of 4 GiB", _bytes(b"\xff" * 4 + b"abc", 1, 1), INVALID,
        "malformed BYTES element 0: length 4294967295"),
    Bad("length cut off", _bytes(_element(b"abc") + b"\1\0", 1, 1), INVALID,
        "incomplete string length indicator"),
    Bad("too few elements", _bytes(_element(b"a"), 1, 2), INVALID,
        "expected 2 string elements for inference input 'X' for model 'identity_bytes', got 1"),
    Bad("too many elements", _bytes(_element(b"a") * 3, 1, 2), INVALID,
        "unexpected number of string elements 3 for inference input 'X' for model "
        "'identity_bytes', expecting 2"),
    Bad("elements of a bomb", _bytes(b"", 1 << 31, 1 << 31), INVALID, "string elements"),
    Bad("not UTF-8", _bytes(_element(b"ok") + _element(b"\xff\xfe"), 1, 2, model="known"), INVALID,
        "input 'X' must be UTF-8: element 1 is not"),
    # parameters
    Bad("negative timeout", _parameter("timeout", "int64_param", -1), INVALID,
        "invalid value type for 'timeout' parameter"),
    Bad("timeout as text", _parameter("timeout", "string_param", "NaN"), INVALID,
        "invalid value type for 'timeout' parameter"),
    Bad("priority as bool", _parameter("priority", "bool_param", True), INVALID,
        "invalid value type for 'priority' parameter"),
    Bad("reserved parameter", _parameter("triton_x", "bool_param", True), INVALID,
        "parameter keys starting with 'triton_' are reserved for Triton usage"),
    Bad("many parameters", _simple(_many_parameters), INVALID, "too many parameters"),
    Bad("endless id", lambda: simple_request(request_id="i" * 1025), INVALID,
        "the request id has 1025 characters, at most 1024 are taken", loses_id=True),
    Bad("classes as text", _wanted("simple", "OUTPUT0", "string_param", "3"), INVALID,
        "invalid value type for 'classification' parameter, expected int64_param"),
    Bad("no classes", _wanted("simple", "OUTPUT0", "int64_param", 0), INVALID,
        "invalid value for 'classification' parameter of output 'OUTPUT0', expected value > 0"),
    Bad("negative classes", _wanted("simple", "OUTPUT0", "int64_param", -(1 << 63)), INVALID,
        "expected value > 0, got -9223372036854775808"),
    Bad("classes of text", _wanted("identity_bytes", "Y", "int64_param", 1), INVALID,
        "class result not available for output due to unsupported type 'BYTES'"),
    Bad("classes of an unknown output", _wanted("simple", "nope", "int64_param", 1), INVALID,
        "unexpected inference output 'nope' for model 'simple'"),
    Bad("output in shared memory", _output_in_region, UNIMPLEMENTED,
        "Client shared memory is disabled. Start the server with --allow-client-shm"),
    Bad("input in shared memory", _input_in_region, UNIMPLEMENTED,
        "Client shared memory is disabled. Start the server with --allow-client-shm"),
    # the model itself
    Bad("index out of range", lambda: raw_request("gather", _index(99)), StatusCode.INTERNAL,
        "inference failed for model 'gather' (error id "),
)  # fmt: skip


def _index(value: int) -> dict[str, tuple[Datatype, Array]]:
    from service.tensors import INT64

    return one(INT64, np.array([[value]]))


def _overflowing() -> ModelInferRequest:
    request = raw_request("identity_fp32", one(FP32, _ROW))
    _set_shape(request, (1 << 32, 1 << 32))
    return request


def _typed_short() -> ModelInferRequest:
    request = typed_request("identity_int32", one(INT32, np.ones((1, 1), np.int32)))
    _set_shape(request, (1, 2))
    return request


def _two_rows(request: ModelInferRequest, index: int) -> None:
    request.inputs[index].shape[:] = (2, 16)
    request.raw_input_contents[index] = bytes(128)


def opaque_bytes() -> tuple[Datatype, Array]:
    """Return a BYTES tensor with what people put into text: NUL, emptiness, other scripts."""
    array = np.empty((1, 4), dtype=object)
    array[0] = [b"", b"a\0b\0", "\u6c34\U0001f30a".encode(), b"x" * 100_000]
    return BYTES, array
