"""Pre- and post-processing: what the options mean, and what they compute, against PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporter.errors import UsageError
from exporter.processing import (
    Processing,
    check_channels,
    from_options,
    parse_normalize,
    parse_resize,
    postprocess,
    preprocess,
    read_labels,
    resized,
)


def _random() -> np.random.Generator:
    return np.random.default_rng(0)  # in each test: their order is random


@pytest.mark.parametrize("size", [(8, 8), (5, 9), (3, 3), (17, 4), (1, 1)])
def test_resize_is_that_of_torch(size: tuple[int, int]) -> None:
    """Bilinear between pixel centres, larger and smaller."""
    images = _random().random((2, 3, 8, 6), np.float32)
    want = torch.nn.functional.interpolate(torch.from_numpy(images), size=size, mode="bilinear")
    np.testing.assert_allclose(resized(images, size), want.numpy(), atol=1e-6)


def test_bytes_are_scaled_and_normalised_by_channel() -> None:
    """As every image model is trained: x / 255, minus mean, over deviation, channel by channel."""
    wanted = Processing(uint8=True, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), layout="nhwc")
    images = _random().integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    got = preprocess(wanted, images)
    want = (images / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.4]
    assert (got.shape, str(got.dtype)) == ((2, 3, 4, 5), "float32")
    np.testing.assert_allclose(got, want.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)


def test_scores_become_probabilities_and_the_best_of_them() -> None:
    """Softmax and top-k as torch has them, and other outputs stay."""
    scores = _random().standard_normal((4, 7)).astype(np.float32) * 5
    outputs = {"logits": scores, "other": scores[:, :1]}
    got = postprocess(Processing(softmax=True, top_k=3), outputs, "logits")
    want = torch.softmax(torch.from_numpy(scores), dim=1).topk(3)
    np.testing.assert_allclose(got["logits_scores"], want.values.numpy(), rtol=1e-5)
    np.testing.assert_array_equal(got["logits_indices"], want.indices.numpy())
    assert list(got) == ["logits_scores", "logits_indices", "other"]


@pytest.mark.parametrize(
    ("wanted", "function"),
    [
        (Processing(sigmoid=True), torch.sigmoid),
        (Processing(l2_normalize=True), torch.nn.functional.normalize),
    ],
)
def test_sigmoid_and_norm_are_those_of_torch(wanted: Processing, function: Any) -> None:
    """A row of zeros has no direction and stays zero."""
    scores = _random().standard_normal((4, 7)).astype(np.float32)
    scores[0] = 0
    got = postprocess(wanted, {"y": scores}, "y")["y"]
    np.testing.assert_allclose(got, function(torch.from_numpy(scores)).numpy(), atol=1e-6)


def test_options_in_words(tmp_path: Path) -> None:
    """The command line's words become one description."""
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    wanted = from_options(
        {
            "normalize": "0.485/0.456/0.406,0.229/0.224/0.225", "resize": "224x320",
            "uint8_input": True, "top_k": 2, "labels": tmp_path / "labels.txt",
        }
    )  # fmt: skip
    assert (wanted.mean[0], wanted.std[2], wanted.resize) == (0.485, 0.225, (224, 320))
    assert (wanted.factor, wanted.top_k, wanted.labels) == (1 / 255, 2, ("cat", "dog"))
    assert from_options({}) == Processing()
    assert not Processing().changes_input
    assert not Processing().changes_output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"softmax": True, "sigmoid": True}, "exclude each other"),
        ({"layout": "chwn"}, "layout 'chwn'"),
        ({"top_k": -1}, "top-k is -1"),
        ({"mean": (0.5,)}, "needs both"),
        ({"mean": (0.0,), "std": (0.0,)}, "deviation or a scale of 0"),
        ({"mean": (float("nan"),), "std": (1.0,)}, "finite"),
        ({"labels": ("a", "b", "a")}, "'a' stands twice"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], says: str) -> None:
    """Before anything is exported."""
    with pytest.raises(UsageError, match=says):
        Processing(**options)


@pytest.mark.parametrize("text", ["0.5", "a,b", "0.5,", ""])
def test_normalize_that_is_none(text: str) -> None:
    """Mean and deviation are both needed."""
    with pytest.raises(UsageError, match="expected MEAN,STD"):
        parse_normalize(text)


@pytest.mark.parametrize("text", ["224", "0x10", "224x", "axb", "-1x5"])
def test_resize_that_is_none(text: str) -> None:
    """Height and width are both needed, from 1."""
    with pytest.raises(UsageError, match="expected HEIGHTxWIDTH"):
        parse_resize(text)


@pytest.mark.parametrize("content", [b"", b"cat\n\ndog\n", b"\xff\xfe"])
def test_labels_that_are_none(content: bytes, tmp_path: Path) -> None:
    """An empty file, an empty line and what is no text are refused by the file's name."""
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(UsageError, match=r"labels\.txt"):
        read_labels(tmp_path / "labels.txt")


def test_values_by_channel_need_the_channels() -> None:
    """Three means for four channels are an error, for a free number they are not."""
    wanted = Processing(mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    check_channels(wanted, [None, 3, 8, 8])
    check_channels(wanted, [None, None, 8, 8])
    with pytest.raises(UsageError, match=r"3 values of the mean, but .* \[-1,4,8,8\]"):
        check_channels(wanted, [None, 4, 8, 8])
