"""Install the peers, each into .tools/peers/NAME: `python -m benchmarks.peers.install [NAME...]`.

What cannot be installed on this machine is said, and is missing from the benchmarks; the others go
on. Exit code 1 if none could be installed.
"""

import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
PEERS: Final = ROOT / ".tools" / "peers"
# Pinned, so that the same things are compared everywhere.
REQUIREMENTS: Final = {
    "pytriton": ("nvidia-pytriton==0.7.0", "onnxruntime==1.32.0"),
    "mlserver": ("mlserver==1.7.1", "onnxruntime==1.32.0"),
    "kserve": ("kserve==0.21.0", "onnxruntime==1.32.0"),
}
_TIMEOUT_S: Final = 900


def python_of(name: str) -> Path | None:
    """Return the interpreter of an installed peer, None if it is not installed."""
    python = PEERS / name / "bin" / "python"
    return python if (PEERS / name / ".installed").exists() and python.exists() else None


def install(name: str) -> str:
    """Install one peer, unless it is; return what went wrong, or nothing."""
    if python_of(name) is not None:
        return ""
    directory = PEERS / name
    venv.create(directory, with_pip=True, clear=True)
    command = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    try:
        subprocess.run(
            [*command, "--disable-pip-version-check", *REQUIREMENTS[name]],
            check=True, capture_output=True, text=True, timeout=_TIMEOUT_S,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip().rpartition("\n")[2] or f"pip ended with {error.returncode}"
    except subprocess.TimeoutExpired:
        return f"pip took more than {_TIMEOUT_S} s"
    (directory / ".installed").touch()
    return ""


def main(names: list[str]) -> int:
    """Install the peers of these names, or all."""
    unknown = set(names) - REQUIREMENTS.keys()
    if unknown:
        print(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(REQUIREMENTS)}")
        return 2
    wrong = {name: install(name) for name in names or REQUIREMENTS}
    for name, reason in wrong.items():
        print(f"{name}: missing: {reason}" if reason else f"{name}: installed in {PEERS / name}")
    return int(all(wrong.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
