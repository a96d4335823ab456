"""A picture as a model wants it: size, channels, axes and scale by the shape of the input.

Pillow, which reads it, is an extra and is imported when a picture comes.
"""

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from service.cli.usage import UsageError
from service.errors import dims
from service.tensors import BF16, BOOL, BYTES, FP16, FP32, FP64, Array, Shape, TensorSpec

if TYPE_CHECKING:
    from PIL.Image import Image

_CHANNELS: Final = {1: "L", 3: "RGB"}  # Pillow's modes by number of channels
_FLOATING: Final = (FP16, FP32, FP64, BF16)
_WHITE: Final = 255.0


@dataclass(frozen=True, slots=True)
class Layout:
    """How the pixels lie in the tensor of one picture, without its batch axis.

    height, width: -1 keeps the picture's own. channel_axis: None if grey pixels have no axis.
    """

    height: int
    width: int
    channels: int
    channel_axis: int | None
    is_flat: bool = False


def fit_picture(where: str, contents: bytes, spec: TensorSpec) -> Array:
    """Return the picture as a tensor that the input admits, resized without regard to its ratio.

    where: what errors call it. contents: of the file. Floating inputs get 0 to 1, integers 0 to
    255. Raises UsageError if Pillow is missing or cannot read it, or the input is no picture.
    """
    image = _read(where, contents)
    layout = layout_of(spec)
    if layout is None or spec.datatype in (BYTES, BOOL):
        raise UsageError(
            f"{where} is a picture, but input '{spec.name}' is {spec.datatype}{dims(spec.shape)}, "
            "which holds none: a square of grey pixels [N,784], [N,H,W], [N,1,H,W], [N,3,H,W] or "
            "[N,H,W,3] would"
        )
    pixels = _pixels(image, layout)
    if spec.datatype in _FLOATING:
        pixels = (pixels / _WHITE).astype(np.float32)
    if layout.channel_axis == 0:
        pixels = np.moveaxis(pixels, -1, 0)
    elif layout.channel_axis is None:
        pixels = pixels[..., 0]
    if layout.is_flat:
        pixels = pixels.reshape(-1)
    return pixels if len(spec.shape) == pixels.ndim else pixels[np.newaxis]


def layout_of(spec: TensorSpec) -> Layout | None:
    """Return where pixels go in an input; None if it does not look like one for pictures."""
    shape = spec.shape
    if len(shape) == 4:
        return _layout_of_one(shape[1:])
    if len(shape) == 3 and 3 not in (shape[0], shape[2]):
        return _layout_of_one(shape[1:])  # [N,H,W]; with 3 it is a picture without a batch axis
    if len(shape) == 2 and shape[0] in (-1, 1):
        return _layout_of_one(shape[1:])
    return _layout_of_one(shape)


def _layout_of_one(shape: Shape) -> Layout | None:
    if len(shape) == 3 and shape[0] in _CHANNELS:
        return Layout(shape[1], shape[2], shape[0], channel_axis=0)
    if len(shape) == 3 and shape[2] in _CHANNELS:
        return Layout(shape[0], shape[1], shape[2], channel_axis=2)
    if len(shape) == 2:
        return Layout(shape[0], shape[1], 1, channel_axis=None)
    if len(shape) == 1 and shape[0] > 0 and math.isqrt(shape[0]) ** 2 == shape[0]:
        side = math.isqrt(shape[0])
        return Layout(side, side, 1, channel_axis=None, is_flat=True)
    return None


def _pixels(image: "Image", layout: Layout) -> Array:
    """Return [height, width, channels] with values of 0 to 255."""
    image = image.convert(_CHANNELS[layout.channels])
    size = (
        image.width if layout.width < 0 else layout.width,
        image.height if layout.height < 0 else layout.height,
    )
    if image.size != size:
        image = image.resize(size, resample=2)  # bilinear, over all pixels that one covers
    return np.asarray(image).reshape(size[1], size[0], layout.channels)


def _read(where: str, contents: bytes) -> "Image":
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError  # noqa: PLC0415 -- an extra
    except ImportError:
        raise UsageError(
            f"{where} is no .npy, .npz or JSON; to read it as a picture, install Pillow: "
            "pip install 'penstock[image]'"
        ) from None
    try:
        with Image.open(io.BytesIO(contents)) as image:
            return ImageOps.exif_transpose(image)
    except Image.DecompressionBombError as error:
        raise UsageError(f"{where}: {error}") from None
    except UnidentifiedImageError:
        raise UsageError(
            f"{where} is no .npy, .npz or JSON, and no picture that is known"
        ) from None
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for a broken file
        raise UsageError(f"{where}: a broken picture: {error}") from None
