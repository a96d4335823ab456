"""`penstock inspect` and `penstock check` of models written in Python."""

import json
from pathlib import Path

import pytest

from exporter.signing import sign_version
from service.repository.manifest import Manifest, sha256_of
from service.tensors import INT32, TensorSpec
from tests.support import python_models
from tests.support.commands import Run
from tests.support.signed import write_keys

FLAG = "--allow-python-backend"


def write_manifest(version: Path, *files: str) -> None:
    """Write a manifest with the digests of these files."""
    spec = (TensorSpec("X", INT32, (-1,)),)
    digests = {name: sha256_of(version / name) for name in files}
    manifest = Manifest(version.parent.name, int(version.name), spec, spec, 0, 0, digests)
    (version / "manifest.json").write_text(manifest.to_json())


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Write a decoupled model and one that takes batches."""
    return python_models.write(tmp_path, "repeat_int32", "simple_identity")


def test_inspect_tells_how_they_answer(penstock: Run, models: Path) -> None:
    """Signature, one request at a time, any number of responses."""
    ran = penstock("inspect", models, FLAG)
    assert ran.code == 0
    assert ran.out.splitlines()[:5] == [
        "repeat_int32 1  READY",
        "  inputs     IN INT32[-1], DELAY UINT32[-1], WAIT UINT32[1]",
        "  outputs    OUT INT32[1], IDX UINT32[1]",
        "  batching   no: a Python model gets one request at a time",
        "  responses  any number a request, on streams only",
    ]
    assert "one request at a time, of up to 8 rows" in ran.out
    described = json.loads(penstock("inspect", models, FLAG, "--json").out)
    assert [(each["decoupled"], each["provider"]) for each in described] == [
        (True, "python"),
        (False, "python"),
    ]


@pytest.mark.parametrize("command", ["inspect", "check"])
def test_without_the_flag_nothing_is_run(penstock: Run, tmp_path: Path, command: str) -> None:
    """Looking at a repository runs no code of it."""
    marker = tmp_path / "ran"
    python_models.publish(tmp_path / "models", "m", f"open({str(marker)!r}, 'w')")
    ran = penstock(command, tmp_path / "models")
    assert ran.code == 1
    assert "start with --allow-python-backend" in ran.out
    assert not marker.exists()


def test_code_without_its_backend_is_told(penstock: Run, models: Path) -> None:
    """A version with model.py alone, and a config.pbtxt that names no backend."""
    (models / "repeat_int32" / "config.pbtxt").unlink()
    ran = penstock("check", models, FLAG)
    assert ran.code == 1
    assert "model.onnx: no such file; model.py is there" in ran.out
    assert 'backend: "python"' in ran.out


def test_check_loads_them(penstock: Run, models: Path) -> None:
    """Each has its line."""
    ran = penstock("check", models, FLAG)
    assert ran.code == 0
    assert ran.out.count("python; requests are not joined") == 2


def test_a_manifest_guards_the_code(penstock: Run, models: Path) -> None:
    """A file that was changed, or that it does not list, is not run."""
    version = models / "repeat_int32" / "1"
    write_manifest(version, "model.py")
    assert penstock("check", models, FLAG).code == 0
    with (version / "model.py").open("a") as file:
        file.write("\n")
    ran = penstock("check", models, FLAG)
    assert ran.code == 1
    assert "model.py: checksum mismatch" in ran.out
    write_manifest(version)
    assert "gives no digest for model.py" in penstock("check", models, FLAG).out


def test_a_signature_guards_the_code(penstock: Run, tmp_path: Path) -> None:
    """A signed version is served, and none to which a file was added."""
    private, public = write_keys(tmp_path)
    models = python_models.write(tmp_path / "models", "square_int32")
    version = models / "square_int32" / "1"
    write_manifest(version, "model.py")
    sign_version(version, private)
    flags = (FLAG, "--require-signature", public)
    assert penstock("check", models, *flags).code == 0
    (version / "helper.py").write_text("")
    ran = penstock("check", models, *flags)
    assert ran.code == 1
    assert "['helper.py'] was added" in ran.out
