"""The body of an infer request, JSON or JSON and binary data, into a ModelInferRequest.

What the request means, and whether it is right, is judged where it is for gRPC: here only what
is different about JSON is.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from service.errors import InvalidRequest, shown
from service.pb.grpc_service_pb2 import InferParameter, ModelInferRequest
from service.rest.arrays import PIECE, Irregular, NumberArray, cut_arrays
from service.rest.parse import kind_of, member, parse_object
from service.rest.values import raw_of
from service.tensors import BY_WIRE, Datatype, Shape

_SIZE: Final = "binary_data_size"
_BINARY: Final = "binary_data"
_BINARY_ALL: Final = "binary_data_output"
_REGION: Final = "shared_memory_region"
_MAX_RANK: Final = 64
_MAX_INT64: Final = (1 << 63) - 1
_MAX_UINT64: Final = (1 << 64) - 1
_SEQUENCE: Final = "sequence_id"


@dataclass(frozen=True, slots=True)
class Forms:
    """Which outputs the caller wants as binary data: all that it does not name, and by name."""

    others: bool
    named: dict[str, bool]

    @property
    def are_binary(self) -> bool:
        """Tell whether every output leaves as binary data."""
        return self.others and all(self.named.values())

    def is_binary(self, output: str) -> bool:
        """Tell whether an output leaves as binary data."""
        return self.named.get(output, self.others)


def read_infer(
    model: str, version: str, body: bytes, header_length: int | None, piece: int = PIECE
) -> tuple[ModelInferRequest, Forms]:
    """Return the request in a body, and how its answer is to look.

    header_length: bytes of JSON at the start of the body; None: all of it. piece: see cut_arrays.
    Raises InvalidRequest.
    """
    end = len(body) if header_length is None else header_length
    if end > len(body):
        raise InvalidRequest(
            f"Inference-Header-Content-Length is {header_length}, but the body has {len(body)} "
            "bytes"
        )
    view = memoryview(body)
    text, arrays = cut_arrays(body, end, piece)
    if arrays:
        with suppress(Irregular, InvalidRequest):  # they are told with their place below
            read = _read(model, version, text, view[end:], arrays)
            if not arrays:
                return read
    return _read(model, version, view[:end], view[end:], {})


def set_parameter(parameter: InferParameter, value: object, where: str, key: str) -> None:
    """Set a parameter to a value of JSON. Raises InvalidRequest for null, arrays and objects."""
    if type(value) is bool:
        parameter.bool_param = value
    elif type(value) is int:
        if -_MAX_INT64 - 1 <= value <= _MAX_INT64:
            parameter.int64_param = value
        elif 0 < value <= _MAX_UINT64:
            parameter.uint64_param = value
        else:
            raise InvalidRequest(
                f"parameter '{shown(key)}' of {where} is {shown(str(value))}, "
                "expected a whole number of 64 bits"
            )
    elif type(value) is float:
        parameter.double_param = value
    elif type(value) is str:
        parameter.string_param = value
    else:
        raise InvalidRequest(
            f"parameter '{shown(key)}' of {where} is {kind_of(value)}, expected a boolean, a "
            "number or a string"
        )


def _read(
    model: str,
    version: str,
    text: bytes | memoryview,
    binary: memoryview,
    arrays: dict[str, NumberArray],
) -> tuple[ModelInferRequest, Forms]:
    """Return the request. arrays: that were cut out of the text; what is read is taken out."""
    fields = parse_object(text)
    request = ModelInferRequest(
        model_name=model,
        model_version=version,
        id=member(fields, "id", str, "the request", ""),
    )
    parameters = member(fields, "parameters", dict, "the request", {})
    others = member(parameters, _BINARY_ALL, bool, "the parameters", default=False)
    _add_parameters(request.parameters, parameters, "the request", {_BINARY_ALL})
    name = parameters.get(_SEQUENCE)
    if type(name) is int and _MAX_INT64 < name <= _MAX_UINT64:  # gRPC has it in a signed field
        request.parameters[_SEQUENCE].int64_param = name - _MAX_UINT64 - 1
    rest = _Rest(binary)
    for where, fields_of in _objects(fields, "inputs", "input"):
        _add_input(request, fields_of, where, rest, arrays)
    if rest.left:
        raise InvalidRequest(
            f"unexpected additional input data for model '{model}': {rest.left} bytes follow "
            f"those of the inputs"
        )
    named = dict(
        _add_output(request, fields_of, where)
        for where, fields_of in _objects(fields, "outputs", "output")
    )
    return request, Forms(others, {name: form for name, form in named.items() if form is not None})


class _Rest:
    """The binary data behind the JSON, taken from its front."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._whole = len(view)

    @property
    def left(self) -> int:
        return len(self._view)

    def take(self, size: int, name: str) -> bytes:
        if size > len(self._view):
            raise InvalidRequest(
                f"unexpected end of the body: {_SIZE} of input '{shown(name)}' is {size}, but "
                f"{len(self._view)} of {self._whole} bytes of binary data are left. Is "
                "Inference-Header-Content-Length right?"
            )
        taken = bytes(self._view[:size])
        self._view = self._view[size:]
        return taken


def _objects(fields: dict[str, Any], key: str, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of an array, each with what to call it."""
    for index, entry in enumerate(member(fields, key, list, "the request", [])):
        where = f"{what} {index}"
        if type(entry) is not dict:
            raise InvalidRequest(f"{where} is {kind_of(entry)}, expected an object")
        name = member(entry, "name", str, where)
        if name is None:
            raise InvalidRequest(f"{where} has no 'name'")
        yield f"{what} '{shown(name)}'", entry


def _add_input(
    request: ModelInferRequest,
    fields: dict[str, Any],
    where: str,
    rest: _Rest,
    arrays: dict[str, NumberArray],
) -> None:
    name: str = fields["name"]
    shape = _shape(fields, where)
    wire = member(fields, "datatype", str, where)
    if wire is None:
        raise InvalidRequest(f"{where} has no 'datatype'")
    tensor = request.inputs.add(name=name, datatype=wire, shape=shape)
    parameters = member(fields, "parameters", dict, where, {})
    _add_parameters(tensor.parameters, parameters, where, {_SIZE})
    size, has_data = parameters.get(_SIZE), fields.get("data") is not None
    if size is not None:
        if type(size) is not int or size < 0:
            raise InvalidRequest(
                f"{_SIZE} of {where} is {kind_of(size) if type(size) is not int else size}, "
                "expected a whole number of bytes"
            )
        if has_data:
            raise InvalidRequest(f"{where} has both 'data' and {_SIZE}: send it one way")
        request.raw_input_contents.append(rest.take(size, name))
    elif has_data:
        datatype = BY_WIRE.get(wire)
        # A type that nobody knows is refused with the others that the model does not take.
        raw = _raw(name, datatype, shape, fields["data"], arrays) if datatype else b""
        request.raw_input_contents.append(raw)
    elif _REGION not in parameters:
        raise InvalidRequest(
            f"unable to find data for input tensor '{shown(name)}' for model "
            f"'{request.model_name}' in request."
        )


def _raw(
    name: str, datatype: Datatype, shape: Shape, data: object, arrays: dict[str, NumberArray]
) -> bytes:
    array = arrays.pop(data, None) if type(data) is str else None
    if array is not None:
        return array.raw(name, datatype, shape)
    return raw_of(name, datatype, shape, data)


def _add_output(
    request: ModelInferRequest, fields: dict[str, Any], where: str
) -> tuple[str, bool | None]:
    name: str = fields["name"]
    output = request.outputs.add(name=name)
    parameters = member(fields, "parameters", dict, where, {})
    form: bool | None = member(parameters, _BINARY, bool, f"the parameters of {where}")
    _add_parameters(output.parameters, parameters, where, {_BINARY, _SIZE})
    return name, form


def _add_parameters(target: Any, parameters: dict[str, Any], where: str, ours: set[str]) -> None:
    for key, value in parameters.items():
        if key not in ours:
            set_parameter(target[key], value, where, key)


def _shape(fields: dict[str, Any], where: str) -> tuple[int, ...]:
    shape = member(fields, "shape", list, where)
    if shape is None:
        raise InvalidRequest(f"{where} has no 'shape'")
    if len(shape) > _MAX_RANK:
        raise InvalidRequest(f"{where} has {len(shape)} dimensions, at most {_MAX_RANK} are taken")
    for index, extent in enumerate(shape):
        if type(extent) is not int or not -_MAX_INT64 - 1 <= extent <= _MAX_INT64:
            got = extent if type(extent) is int else kind_of(extent)
            raise InvalidRequest(
                f"extent {index} of the shape of {where} is {shown(str(got))}, expected a whole "
                "number"
            )
    return tuple(shape)
