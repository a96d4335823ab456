"""Generate service/pb from protos/ (`make proto`), or say what is out of date there (--check).

The messages live in a descriptor pool of their own: tritonclient, kserve and every other
client package register the same names, and two sets in one pool cannot be imported together.
Of protoc's modules only the descriptors are kept, so that any protobuf can load them.
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
    path = target / generated.name
    path.write_text(_own_module(path.stem, text) if path.suffix == ".py" else _own_types(text))
    return path


def _own_module(name: str, text: str) -> str:
    """Return a module that builds the messages that protoc's module describes."""
    found = re.search(r"\.AddSerializedFile\((b'.*')\)$", text, flags=re.MULTILINE)
    if found is None:
        sys.exit(f"protoc's {name}.py has no descriptor where one was expected")
    imports = re.findall(r"^import (\w+_pb2) as", text, flags=re.MULTILINE)
    return "\n".join([
        f'"""Messages of protos/{name.removesuffix("_pb2")}.proto. Generated; see `make proto`."""',
        "",
        *(f"from service.pb import {each}" for each in imports),
        "from service.pb.pool import build",
        "",
        f"DESCRIPTOR = build(__name__, globals(), {found[1]})",
        "",
    ])  # fmt: skip


def _own_types(text: str) -> str:
    return re.sub(
        r"^import (\w+_pb2) as", r"from service.pb import \1 as", text, flags=re.MULTILINE
    )


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
