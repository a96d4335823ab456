"""A key pair and a signed version to try signatures on."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from exporter.publish import publish, staging
from exporter.signing import PrivateKey
from service.repository.manifest import Manifest
from service.tensors import FP32, TensorSpec

_MANIFEST = Manifest(
    name="m",
    version=0,
    inputs=(TensorSpec("x", FP32, (-1, 2)),),
    outputs=(TensorSpec("y", FP32, (-1, 2)),),
    max_batch_size=4,
    opset=20,
    files={},
)


def write_keys(
    directory: Path, name: str = "key", curve: ec.EllipticCurve | None = None, password: str = ""
) -> tuple[Path, Path]:
    """Write NAME.pem and NAME.pub; return the paths of the private and the public key."""
    private = ec.generate_private_key(curve or ec.SECP256R1())
    encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    paths = directory / f"{name}.pem", directory / f"{name}.pub"
    paths[0].write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    paths[1].write_bytes(
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return paths


def publish_signed(
    repository: Path,
    key: Path | None,
    content: bytes = b"model",
    manifest: Manifest = _MANIFEST,
) -> Path:
    """Publish a version of two files, signed if there is a key, and return its directory."""
    with staging(repository, manifest.name) as stage:
        (stage.files / "model.onnx").write_bytes(content)
        (stage.files / "golden.npz").write_bytes(b"golden")
        private = PrivateKey(key) if key else None
        return publish(stage, manifest, None, key=private)[0]
