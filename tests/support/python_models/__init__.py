"""Models of Triton's examples and tests that a graph cannot express, as code of our own."""

import shutil
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent
_CONFIG: Final = """
backend: "python"
input { name: "X" data_type: TYPE_INT32 dims: -1 }
output { name: "Y" data_type: TYPE_INT32 dims: -1 }
"""
_DECOUPLED: Final = "model_transaction_policy { decoupled: true }\n"
NAMES: Final = tuple(sorted(path.stem for path in _HERE.glob("*.pbtxt")))


def publish(
    root: Path, name: str, code: str, *, decoupled: bool = False, version: int = 1, more: str = ""
) -> Path:
    """Write a model of one INT32 in, X, and one out, Y, and return model.py. more: of config."""
    path = root / name / str(version) / "model.py"
    path.parent.mkdir(parents=True)
    path.write_text(code)
    config = _CONFIG + (_DECOUPLED if decoupled else "") + more
    (root / name / "config.pbtxt").write_text(config)
    return path


def write(root: Path, *names: str) -> Path:
    """Write these models, or all of them, into a repository, and return it."""
    for name in names or NAMES:
        version = root / name / "1"
        version.mkdir(parents=True)
        shutil.copyfile(_HERE / f"{name}.pbtxt", root / name / "config.pbtxt")
        shutil.copyfile(_HERE / f"{name}.py", version / "model.py")
    return root
