"""The command line where no torch is needed: help, usage, exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

from exporter import errors
from exporter.cli import EXIT_CODES, main

_ROOT = Path(__file__).parents[3]


def _python(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], cwd=_ROOT, check=True, capture_output=True, text=True
    ).stdout


def test_help_imports_neither_torch_nor_numpy() -> None:
    """--help answers at once: it loads nothing that takes time."""
    loaded = _python(
        "import contextlib, io, sys\n"
        "from exporter.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    main(['--help'])\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    ).split()
    assert "exporter" in loaded
    assert not {"torch", "numpy", "onnx", "onnxruntime"} & set(loaded)


def test_importing_the_package_imports_no_torch() -> None:
    """`import exporter` is cheap, and `exporter.export` is there."""
    out = _python("import sys, exporter; print('torch' in sys.modules, callable(exporter.export))")
    assert out.split() == ["False", "True"]


def test_telemetry_is_off_before_onnxruntime_is_imported() -> None:
    """Whoever imports the exporter has switched ONNX Runtime's telemetry off."""
    out = _python("import os, exporter; print(os.environ['ORT_DISABLE_TELEMETRY'])")
    assert out.strip() == "1"


def test_help_shows_an_example_and_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    """Someone who has never seen the command finds a command to copy."""
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert "penstock-export model.py:build_model --weights" in text
    assert "penstock serve models" in text
    assert all(f"{code} " in text for code in EXIT_CODES.values())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "SOURCE, --name, --repository"),
        (["m:b", "--name", "x"], "--repository"),
        (["m:b", "--name", "x", "--repository", "r", "--opset", "new"], "invalid int value"),
    ],
)
def test_missing_arguments_are_wrong_usage(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is missing is named, and the exit code is 2."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err


def test_a_malformed_input_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A specification is checked before anything is loaded or built."""
    arguments = ["m:b", "--name", "x", "--repository", str(tmp_path), "--input", "image"]
    assert main(arguments) == 2
    assert "image:float32[batch,784]" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_server_without_onnx_says_what_to_install() -> None:
    """The base installation has the command; it tells how to get what it needs."""
    out = _python(
        "import contextlib, importlib.util, io\n"
        "from exporter.cli import main\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'onnx' else find(name)\n"
        "said = io.StringIO()\n"
        "with contextlib.redirect_stderr(said):\n"
        "    code = main(['m:b', '--name', 'x', '--repository', 'r'])\n"
        "print(code, said.getvalue())"
    )
    assert "onnx is not installed" in out
    assert "pip install 'penstock[export]'" in out


def test_every_error_has_one_exit_code() -> None:
    """The codes are those of the documentation, and every error is an ExportError."""
    assert sorted(set(EXIT_CODES.values())) == [2, 3, 4, 5, 6, 7]
    kinds = [
        kind for kind in vars(errors).values()
        if isinstance(kind, type) and kind.__module__ == errors.__name__
    ]  # fmt: skip
    assert set(EXIT_CODES) < set(kinds)
    assert all(issubclass(kind, errors.ExportError) for kind in kinds)
