"""Generate service/pb from protos/ (`make proto`), or say what is out of date there (--check).

The messages live in a descriptor pool of their own: tritonclient, kserve and every other
client package register the same names, and two sets in one pool cannot be imported together.
"""

import re
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]  # ships no types

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
TARGET = ROOT / "service" / "pb"


def generate(target: Path) -> list[Path]:
    """Write the stubs of every file in protos/ into target and return their paths."""
    sources = sorted(PROTOS.glob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        code = protoc.main(
            ["protoc", f"-I{PROTOS}", f"--python_out={scratch}", f"--pyi_out={scratch}"]
            + [str(path) for path in sources],
        )
        if code:
            sys.exit(f"protoc failed with exit code {code}")
        return [_adopt(path, target) for path in sorted(Path(scratch).iterdir())]


def differences(target: Path) -> list[str]:
    """Return the names of stubs in target that protos/ gives otherwise, more or not at all."""
    with tempfile.TemporaryDirectory() as scratch:
        wanted = {path.name: path.read_text() for path in generate(Path(scratch))}
    present = {path.name: path.read_text() for path in target.glob("*_pb2.py*")}
    names = wanted.keys() | present.keys()
    return sorted(name for name in names if wanted.get(name) != present.get(name))


def _adopt(generated: Path, target: Path) -> Path:
    text = generated.read_text()
    text = re.sub(
        r"^import (\w+_pb2) as", r"from service.pb import \1 as", text, flags=re.MULTILINE
    )
    text = re.sub(
        r"^from google.protobuf import descriptor_pool as _descriptor_pool$",
        "from service.pb.pool import POOL as _POOL",
        text,
        flags=re.MULTILINE,
    )
    text = text.replace("_descriptor_pool.Default()", "_POOL")
    path = target / generated.name
    path.write_text(text)
    return path


def _check() -> None:
    if stale := differences(TARGET):
        sys.exit(
            f"not what protos/ gives with grpcio-tools {version('grpcio-tools')}: "
            f"{', '.join(stale)} in {TARGET.relative_to(ROOT)}; run `make proto` and commit it",
        )
    print("stubs are up to date")


def _write() -> None:
    for written in generate(TARGET):
        print(written.relative_to(ROOT))
    print(f"grpcio-tools {version('grpcio-tools')}")


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit("usage: generate_stubs.py [--check]")
    _check() if sys.argv[1:] else _write()
