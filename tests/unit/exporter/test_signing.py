"""Signatures: what is signed is read back, and what was changed is found."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from exporter.errors import SignatureFailed, UsageError
from exporter.signing import PASSWORD_VARIABLE, PrivateKey, sign_version, verify_signature
from service.errors import ManifestError, SettingsError
from service.repository.signing import PublicKey
from tests.support.signed import publish_signed, write_keys

_ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_a_signed_version_passes(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    """What a key signed, its public half accepts, on every curve."""
    private, public = write_keys(tmp_path, curve=curve)
    version = publish_signed(tmp_path / "models", private)
    PublicKey(public).check(version, "m", 1)
    verify_signature(version, public)


def test_signing_is_reproducible(tmp_path: Path) -> None:
    """The same files and key give the same signature, byte for byte."""
    private, _ = write_keys(tmp_path)
    first, second = (publish_signed(tmp_path / name, private) for name in ("a", "b"))
    assert (first / "model.sig").read_bytes() == (second / "model.sig").read_bytes()
    assert (first / "model.sig").stat().st_mode & 0o777 == 0o644


def _change(path: Path) -> None:
    path.write_bytes(b"other")


@pytest.mark.parametrize(
    ("alter", "says"),
    [
        (lambda v: _change(v / "model.onnx"), r"'model\.onnx' was changed"),
        (lambda v: _change(v / "golden.npz"), r"'golden\.npz' was changed"),
        (lambda v: (v / "golden.npz").unlink(), r"\['golden\.npz'\] is missing"),
        (lambda v: _change(v / "model.onnx.data"), r"\['model\.onnx\.data'\] was added"),
        (lambda v: (v / "x").symlink_to("model.onnx"), r"x: a symbolic link"),
        (lambda v: (v / ".git").mkdir(), r"\.git: signatures leave it out"),
        (lambda v: (v / "model.sig").unlink(), r"has no model\.sig.*penstock-export sign"),
        (lambda v: _change(v / "model.sig"), r"not a signature"),
        (lambda v: (v / "model.sig").write_text("{}"), r"not a signature"),
    ],
)
def test_a_changed_version_is_found(
    tmp_path: Path, alter: Callable[[Path], Any], says: str
) -> None:
    """A changed, missing, added or linked file, and a missing or broken signature, are told."""
    private, public = write_keys(tmp_path)
    version = publish_signed(tmp_path / "models", private)
    alter(version)
    with pytest.raises(ManifestError, match=f"(?s){says}"):
        PublicKey(public).check(version, "m", 1)
    with pytest.raises(SignatureFailed):
        verify_signature(version, public)


def test_the_signature_of_another_key_is_refused(tmp_path: Path) -> None:
    """Only the key that is demanded counts."""
    private, _ = write_keys(tmp_path)
    _, other = write_keys(tmp_path, "other")
    version = publish_signed(tmp_path / "models", private)
    with pytest.raises(ManifestError, match=r"not signed with the key other\.pub"):
        PublicKey(other).check(version, "m", 1)


def test_a_statement_that_was_edited_is_refused(tmp_path: Path) -> None:
    """New digests in the statement need a new signature."""
    private, public = write_keys(tmp_path)
    version = publish_signed(tmp_path / "models", private)
    bundle = json.loads((version / "model.sig").read_text())
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"]).replace(b"golden", b"silver")
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    (version / "model.sig").write_text(json.dumps(bundle))
    with pytest.raises(ManifestError, match="changed after it was signed"):
        PublicKey(public).check(version, "m", 1)


def test_a_signed_version_cannot_take_the_place_of_another(tmp_path: Path) -> None:
    """An old version under a new number, or under another model's name, is refused."""
    private, public = write_keys(tmp_path)
    version = publish_signed(tmp_path / "models", private)
    for model, number in (("m", 2), ("other", 1)):
        with pytest.raises(ManifestError, match=rf"signs m/1, but lies in {model}/{number}"):
            PublicKey(public).check(version, model, number)


def test_a_version_can_be_signed_later(tmp_path: Path) -> None:
    """A published version gets a signature without any other change, and only once."""
    private, public = write_keys(tmp_path)
    version = publish_signed(tmp_path / "models", None)
    before = {path.name: path.read_bytes() for path in version.iterdir()}
    assert sign_version(version, private) == version / "model.sig"
    verify_signature(version, public)
    assert {p.name: p.read_bytes() for p in version.iterdir() if p.name != "model.sig"} == before
    with pytest.raises(SignatureFailed, match="exists"):
        sign_version(version, private)


def test_a_key_with_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The password comes from the environment; without it, or with a wrong one, that is said."""
    private, _ = write_keys(tmp_path, password="secret")  # noqa: S106 (of a test)
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    with pytest.raises(UsageError, match=PASSWORD_VARIABLE):
        PrivateKey(private)
    monkeypatch.setenv(PASSWORD_VARIABLE, "wrong")
    with pytest.raises(UsageError, match=PASSWORD_VARIABLE):
        PrivateKey(private)
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret")
    PrivateKey(private)


def test_what_is_no_key_is_said(tmp_path: Path) -> None:
    """A missing file, another file, a private key and another kind of key are each told."""
    private, public = write_keys(tmp_path)
    other = tmp_path / "other.pub"
    edwards = ed25519.Ed25519PrivateKey.generate().public_key()
    other.write_bytes(edwards.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for path, says in (
        (tmp_path / "none.pem", "No such file"),
        (private, "not a public key"),
        (other, "secp256r1"),
    ):
        with pytest.raises(SettingsError, match=says):
            PublicKey(path)
    with pytest.raises(UsageError, match="not a private key"):
        PrivateKey(public)


def _model_signing(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "model_signing", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_model_signing_reads_our_signature(tmp_path: Path) -> None:
    """The reference implementation accepts what we sign, and finds a change."""
    pytest.importorskip("model_signing")
    private, public = write_keys(tmp_path)
    version = publish_signed(tmp_path / "models", private)
    arguments = ["verify", "key", str(version), "--public_key", str(public),
                 "--signature", str(version / "model.sig")]  # fmt: skip
    assert _model_signing(*arguments).returncode == 0
    _change(version / "model.onnx")
    assert _model_signing(*arguments).returncode != 0


def test_we_read_the_signature_of_model_signing(tmp_path: Path) -> None:
    """What the reference implementation signs is accepted here, and a change is found."""
    pytest.importorskip("model_signing")
    private, public = write_keys(tmp_path)
    version = publish_signed(tmp_path / "models", None)
    signed = _model_signing("sign", "key", str(version), "--private_key", str(private),
                            "--signature", str(version / "model.sig"))  # fmt: skip
    assert signed.returncode == 0, signed.stderr
    verify_signature(version, public)
    _change(version / "model.onnx")
    with pytest.raises(SignatureFailed, match="was changed"):
        verify_signature(version, public)


def test_without_the_package_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server or an exporter without the extra says so before anything is loaded."""
    private, public = write_keys(tmp_path)
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(SettingsError, match=r"pip install 'penstock\[sign\]'"):
        PublicKey(public)
    with pytest.raises(UsageError, match=r"pip install 'penstock\[sign\]'"):
        PrivateKey(private)


def test_the_server_loads_no_cryptography_unasked() -> None:
    """Who does not demand signatures needs no package for them."""
    program = "import sys, service.app.server; print('cryptography' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=_ROOT, check=True, capture_output=True, text=True
    )
    assert ran.stdout.strip() == "False"
