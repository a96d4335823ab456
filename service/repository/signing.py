"""model.sig: whether a version is, byte for byte, what the owner of a key published.

The form is that of OpenSSF Model Signing (OMS) 1.0: a Sigstore bundle with a DSSE envelope around
an in-toto statement that lists the SHA-256 of every file. `model_signing verify key` reads it,
and what `model_signing sign key` writes is read here. Keys on curves P-256, P-384 and P-521;
offline, without certificates and without a transparency log.

Needs the package cryptography, of the extra [sign]; it is imported when a key is first read.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from service.errors import ManifestError, SettingsError, listed
from service.repository.manifest import read_manifest, sha256_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

SIGNATURE_FILE: Final = "model.sig"
MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"
# model-signing leaves these out, wherever the signature itself lies.
IGNORED: Final = (SIGNATURE_FILE, ".git", ".gitattributes", ".github", ".gitignore")
CURVES: Final = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
_MAX_BYTES: Final = 4 << 20  # of a signature; it lists one line a file


class PublicKey:
    """A key that versions must be signed with. name: of its file, for messages."""

    def __init__(self, path: Path) -> None:
        """Read a PEM file. Raises SettingsError if it holds no public key of a known curve."""
        self.name = path.name
        self._key = _read_key(path)

    def check(self, directory: Path, model: str, version: int) -> None:
        """Check that a version was signed with this key, as this version, and not changed since.

        Raises ManifestError saying what is wrong: no signature, another key, a changed, missing or
        added file, or the signature of another version.
        """
        path = directory / SIGNATURE_FILE
        statement = self._statement(path)
        check_signed_files(path, statement)
        manifest = read_manifest(directory)
        if manifest is None or (manifest.name, manifest.version) != (model, version):
            signed = "no manifest" if manifest is None else f"{manifest.name}/{manifest.version}"
            raise ManifestError(
                f"{path}: signs {signed}, but lies in {model}/{version}; a signed version "
                "cannot be moved: publish it anew",
            )

    def _statement(self, path: Path) -> Mapping[str, Any]:
        """Return the signed statement. Raises ManifestError if this key did not sign it."""
        try:
            with path.open("rb") as file:
                text = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            raise ManifestError(
                f"{path.parent}: has no {SIGNATURE_FILE}, and --require-signature demands one of "
                f"the key {self.name}: `penstock-export sign {path.parent} --key PRIVATE_KEY`",
            ) from None
        except OSError as error:
            raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
        try:
            envelope = json.loads(text)["dsseEnvelope"]
            payload = base64.b64decode(envelope["payload"], validate=True)
            signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
            kind = envelope["payloadType"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ManifestError(f"{path}: not a signature of the OMS form: {error!r}") from error
        if kind != PAYLOAD_TYPE or not self._signed(payload, signature):
            raise ManifestError(
                f"{path}: not signed with the key {self.name}, or changed after it was signed",
            )
        try:
            statement: Mapping[str, Any] = json.loads(payload)
            types = (statement["_type"], statement["predicateType"])
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ManifestError(f"{path}: its statement cannot be read: {error!r}") from error
        if types != (STATEMENT_TYPE, PREDICATE_TYPE):
            raise ManifestError(f"{path}: signs {types[1]!r}, expected {PREDICATE_TYPE!r}")
        return statement

    def _signed(self, payload: bytes, signature: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 (of an extra)
        from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

        algorithm = getattr(hashes, CURVES[self._key.curve.name])()
        try:
            self._key.verify(signature, pre_authentication(payload), ec.ECDSA(algorithm))
        except InvalidSignature:
            return False
        return True


def check_signed_files(signature: Path, statement: Mapping[str, Any]) -> None:
    """Compare the files beside a signature with those that its statement lists.

    Raises ManifestError for a changed, a missing, an added and a linked file.
    """
    directory = signature.parent
    try:
        predicate = statement["predicate"]
        method = predicate["serialization"]["method"]
        signed = {entry["name"]: (entry["algorithm"], entry["digest"])
                  for entry in predicate["resources"]}  # fmt: skip
        root = statement["subject"][0]["digest"]["sha256"]
        digests = [bytes.fromhex(entry["digest"]) for entry in predicate["resources"]]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ManifestError(f"{signature}: its statement cannot be read: {error!r}") from error
    if method != "files" or hashlib.sha256(b"".join(digests)).hexdigest() != root:
        raise ManifestError(f"{signature}: its statement contradicts itself")
    found = files_to_sign(directory)
    problems = [*_named("was added", found.keys() - signed.keys()),
                *_named("is missing", signed.keys() - found.keys())]  # fmt: skip
    problems += [
        f"'{name}' was changed"
        for name, path in sorted(found.items())
        if name in signed and signed[name] != ("sha256", _digest(path))
    ]
    if problems:
        raise ManifestError(f"{signature}: not what was signed: {', '.join(problems[:8])}")


def files_to_sign(directory: Path) -> dict[str, Path]:
    """Return every file of a version by its name relative to it, except the signature.

    Raises ManifestError for a symbolic link: what it leads to is not part of the version.
    """
    found = {}
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        if path.is_symlink():
            raise ManifestError(f"{path}: a symbolic link, which cannot be signed")
        if relative.parts[0] in IGNORED:
            if relative.parts[0] != SIGNATURE_FILE:
                raise ManifestError(f"{path}: signatures leave it out; remove it")
        elif path.is_file():
            found[relative.as_posix()] = path
    return found


def pre_authentication(payload: bytes) -> bytes:
    """Return what a DSSE signature is over (PAE of DSSE 1.0)."""
    return b"DSSEv1 %d %s %d %s" % (
        len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload,
    )  # fmt: skip


def _named(what: str, names: set[str]) -> list[str]:
    return [f"{listed(sorted(names))} {what}"] if names else []


def _digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error


def _read_key(path: Path) -> "EllipticCurvePublicKey":
    try:
        from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 (of an extra)
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
        from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
            load_pem_public_key,
        )
    except ImportError as error:
        raise SettingsError(
            "signatures need the package cryptography: pip install 'penstock[sign]'",
        ) from error
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingsError(
            f"{path}: not a public key in PEM form, as `openssl ec -in KEY -pubout` writes it",
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise SettingsError(
            f"{path}: not a key on one of the curves {', '.join(CURVES)}; make one with "
            "`openssl ecparam -name prime256v1 -genkey -noout -out KEY`",
        )
    return key
