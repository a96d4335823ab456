"""The matrix of models: each sound one answers over gRPC as its source; each faulty one is told.

All sound rows are exported by one process and served by one server.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from exporter import ConversionFailed, ExportError, UsageError, export
from service.client import Client
from tests.integration.matrix import faulty, sound
from tests.support.servers import serve

pytestmark = [
    pytest.mark.timeout(600),  # the first test exports every row
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # torch says of train mode what we mend
]
_LENGTH = {1: "length"}
_WIDE = {"max_batch_size": 8}  # for models whose largest batch would take long


@dataclass(frozen=True)
class Row:
    """A model, example inputs, how to export it, and other inputs to ask the server with."""

    make: Callable[[], Any]
    examples: Any
    ask: Callable[[], Mapping[str, torch.Tensor]]
    options: Mapping[str, Any] = field(default_factory=dict)


def _rand(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


def _tokens(rows: int, length: int, high: int = 50) -> torch.Tensor:
    return torch.randint(high, (rows, length), generator=torch.Generator().manual_seed(rows))


def _mask(rows: int, length: int) -> torch.Tensor:
    return (torch.arange(length) < 1 + torch.arange(rows).unsqueeze(1) % length).long()


def _text(make: Callable[[], Any]) -> Row:
    """Return the row of a model of transformers that reads tokens with a mask."""
    return Row(
        make, None, lambda: {"input_ids": _tokens(5, 9), "attention_mask": _mask(5, 9)}, _WIDE
    )


def _config(name: str, **more: Any) -> Any:
    import transformers

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 17, "vocab_size": 50}  # fmt: skip
    return getattr(transformers, name)(**({**small, **more}))


def _transformers(kind: str, config: str, **more: Any) -> Callable[[], Any]:
    def make() -> Any:
        import transformers

        return getattr(transformers, kind)(_config(config, **more))

    return make


def _keras() -> Any:
    import keras  # on torch or TensorFlow, whatever this process has: both are sources

    layers = keras.layers
    return keras.Sequential(
        [keras.Input((6, 6, 1), name="image"), layers.Conv2D(2, 3, activation="relu"),
         layers.Flatten(), layers.Dense(3)]
    )  # fmt: skip


def _forest() -> Any:
    from sklearn.ensemble import RandomForestRegressor

    rows = np.random.default_rng(0).random((60, 4))
    return RandomForestRegressor(n_estimators=5, random_state=0).fit(rows, rows.sum(axis=1))


SOUND: dict[str, Row] = {
    "mlp": Row(sound.Dense, _rand(1, 784), lambda: {"input": _rand(5, 784)}),
    "cnn": Row(sound.Convolutional, _rand(2, 1, 8, 8), lambda: {"input": _rand(5, 1, 8, 8)}),
    "cnn_any_size": Row(
        sound.AnySize, _rand(2, 3, 8, 9), lambda: {"input": _rand(4, 3, 11, 13)},
        {"dynamic_axes": {"input": {2: "height", 3: "width"}}, **_WIDE},
    ),
    "resnet": Row(
        sound.Residual, _rand(2, 3, 32, 32), lambda: {"input": _rand(3, 3, 32, 32)}, _WIDE
    ),
    "lstm": Row(
        lambda: sound.Recurrent(nn.LSTM), _rand(2, 4, 3), lambda: {"sequence": _rand(5, 9, 3)},
        {"dynamic_axes": {"sequence": _LENGTH}, **_WIDE},
    ),
    "gru": Row(
        lambda: sound.Recurrent(nn.GRU), _rand(2, 4, 3), lambda: {"sequence": _rand(5, 9, 3)},
        {"dynamic_axes": {"sequence": _LENGTH}, **_WIDE},
    ),
    "rnn_fixed_length": Row(
        faulty.PlainRecurrent, _rand(2, 4, 3), lambda: {"sequence": _rand(5, 4, 3)}, _WIDE
    ),
    "lstm_state": Row(
        sound.Stateful, (_rand(2, 4, 3), _rand(2, 1, 4), _rand(2, 1, 4)),
        lambda: {"x": _rand(5, 7, 3), "h": _rand(5, 1, 4), "c": _rand(5, 1, 4)},
        {"dynamic_axes": {"x": _LENGTH}, "state": {"h": "h_next", "c": "c_next"}, **_WIDE},
    ),
    "encoder": Row(
        sound.Encoder, (_rand(2, 4, 8), torch.zeros(2, 4, dtype=torch.bool)),
        lambda: {"x": _rand(5, 6, 8), "padding_mask": _mask(5, 6) == 0},
        {"dynamic_axes": {"x": _LENGTH, "padding_mask": _LENGTH}, **_WIDE},
    ),
    "bert": _text(_transformers("BertModel", "BertConfig")),
    "distilbert": _text(_transformers(
        "DistilBertModel", "DistilBertConfig", dim=16, n_layers=1, n_heads=2, hidden_dim=17)),
    "gpt2_cache_off": _text(_transformers(
        "GPT2LMHeadModel", "GPT2Config", n_embd=16, n_layer=1, n_head=2)),
    "llama_cache_off": _text(_transformers("LlamaForCausalLM", "LlamaConfig")),
    "t5_encoder": _text(_transformers(
        "T5EncoderModel", "T5Config", d_model=16, num_layers=1, num_heads=2, d_ff=17, d_kv=8)),
    "vit": Row(
        _transformers("ViTForImageClassification", "ViTConfig", image_size=8, patch_size=4),
        None, lambda: {"pixel_values": _rand(3, 3, 8, 8)}, _WIDE,
    ),
    "nested_outputs": Row(sound.Nested, _rand(2, 4), lambda: {"x": _rand(5, 4)}),
    "dict_input": Row(
        sound.DictInput, ({"x": _rand(2, 4), "y": _rand(2, 4)},),
        lambda: {"batch_x": _rand(5, 4), "batch_y": _rand(5, 4)},
    ),
    "many_types": Row(
        sound.ManyTypes,
        {"ids": _tokens(2, 3), "keep": _mask(2, 3) == 1,
         "image": _tokens(2, 4, 255).to(torch.uint8), "scale": _rand(2, 1)},
        lambda: {"ids": _tokens(5, 3), "keep": _mask(5, 3) == 1,
                 "image": _tokens(5, 4, 255).to(torch.uint8), "scale": _rand(5, 1)},
    ),
    "cond": Row(
        sound.Conditional, _rand(3, 2), lambda: {"x": -_rand(3, 2)},
        {"batch": False, "ranges": {"x": (-1.0, 0.5)}},
    ),
    "scan": Row(
        sound.Scanning, _rand(2, 4, 3), lambda: {"x": _rand(5, 7, 3)},
        {"dynamic_axes": {"x": _LENGTH}, **_WIDE},
    ),
    "nonzero": Row(
        sound.Finding, _rand(4, 3) - 0.5, lambda: {"x": _rand(4, 3) - 0.3}, {"batch": False}
    ),
    "rfft": Row(sound.Spectrum, _rand(2, 8), lambda: {"x": _rand(5, 8)}),
    "grid_sample": Row(
        sound.Warping, (_rand(2, 1, 4, 4), _rand(2, 3, 3, 2)),
        lambda: {"image": _rand(5, 1, 4, 4), "grid": _rand(5, 3, 3, 2)},
    ),
    "sort": Row(sound.Sorting, _rand(2, 6), lambda: {"x": _rand(5, 6)}),
    "interpolate": Row(
        sound.Scaling, _rand(2, 1, 4, 5), lambda: {"image": _rand(3, 1, 7, 6)},
        {"dynamic_axes": {"image": {2: "height", 3: "width"}}, **_WIDE},
    ),
    "pass_through": Row(sound.PassThrough, _rand(2, 4), lambda: {"x": _rand(5, 4)}),
    "float64": Row(
        lambda: nn.Linear(4, 2).double(), _rand(2, 4).double(),
        lambda: {"input": _rand(5, 4).double()},
    ),
    "train_mode": Row(
        lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout()).train(),
        _rand(2, 4), lambda: {"input": _rand(5, 4)},
    ),
    "compiled": Row(
        lambda: torch.compile(nn.Linear(4, 2)), _rand(2, 4), lambda: {"input": _rand(5, 4)}
    ),
    "tied": Row(sound.Tied, _tokens(2, 5, 11), lambda: {"tokens": _tokens(4, 5, 11)}),
    "weights_in_a_file": Row(
        lambda: nn.Linear(1500, 1500), _rand(2, 1500), lambda: {"input": _rand(5, 1500)}
    ),
    "keras": Row(_keras, None, lambda: {"image": _rand(5, 6, 6, 1)}, _WIDE),
    "forest": Row(_forest, None, lambda: {"features": _rand(5, 4)}),
}  # fmt: skip


@dataclass
class Published:
    """What came of the sound rows: the repository, the models, and errors by name."""

    root: Path
    models: dict[str, Any]
    errors: dict[str, ExportError]
    client: Client


@pytest.fixture(scope="module")
def published(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Published]:
    """Export every row that is asked for, serve them all, and give a client."""
    root = tmp_path_factory.mktemp("matrix")
    names = [
        str(item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.originalname == test_sound_models_answer_as_their_source.__name__
    ]
    models: dict[str, Any] = {}
    errors: dict[str, ExportError] = {}
    torch.manual_seed(0)
    for name in names:
        row = SOUND[name]
        models[name] = row.make()
        try:
            # Above the limit, here 5 MB, weights are published in a file of their own.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("exporter.sources.INLINE_BYTES", 5_000_000)
                export(models[name], row.examples, name=name, repository=root, **row.options)
        except ExportError as error:
            errors[name] = error
    with serve(root) as server, Client(server.address) as client:
        yield Published(root, models, errors, client)


@pytest.mark.parametrize("name", SOUND)
def test_sound_models_answer_as_their_source(name: str, published: Published) -> None:
    """At a size that was never proved, the answers over gRPC are those of the source."""
    if name in published.errors:
        raise published.errors[name]
    asked = SOUND[name].ask()
    files = {file.name for file in (published.root / name / "1").iterdir()}
    assert ("model.onnx.data" in files) is (name == "weights_in_a_file")
    answer = published.client.infer(name, {k: v.numpy() for k, v in asked.items()})
    want = _reference(published.models[name], asked)
    assert len(answer) == len(want)
    for got, expected in zip(answer.values(), want, strict=True):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=2e-5)


def _reference(model: Any, asked: Mapping[str, torch.Tensor]) -> list[Any]:
    """Return what the source itself gives, flattened in the order of its outputs."""
    if not isinstance(model, nn.Module) or type(model).__module__.startswith("keras"):
        rows = next(iter(asked.values())).numpy()
        found = model.predict(rows) if hasattr(model, "n_features_in_") else model(rows)
        found = found.detach() if isinstance(found, torch.Tensor) else found
        array = np.asarray(found, np.float32)
        return [array.reshape(-1, 1) if array.ndim == 1 else array]
    model = getattr(model, "_orig_mod", model).eval()
    tensors: dict[str, Any] = dict(asked)
    if isinstance(model, sound.DictInput):
        tensors = {"batch": {key.removeprefix("batch_"): value for key, value in asked.items()}}
    with torch.no_grad():
        found = model(**tensors)
    return [tensor.numpy() for tensor in _tensors(found)]


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


_FILE = re.escape("faulty.py")


@pytest.mark.parametrize(
    ("module", "examples", "options", "error", "says"),
    [
        (faulty.Unrolled(), _rand(2, 8, 3), {"dynamic_axes": {"x": _LENGTH}}, ConversionFailed,
         rf"fixes axis 1 \(length\) of input 'x' to 8.*{_FILE}:\d+: for step in range.*Remove"),
        (faulty.PlainRecurrent(), _rand(2, 7, 3), {"dynamic_axes": {"sequence": _LENGTH}},
         ConversionFailed,
         rf"fixes axis 1 \(length\) of input 'sequence' to 7.*{_FILE}:\d+: .*self\.rnn"),
        (faulty.Deciding(), _rand(2, 4), {}, ConversionFailed,
         rf"by the value of a tensor.*{_FILE}:\d+: if x\.sum\(\).*torch\.where"),
        (faulty.Decomposing(), _rand(2, 3, 3), {}, ConversionFailed,
         rf"operator aten\._linalg_svd.* has no ONNX form.*{_FILE}:\d+: .*svd.*caller"),
        (faulty.Constant(), _rand(2, 4), {}, ConversionFailed,
         r"returned int as 'output_1'.*leave it out.*" + _FILE + r":\d+: return x\.relu\(\), 3"),
        (faulty.Remembering(), _rand(2, 4), {}, ConversionFailed,
         rf"buffer\(s\) \['total'\].*{_FILE}:\d+: self\.total \+=.*pass the state in"),
        (nn.Linear(4, 2).bfloat16(), _rand(2, 4).bfloat16(), {}, UsageError,
         r"bfloat16.*\.float\(\)"),
        (faulty.Texts(), ("text",), {}, UsageError, r"of type str; only tensors.*attribute"),
        (faulty.Cached(), _rand(2, 4), {}, ConversionFailed,
         rf"returned DynamicCache as 'cache'.*use_cache.*{_FILE}:\d+: return"),
        (torch.relu, _rand(2, 4), {}, UsageError, r"function.*wrap it in a torch\.nn\.Module"),
        (lambda x: x, _rand(2, 4), {}, UsageError, r"function.*wrap it in a torch\.nn\.Module"),
        (nn.Linear(4, 2), _rand(2, 4), {"dynamic_axes": {"x": _LENGTH}}, UsageError,
         r"dynamic axes for \['x'\], but the inputs are \['input'\]"),
    ],
    ids=["unrolled", "rnn", "if", "svd", "constant", "buffer", "bf16", "text", "cache",
         "function", "lambda", "axes"],
)  # fmt: skip
def test_faulty_models_are_told(
    module: Any, examples: Any, options: dict[str, Any], error: type[ExportError], says: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    """The cause in words, the line of the user's own code where there is one, and a way out."""
    with pytest.raises(error, match="(?s)" + says) as caught:
        export(module, examples, name="m", repository=tmp_path / "models", **options)
    assert "site-packages" not in str(caught.value)
    assert not (tmp_path / "models").exists()
