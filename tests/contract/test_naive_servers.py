"""docs/naive-servers.md holds each of its points by tests that are there."""

import re

from tests.support.servers import ROOT

_ROWS = re.findall(
    r"^\| (\d+) \|.*\| ([^|]+) \|$",
    (ROOT / "docs" / "naive-servers.md").read_text(),
    re.MULTILINE,
)


def test_every_point_has_a_row() -> None:
    """The fifty points are all there, in order."""
    assert [int(point) for point, _ in _ROWS] == list(range(1, 51))


def test_every_test_exists() -> None:
    """Each test that the table names stands where it says."""
    for point, tests in _ROWS:
        named = re.findall(r"`([^`]+)::(\w+)`", tests)
        assert named, point
        for path, name in named:
            text = (ROOT / "tests" / path).read_text()
            assert f"def {name}(" in text, f"{point}: {path}::{name}"
