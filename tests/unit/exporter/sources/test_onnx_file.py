"""ONNX files as sources: sound ones, and everything that a file from anywhere may be."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporter.errors import ConversionFailed, UnsafeArtefact, UsageError
from tests.support import sequences
from tests.support.sources import convert, proved

_WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3)


def _model(  # the parts of a model that a test may want otherwise
    *,
    op: str = "MatMul",
    domain: str = "",
    shape: tuple[object, ...] = ("n", 4),
    kind: int = TensorProto.FLOAT,
    opset: int = 20,
    names: tuple[str, str] = ("x", "y"),
) -> onnx.ModelProto:
    source, target = names
    imports = [helper.make_opsetid("", opset)]
    if domain:
        imports.append(helper.make_opsetid(domain, 1))
    graph = helper.make_graph(
        [helper.make_node(op, [source, "w"], [target], domain=domain)], "g",
        [helper.make_tensor_value_info(source, kind, shape)],
        [helper.make_tensor_value_info(target, kind, None)],
        [numpy_helper.from_array(_WEIGHTS, "w")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def _written(tmp_path: Path, model: onnx.ModelProto) -> Path:
    path = tmp_path / "in" / "m.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def _with_data(tmp_path: Path, location: str = "m.data", **more: str) -> Path:
    """Write a model whose weights lie in another file, at a place of the test's choosing."""
    model = _model()
    tensor = model.graph.initializer[0]
    raw = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)
    path = _written(tmp_path, model)
    (path.parent / "m.data").write_bytes(raw)
    return path


def test_a_file_is_proved_under_its_own_names(tmp_path: Path) -> None:
    """Names and opset stay; the free axis 0 becomes the batch."""
    converted, proven = proved(_written(tmp_path, _model(opset=17)), tmp_path)
    assert [(s.name, s.shape) for s in (*proven.inputs, *proven.outputs)] == [
        ("x", (-1, 4)), ("y", (-1, 3)),
    ]  # fmt: skip
    assert converted.opset == 17
    case = converted.cases[-1]
    np.testing.assert_allclose(case.outputs["y"], case.inputs["x"] @ _WEIGHTS, rtol=1e-5)


def test_names_that_cannot_be_are_made_ones_that_can(tmp_path: Path) -> None:
    """TensorFlow's colons and slashes become underscores; names that are given win."""
    path = _written(tmp_path, _model(names=("in/x:0", "Identity:0")))
    assert proved(path, tmp_path)[0].outputs == ("Identity_0",)
    converted, _ = proved(path, tmp_path, input_names=("a",), output_names=("b",))
    assert ([i.name for i in converted.inputs], converted.outputs) == (["a"], ("b",))


def test_names_do_not_clash_with_inner_ones(tmp_path: Path) -> None:
    """A name that a value inside of the graph has already is taken from that."""
    path = _written(tmp_path, _model())
    converted, proven = proved(path, tmp_path, output_names=("w",))
    assert proven.outputs[0].name == "w"
    np.testing.assert_allclose(
        converted.cases[0].outputs["w"], converted.cases[0].inputs["x"] @ _WEIGHTS, rtol=1e-5
    )


def test_other_free_axes_keep_their_names(tmp_path: Path) -> None:
    """A symbolic extent besides the batch stays free, under its name where it has a good one."""
    model = _model(shape=("n", "length", 4))
    converted, proven = proved(_written(tmp_path, model), tmp_path)
    assert dict(converted.inputs[0].axes) == {0: "batch", 1: "length"}
    assert proven.outputs[0].shape == (-1, -1, 3)


def test_state_has_its_batch_where_the_names_show_it(tmp_path: Path) -> None:
    """A GRU with h0 [1,batch,hidden] is proved with a free batch there, and so are its steps."""
    path = tmp_path / "gru.onnx"
    path.write_bytes(sequences.gru())
    converted, proven = proved(path, tmp_path)
    assert dict(converted.inputs[1].axes) == {1: "batch"}
    assert converted.state == {"h0": "hn"}
    assert [spec.shape for spec in proven.outputs] == [(-1, -1, 4), (1, -1, 4)]


def test_weights_in_a_second_file_are_taken_along(tmp_path: Path) -> None:
    """External data beside the model is read and written into the version."""
    converted, _ = proved(_with_data(tmp_path), tmp_path)
    case = converted.cases[0]
    np.testing.assert_allclose(case.outputs["y"], case.inputs["x"] @ _WEIGHTS, rtol=1e-5)


def test_large_weights_go_into_a_file_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the limit of protobuf, here a lower one, the weights are a file of their own."""
    monkeypatch.setattr("exporter.sources.INLINE_BYTES", 40)
    for number, path in enumerate((_written(tmp_path, _model()), _with_data(tmp_path))):
        target = tmp_path / str(number)
        target.mkdir()
        _, proven = proved(path, target)
        assert {file.name for file in target.iterdir()} == {"model.onnx", "model.onnx.data"}
        assert proven.outputs[0].shape == (-1, 3)


def _link(path: Path) -> None:
    secret = path.parent.parent / "secret"
    secret.write_bytes(_WEIGHTS.tobytes())
    (path.parent / "m.data").unlink()
    (path.parent / "m.data").symlink_to(secret)


def _hard_link(path: Path) -> None:
    secret = path.parent.parent / "secret"
    secret.write_bytes(_WEIGHTS.tobytes())
    (path.parent / "m.data").unlink()
    os.link(secret, path.parent / "m.data")


def _pipe(path: Path) -> None:
    (path.parent / "m.data").unlink()
    os.mkfifo(path.parent / "m.data")


@pytest.mark.parametrize(
    "location",
    ["../secret", "a/../../secret", "/etc/passwd", "\\\\host\\share", "C:\\data", "..\\secret", "",
     "*/_ORT_MEM_ADDR_/*"],
)  # fmt: skip
def test_data_outside_of_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    """A graph that names a file of somebody else's is not loaded."""
    (tmp_path / "secret").write_bytes(_WEIGHTS.tobytes())
    with pytest.raises(UnsafeArtefact, match="not loaded"):
        convert(_with_data(tmp_path, location), tmp_path)


@pytest.mark.parametrize("spoil", [_link, _hard_link, _pipe])
def test_data_that_is_no_file_of_its_own_is_refused(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    """Links out of the folder, second names of a file and pipes are not read."""
    path = _with_data(tmp_path)
    spoil(path)
    with pytest.raises(UnsafeArtefact, match=r"link|plain file"):
        convert(path, tmp_path)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"offset": "40"}, "cut off"),
        ({"length": "9999"}, "bytes 0 to 9999, but the file has 48"),
        ({"offset": "-8"}, "cut off"),
        ({"offset": "x"}, "no number"),
        ({"location": "gone.data"}, "no such file"),
    ],
)
def test_data_that_is_not_there_is_told(tmp_path: Path, more: dict[str, str], says: str) -> None:
    """A missing, short or mistyped place is a failed conversion."""
    path = _with_data(tmp_path, more.pop("location", "m.data"), length="48", **more) if (
        "length" not in more
    ) else _with_data(tmp_path, **more)  # fmt: skip
    with pytest.raises(ConversionFailed, match=says):
        convert(path, tmp_path)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (_model(op="Teleport"), r"unknown operators \['Teleport'\]"),
        (_model(op="MatMul", domain="acme"), r"unknown operators \['acme:MatMul'\]"),
        (_model(opset=99), "uses opset 99, the newest"),
        (_model(op="Add", domain="com.microsoft"), "ONNX Runtime does not load it"),
    ],
)
def test_what_the_server_cannot_run_is_told(
    tmp_path: Path, model: onnx.ModelProto, says: str
) -> None:
    """Operators, domains and versions that are unknown are named."""
    with pytest.raises(ConversionFailed, match=says):
        convert(_written(tmp_path, model), tmp_path)


def test_an_operator_in_a_branch_is_seen(tmp_path: Path) -> None:
    """Branches and loops hide nothing."""
    inner = helper.make_graph(
        [helper.make_node("Teleport", [], ["z"])], "b", [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )  # fmt: skip
    model = _model()
    model.graph.node.append(
        helper.make_node("If", ["c"], ["t"], then_branch=inner, else_branch=inner)
    )
    with pytest.raises(ConversionFailed, match="Teleport"):
        convert(_written(tmp_path, model), tmp_path)


def test_a_newer_form_of_files_is_told(tmp_path: Path) -> None:
    """The IR version of the file and the newest known are said."""
    model = _model()
    model.ir_version = 99
    with pytest.raises(ConversionFailed, match="IR version 99, the newest that is known"):
        convert(_written(tmp_path, model), tmp_path)


@pytest.mark.parametrize("size", [0, 1, 60, -4])
def test_files_that_are_cut_off_are_told(tmp_path: Path, size: int) -> None:
    """At whatever byte a file ends too early, it is no model."""
    path = _written(tmp_path, _model())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ConversionFailed, match="not an ONNX file"):
        convert(path, tmp_path)


def test_a_fixed_batch_is_told(tmp_path: Path) -> None:
    """A model for one row is not served in batches; without a batch it is proved."""
    path = _written(tmp_path, _model(shape=(1, 4)))
    with pytest.raises(UsageError, match=r"fixed shape \[1,4\].*--no-batch"):
        convert(path, tmp_path)
    assert proved(path, tmp_path, batch=False)[1].inputs[0].shape == (1, 4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"examples": {"z": np.zeros((2, 4))}}, r"example of 'z', but the inputs are \['x'\]"),
        ({"examples": {"x": np.zeros((2, 5))}}, r"has shape \[2,5\], but the model takes \[-1,4\]"),
        ({"input_names": ("a", "b")}, r"are to name the inputs \['x'\]"),
        ({"output_names": ("no name",)}, "cannot name an output"),
    ],
)
def test_what_does_not_fit_the_file_is_told(
    tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    """Names and examples that are not those of the graph are said with those that are."""
    with pytest.raises(UsageError, match=says):
        convert(_written(tmp_path, _model()), tmp_path, **options)


def test_strings_are_told(tmp_path: Path) -> None:
    """What the proof cannot make data for is refused."""
    model = _model(op="StringConcat", kind=TensorProto.STRING)
    with pytest.raises(UsageError, match="of type STRING"):
        convert(_written(tmp_path, model), tmp_path)


def test_weights_do_not_go_with_a_file_that_has_its_own(tmp_path: Path) -> None:
    """--weights beside an ONNX file would be passed over; it is told instead."""
    with pytest.raises(UsageError, match=r"a file in ONNX has its own.*FILE\.py:BUILDER"):
        convert(_written(tmp_path, _model()), tmp_path, weights=tmp_path / "w.pt")
