"""Modules of every kind: names, axes and datatypes of what becomes of them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from exporter import ChildCrashed, ConversionFailed, ExportError, VerificationFailed, export
from service.inference.backend import Interrupt
from service.repository.manifest import Tolerance
from service.runtime.session import Session, SessionConfig
from service.tensors import BOOL, FP32, INT64
from tests.unit.exporter.modules import (
    Branching,
    Classifier,
    Counting,
    Coupled,
    Deciding,
    Looping,
    Masked,
    Noisy,
    PassThrough,
    Recurrent,
    Shrinking,
    TwoHeads,
)


def test_an_example_of_one_row_leaves_the_batch_free(tmp_path: Path) -> None:
    """A batch of one in the example is not taken for a fixed extent."""
    result = export(Classifier(), torch.rand(1, 6), name="m", repository=tmp_path)
    graph = onnx.load(str(result.path / "model.onnx")).graph
    for tensor in (*graph.input, *graph.output):
        assert tensor.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_outputs_of_several_types_are_named_by_their_keys(tmp_path: Path) -> None:
    """Nested outputs get readable names and their own types."""
    examples = {"left": torch.rand(2, 3), "right": torch.rand(2, 3)}
    manifest = export(TwoHeads(), examples, name="m", repository=tmp_path).manifest
    assert [s.name for s in manifest.inputs] == ["left", "right"]
    assert [(s.name, s.datatype, s.shape) for s in manifest.outputs] == [
        ("total", FP32, (-1, 3)), ("extra_0", BOOL, (-1, 3)), ("extra_1", INT64, (-1,)),
    ]  # fmt: skip


def test_an_input_that_is_passed_through_keeps_its_name(tmp_path: Path) -> None:
    """Returning an input does not rename it."""
    manifest = export(PassThrough(), torch.rand(1, 2), name="m", repository=tmp_path).manifest
    assert [s.name for s in manifest.inputs] == ["x"]
    assert [s.name for s in manifest.outputs] == ["same", "double"]


def test_names_can_be_given(tmp_path: Path) -> None:
    """Given names replace those of forward."""
    manifest = export(
        Classifier(), torch.rand(1, 6), name="m", repository=tmp_path,
        input_names=["pixels"], output_names=["scores"],
    ).manifest  # fmt: skip
    assert ([s.name for s in manifest.inputs], [s.name for s in manifest.outputs]) == (
        ["pixels"], ["scores"],
    )  # fmt: skip


def test_a_free_length_is_free(tmp_path: Path) -> None:
    """Two inputs share a length that is free, and the output has it too."""
    tokens, mask = torch.randint(0, 10, (1, 5)), torch.rand(1, 5) > 0.3
    axes = {"tokens": {1: "length"}, "mask": {1: "length"}}
    result = export(Masked(), (tokens, mask), name="m", repository=tmp_path, dynamic_axes=axes)
    assert [s.shape for s in result.manifest.outputs] == [(-1, -1, 4)]
    session = Session(result.path / "model.onnx", SessionConfig())
    feeds = {"tokens": np.zeros((2, 9), np.int64), "mask": np.ones((2, 9), np.bool_)}
    assert session.run(feeds, ["output"], Interrupt())["output"].shape == (2, 9, 4)


def test_a_recurrent_network_with_a_strided_example(tmp_path: Path) -> None:
    """An LSTM converts from a transposed example, and any length goes."""
    example = torch.rand(4, 2, 3).transpose(0, 1)
    manifest = export(
        Recurrent(), example, name="m", repository=tmp_path,
        dynamic_axes={"sequence": {1: "length"}},
    ).manifest  # fmt: skip
    assert [s.shape for s in manifest.outputs] == [(-1, -1, 4)]


def test_a_model_without_a_batch_has_its_fixed_shape(tmp_path: Path) -> None:
    """batch=False publishes what has no batch axis, and the manifest says so."""
    manifest = export(
        Shrinking(), torch.rand(5, 2), name="m", repository=tmp_path, batch=False
    ).manifest
    assert manifest.max_batch_size == 0
    assert [s.shape for s in (*manifest.inputs, *manifest.outputs)] == [(5, 2), (2,)]


def test_the_module_is_left_as_it_was(tmp_path: Path) -> None:
    """Training goes on after an export: mode, weights and gradients are the module's own."""
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout()).train()
    module(torch.rand(5, 3)).sum().backward()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    export(module, torch.rand(1, 3), name="m", repository=tmp_path)
    assert all(part.training for part in module.modules())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(weight.grad is not None for weight in module.parameters())


def test_half_precision_has_a_tolerance_of_its_own(tmp_path: Path) -> None:
    """FP16 is proved within 5e-3, not within what only FP32 can reach."""
    module, example = nn.Linear(64, 8).half(), torch.rand(1, 64).half()
    manifest = export(module, example, name="m", repository=tmp_path).manifest
    assert manifest.tolerance == Tolerance(relative=5e-3, absolute=1e-4)


@pytest.mark.parametrize(
    ("module", "error", "says"),
    [
        (Noisy(), VerificationFailed, r"batch +output +max abs +max rel +allowed +first at"),
        (Branching(), VerificationFailed, r"\n +64 +output"),
        (Coupled(), VerificationFailed, r"not independent.*\n +\d of \d"),
        (Looping(), ConversionFailed, r"fixes axis 0 \(batch\).*modules\.py:\d+: return torch\.st"),
        (Deciding(), ConversionFailed, r"value of a tensor.*modules\.py:\d+: if x\.sum\(\)"),
        (Shrinking(), ConversionFailed, r"no batch axis \(batch 1: \[4\].*--no-batch"),
        (Counting(), ConversionFailed, r"buffer\(s\) \['calls'\]"),
        (nn.Linear(9, 2), ConversionFailed, r"fails with the example inputs: RuntimeError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_cannot_be_served_is_refused_and_leaves_nothing(
    module: nn.Module, error: type[ExportError], says: str, tmp_path: Path
) -> None:
    """Each fault is told by its own cause, and nothing is published."""
    torch.manual_seed(0)
    with pytest.raises(error, match="(?s)" + says):
        export(module, torch.rand(2, 4), name="m", repository=tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_crashes_the_runtime_is_refused(tmp_path: Path) -> None:
    """A load that ends the process ends that of a child, and is told as a failed conversion."""
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True, norm_first=True)
    module = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).half()
    said = "published"  # by an ONNX Runtime that has mended it
    try:
        export(module, torch.rand(2, 5, 32).half(), name="m", repository=tmp_path)
    except ChildCrashed as error:
        said = str(error)
    assert said == "published" or "crashed (SIGSEGV)" in said
    assert (tmp_path / "m").exists() is (said == "published")


def test_a_tolerance_of_nothing_is_not_met(tmp_path: Path) -> None:
    """The gate compares for real: sums in another order differ in the last bit."""
    module, example = nn.Sequential(nn.Linear(512, 512), nn.Softmax(1)), torch.rand(1, 512)
    with pytest.raises(VerificationFailed, match=r"64 +output"):
        export(module, example, name="m", repository=tmp_path, tolerance=Tolerance(0.0, 0.0))


def test_samples_of_two_sizes_free_an_axis(tmp_path: Path) -> None:
    """Nobody named the length: it differs between the samples, and is proved at more sizes."""
    samples = [
        {"tokens": np.ones((2, n), np.int64), "mask": np.ones((2, n), np.bool_)} for n in (5, 8)
    ]
    manifest = export(Masked(), name="m", repository=tmp_path, samples=samples).manifest
    assert [s.shape for s in manifest.inputs] == [(-1, -1), (-1, -1)]
    (length,) = [axis for axis in manifest.axes if axis.name != "batch"]
    assert length.tensors == {"tokens": 1, "mask": 1}
    assert len(length.proved) >= 3


def test_an_axis_has_the_sizes_that_were_said(tmp_path: Path) -> None:
    """Both ends of a range are proved, and stand in the manifest."""
    manifest = export(
        Masked(), name="m", repository=tmp_path, max_batch_size=4, limits={"length": (3, 9)},
        inputs=["tokens:int64[batch,length]=0..9", "mask:bool[batch,length]"],
    ).manifest  # fmt: skip
    (length,) = [axis for axis in manifest.axes if axis.name == "length"]
    assert (length.low, length.high) == (3, 9)
    assert {3, 9} <= set(length.proved) <= {3, 4, 5, 6, 7, 8, 9}
