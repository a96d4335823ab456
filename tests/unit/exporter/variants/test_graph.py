"""Facts of a graph, and Gemm as MatMul."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from exporter.variants import graph
from service.tensors import Array
from tests.unit.exporter.graphs import convolution, linear


def _run(model: onnx.ModelProto, x: Array) -> Array:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: Array = session.run(None, {"x": x})[0]
    return result


def test_facts_count_operators_and_the_weights_they_read(tmp_path: Path) -> None:
    """Bytes are counted by the operator that reads them."""
    facts = graph.facts_of(linear(tmp_path / "m.onnx", (16, 32, 4)))
    assert facts.operators == {"Gemm": 2, "Relu": 1}
    assert facts.weights == {"Gemm": 4 * (16 * 32 + 32 + 32 * 4 + 4)}
    assert facts.share("Gemm", "MatMul") == 1.0


def test_a_convolution_holds_its_own_share(tmp_path: Path) -> None:
    """The kernel counts for Conv."""
    facts = graph.facts_of(convolution(tmp_path / "m.onnx"))
    assert facts.weights["Conv"] == 4 * 8 * 3 * 9
    assert 0 < facts.share("Gemm") < 0.5


def test_external_weights_count(tmp_path: Path) -> None:
    """A file of weights beside the graph is part of its size."""
    model = onnx.load(str(linear(tmp_path / "m.onnx")))
    onnx.save(model, str(tmp_path / "e.onnx"), save_as_external_data=True, location="e.data",
              size_threshold=0)  # fmt: skip
    beside = (tmp_path / "e.data").stat().st_size
    assert graph.file_bytes(tmp_path / "e.onnx") == (tmp_path / "e.onnx").stat().st_size + beside


def test_changes_tell_what_came_and_went() -> None:
    """Equal counts are left out."""
    assert graph.changes({"Gemm": 2, "Relu": 1}, {"MatMulInteger": 2, "Relu": 1}) == {
        "Gemm": -2,
        "MatMulInteger": 2,
    }


def test_gemm_becomes_matmul_and_computes_the_same(tmp_path: Path) -> None:
    """Weights are turned, the bias is added, no initializer is left over."""
    model = onnx.load(str(linear(tmp_path / "m.onnx")))
    x = np.random.default_rng(0).random((5, 16), np.float32)
    want = _run(model, x)
    assert graph.gemm_to_matmul(model) == 2
    assert graph.histogram(model) == {"MatMul": 2, "Add": 2, "Relu": 1}
    assert len(model.graph.initializer) == 4
    np.testing.assert_allclose(_run(model, x), want, rtol=1e-5, atol=1e-6)


def test_a_gemm_that_scales_is_left_alone(tmp_path: Path) -> None:
    """Only what MatMul and Add express is replaced."""
    model = onnx.load(str(linear(tmp_path / "m.onnx")))
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("alpha", 0.5))
    assert graph.gemm_to_matmul(model) == 1


def test_large_layers_are_told_from_small_ones(tmp_path: Path) -> None:
    """By the number of their weights."""
    model = onnx.load(str(linear(tmp_path / "m.onnx", (16, 32, 4))))
    graph.gemm_to_matmul(model)
    large, small = graph.large_linear(model, min_elements=500)
    assert (len(large), len(small)) == (1, 1)
