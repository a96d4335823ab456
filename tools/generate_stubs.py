"""Generate service/pb from protos/ (`make proto`).

The messages live in a descriptor pool of their own: tritonclient, kserve and every other
client package register the same names, and two sets in one pool cannot be imported together.
"""

import re
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from grpc_tools import protoc

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


def _adopt(generated: Path, target: Path) -> Path:
    text = generated.read_text()
    text = re.sub(r"^import (\w+_pb2) as", r"from service.pb import \1 as", text, flags=re.M)
    text = re.sub(r"^from google.protobuf import descriptor_pool as _descriptor_pool$",
                  "from service.pb.pool import POOL as _POOL", text, flags=re.M)
    text = text.replace("_descriptor_pool.Default()", "_POOL")
    path = target / generated.name
    path.write_text(text)
    return path


if __name__ == "__main__":
    for written in generate(TARGET):
        print(written.relative_to(ROOT))
    print(f"grpcio-tools {version('grpcio-tools')}")
