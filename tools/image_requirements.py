"""Print what the server image installs: pyproject.toml's dependencies for one runtime.

`python tools/image_requirements.py cpu|gpu`. onnxruntime and onnxruntime-gpu install the same
files, so the GPU image takes the one in place of the other; pip cannot be told so.
"""

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def requirements(runtime: str) -> list[str]:
    """Return the requirement lines of the server on "cpu" or "gpu"."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    base: list[str] = project["dependencies"]
    if runtime == "cpu":
        return base
    gpu: list[str] = project["optional-dependencies"]["gpu"]
    return [line for line in base if _name(line) != "onnxruntime"] + gpu


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in {"cpu", "gpu"}:
        sys.exit("usage: image_requirements.py cpu|gpu   (the image's build argument RUNTIME)")
    print("\n".join(requirements(sys.argv[1])))
