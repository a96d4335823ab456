"""Keras on TensorFlow in this process, on torch in a child; .keras files and SavedModels."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.errors import ConversionFailed, UnsafeArtefact, UsageError, WeightsError
from exporter.sources import convert as convert_in_child
from exporter.sources.base import Request
from exporter.verify import prove
from tests.support.sources import convert, proved

# TensorFlow, tf2onnx and h5py use what others call deprecated.
pytestmark = [
    pytest.mark.timeout(300),  # children import TensorFlow and torch, one after the other
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def keras() -> Any:
    """Import Keras on TensorFlow; the backend of a process is chosen once."""
    os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="2")
    import keras

    assert keras.backend.backend() == "tensorflow"
    keras.utils.set_random_seed(0)
    del os.environ["KERAS_BACKEND"]  # children choose their own
    return keras


def _subclass(keras: Any) -> Any:
    class Net(keras.Model):
        """The subclass of every tutorial."""

        def __init__(self) -> None:
            super().__init__()
            self.hidden = keras.layers.Dense(16, activation="relu")
            self.scores = keras.layers.Dense(10, activation="softmax")

        def call(self, image: Any) -> Any:
            """Return the probabilities."""
            return {"probabilities": self.scores(self.hidden(image))}

    net = Net()
    net(np.zeros((1, 12), np.float32))
    return net


def _convolutional(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((8, 8, 1), name="image"), layers.Conv2D(4, 3, activation="relu"),
         layers.BatchNormalization(), layers.DepthwiseConv2D(3), layers.Flatten(), layers.Dense(3)]
    )  # fmt: skip


def _recurrent(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((None, 4)), layers.LSTM(6, return_sequences=True), layers.Dense(2)]
    )


def _two_inputs(keras: Any) -> Any:
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    total = left + right
    return keras.Model(
        {"left": left, "right": right}, {"sum": total, "dense": keras.layers.Dense(2)(left)}
    )


def _attention(keras: Any) -> Any:
    sequence = keras.Input((6, 8), name="sequence")
    mixed = keras.layers.MultiHeadAttention(2, 4)(sequence, sequence)
    return keras.Model(sequence, keras.layers.LayerNormalization()(sequence + mixed))


@pytest.mark.parametrize(
    ("make", "inputs", "outputs"),
    [
        (_subclass, {"input": (-1, 12)}, {"probabilities": (-1, 10)}),
        (_convolutional, {"image": (-1, 8, 8, 1)}, {"output": (-1, 3)}),
        (_recurrent, {"input": (-1, -1, 4)}, {"output": (-1, -1, 2)}),
        (_two_inputs, {"left": (-1, 4), "right": (-1, 4)}, {"sum": (-1, 4), "dense": (-1, 2)}),
        (_attention, {"sequence": (-1, 6, 8)}, {"output": (-1, 6, 8)}),
    ],
)
def test_models_on_tensorflow_are_proved(
    make: Callable[[Any], Any], inputs: dict[str, Any], outputs: dict[str, Any], keras: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Subclasses and functional models convert at our opset, with names that mean something."""
    converted, proven = proved(make(keras), tmp_path)
    assert {s.name: s.shape for s in proven.inputs} == inputs
    assert {s.name: s.shape for s in proven.outputs} == outputs
    assert converted.opset == 20
    assert {"module", "tensorflow", "keras", "weights_sha256"} == set(converted.provenance)


def test_examples_say_what_a_subclass_takes(keras: Any, tmp_path: Path) -> None:
    """A model that was never called converts from an example; without one it says so."""

    class Doubling(keras.Model):
        """Has no weights, and so no shapes."""

        def call(self, x: Any) -> Any:
            """Return twice x."""
            return x * 2

    example = {"x": np.ones((2, 3), np.float32)}
    assert proved(Doubling(), tmp_path, examples=example)[1].inputs[0].name == "x"
    with pytest.raises(UsageError, match=r"does not say what it takes: call it once"):
        convert(Doubling(), tmp_path)


def test_names_can_be_given(keras: Any, tmp_path: Path) -> None:
    """Given names replace those of Keras."""
    converted, _ = proved(
        _subclass(keras), tmp_path, input_names=("pixels",), output_names=("scores",)
    )
    assert ([i.name for i in converted.inputs], converted.outputs) == (["pixels"], ("scores",))


def test_a_fixed_batch_is_told(keras: Any, tmp_path: Path) -> None:
    """A model built for one size of batch says how to free it."""
    model = keras.Sequential([keras.Input((4,), batch_size=3), keras.layers.Dense(2)])
    with pytest.raises(UsageError, match=r"fixed shape \[3,4\].*without batch_size"):
        convert(model, tmp_path)


def test_weights_of_a_file_are_loaded(keras: Any, tmp_path: Path) -> None:
    """.weights.h5 goes into a model that its builder made; another model's is told."""
    trained, fresh = _subclass(keras), _subclass(keras)
    trained.save_weights(tmp_path / "m.weights.h5")
    converted, _ = proved(fresh, tmp_path, weights=tmp_path / "m.weights.h5")
    case = converted.cases[0]
    want = np.asarray(trained(case.inputs["input"])["probabilities"])
    np.testing.assert_allclose(case.outputs["probabilities"], want, atol=1e-6)
    with pytest.raises(WeightsError, match="do not fit the model"):
        convert(_convolutional(keras), tmp_path, weights=tmp_path / "m.weights.h5")
    with pytest.raises(UsageError, match=r"expected \.weights\.h5"):
        convert(fresh, tmp_path, weights=tmp_path / "m.pt")


def test_weights_that_are_nan_are_told(keras: Any, tmp_path: Path) -> None:
    """A training that diverged is not served."""
    model = _subclass(keras)
    model.set_weights([np.full_like(w, np.nan) for w in model.get_weights()])
    with pytest.raises(WeightsError, match=r"NaN.*kernel"):
        convert(model, tmp_path)


def test_a_decision_by_value_is_told(keras: Any, tmp_path: Path) -> None:
    """A Python `if` on a tensor that autograph does not see is told as what it is."""
    import tensorflow as tf

    class Deciding(keras.Model):
        """Decides in Python."""

        @tf.autograph.experimental.do_not_convert
        def call(self, x: Any) -> Any:
            """Return x or its negative."""
            return x if tf.reduce_sum(x) > 0 else -x

    says = r"(?s)by the value.*Python `bool`.*test_keras\.py:\d+: return x if tf.*tf\.cond"
    with pytest.raises(ConversionFailed, match=says):
        convert(Deciding(), tmp_path, examples={"x": np.ones((2, 3), np.float32)})


def test_a_saved_model_is_proved(keras: Any, tmp_path: Path) -> None:
    """The default signature, with the names that it has."""
    _two_inputs(keras).export(tmp_path / "saved", verbose=False)
    converted, proven = proved(tmp_path / "saved", tmp_path)
    assert {s.name for s in proven.inputs} == {"left", "right"}
    assert {s.name for s in proven.outputs} == {"sum", "dense"}
    assert {"module", "tensorflow", "files_sha256"} == set(converted.provenance)


def test_a_saved_model_that_reads_files_is_refused(tmp_path: Path, keras: Any) -> None:  # noqa: ARG001
    """Operators that reach files are seen before anything is loaded."""
    import tensorflow as tf

    class Reading(tf.Module):
        """Reads a file of this machine in its graph."""

        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            """Return x and how long the file is."""
            return x + tf.cast(tf.strings.length(tf.io.read_file("/etc/passwd")), tf.float32)

    tf.saved_model.save(Reading(), str(tmp_path / "saved"))
    with pytest.raises(UnsafeArtefact, match=r"has \['ReadFile'\]"):
        convert(tmp_path / "saved", tmp_path)


def test_a_directory_that_was_cut_off_is_told(tmp_path: Path, keras: Any) -> None:  # noqa: ARG001
    """A broken SavedModel is a failed conversion."""
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"\xff\xffno")
    with pytest.raises(ConversionFailed, match="not a SavedModel"):
        convert(tmp_path / "saved", tmp_path)


def test_a_file_with_code_is_refused(keras: Any, tmp_path: Path) -> None:
    """A Lambda layer is Python code in the file: it is not loaded unless trusted."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x * 2)])
    model.save(tmp_path / "m.keras")
    with pytest.raises(UnsafeArtefact, match=r"Lambda.*--trust-pickle"):
        convert(tmp_path / "m.keras", tmp_path)
    assert proved(tmp_path / "m.keras", tmp_path, trust_pickle=True)[1].inputs[0].shape == (-1, 3)


def test_a_file_of_a_class_of_yours_is_told(keras: Any, tmp_path: Path) -> None:
    """A .keras file of a subclass holds no code of it; the way out is SOURCE in Python."""
    _subclass(keras).save(tmp_path / "m.keras")
    with pytest.raises(UsageError, match=r"(?s)class of yours.*FILE\.py:BUILDER"):
        convert(tmp_path / "m.keras", tmp_path)


@pytest.mark.parametrize(
    ("make", "backend"), [(_convolutional, "torch"), (_recurrent, "tensorflow")]
)
def test_files_are_converted_on_torch_or_else_on_tensorflow(
    make: Callable[[Any], Any], backend: str, keras: Any, tmp_path: Path,
) -> None:  # fmt: skip
    """A free length in an LSTM is more than Keras on torch can say; TensorFlow can."""
    model = make(keras)
    model.save(tmp_path / "m.keras")
    lines: list[str] = []
    converted = convert_in_child(
        Request(str(tmp_path / "m.keras")), tmp_path, progress=lines.append
    )
    prove(converted, converted.model, None)
    assert converted.provenance["keras"].endswith(f"on {backend}")
    assert any("trying another way" in line for line in lines) is (backend == "tensorflow")
    case = converted.cases[-1]
    want = np.asarray(model(next(iter(case.inputs.values()))))
    np.testing.assert_allclose(case.outputs["output"], want, atol=1e-5)
