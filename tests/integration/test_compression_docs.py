"""What docs/compression.md shows runs as it stands there."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

_ROOT = Path(__file__).parents[2]
_PAGE = _ROOT / "docs" / "compression.md"


def test_the_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, in one namespace, in a directory that is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(_ROOT), *sys.path])
    threads = torch.get_num_threads()
    snippets = re.findall(
        r"^```python\n(.*?)^```", _PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert len(snippets) == 6
    names: dict[str, Any] = {}
    try:
        for snippet in snippets:
            exec(compile(snippet, str(_PAGE), "exec"), names)  # noqa: S102 (our own page)
    finally:
        torch.set_num_threads(threads)
    versions = sorted(path.name for path in (tmp_path / "models" / "digits").iterdir()
                      if path.is_dir())  # fmt: skip
    assert versions == ["1", "2", "3", "4"]
    before, _, after = names["pruned"].report.metric
    assert (before, after) == (None, None)
    assert names["learned"].report.losses[-1] < names["learned"].report.losses[0]
