"""docs/manifest.schema.json: the published form of manifest.json is what is written and read."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from service.repository.manifest import Manifest, parse_manifest
from service.tensors import DATATYPES
from tests.support.versions import publish_mlp
from tests.unit.service.repository.test_manifest import COMPLETE, NEWER

_ROOT = Path(__file__).parents[2]
_SCHEMA: dict[str, Any] = json.loads((_ROOT / "docs" / "manifest.schema.json").read_text())


def _check(content: Any) -> None:
    jsonschema.Draft202012Validator(_SCHEMA).validate(content)


def test_the_schema_is_one() -> None:
    """The file itself is sound JSON Schema."""
    jsonschema.Draft202012Validator.check_schema(_SCHEMA)


def test_what_is_published_fits(tmp_path: Path) -> None:
    """The manifest of a real version, and of one that has everything, fit the schema."""
    path, _ = publish_mlp(tmp_path, labels=tuple("abcdefghij"), labels_of="Y", batch_buckets=(4,))
    _check(json.loads((path / "manifest.json").read_text()))
    _check(json.loads(COMPLETE.to_json()))


def test_the_schema_knows_every_key() -> None:
    """No key is written that the schema does not describe, and none described that is not."""
    written = set(json.loads(COMPLETE.to_json()))
    assert set(_SCHEMA["properties"]) == written
    assert set(_SCHEMA["required"]) == written - NEWER
    assert _SCHEMA["$defs"]["tensor"]["properties"]["datatype"]["enum"] == [
        datatype.wire for datatype in DATATYPES
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"version": 0},
        {"name": "a b"},
        {"inputs": []},
        {"inputs": [{"name": "x", "datatype": "FP33", "shape": []}]},
        {"outputs": [{"name": "x", "datatype": "FP32", "shape": [-2]}]},
        {"files": {}},
        {"files": {"../model.onnx": "ab" * 32, "model.onnx": "ab" * 32}},
        {"files": {"model.onnx": "short"}},
        {"tolerance": {"relative": 1}},
        {"axes": [{"name": "batch"}]},
        {"session": {"graph_level": "most"}},
        {"batch_buckets": [0]},
    ],
    ids=str,
)
def test_what_is_wrong_does_not_fit(change: dict[str, Any]) -> None:
    """The schema refuses what a reader would refuse."""
    with pytest.raises(jsonschema.ValidationError):
        _check({**json.loads(COMPLETE.to_json()), **change})


def test_what_fits_is_read() -> None:
    """A manifest with the required keys alone fits, and the server reads it."""
    content = {k: v for k, v in json.loads(COMPLETE.to_json()).items() if k not in NEWER}
    _check(content)
    assert isinstance(parse_manifest(json.dumps(content).encode()), Manifest)
