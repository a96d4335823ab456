"""`--input` specifications and `--sample` files."""

from pathlib import Path

import numpy as np
import pytest

from exporter.errors import UsageError
from exporter.specs import check_batches, examples_of, parse_specs, read_samples


def test_a_specification_gives_name_type_and_free_axes() -> None:
    """Numbers are fixed extents, names are free ones."""
    (spec,) = parse_specs(["image:float32[batch,784]"])
    assert (spec.name, spec.dtype, spec.shape[1]) == ("image", "float32", 784)
    assert dict(spec.axes) == {0: "batch"}


def test_the_same_name_is_the_same_size_everywhere() -> None:
    """Two inputs that share a free axis get examples that agree in it."""
    first, second = parse_specs(["a:float32[batch,height,width]", "b:bool[batch,width]"])
    assert first.shape[2] == second.shape[1]
    assert len({*first.shape}) == 3


def test_a_free_axis_can_have_a_size_in_the_example() -> None:
    """height=64 is free, and 64 in the example."""
    (spec,) = parse_specs(["image:uint8[batch,3,height=64]=0..255"])
    assert (spec.shape[2], spec.axes[2], spec.low, spec.high) == (64, "height", 0.0, 255.0)


def test_examples_are_in_range_and_the_same_for_the_same_seed() -> None:
    """Random examples keep to their range and depend on the seed alone."""
    specs = parse_specs(["t:int64[batch,200]=5..7", "f:float32[batch,200]=-2..-1", "b:bool[batch]"])
    examples = examples_of(specs, seed=3)
    assert set(np.unique(examples["t"])) == {5, 6, 7}
    assert -2 <= examples["f"].min() <= examples["f"].max() <= -1
    assert examples["b"].dtype == np.bool_
    again = examples_of(specs, seed=3)
    assert all(np.array_equal(examples[name], again[name]) for name in examples)


@pytest.mark.parametrize(
    "text",
    [
        "image", "image:float32", "image:float32[batch,-1]", "image:float32[batch,0]",
        "image:float31[batch]", "image:float32[batch,]", ":float32[batch]", "x:int8[batch]=9..1",
        "x:int8[batch]=1..", "x:int8[batch]=1...2", "",
    ],
)  # fmt: skip
def test_malformed_specifications_are_refused(text: str) -> None:
    """The error repeats what was given."""
    with pytest.raises(UsageError, match="--input"):
        parse_specs([text])


def test_an_input_is_specified_once() -> None:
    """A second specification of the same input is refused."""
    with pytest.raises(UsageError, match="given twice"):
        parse_specs(["x:bool[batch]", "x:bool[batch]"])


@pytest.mark.parametrize(
    ("text", "batch", "says"),
    [("x:bool[2]", True, "must be called 'batch'"), ("x:bool[]", True, "must be called 'batch'"),
     ("x:bool[batch]", False, "--no-batch was said"), ("h:bool[2,batch]", False, "--no-batch")],
)  # fmt: skip
def test_the_batch_is_where_it_was_said_to_be(text: str, batch: bool, says: str) -> None:  # noqa: FBT001 (a parameter)
    """With batches axis 0 is the batch; without, no axis is."""
    with pytest.raises(UsageError, match=says):
        check_batches(parse_specs([text]), batch=batch)


def test_samples_are_read_by_name(tmp_path: Path) -> None:
    """A .npz gives an array for each input."""
    np.savez(tmp_path / "s.npz", image=np.ones((3, 2), np.float32))
    assert read_samples(tmp_path / "s.npz")["image"].shape == (3, 2)


def test_samples_are_never_unpickled(tmp_path: Path) -> None:
    """A .npz that holds pickles is refused; so is what is no .npz, and what is missing."""
    np.savez(tmp_path / "p.npz", image=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "t.npz").write_text("text")
    for name in ("p.npz", "one.npy", "t.npz", "missing.npz"):
        with pytest.raises(UsageError, match=name):
            read_samples(tmp_path / name)
