"""Pre- and post-processing in the graph, against the same in numpy."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from exporter.compose import compose, processed_cases
from exporter.errors import UsageError
from exporter.processing import Processing
from service.tensors import Tensors
from tests.unit.exporter.graphs import cases, convolution, linear, plain


def _run(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _outputs(session: ort.InferenceSession, feeds: Tensors) -> Tensors:
    names = [node.name for node in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


@pytest.mark.parametrize(
    "wanted",
    [
        Processing(uint8=True),
        Processing(uint8=True, layout="nhwc", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)),
        Processing(resize=(8, 8)),
        Processing(uint8=True, layout="nhwc", resize=(8, 8), scale=0.5, mean=(1.0,), std=(2.0,)),
        Processing(softmax=True),
        Processing(sigmoid=True, top_k=2),
        Processing(l2_normalize=True),
        Processing(mean=(0.5,), std=(0.25,), softmax=True, top_k=5),
    ],
    ids=str,
)
def test_the_graph_computes_what_numpy_computes(wanted: Processing, tmp_path: Path) -> None:
    """At every size of the proof, from what clients send to what they get."""
    source, made = convolution(tmp_path / "m.onnx"), tmp_path / "p.onnx"
    compose(source, made, wanted)
    plain_session, session = _run(source), _run(made)
    todo = processed_cases(
        lambda feeds: _outputs(plain_session, feeds), cases(3, 8, 8), wanted,
        input_name="x", output_name="y",
    )  # fmt: skip
    assert [case.rows for case in todo] == [1, 2, 3, 16]
    sizes = {case.inputs["x"].shape[1:] for case in todo}
    assert len(sizes) == (4 if wanted.resize else 1)
    for case in todo:
        got = _outputs(session, case.inputs)
        assert set(got) == set(case.outputs)
        for name, want in case.outputs.items():
            assert (got[name].dtype, got[name].shape) == (want.dtype, want.shape)
            np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-5)


def test_only_plain_operators_are_used(tmp_path: Path) -> None:
    """Any runtime can load the file, at the opset that the model had."""
    made = tmp_path / "p.onnx"
    everything = Processing(uint8=True, layout="nhwc", resize=(8, 8), softmax=True,
                            l2_normalize=True, top_k=2)  # fmt: skip
    compose(convolution(tmp_path / "m.onnx"), made, everything)
    model = onnx.load(str(made))
    assert {node.domain for node in model.graph.node} == {""}
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]


def test_the_signature_is_what_clients_see(tmp_path: Path) -> None:
    """Bytes of any size, channels last; the two best of five classes."""
    made = tmp_path / "p.onnx"
    wanted = Processing(uint8=True, layout="nhwc", resize=(8, 8), top_k=2)
    compose(convolution(tmp_path / "m.onnx"), made, wanted)
    session = _run(made)
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape) == (
        "x", "tensor(uint8)", ["batch", "height", "width", 3],
    )  # fmt: skip
    assert [(o.name, o.type, o.shape) for o in session.get_outputs()] == [
        ("y_scores", "tensor(float)", ["batch", 2]),
        ("y_indices", "tensor(int64)", ["batch", 2]),
    ]


def test_nothing_asked_for_changes_nothing(tmp_path: Path) -> None:
    """Without processing the graph is the same."""
    source, made = linear(tmp_path / "m.onnx"), tmp_path / "p.onnx"
    compose(source, made, Processing())
    assert onnx.load(str(made)) == onnx.load(str(source))


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (Processing(resize=(9, 9)), "--resize 9x9, but input 'x' of the model is 8x8"),
        (Processing(mean=(0.1, 0.2), std=(1.0, 1.0)), "2 values of the mean"),
        (Processing(top_k=6), "top-k is 6, but 'y' has 5"),
        (Processing(labels=("a", "b")), "2 labels for the 5 classes"),
    ],
)
def test_what_does_not_fit_is_refused(wanted: Processing, says: str, tmp_path: Path) -> None:
    """Nothing is written, and the message has both numbers."""
    with pytest.raises(UsageError, match=says):
        compose(convolution(tmp_path / "m.onnx"), tmp_path / "p.onnx", wanted)
    assert not (tmp_path / "p.onnx").exists()


def test_only_images_can_be_resized(tmp_path: Path) -> None:
    """A vector has neither height nor channels."""
    with pytest.raises(UsageError, match="has 2 axes; only images"):
        compose(linear(tmp_path / "m.onnx"), tmp_path / "p.onnx", Processing(resize=(2, 2)))


def test_a_name_that_is_not_there_is_told(tmp_path: Path) -> None:
    """The message lists what is."""
    with pytest.raises(UsageError, match=r"no output 'z'; it has \['y'\]"):
        compose(plain(tmp_path / "m.onnx"), tmp_path / "p.onnx", Processing(softmax=True),
                output_name="z")  # fmt: skip


def test_an_old_opset_is_told(tmp_path: Path) -> None:
    """Resize and norms are written in the form of opset 18."""
    model = onnx.load(str(linear(tmp_path / "m.onnx")))
    model.opset_import[0].version = 17
    onnx.save(model, str(tmp_path / "old.onnx"))
    with pytest.raises(UsageError, match=r"opset 17; .* needs 18"):
        compose(tmp_path / "old.onnx", tmp_path / "p.onnx", Processing(softmax=True))
