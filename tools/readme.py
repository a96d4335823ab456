"""Write into README.md what the program says of itself: settings, and the help of two commands.

    python tools/readme.py            write it
    python tools/readme.py --check    fail if it is not what stands there

A generated part lies between `<!-- generated: NAME -->` and `<!-- end -->`. Help texts are those
of a terminal of 100 columns; line breaks differ between versions of Python, so --check looks at
words only.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
README: Final = ROOT / "README.md"
_PART: Final = re.compile(r"(<!-- generated: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def main() -> int:
    """Write or check the generated parts."""
    text = README.read_text()
    fresh = _PART.sub(lambda match: match[1] + PARTS[match[2]]() + match[4], text)
    if "--check" not in sys.argv[1:]:
        README.write_text(fresh)
        return 0
    if text.split() == fresh.split():
        return 0
    stale = [
        match[2] for match in _PART.finditer(text) if match[3].split() != PARTS[match[2]]().split()
    ]
    print(f"README.md: {', '.join(stale)}: out of date; run python tools/readme.py")
    return 1


def settings_table() -> str:
    """Return the settings of the server as a table."""
    from service.config import PREFIX, Settings, flag  # noqa: PLC0415 -- see the path below

    head = ["| Flag | Environment | Default | Meaning |", "|---|---|---|---|"]
    groups: dict[str, list[str]] = {"": []}
    for entry in fields(Settings):
        choices = entry.metadata.get("choices")
        meaning = entry.metadata["help"] + (f" ({', '.join(choices)})" if choices else "")
        groups.setdefault(entry.metadata.get("group", ""), []).append(
            f"| `{flag(entry.name)}` | `{PREFIX}{entry.name.upper()}` "
            f"| {_default(entry.default)} | {meaning} |"
        )
    groups[""].append(f"| `--config` | `{PREFIX}CONFIG` | | TOML file with settings |")
    lines = [*head, *groups.pop("")]
    for name, rows in groups.items():
        lines += ["", f"{name.capitalize()}:", "", *head, *rows]
    return "\n".join(lines) + "\n"


def help_of(package: str, *verb: str) -> str:
    """Return the help text of a command as a block of text."""
    run = subprocess.run(
        [sys.executable, "-m", package, *verb, "--help"],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "100", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return f"```text\n{run.stdout.rstrip()}\n```\n"


PARTS: Final[dict[str, Callable[[], str]]] = {
    "settings": settings_table,
    "serve-help": lambda: help_of("service", "serve"),
    "export-help": lambda: help_of("exporter"),
}


def _default(value: Any) -> str:
    if value is MISSING or value in ("", ()):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"`{value}`"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # this checkout, not what may be installed
    sys.exit(main())
