"""Inputs of a module: which argument of forward each one is, its example and its free axes.

Knows torch tensors and the signature of forward; knows no ONNX.
"""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
import torch

from exporter.errors import UsageError
from service.errors import dims, listed
from service.tensors import BF16, BYTES, DATATYPES, Array, Datatype

BATCH: Final = "batch"  # the name of the batch axis in every exported graph
TENSOR_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,127}")
TENSOR_NAME_RULE: Final = "a letter or '_', then up to 127 letters, digits, '_', '-' or '.'"
_BY_NUMPY: Final[Mapping[np.dtype[Any], Datatype]] = {
    datatype.numpy: datatype for datatype in DATATYPES if datatype not in (BF16, BYTES)
}

Examples: TypeAlias = (
    torch.Tensor | Array | Sequence[torch.Tensor | Array] | Mapping[str, torch.Tensor | Array]
)


@dataclass(frozen=True, slots=True)
class Input:
    """One input of the module.

    argument: parameter of forward that takes it. index: its place if that parameter is *args,
    else None. example: a contiguous tensor; its extents stand for the free ones too.
    axes: name by axis of every free extent. low, high: bounds of random values (inclusive for
    integers); None: the bounds of the example.
    """

    name: str
    argument: str
    index: int | None
    example: torch.Tensor
    axes: Mapping[int, str] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None

    @property
    def datatype(self) -> Datatype:
        """Return the element type."""
        return datatype_of(self.name, self.example)


Inputs: TypeAlias = tuple[Input, ...]


def bind_inputs(
    module: torch.nn.Module,
    examples: Examples,
    *,
    names: Sequence[str] | None = None,
    batch: bool = True,
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
) -> Inputs:
    """Match example inputs with the arguments of forward.

    examples: one tensor, several in the order of forward's arguments, or by argument name.
    names: names of the inputs, in order; default: those of the arguments.
    batch: axis 0 of every input is the batch. dynamic_axes: further free axes, by input name.
    Raises UsageError where they do not match.
    """
    arguments = _arguments(module, examples)
    given = list(names) if names is not None else [_default_name(a, i) for a, i, _ in arguments]
    if len(given) != len(arguments):
        raise UsageError(
            f"{len(given)} input names {listed(given)} for {len(arguments)} example inputs "
            f"{listed([a for a, _, _ in arguments])}: give one for each",
        )
    check_names("input", given)
    free = dict(dynamic_axes or {})
    unknown = sorted(set(free) - set(given))
    if unknown:
        raise UsageError(f"dynamic axes for {listed(unknown)}, but the inputs are {listed(given)}")
    return tuple(
        _input(name, argument, index, tensor, batch=batch, free=free.get(name, {}))
        for name, (argument, index, tensor) in zip(given, arguments, strict=True)
    )


def call(module: torch.nn.Module, inputs: Inputs, tensors: Sequence[torch.Tensor]) -> Any:
    """Call the module with one tensor for each input and return what it returns."""
    positional, keywords = arrange(inputs, tensors)
    return module(*positional, **keywords)


def arrange(inputs: Inputs, values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return values, one for each input, as the positional and keyword arguments of forward.

    Arguments go by keyword, so that one may be left out, unless some go into *args.
    """
    pairs = list(zip(inputs, values, strict=True))
    if any(item.index is not None for item in inputs):
        return tuple(value for _, value in pairs), {}
    return (), {item.argument: value for item, value in pairs}


def check_names(kind: str, names: Sequence[str]) -> None:
    """Raise UsageError unless every name can name a tensor and none stands twice."""
    for name in names:
        if not TENSOR_NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot name an {kind}: {TENSOR_NAME_RULE}; give names with "
                f"--{kind} or {kind}_names=",
            )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"{kind} names {listed(twice)} are given twice")


def datatype_of(name: str, tensor: torch.Tensor) -> Datatype:
    """Return the datatype of a tensor; raise UsageError if the protocol or the runtime has none."""
    if tensor.dtype is torch.bfloat16:
        raise UsageError(
            f"'{name}' is bfloat16, which ONNX Runtime does not compute on CPUs: convert the "
            "module and its inputs with .float() before the export",
        )
    try:
        return _BY_NUMPY[torch.empty(0, dtype=tensor.dtype).numpy().dtype]
    except (TypeError, KeyError):
        known = ", ".join(str(dtype) for dtype in _BY_NUMPY)
        raise UsageError(
            f"'{name}' is {tensor.dtype}, which inference requests cannot carry; expected one "
            f"of {known}",
        ) from None


def _arguments(
    module: torch.nn.Module, examples: Examples
) -> list[tuple[str, int | None, torch.Tensor]]:
    """Return (argument, index in *args or None, tensor) of each example, in forward's order."""
    signature = inspect.signature(module.forward)
    try:
        if isinstance(examples, Mapping):
            bound = signature.bind(**examples)
        elif isinstance(examples, torch.Tensor | np.ndarray):
            bound = signature.bind(examples)
        else:
            bound = signature.bind(*examples)
    except TypeError as error:
        raise UsageError(
            f"the example inputs do not fit forward{signature}: {error}; give one tensor for "
            "each argument, in order or by name",
        ) from None
    found: list[tuple[str, int | None, torch.Tensor]] = []
    for argument, value in bound.arguments.items():
        kind = signature.parameters[argument].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            found += [(argument, i, _tensor(argument, item)) for i, item in enumerate(value)]
        elif kind is inspect.Parameter.VAR_KEYWORD:
            raise UsageError(
                f"forward{signature} takes '**{argument}': the exporter cannot name its inputs; "
                "wrap the module in one whose forward names its arguments",
            )
        elif value is not None:
            found.append((argument, None, _tensor(argument, value)))
    if not found:
        raise UsageError(f"forward{signature} was given no example input; at least one is needed")
    return found


def _default_name(argument: str, index: int | None) -> str:
    return argument if index is None else f"{argument}_{index}"


def _tensor(argument: str, value: Any) -> torch.Tensor:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.array(value, order="C"))
    if not isinstance(value, torch.Tensor):
        raise UsageError(
            f"example input '{argument}' is of type {type(value).__name__}; only tensors can be "
            "inputs of a served model: make the value an attribute of the module, or wrap the "
            "module in one whose forward takes one tensor an argument",
        )
    # A view with strides of its own breaks the conversion of recurrent layers.
    return value.detach().contiguous().clone()


def _input(
    name: str,
    argument: str,
    index: int | None,
    tensor: torch.Tensor,
    *,
    batch: bool,
    free: Mapping[int, str],
) -> Input:
    datatype_of(name, tensor)
    wrong = sorted(axis for axis in free if not 0 <= axis < tensor.dim())
    if wrong:
        raise UsageError(
            f"input '{name}' has no axis {wrong[0]}: its example has shape {dims(tensor.shape)}",
        )
    if not batch:
        return Input(name, argument, index, tensor, dict(free))
    if tensor.dim() == 0 or tensor.shape[0] == 0:
        raise UsageError(
            f"input '{name}' has shape {dims(tensor.shape)}: axis 0 must be the batch, with at "
            "least one row; say --no-batch (batch=False) for a model without one",
        )
    return Input(name, argument, index, tensor, {**free, 0: BATCH})
