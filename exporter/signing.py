"""Signing a version: model.sig beside its files, as `model_signing sign key` would write it.

Works offline with a private key on an elliptic curve; see service.repository.signing for the form.
"""

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Final

from exporter.errors import SignatureFailed, UsageError
from service.errors import ManifestError, PenstockError
from service.repository.layout import STAGE_PREFIX
from service.repository.manifest import read_manifest, sha256_of
from service.repository.names import parse_version
from service.repository.signing import (
    CURVES,
    IGNORED,
    MEDIA_TYPE,
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    SIGNATURE_FILE,
    STATEMENT_TYPE,
    PublicKey,
    files_to_sign,
    pre_authentication,
)

PASSWORD_VARIABLE: Final = "PENSTOCK_KEY_PASSWORD"  # noqa: S105 (the name of one, not one)


class PrivateKey:
    """A key to sign versions with."""

    def __init__(self, path: Path) -> None:
        """Read a PEM file; its password, if it has one, is in PENSTOCK_KEY_PASSWORD.

        Raises UsageError if it holds no private key of a known curve.
        """
        self._key: Any = _read_key(path, os.environ.get(PASSWORD_VARIABLE))

    def sign(self, directory: Path, *, name: str | None = None) -> Path:
        """Write model.sig over every file of a directory, and return its path.

        name: what the statement calls it; default: the name of the directory.
        Raises SignatureFailed if there is a signature already, or a file that cannot be signed.
        """
        target = directory / SIGNATURE_FILE
        bundle = self._bundle(name or directory.name, directory)
        part = directory / f"{STAGE_PREFIX}{os.getpid()}"
        try:
            part.write_text(bundle, encoding="ascii")
            part.chmod(0o644)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            os.link(part, target)  # unlike a rename, it takes nothing's place
        except FileExistsError:
            raise SignatureFailed(f"{target} exists; remove it to sign anew") from None
        except OSError as error:
            raise SignatureFailed(f"{target}: cannot be written: {error.strerror}") from error
        finally:
            part.unlink(missing_ok=True)
        return target

    def _bundle(self, name: str, directory: Path) -> str:
        from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 (of an extra)
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
        from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
            Encoding,
            PublicFormat,
        )

        payload = _statement(name, directory)
        algorithm = getattr(hashes, CURVES[self._key.curve.name])()
        # Deterministic (RFC 6979), so that a signed version is byte-reproducible too.
        scheme = ec.ECDSA(algorithm, deterministic_signing=True)
        signature = self._key.sign(pre_authentication(payload), scheme)
        public = self._key.public_key()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return json.dumps(
            {
                "mediaType": MEDIA_TYPE,
                "verificationMaterial": {
                    "publicKey": {"hint": hashlib.sha256(pem).hexdigest()},
                    "tlogEntries": [],
                },
                "dsseEnvelope": {
                    "payload": base64.b64encode(payload).decode(),
                    "payloadType": PAYLOAD_TYPE,
                    "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
                },
            },
        )


def verify_signature(directory: Path, key: Path) -> None:
    """Check a version as `penstock serve --require-signature` does.

    Raises SignatureFailed, or UsageError if the directory is no version or the key no key.
    """
    version = parse_version(directory.resolve().name)
    if version is None or not directory.is_dir():
        raise UsageError(f"{directory}: not the directory of a version, such as models/digits/3")
    try:
        public = PublicKey(key)
    except PenstockError as error:
        raise UsageError(f"--key {error}") from error
    try:
        public.check(directory, directory.resolve().parent.name, version)
    except ManifestError as error:
        raise SignatureFailed(str(error)) from error


def sign_version(directory: Path, key: Path) -> Path:
    """Sign a published version. Raises SignatureFailed, UsageError if it is none."""
    try:
        manifest = read_manifest(directory)
    except ManifestError as error:
        raise SignatureFailed(str(error)) from error
    if manifest is None:
        raise UsageError(f"{directory}: has no manifest.json; sign a version of the exporter")
    return PrivateKey(key).sign(directory)


def _statement(name: str, directory: Path) -> bytes:
    try:
        files = files_to_sign(directory)
    except ManifestError as error:
        raise SignatureFailed(str(error)) from error
    own = f"{STAGE_PREFIX}{os.getpid()}"
    digests = {name: sha256_of(path) for name, path in files.items() if name != own}
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests.values()))
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root.hexdigest()}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "resources": [
                {"name": name, "algorithm": "sha256", "digest": digest}
                for name, digest in digests.items()
            ],
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": list(IGNORED),
            },
        },
    }
    return json.dumps(statement, sort_keys=True).encode()


def _read_key(path: Path, password: str | None) -> Any:
    try:
        from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 (of an extra)
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
        from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
            load_pem_private_key,
        )
    except ImportError as error:
        raise UsageError(
            "signing needs the package cryptography: pip install 'penstock[sign]'",
        ) from error
    try:
        key = load_pem_private_key(path.read_bytes(), password.encode() if password else None)
    except OSError as error:
        raise UsageError(f"--key {path}: cannot be read: {error.strerror}") from error
    except TypeError as error:  # encrypted without a password, or the other way round
        raise UsageError(
            f"--key {path}: {error}; its password is taken from {PASSWORD_VARIABLE}",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(
            f"--key {path}: not a private key in PEM form, or a wrong {PASSWORD_VARIABLE}",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise UsageError(
            f"--key {path}: not a key on one of the curves {', '.join(CURVES)}; make one with "
            "`openssl ecparam -name prime256v1 -genkey -noout -out KEY`",
        )
    return key
