"""Folders and live models of transformers. The architectures are in the matrix of models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from exporter.errors import ConversionFailed, UnsafeArtefact, UsageError, WeightsError
from tests.support.sources import convert, proved

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a small classifier of sentences, with names of its classes."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=17,
        vocab_size=50, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1},
    )  # fmt: skip
    path = tmp_path_factory.mktemp("bert")
    BertForSequenceClassification(config).save_pretrained(path)
    return path


def _copy(folder: Path, tmp_path: Path, **changes: Any) -> Path:
    """Copy a folder with another configuration."""
    content = {**json.loads((folder / "config.json").read_text()), **changes}
    target = tmp_path / "copy"
    target.mkdir()
    (target / "config.json").write_text(json.dumps(content))
    (target / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    return target


def test_a_folder_is_proved_with_named_axes(folder: Path, tmp_path: Path) -> None:
    """Tokens and mask of any length; classes have the names that the configuration gives."""
    converted, proven = proved(folder, tmp_path)
    assert {i.name: dict(i.axes) for i in converted.inputs} == {
        "input_ids": {0: "batch", 1: "length"}, "attention_mask": {0: "batch", 1: "length"},
    }  # fmt: skip
    assert [(s.name, s.shape) for s in proven.outputs] == [("logits", (-1, 2))]
    assert converted.labels == ("bad", "good")
    masks = np.concatenate([case.inputs["attention_mask"].ravel() for case in converted.cases])
    assert set(masks) == {0, 1}


def test_a_live_model_keeps_its_configuration(tmp_path: Path) -> None:
    """The cache is off in the graph, and on again in the model."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50))
    _, proven = proved(model, tmp_path)
    assert [s.name for s in proven.outputs] == ["logits"]
    assert model.config.use_cache is True


def test_inputs_can_be_given(folder: Path, tmp_path: Path) -> None:
    """Examples by name decide which arguments are inputs."""
    tokens = np.ones((2, 4), np.int64)
    examples = {"input_ids": tokens, "token_type_ids": tokens * 0}
    converted, _ = proved(folder, tmp_path, examples=examples)
    assert [i.name for i in converted.inputs] == ["input_ids", "token_type_ids"]
    with pytest.raises(UsageError, match=r"takes no \['pixels'\]"):
        convert(folder, tmp_path, examples={"pixels": tokens})


def test_inputs_can_be_renamed(folder: Path, tmp_path: Path) -> None:
    """Given names keep the lengths free, and the range of the vocabulary."""
    converted, _ = proved(folder, tmp_path, input_names=("tokens", "seen_attention_mask"))
    tokens, mask = converted.inputs
    assert (tokens.name, dict(tokens.axes)) == ("tokens", {0: "batch", 1: "length"})
    assert (tokens.low, tokens.high, mask.name) == (0, 49, "seen_attention_mask")


def test_a_folder_that_wants_to_run_code_is_refused(folder: Path, tmp_path: Path) -> None:
    """auto_map names Python files of the folder; they are not run."""
    copy = _copy(folder, tmp_path, auto_map={"AutoModel": "evil.Model"})
    (copy / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    with pytest.raises(UnsafeArtefact, match=r"auto_map.*--trust-pickle"):
        convert(copy, tmp_path)
    assert not (tmp_path / "canary").exists()


def test_weights_that_are_missing_are_listed(folder: Path, tmp_path: Path) -> None:
    """Transformers would make them up at random and only warn."""
    copy = _copy(folder, tmp_path)
    weights = load_file(copy / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"missing +classifier\.weight"):
        convert(copy, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.json", b"{", "not a configuration"),
        ("config.json", b'{"model_type": "unheard"}', "transformers does not load it"),
        ("model.safetensors", b"\x00" * 20, "transformers does not load it"),
    ],
)
def test_broken_folders_are_told(
    name: str, content: bytes, says: str, folder: Path, tmp_path: Path
) -> None:
    """What is broken in a folder is a failed conversion, not a traceback."""
    copy = _copy(folder, tmp_path)
    (copy / name).write_bytes(content)
    with pytest.raises(ConversionFailed, match=says):
        convert(copy, tmp_path)
