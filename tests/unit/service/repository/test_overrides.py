"""What callers give in place of files: any text and any path."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import ConfigError, InvalidRequest, RepositoryError
from service.pb.model_config_pb2 import ModelConfig
from service.repository.model_config import config_from_json
from service.repository.overrides import OverrideFiles

FIELDS = sorted(field.name for field in ModelConfig.DESCRIPTOR.fields)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(FIELDS), inner, max_size=3)
    ),
    max_leaves=8,
)


def parsed(text: str) -> ModelConfig | None:
    """Return the configuration, None if it is refused as such."""
    try:
        return config_from_json(text, "m")
    except ConfigError:
        return None


@given(st.text())
def test_any_text(text: str) -> None:
    """What is no JSON is a ConfigError, and nothing else is ever raised."""
    parsed(text)


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES))
def test_any_values_of_the_fields(content: dict[str, Any]) -> None:
    """Wrong types, numbers that do not fit and deep nesting are ConfigErrors."""
    parsed(json.dumps(content))


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "1", '"max_batch_size"', "{", '{"max_batch_size": 1e400}', '{"input": 3}',
        '{"max_batch_size": 4, "max_batch_size": 4}', '{"max_batch_size": 9999999999}',
        '{"version_policy": {"all": {}, "latest": {"num_versions": 1}}}', "x" * (2 << 20),
        '{"a":' * 5000, '{"default_model_filename": "../secret"}', '{"name": "\\ud800"}',
    ],
)  # fmt: skip
def test_texts_that_are_no_configuration(text: str) -> None:
    """Each is refused, and the reason is short enough to be told."""
    with pytest.raises(ConfigError) as refused:
        config_from_json(text, "m")
    assert len(str(refused.value)) < 3000


def test_both_spellings_and_numbers_as_texts() -> None:
    """JSON of protobuf's own: camelCase and snake_case, and 64-bit numbers in quotes."""
    config = config_from_json(
        '{"maxBatchSize": "16", "dynamic_batching": {"maxQueueDelayMicroseconds": "7"}}', "m"
    )
    assert config.max_batch_size == 16
    assert config.dynamic_batching.max_queue_delay_microseconds == 7


@given(path=st.text(max_size=40) | st.from_regex(r"[a.\-_/1]{0,12}", fullmatch=True))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_path_is_below_the_directory_or_refused(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a path is, nothing is written outside the private directory, which is removed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    try:
        files = OverrideFiles("m", {path: b"contents"})
    except (InvalidRequest, RepositoryError):
        assert list(tmp_path.iterdir()) == []
        return
    (root,) = tmp_path.iterdir()
    (written,) = (found for found in root.rglob("*") if found.is_file())
    assert written.read_bytes() == b"contents"
    assert written == root / "m" / path
    assert ".." not in written.parts
    files.remove()
    assert list(tmp_path.iterdir()) == []


def test_paths_that_exclude_each_other() -> None:
    """A file cannot lie below another file; the directory does not stay behind."""
    with pytest.raises(RepositoryError, match="files cannot be written"):
        OverrideFiles("m", {"1": b"", "1/model.onnx": b""})


def test_a_system_without_a_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container with a read-only root, files are refused, and the reason is told."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(RepositoryError, match="files cannot be written: No such file or directory"):
        OverrideFiles("m", {"1/model.onnx": b""})
