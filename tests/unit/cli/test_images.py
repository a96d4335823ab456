"""A picture is laid out as the input's shape and type ask."""

import builtins
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.cli.images import fit_picture
from service.cli.usage import UsageError
from service.tensors import BF16, BYTES, FP32, UINT8, Datatype, TensorSpec

_RED = (255, 0, 0)


def png(width: int, height: int, colour: tuple[int, int, int] = _RED) -> bytes:
    """Return a picture of one colour, whose top left pixel is white."""
    image = Image.new("RGB", (width, height), colour)
    image.putpixel((0, 0), (255, 255, 255))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def spec(*shape: int, datatype: Datatype = FP32) -> TensorSpec:
    """Return an input of a shape."""
    return TensorSpec("image", datatype, shape)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((-1, 784), (1, 784)),
        ((784,), (784,)),
        ((-1, 28, 28), (1, 28, 28)),
        ((28, 28), (28, 28)),
        ((-1, 1, 8, 6), (1, 1, 8, 6)),
        ((-1, 3, 8, 6), (1, 3, 8, 6)),
        ((1, 3, 8, 6), (1, 3, 8, 6)),
        ((3, 8, 6), (3, 8, 6)),
        ((-1, 8, 6, 3), (1, 8, 6, 3)),
        ((-1, 8, 6, 1), (1, 8, 6, 1)),
        ((8, 6, 3), (8, 6, 3)),
        ((-1, 3, -1, -1), (1, 3, 40, 30)),
        ((-1, -1, -1, 3), (1, 40, 30, 3)),
    ],
)
def test_a_picture_takes_the_shape_of_the_input(
    shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    """The tensor has the input's shape; free heights and widths are those of the picture."""
    assert fit_picture("p.png", png(30, 40), spec(*shape)).shape == expected


def test_channels_first_and_last_hold_the_same_pixels() -> None:
    """[N,3,H,W] is [N,H,W,3] with the channel axis moved."""
    first = fit_picture("p.png", png(6, 8), spec(-1, 3, 8, 6))
    last = fit_picture("p.png", png(6, 8), spec(-1, 8, 6, 3))
    np.testing.assert_array_equal(np.moveaxis(first, 1, -1), last)
    assert last[0, 0, 0].tolist() == [1.0, 1.0, 1.0]
    assert last[0, 3, 3].tolist() == [1.0, 0.0, 0.0]


def test_flat_pixels_are_row_by_row() -> None:
    """[N,784] is [N,28,28] in rows."""
    flat = fit_picture("p.png", png(28, 28), spec(-1, 784))
    grid = fit_picture("p.png", png(28, 28), spec(-1, 28, 28))
    np.testing.assert_array_equal(flat.reshape(1, 28, 28), grid)


@pytest.mark.parametrize(("datatype", "white"), [(FP32, 1.0), (BF16, 1.0), (UINT8, 255)], ids=str)
def test_scale_follows_the_type(datatype: Datatype, white: float) -> None:
    """White is 1 for a floating input and 255 for an integer one."""
    pixels = fit_picture("p.png", png(4, 4), spec(-1, 4, 4, datatype=datatype))
    assert pixels.max() == white


def test_a_large_picture_is_averaged_not_sampled() -> None:
    """A checkerboard of single pixels shrinks to grey."""
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(board).save(buffer, "PNG")
    small = fit_picture("p.png", buffer.getvalue(), spec(-1, 8, 8))
    assert np.abs(small - 0.5).max() < 0.1


def test_orientation_of_a_photo_is_heeded() -> None:
    """A photo that its camera marks as turned comes upright."""
    image = Image.new("L", (4, 2))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert fit_picture("p.jpg", buffer.getvalue(), spec(-1, 1, -1, -1)).shape == (1, 1, 4, 2)


@pytest.mark.parametrize(
    "image_spec", [spec(-1, 785), spec(-1, 4, 8, 8), spec(), spec(-1, 16, datatype=BYTES)]
)
def test_an_input_that_is_no_picture_is_refused(image_spec: TensorSpec) -> None:
    """An input whose shape or type holds no pixels is named with what would."""
    with pytest.raises(UsageError, match=r"p\.png is a picture, but input 'image' is"):
        fit_picture("p.png", png(4, 4), image_spec)


def test_a_broken_picture_is_refused() -> None:
    """A picture that is cut off is an error with its name."""
    with pytest.raises(UsageError, match=r"p\.png: a broken picture"):
        fit_picture("p.png", png(64, 64)[:80], spec(-1, 8, 8))


def test_a_picture_of_a_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture with more pixels than Pillow allows is not unpacked."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UsageError, match="decompression bomb"):
        fit_picture("p.png", png(8, 8), spec(-1, 8, 8))


def test_without_pillow_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Pillow is not installed, the error says what to install."""
    real = builtins.__import__

    def without_pillow(
        name: str,
        namespace: Mapping[str, object] | None = None,
        local: Mapping[str, object] | None = None,
        names: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        if name == "PIL":
            raise ImportError(name)
        return real(name, namespace, local, names or (), level)

    monkeypatch.setattr(builtins, "__import__", without_pillow)
    with pytest.raises(UsageError, match=r"pip install 'penstock\[image\]'"):
        fit_picture("p.png", b"", spec(-1, 8, 8))
