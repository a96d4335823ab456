"""The parameters of a config.pbtxt that ONNX Runtime takes."""

import re
from pathlib import Path

import pytest

from service.errors import ConfigError
from service.repository.model_config import read_config
from service.repository.session_parameters import SessionParameters, session_parameters


def parameters(directory: Path, **given: str) -> SessionParameters:
    """Read a config.pbtxt that gives these; __ in a name stands for a dot."""
    lines = [
        f'parameters {{ key: "{key.replace("__", ".")}" value {{ string_value: "{value}" }} }}'
        for key, value in given.items()
    ]
    (directory / "config.pbtxt").write_text("\n".join(lines))
    return session_parameters(read_config(directory))


def test_every_parameter(tmp_path: Path) -> None:
    """The keys are those of Triton's backend for ONNX Runtime; others are left alone."""
    assert parameters(
        tmp_path,
        intra_op_thread_count="4",
        inter_op_thread_count="2",
        execution_mode="1",
        session__intra_op__allow_spinning="1",
        something_else="x",
    ) == SessionParameters(4, 2, parallel=True, spinning=True)


def test_nothing_and_zero_leave_it_to_the_server(tmp_path: Path) -> None:
    """0 is what Triton's clients write for the default."""
    assert session_parameters(None) == SessionParameters()
    assert parameters(tmp_path) == SessionParameters()
    assert (
        parameters(tmp_path, intra_op_thread_count="0", execution_mode="0") == SessionParameters()
    )


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("intra_op_thread_count", "-1", "'intra_op_thread_count' is '-1', expected a whole number"),
        ("intra_op_thread_count", "", "'intra_op_thread_count' is '', expected a whole number"),
        ("inter_op_thread_count", "1025", "is '1025', expected a whole number from 0"),
        ("inter_op_thread_count", "9" * 5000, "expected a whole number"),
        ("execution_mode", "fast", "is 'fast', expected 0 (sequential) or 1 (parallel)"),
        ("session__intra_op__allow_spinning", "yes", "allow_spinning' is 'yes', expected 0 or 1"),
    ],
)
def test_wrong_value(tmp_path: Path, key: str, value: str, text: str) -> None:
    """A value that means nothing is refused with file, key, value and what was expected."""
    with pytest.raises(ConfigError, match=re.escape(text)) as caught:
        parameters(tmp_path, **{key: value})
    assert str(caught.value).startswith(f"{tmp_path}/config.pbtxt: parameters '")
