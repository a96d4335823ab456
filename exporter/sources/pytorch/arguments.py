"""Arguments of forward: which tensor in them is which input of the model.

An argument is a tensor, or a dict, tuple or list of tensors, nested. Every tensor is one input.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils import _pytree as pytree

from exporter.errors import UsageError
from exporter.inputs import Inputs, datatype_of
from service.errors import listed
from service.tensors import Array, Tensors

Examples: TypeAlias = Any  # a tensor or array, several in the order of the arguments, or by name


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of forward, taken apart.

    names: of the inputs, one for each tensor. variadic: the parameter that is *args, "" if none
    of it was given. structure: arguments by parameter, in the order of forward.
    """

    names: tuple[str, ...]
    variadic: str
    structure: pytree.TreeSpec
    parameters: tuple[str, ...]

    def call(self, module: torch.nn.Module, tensors: Sequence[torch.Tensor]) -> Any:
        """Call the module with one tensor for each input and return what it returns."""
        positional, keywords = self.arrange(tensors)
        return module(*positional, **keywords)

    def arrange(self, values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return values, one for each input, as the positional and keyword arguments of forward.

        Arguments go by keyword, so that one may be left out, unless some go into *args.
        """
        arguments = self.by_parameter(values)
        if not self.variadic:
            return (), arguments
        rest = arguments.pop(self.variadic)
        return (*arguments.values(), *rest), {}

    def by_parameter(self, values: Sequence[Any]) -> dict[str, Any]:
        """Return values, one for each input, in the structure of the arguments."""
        filled: dict[str, Any] = pytree.tree_unflatten(list(values), self.structure)
        return filled

    def free_axes(self, inputs: Inputs) -> dict[str, Any]:
        """Return the free axes of the inputs in the structure of the arguments."""
        return self.by_parameter([dict(item.axes) for item in inputs])


def bind(
    module: torch.nn.Module,
    examples: Examples,
    names: Sequence[str] | None = None,
    signature: inspect.Signature | None = None,
) -> tuple[Arguments, Tensors]:
    """Match example inputs with the arguments of forward; return these and the arrays by name.

    examples: one tensor, several in the order of forward's arguments, or by argument name.
    names: names of the inputs, in order; default: those of the arguments and the keys in them.
    signature: of forward, where Python does not know it.
    Raises UsageError where they do not match.
    """
    given, variadic = _bound(signature or inspect.signature(module.forward), examples)
    leaves, structure = pytree.tree_flatten_with_path(given)
    found = ["_".join(_key(key) for key in path) for path, _ in leaves]
    chosen = list(names) if names is not None else found
    if len(chosen) != len(found):
        raise UsageError(
            f"{len(chosen)} input names {listed(chosen)} for {len(found)} example inputs "
            f"{listed(found)}: give one for each",
        )
    arrays = [as_array(name, value) for name, (_, value) in zip(found, leaves, strict=True)]
    arguments = Arguments(tuple(chosen), variadic, structure, tuple(given))
    twice = sorted({name for name in chosen if chosen.count(name) > 1})
    if twice:
        raise UsageError(f"input names {listed(twice)} are given twice")
    return arguments, dict(zip(chosen, arrays, strict=True))


def _bound(signature: inspect.Signature, examples: Examples) -> tuple[dict[str, Any], str]:
    """Return the given arguments by parameter, in forward's order, and the name of its *args."""
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
    given = {name: value for name, value in bound.arguments.items() if value is not None}
    kinds = {name: signature.parameters[name].kind for name in given}
    for name, kind in kinds.items():
        if kind is inspect.Parameter.VAR_KEYWORD:
            raise UsageError(
                f"forward{signature} takes '**{name}': the exporter cannot name its inputs; "
                "wrap the module in one whose forward names its arguments",
            )
    if not given:
        raise UsageError(f"forward{signature} was given no example input; at least one is needed")
    variadic = [n for n, kind in kinds.items() if kind is inspect.Parameter.VAR_POSITIONAL]
    return given, variadic[0] if variadic else ""


def _key(key: Any) -> str:
    """Return one step of a path into the arguments: a dict's key, a field or a place."""
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def as_array(name: str, value: Any) -> Array:
    """Return an example as an array of its own. Raises UsageError for what no request carries."""
    if isinstance(value, np.ndarray):
        datatype_of(name, value.dtype)
        return np.array(value, order="C")
    if not isinstance(value, torch.Tensor):
        raise UsageError(
            f"example input '{name}' is of type {type(value).__name__}; only tensors can be "
            "inputs of a served model: make the value an attribute of the module, or wrap the "
            "module in one whose forward takes one tensor an argument",
        )
    if value.dtype is torch.bfloat16:
        raise UsageError(
            f"'{name}' is bfloat16, which ONNX Runtime does not compute on CPUs: convert the "
            "module and its inputs with .float() before the export",
        )
    try:
        # A copy without strides of its own, which break the conversion of recurrent layers.
        array: Array = np.array(value.detach().cpu().numpy(), order="C")
    except TypeError:
        raise UsageError(
            f"'{name}' is {value.dtype}, which inference requests cannot carry",
        ) from None
    datatype_of(name, array.dtype)
    return array
