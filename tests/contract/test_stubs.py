"""service/pb is what protos/ gives."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def check(root: Path) -> subprocess.CompletedProcess[str]:
    """Run the generator's check in the checkout or in a copy of it."""
    return subprocess.run(
        [sys.executable, root / "tools" / "generate_stubs.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )


def test_stubs_are_up_to_date() -> None:
    """The generated stubs are those of the proto files."""
    run = check(ROOT)
    assert run.returncode == 0, run.stderr


def test_a_changed_proto_is_noticed(tmp_path: Path) -> None:
    """A field that is added to a proto file alone makes the check fail and name the stub."""
    for part in ("protos", "tools", "service/pb"):
        shutil.copytree(ROOT / part, tmp_path / part)
    proto = tmp_path / "protos" / "health.proto"
    proto.write_text(proto.read_text() + "message Added { int32 count = 1; }\n")
    run = check(tmp_path)
    assert run.returncode == 1
    assert "health_pb2.py, health_pb2.pyi in service/pb" in run.stderr
    assert "make proto" in run.stderr
