"""The making of variants: what each kind does to a graph, and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from exporter.bench import Entry, load
from exporter.errors import CompressionFailed, UsageError
from exporter.variants import graph
from exporter.variants.make import Job, input_specs, is_batched, make, quantize
from tests.unit.exporter.graphs import convolution, linear, plain


def _teach(*shape: int) -> tuple[dict[str, Any], ...]:
    random = np.random.default_rng(0)
    return tuple({"x": random.random((rows, *shape), np.float32)} for rows in (1, 8, 3, 1, 8))


def _error(made: Path, source: Path, *shape: int) -> float:
    x = {"x": np.random.default_rng(1).random((7, *shape), np.float32)}
    got, want = (load(Entry(path), 1).run(None, x)[0] for path in (made, source))
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def test_dynamic_int8_quantises_linear_layers(tmp_path: Path) -> None:
    """Gemm becomes MatMulInteger with signed weights, and the answers stay."""
    source = linear(tmp_path / "m.onnx")
    variant = make(Job("int8-dynamic", source, tmp_path / "q.onnx"))
    assert (variant.changed["Gemm"], variant.changed["MatMulInteger"]) == (-2, 2)
    model = onnx.load(str(variant.path))
    types = {i.data_type for i in model.graph.initializer if "quantized" in i.name}
    assert types == {onnx.TensorProto.INT8}
    assert _error(variant.path, source, 16) < 0.05


def test_dynamic_int8_refuses_convolutions(tmp_path: Path) -> None:
    """It would make them up to eight times slower; the message names the way out."""
    job = Job("int8-dynamic", convolution(tmp_path / "m.onnx"), tmp_path / "q.onnx")
    with pytest.raises(CompressionFailed, match=r"refused for a model with Conv.*int8-static"):
        make(job)


def test_static_int8_writes_unsigned_activations_and_signed_weights(tmp_path: Path) -> None:
    """QDQ per channel, U8 x S8: what is fast on x86."""
    source = convolution(tmp_path / "m.onnx")
    job = Job("int8-static", source, tmp_path / "q.onnx", _teach(3, 8, 8))
    variant = make(job)
    assert variant.changed["DequantizeLinear"] >= 4
    kinds = {i.data_type: i for i in onnx.load(str(variant.path)).graph.initializer}
    assert {onnx.TensorProto.INT8, onnx.TensorProto.UINT8} <= set(kinds)
    scales = [
        i for i in onnx.load(str(variant.path)).graph.initializer
        if i.name.startswith("k") and i.name.endswith("scale")
    ]  # fmt: skip
    assert [list(scale.dims) for scale in scales] == [[8]]
    assert _error(variant.path, source, 3, 8, 8) < 0.05
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "q.onnx"]


def test_four_bits_replace_gemm(tmp_path: Path) -> None:
    """Torch's Gemm is rewritten first; only layers that are large enough change."""
    source = linear(tmp_path / "m.onnx", (256, 256, 4))
    variant = make(Job("w4", source, tmp_path / "q.onnx"))
    assert (variant.changed["MatMulNBits"], variant.changed["MatMul"]) == (1, 1)
    assert variant.file_bytes < source.stat().st_size / 3


def test_four_bits_that_change_nothing_say_so(tmp_path: Path) -> None:
    """A rewrite without a quantised layer is no variant, though the operators differ."""
    variant = make(Job("w4", linear(tmp_path / "m.onnx"), tmp_path / "q.onnx"))
    assert variant.changed == {}
    assert "changed nothing" in variant.note


@pytest.mark.parametrize("kind", ["int8-dynamic", "int8-static", "w4"])
def test_a_graph_without_layers_changes_nothing(kind: str, tmp_path: Path) -> None:
    """It is told, not published as quantised."""
    variant = make(Job(kind, plain(tmp_path / "m.onnx"), tmp_path / "q.onnx", _teach(4)))
    assert variant.changed == {}
    assert "changed nothing" in variant.note


def test_half_precision_keeps_the_types_of_the_signature(tmp_path: Path) -> None:
    """Inside FP16, outside FP32: clients need not know."""
    source = linear(tmp_path / "m.onnx")
    variant = make(Job("fp16", source, tmp_path / "q.onnx"))
    assert variant.changed["Cast"] == 2
    session = load(Entry(variant.path), 1)
    assert [node.type for node in (*session.get_inputs(), *session.get_outputs())] == [
        "tensor(float)", "tensor(float)",
    ]  # fmt: skip
    assert _error(variant.path, source, 16) < 2e-3


def test_static_int8_needs_data(tmp_path: Path) -> None:
    """Without calibration data the message says what to give."""
    with pytest.raises(UsageError, match="needs calibration data: --calibration"):
        quantize(linear(tmp_path / "m.onnx"), tmp_path / "q.onnx", "int8-static")


@pytest.mark.parametrize("kind", ["int8-dynamic", "int8-static", "w4", "fp16"])
def test_weights_that_protobuf_cannot_hold_go_beside(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the limit, here lowered, a variant has one more file, and loads from where it is."""
    monkeypatch.setattr(graph, "INLINE_LIMIT", 1000)
    (tmp_path / "out").mkdir()
    source = linear(tmp_path / "m.onnx", (256, 256, 4))
    target = tmp_path / "out" / "model.onnx"
    variant = make(Job(kind, source, target, _teach(256)))
    names = sorted(path.name for path in target.parent.iterdir())
    assert names == ["model.onnx", "model.onnx.data"]
    assert variant.file_bytes == sum(path.stat().st_size for path in target.parent.iterdir())
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    assert _error(moved / "model.onnx", source, 256) < 0.2


@pytest.mark.parametrize("kind", ["int8-dynamic", "int8-static", "fp16"])
def test_a_variant_is_signed_as_its_source(kind: str, tmp_path: Path) -> None:
    """Producer, name and properties are the source's; no domain is imported that is not used."""
    model = onnx.load(str(linear(tmp_path / "m.onnx")))
    model.producer_name, model.graph.name = "penstock", "digits"
    model.metadata_props.add(key="penstock.module", value="a:b")
    onnx.save(model, str(tmp_path / "m.onnx"))
    make(Job(kind, tmp_path / "m.onnx", tmp_path / "q.onnx", _teach(16)))
    made = onnx.load(str(tmp_path / "q.onnx"))
    assert (made.producer_name, made.graph.name) == ("penstock", "digits")
    assert [entry.key for entry in made.metadata_props] == ["penstock.module"]
    used = {node.domain for node in made.graph.node} | {""}
    assert {entry.domain for entry in made.opset_import} == used
    assert not made.graph.value_info


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    """Neither the output, nor a neighbour that has the name of a step in between."""
    source = linear(tmp_path / "m.onnx")
    (tmp_path / "ready.onnx").write_text("mine")
    with pytest.raises(UsageError, match=r"m\.onnx exists, and is not overwritten"):
        quantize(source, source, "int8-dynamic")
    make(Job("int8-static", source, tmp_path / "q.onnx", _teach(16)))
    assert (tmp_path / "ready.onnx").read_text() == "mine"
    with pytest.raises(UsageError, match="no such file"):
        quantize(tmp_path / "gone.onnx", tmp_path / "r.onnx", "int8-dynamic")
    with pytest.raises(UsageError, match="no such directory"):
        quantize(source, tmp_path / "gone" / "r.onnx", "int8-dynamic")


@pytest.mark.parametrize(("kind", "method"), [("int4", "minmax"), ("int8-static", "entropy")])
def test_unknown_kinds_and_methods(kind: str, method: str, tmp_path: Path) -> None:
    """What is not known is refused before anything runs."""
    with pytest.raises(UsageError, match="expected one of"):
        quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", kind, method=method)


def test_a_quantiser_that_fails_is_told_by_its_kind(tmp_path: Path) -> None:
    """Whatever it raises becomes one line with the kind in it."""
    (tmp_path / "m.onnx").write_bytes(linear(tmp_path / "l.onnx").read_bytes())
    job = Job("int8-static", tmp_path / "m.onnx", tmp_path / "q.onnx", ({"wrong": np.ones(3)},))
    with pytest.raises(CompressionFailed, match=r"^int8-static: "):
        make(job)


def test_inputs_are_read_from_the_graph(tmp_path: Path) -> None:
    """Free extents are -1, and a free axis 0 everywhere is a batch."""
    (spec,) = input_specs(convolution(tmp_path / "m.onnx"))
    assert (spec.name, str(spec.dtype), spec.shape) == ("x", "float32", (-1, 3, 8, 8))
    assert is_batched([spec])
