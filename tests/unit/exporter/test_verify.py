"""The proof of a file: drift from what was asked for, and the loop that was unrolled."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from exporter.cases import make_cases
from exporter.errors import ConversionFailed, VerificationFailed
from exporter.flow import Converted
from exporter.inputs import make_inputs
from exporter.verify import prove_file
from service.repository.manifest import Axis
from service.tensors import Array, Tensors
from tests.support import models


class Unrolled(nn.Module):
    """Sums over axis 1 in a Python loop, which capturing unrolls."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum of the columns."""
        total = torch.zeros_like(x[:, 0])
        for column in range(x.shape[1]):
            total = total * 0.5 + x[:, column]
        return total


def _loop(inputs: Tensors) -> list[Array]:
    with torch.no_grad():
        return [Unrolled()(torch.from_numpy(inputs["x"])).numpy()]


@pytest.mark.filterwarnings("ignore")  # of torch, which this asks for what it advises against
def test_an_unrolled_loop_is_found(tmp_path: Path) -> None:
    """A file that says its length is free, but has the loop of the example in it, is refused.

    torch.export.Dim.AUTO makes such files without a word.
    """
    example = torch.rand(2, 8)
    auto = torch.export.Dim.AUTO
    program = torch.onnx.export(
        Unrolled().eval(), (example,), dynamo=True, verbose=False, opset_version=20,
        dynamic_shapes=({0: auto, 1: auto},), input_names=["x"], output_names=["y"],
    )  # fmt: skip
    assert program is not None
    path = tmp_path / "model.onnx"
    program.save(str(path))
    model = onnx.load(str(path))
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in enumerate(("batch", "length")[: len(value.type.tensor_type.shape.dim)]):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    onnx.save(model, str(path))
    inputs = make_inputs({"x": example.numpy()}, batch=True, dynamic_axes={"x": {1: "length"}})
    cases = make_cases(_loop, inputs, ["y"], max_batch_size=4, seed=0)
    converted = Converted(path, inputs, ("y",), cases, 20, (), {})
    with pytest.raises((VerificationFailed, ConversionFailed), match=r"y|ONNX Runtime fails"):
        prove_file(converted, None, {})
    at_eight = tuple(case for case in cases if case.inputs["x"].shape[1] == 8)
    prove_file(replace(converted, cases=at_eight), None, {})  # what one size alone would say


def _mlp(tmp_path: Path, name: str = "batch") -> Converted:
    """Return a file with what it computes itself as its source."""
    import onnxruntime as ort

    path = tmp_path / "model.onnx"
    model = onnx.load_from_string(models.mlp())
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = name
    onnx.save(model, str(path))
    session = ort.InferenceSession(str(path))
    example = np.random.default_rng(0).random((2, 784), np.float32)
    inputs = make_inputs({"X": example}, batch=True)
    cases = make_cases(lambda given: session.run(["Y"], given), inputs, ["Y"],
                       max_batch_size=8, seed=0)  # fmt: skip
    return Converted(path, inputs, ("Y",), cases, 21, (), {})


def test_what_was_proved_is_told(tmp_path: Path) -> None:
    """A faithful file is proved at every size of its batch, and says so."""
    said: list[str] = []
    proven = prove_file(_mlp(tmp_path), None, {}, progress=said.append)
    assert proven.axes == (Axis("batch", {"X": 0}, 1, 8, (1, 2, 3, 8)),)
    assert said == ["proving that ONNX Runtime computes the same at batch 1, 2, 3, 8"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"opset": 20}, r"opset 20 was expected, but the file says \[21\]"),
        ({"outputs": ("Z",)}, r"outputs Z expected, but the file has Y FP32\[-1,10\]"),
    ],
)
def test_drift_is_refused(tmp_path: Path, change: dict[str, object], says: str) -> None:
    """A file of another opset or with other names than asked for is not published."""
    with pytest.raises(ConversionFailed, match=says):
        prove_file(replace(_mlp(tmp_path), **change), None, {})  # type: ignore[arg-type]


def test_an_axis_without_its_name_is_refused(tmp_path: Path) -> None:
    """An anonymous batch axis is no batch to a server: the name is read back."""
    with pytest.raises(ConversionFailed, match=r"called 'batch', but the file says s77"):
        prove_file(_mlp(tmp_path, "s77"), None, {})


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    """A file that is no ONNX is told as such."""
    converted = _mlp(tmp_path)
    converted.model.write_bytes(converted.model.read_bytes()[:1000])
    with pytest.raises(ConversionFailed):
        prove_file(converted, None, {})
