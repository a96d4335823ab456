"""Models of Triton's examples and tests that a graph cannot express, as code of our own."""

import shutil
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent
NAMES: Final = tuple(sorted(path.stem for path in _HERE.glob("*.pbtxt")))


def write(root: Path, *names: str) -> Path:
    """Write these models, or all of them, into a repository, and return it."""
    for name in names or NAMES:
        version = root / name / "1"
        version.mkdir(parents=True)
        shutil.copyfile(_HERE / f"{name}.pbtxt", root / name / "config.pbtxt")
        shutil.copyfile(_HERE / f"{name}.py", version / "model.py")
    return root
