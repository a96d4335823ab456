"""The command line where no torch is needed: help, usage, exit codes."""

import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import exporter
from exporter import errors
from exporter.arguments import VERBS, make_parser
from exporter.cli import EXIT_CODES, main
from exporter.options_file import parse_with_file

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


@pytest.mark.parametrize("name", exporter.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """What the package offers can be imported, and no module of the same name hides it."""
    found = getattr(exporter, name)
    assert callable(found)
    assert not inspect.ismodule(found)


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
        (["m:b", "--name", "x"], "required: --repository"),
        (["m:b", "--name", "x", "--repository", "r", "--axis", "length"], "NAME=LOW..HIGH"),
        (["m:b", "--name", "x", "--repository", "r", "--axis", "batch=1..2"], "--max-batch-size"),
    ],
)
def test_missing_arguments_are_wrong_usage(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is missing or wrong is named, and the exit code is 2."""
    assert main(arguments) == 2
    assert says in capsys.readouterr().err


def test_a_misspelt_verb_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A word that is nearly a verb is not taken for the name of a model."""
    assert main(["inspekt", "model.onnx"]) == 2
    assert "did you mean 'inspect'?" in capsys.readouterr().err


def test_what_no_option_takes_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """A word for a number stops with 2, as it does everywhere."""
    with pytest.raises(SystemExit) as stopped:
        main(["m:b", "--name", "x", "--repository", "r", "--opset", "new"])
    assert stopped.value.code == 2
    assert "invalid int value" in capsys.readouterr().err


def test_options_from_a_file(tmp_path: Path) -> None:
    """A TOML file has the options by their names; the command line wins over it."""
    (tmp_path / "e.toml").write_text(
        'source = "m:b"\nname = "x"\nmax-batch-size = 8\nno-batch = true\n'
        'input = ["a:float32[2]", "b:float32[2]"]\nlabels = "l.txt"\nrtol = 1e-3\n'
    )
    parser = make_parser("export")
    arguments = parse_with_file(
        parser, ["--config", str(tmp_path / "e.toml"), "--name", "y", "--input", "c:float32[2]"]
    )
    assert (arguments.source, arguments.name, arguments.max_batch_size) == ("m:b", "y", 8)
    assert (arguments.no_batch, arguments.rtol, arguments.labels) == (True, 1e-3, Path("l.txt"))
    assert (arguments.input, arguments.opset) == (["c:float32[2]"], 20)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nam = 'x'", "unknown option 'nam'"),
        ("no-batch = 1", "expected true or false"),
        ("opset = 'new'", "opset is 'new'"),
        ("name = ['x']", "expected text or a number"),
        ("name = ", "not TOML"),
        ("config = 'other.toml'", "unknown option 'config'"),
    ],
)
def test_a_wrong_file_of_options_is_wrong_usage(
    text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """File, option and what was expected are said, and the exit code is 2."""
    (tmp_path / "e.toml").write_text(text)
    assert main(["--config", str(tmp_path / "e.toml")]) == 2
    assert says in capsys.readouterr().err


def test_a_failure_is_json_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json nothing but JSON is on stdout, also when it fails."""
    assert main(["m:b", "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert (report["published"], report["error"], report["exit_code"]) == (False, "UsageError", 2)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_help_that_loads_nothing(verb: str) -> None:
    """--help of a verb imports no numpy either, and its module and function are there."""
    words = [] if verb == "export" else [verb]
    loaded = _python(
        "import contextlib, io, sys\n"
        "from exporter.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        f"    main({[*words, '--help']})\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    ).split()
    assert "exporter" in loaded
    assert not {"torch", "numpy", "onnx", "onnxruntime"} & set(loaded)
    module, _, function = VERBS[verb].run.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


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
