"""Pre- and post-processing: what is asked for, and what it computes, in numpy.

`exporter.compose` writes the same into the graph; the two are held against each other.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from exporter.errors import UsageError
from service.errors import dims
from service.tensors import Array, Tensors

EPSILON: Final = 1e-12  # the least norm that is divided by, as torch.nn.functional.normalize has it
LAYOUTS: Final = ("nchw", "nhwc")
_SIZE: Final = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_NUMBERS: Final = "numbers joined by '/', one or one a channel, as in 0.485/0.456/0.406"


@dataclass(frozen=True, slots=True)
class Processing:
    """What is computed before and after the model, inside the served graph.

    Before, on one input, in this order: uint8 takes bytes and makes them FP32; layout "nhwc"
    takes channels last; resize (height, width) is bilinear, as torch's interpolate without
    corners; scale multiplies (1/255 if uint8 says so and nothing else is said); mean is
    subtracted and std divided by, one value or one a channel.
    After, on one output of shape [..., classes], in this order: softmax or sigmoid, then
    l2_normalize; top_k replaces the output by OUTPUT_scores and OUTPUT_indices, best first.
    labels: of the classes; they go beside the model, not into it.
    """

    uint8: bool = False
    layout: str = "nchw"
    resize: tuple[int, int] | None = None
    scale: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    softmax: bool = False
    sigmoid: bool = False
    l2_normalize: bool = False
    top_k: int = 0
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise UsageError for what contradicts itself."""
        if self.layout not in LAYOUTS:
            raise UsageError(f"layout {self.layout!r}: expected one of {', '.join(LAYOUTS)}")
        if self.softmax and self.sigmoid:
            raise UsageError("softmax and sigmoid exclude each other: classes sum to one or do not")
        if self.top_k < 0:
            raise UsageError(f"top-k is {self.top_k}; expected a number from 1")
        if any(not np.isfinite(v) for v in (*self.mean, *self.std, self.scale or 0.0)):
            raise UsageError("normalisation needs finite numbers")
        if 0.0 in self.std or self.scale == 0.0:
            raise UsageError("a standard deviation or a scale of 0 would lose the input")
        if bool(self.mean) != bool(self.std):
            raise UsageError("normalisation needs both: a mean (0 for none) and a deviation (1)")
        twice = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if twice:
            raise UsageError(f"label {twice[0]!r} stands twice; classes need names of their own")

    @property
    def factor(self) -> float:
        """Return what the input is multiplied by."""
        if self.scale is not None:
            return self.scale
        return 1 / 255 if self.uint8 else 1.0

    @property
    def changes_input(self) -> bool:
        """Tell whether there is anything to compute before the model."""
        return bool(
            self.uint8 or self.layout != "nchw" or self.resize or self.mean or self.factor != 1.0
        )

    @property
    def changes_output(self) -> bool:
        """Tell whether there is anything to compute after the model."""
        return bool(self.softmax or self.sigmoid or self.l2_normalize or self.top_k)


def parse_normalize(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of `--normalize MEAN,STD`. Raises UsageError."""
    mean, comma, std = text.partition(",")
    if not comma:
        raise UsageError(f"--normalize {text!r}: expected MEAN,STD, each {_NUMBERS}")
    try:
        return _numbers(mean), _numbers(std)
    except ValueError:
        raise UsageError(f"--normalize {text!r}: expected MEAN,STD, each {_NUMBERS}") from None


def parse_resize(text: str) -> tuple[int, int]:
    """Return height and width of `--resize HxW`. Raises UsageError."""
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None:
        raise UsageError(f"--resize {text!r}: expected HEIGHTxWIDTH, as in 224x224")
    return int(match[1]), int(match[2])


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the lines of a labels file, one class a line. Raises UsageError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--labels {path}: cannot be read: {error}") from error
    labels = tuple(line.strip() for line in lines)
    if not labels or "" in labels:
        raise UsageError(f"--labels {path}: expected one class a line, and no empty line")
    return labels


def preprocess(processing: Processing, array: Array) -> Array:
    """Return what the model gets for an input as the client sends it."""
    result = array.astype(np.float32) if processing.uint8 else array
    if processing.layout == "nhwc":
        result = np.moveaxis(result, -1, 1)
    if processing.resize is not None:
        result = resized(result, processing.resize)
    dtype = result.dtype
    if processing.factor != 1.0:
        result = result * dtype.type(processing.factor)
    if processing.mean:
        result = result - _per_channel(processing.mean, result).astype(dtype)
        result = result / _per_channel(processing.std, result).astype(dtype)
    return np.ascontiguousarray(result)


def postprocess(processing: Processing, outputs: Tensors, name: str) -> dict[str, Array]:
    """Return what the client gets for the model's outputs; `name` is the one to work on."""
    scores = outputs[name].astype(np.float64)
    if processing.softmax:
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores = powers / powers.sum(axis=-1, keepdims=True)
    if processing.sigmoid:
        scores = 1 / (1 + np.exp(-np.clip(scores, -700, 700)))
    if processing.l2_normalize:
        norm = np.linalg.norm(scores, axis=-1, keepdims=True)
        scores = scores / np.maximum(norm, EPSILON)
    dtype = outputs[name].dtype
    if not processing.top_k:
        return {**outputs, name: scores.astype(dtype)}
    order = np.argsort(-scores, axis=-1, kind="stable")[..., : processing.top_k]
    best = np.take_along_axis(scores, order, axis=-1)
    result: dict[str, Array] = {}
    for other, array in outputs.items():
        if other == name:
            result[f"{name}_scores"], result[f"{name}_indices"] = best.astype(dtype), order
        else:
            result[other] = array
    return result


def resized(images: Array, size: tuple[int, int]) -> Array:
    """Return images [batch, channels, height, width] at a size, bilinear between pixel centres."""
    rows, columns = (
        _weights(extent, want) for extent, want in zip(images.shape[-2:], size, strict=True)
    )
    result: Array = np.einsum("bchw,yh,xw->bcyx", images.astype(np.float64), rows, columns)
    return result.astype(images.dtype)


def check_channels(processing: Processing, shape: Sequence[int | None]) -> None:
    """Raise UsageError unless mean and deviation fit the channels of the model's input."""
    channels = shape[1] if len(shape) == 4 else shape[-1]
    for what, values in (("mean", processing.mean), ("deviation", processing.std)):
        if len(values) > 1 and channels is not None and len(values) != channels:
            raise UsageError(
                f"--normalize gives {len(values)} values of the {what}, but the input has shape "
                f"{dims([-1 if e is None else e for e in shape])}: give one, or one a channel",
            )


def _weights(extent: int, want: int) -> Array:
    """Return a matrix [want, extent] that interpolates linearly along one axis."""
    places = np.clip((np.arange(want) + 0.5) * extent / want - 0.5, 0, extent - 1)
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, extent - 1)
    matrix = np.zeros((want, extent))
    matrix[np.arange(want), low] += 1 - (places - low)
    matrix[np.arange(want), high] += places - low
    return matrix


def _per_channel(values: Sequence[float], like: Array) -> Array:
    """Return values that broadcast over the channels: axis 1 of images, else the last one."""
    array = np.array(values, np.float64)
    return array.reshape(-1, 1, 1) if like.ndim == 4 else array


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split("/"))


def from_options(options: Mapping[str, Any]) -> Processing:
    """Return the processing of command line options by name; absent ones are off."""
    mean, std = parse_normalize(options["normalize"]) if options.get("normalize") else ((), ())
    return Processing(
        uint8=bool(options.get("uint8_input")),
        layout=str(options.get("layout") or "nchw"),
        resize=parse_resize(options["resize"]) if options.get("resize") else None,
        scale=options.get("scale"),
        mean=mean,
        std=std,
        softmax=bool(options.get("softmax")),
        sigmoid=bool(options.get("sigmoid")),
        l2_normalize=bool(options.get("l2_normalize")),
        top_k=int(options.get("top_k") or 0),
        labels=read_labels(Path(options["labels"])) if options.get("labels") else (),
    )
