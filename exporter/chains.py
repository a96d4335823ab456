"""Chains in a module: which layer's channels are read by which layer, and by nothing else.

A layer's output channels can be cut only if everything on the way to the next layer treats each
channel alone. The module is traced symbolically; what cannot be proved is refused with the reason.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import fx, nn
from torch.nn import functional

from exporter.errors import UsageError

CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LAYERS: Final = (nn.Linear, *CONVOLUTIONS)
NORMS: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_POINTWISE: Final = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid,
    nn.Dropout, nn.Identity,
)  # fmt: skip
_SPATIAL: Final = (
    nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
_POINTWISE_FUNCTIONS: Final = (
    torch.relu, torch.sigmoid, torch.tanh, functional.relu, functional.relu6, functional.leaky_relu,
    functional.elu, functional.gelu, functional.silu, functional.mish, functional.hardswish,
    functional.hardtanh, functional.softplus, functional.dropout, functional.sigmoid,
    functional.tanh,
)  # fmt: skip
_SPATIAL_FUNCTIONS: Final = (
    functional.max_pool2d, functional.avg_pool2d, functional.adaptive_avg_pool2d,
    functional.max_pool1d, functional.avg_pool1d, functional.adaptive_avg_pool1d,
)  # fmt: skip
_POINTWISE_METHODS: Final = ("relu", "relu_", "sigmoid", "tanh", "contiguous")
_SUMS: Final = (torch.add, torch.sub, torch.mul, operator.add, operator.sub, operator.mul,
                operator.iadd, operator.imul)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Chain:
    """A layer and the one that reads its channels. norms: batch norms between them."""

    layer: str
    reader: str
    norms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chains:
    """What can be cut. refused: why not, by layer."""

    found: tuple[Chain, ...]
    refused: Mapping[str, str]


class _Refused(Exception):
    pass


def find_chains(module: nn.Module) -> Chains:
    """Return the chains of a module. Raises UsageError if it cannot be traced."""
    try:
        graph = fx.Tracer().trace(module)
    except Exception as error:  # whatever the user's forward does with proxies
        raise UsageError(
            f"the module cannot be traced, so no channel can be proved to be unused elsewhere: "
            f"{type(error).__name__}: {error}. Prune parts of it that have no branches on values",
        ) from error
    layers = dict(module.named_modules(remove_duplicate=False))
    found: list[Chain] = []
    refused: dict[str, str] = {}
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(layers[node.target], LAYERS):
            continue
        try:
            found.append(_follow(node, graph, layers))
        except _Refused as reason:
            refused[str(node.target)] = str(reason)
    return Chains(tuple(found), refused)


def _follow(start: fx.Node, graph: fx.Graph, layers: Mapping[str, nn.Module]) -> Chain:
    """Walk from a layer to the one that reads it; raise _Refused where it cannot be proved."""
    _check_layer(start, graph, layers)
    spatial = _spatial_axes(layers[start.target])
    was_flattened = spatial == 0
    norms: list[str] = []
    node = start
    while True:
        node = _only_user(node, layers)
        if node.op == "call_module" and isinstance(layers[node.target], LAYERS):
            _check_reader(node, graph, layers, was_flattened=was_flattened)
            return Chain(str(start.target), str(node.target), tuple(norms))
        if node.op == "call_module" and isinstance(layers[node.target], NORMS):
            _check_called_once(node, graph, layers)
            if was_flattened and spatial:
                raise _Refused(f"'{node.target}' normalises flattened channels")
            norms.append(str(node.target))
        elif not was_flattened and _flattens(node, layers, spatial):
            was_flattened = True
        elif not _is_channelwise(node, layers, spatial=not was_flattened):
            raise _Refused(_why_not(node, layers))


def _check_layer(node: fx.Node, graph: fx.Graph, layers: Mapping[str, nn.Module]) -> None:
    _check_called_once(node, graph, layers)
    layer = layers[node.target]
    if isinstance(layer, CONVOLUTIONS) and layer.groups != 1:
        raise _Refused(f"it is a grouped convolution ({layer.groups} groups)")


def _check_reader(
    node: fx.Node, graph: fx.Graph, layers: Mapping[str, nn.Module], *, was_flattened: bool
) -> None:
    _check_called_once(node, graph, layers)
    reader = layers[node.target]
    if isinstance(reader, CONVOLUTIONS):
        if was_flattened:
            raise _Refused(f"'{node.target}' convolves over what was flattened")
        if reader.groups != 1:
            raise _Refused(f"'{node.target}' is a grouped convolution ({reader.groups} groups)")
    elif not was_flattened:
        raise _Refused(f"'{node.target}' reads the last axis, not the channels")


def _check_called_once(node: fx.Node, graph: fx.Graph, layers: Mapping[str, nn.Module]) -> None:
    module = layers[node.target]
    calls = [n for n in graph.nodes if n.op == "call_module" and layers[n.target] is module]
    if len(calls) != 1:
        raise _Refused(f"'{node.target}' is called {len(calls)} times")
    own = {id(parameter) for parameter in module.parameters(recurse=False)}
    for name, other in layers.items():
        if other is not module and own & {id(p) for p in other.parameters(recurse=False)}:
            raise _Refused(f"'{node.target}' shares its weights with '{name}'")


def _only_user(node: fx.Node, layers: Mapping[str, nn.Module]) -> fx.Node:
    # Reading the size of the batch, as x.view(x.size(0), -1) does, uses no channel.
    users = [user for user in node.users if not _reads_batch_size(user)]
    if len(users) != 1:
        places = " and ".join(sorted(_named(user, layers) for user in users)) or "nothing"
        raise _Refused(f"its output goes to {places}")
    return users[0]


def _reads_batch_size(node: fx.Node) -> bool:
    if node.op == "call_method" and node.target == "size":
        return bool(node.args[1:] == (0,))
    if node.op == "call_function" and node.target is getattr and node.args[1] == "shape":
        return all(user.target is operator.getitem and user.args[1] == 0 for user in node.users)
    return False


def _spatial_axes(layer: nn.Module) -> int:
    """Return the number of axes after the channels: 2 for images, 0 for a linear layer."""
    for axes, kind in enumerate(CONVOLUTIONS, start=1):
        if isinstance(layer, kind):
            return axes
    return 0


def _flattens(node: fx.Node, layers: Mapping[str, nn.Module], spatial: int) -> bool:
    """Tell whether a node leaves [batch, features], the channels outermost."""
    if node.op == "call_module" and isinstance(layers[node.target], nn.Flatten):
        flatten = layers[node.target]
        return (flatten.start_dim, flatten.end_dim) == (1, -1)
    arguments = [*node.args[1:], *node.kwargs.values()]
    if node.target in (torch.flatten, "flatten"):
        return arguments in ([1], [1, -1])
    if node.target in ("view", "reshape"):
        shape = arguments[0] if arguments and isinstance(arguments[0], tuple) else arguments
        return len(shape) == 2 and shape[1] == -1 and shape[0] != -1
    if node.target in ("mean", torch.mean, "amax"):
        return _reduces(node, spatial)
    return False


def _reduces(node: fx.Node, spatial: int) -> bool:
    """Tell whether a mean or maximum goes over all axes after the channels, and drops them."""
    axes: Any = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else ())
    keeps = node.kwargs.get("keepdim", len(node.args) > 2 and node.args[2])
    axes = sorted([axes] if isinstance(axes, int) else axes)
    return not keeps and axes in (list(range(2, 2 + spatial)), list(range(-spatial, 0)))


def _is_channelwise(node: fx.Node, layers: Mapping[str, nn.Module], *, spatial: bool) -> bool:
    if node.op == "call_module":
        kinds = (*_POINTWISE, *_SPATIAL) if spatial else _POINTWISE
        return isinstance(layers[node.target], kinds)
    if node.op == "call_function":
        functions = (
            (*_POINTWISE_FUNCTIONS, *_SPATIAL_FUNCTIONS) if spatial else _POINTWISE_FUNCTIONS
        )
        return node.target in functions or _scales(node)
    return node.op == "call_method" and node.target in _POINTWISE_METHODS


def _scales(node: fx.Node) -> bool:
    """Tell whether a node adds or multiplies a plain number, as `x * 0.5` does."""
    nodes = [argument for argument in node.args if isinstance(argument, fx.Node)]
    return node.target in _SUMS and len(nodes) == 1


def _why_not(node: fx.Node, layers: Mapping[str, nn.Module]) -> str:
    if node.op == "output":
        return "its channels are an output of the model"
    if node.target in _SUMS:
        return f"its output is combined with another at '{node.name}': a residual connection"
    return f"{_named(node, layers)} does not treat each channel alone"


def _named(node: fx.Node, layers: Mapping[str, nn.Module]) -> str:
    if node.op == "output":
        return "the output of the model"
    if node.op == "call_module":
        return f"'{node.target}' ({type(layers[node.target]).__name__})"
    target: Any = node.target
    return f"'{node.name}' ({target if isinstance(target, str) else target.__name__})"
