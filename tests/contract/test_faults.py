"""The catalogue of faults in docs/faults.md is complete, and each of its tests is there."""

import re

from tests.support.servers import ROOT

_TEXT = (ROOT / "docs" / "faults.md").read_text()
_ROWS = re.findall(r"^\| ([A-Z]\d+) \|.*\| ([^|]+) \|$", _TEXT, re.MULTILINE)
_HTTP = re.findall(r"`(rest/[^`]+)::(\w+)`", _TEXT)
_BASE = ROOT / "tests" / "integration"
_GROUPS = {"A": 17, "B": 28, "C": 10, "D": 20, "E": 16, "J": 10}
_CASES = [f"{group}{number + 1}" for group, size in _GROUPS.items() for number in range(size)]
# Of what is more than a matter of requests, those cases that callers can bring about.
_CASES[-_GROUPS["J"] : -_GROUPS["J"]] = [
    *("F6", "F9", "F21", "F23", "F25", "F27", "F28"),
    *("I3", "I4", "I5", "I6", "I13"),
]


def test_every_case_has_a_row() -> None:
    """Every group has each of its cases, in order."""
    assert list(dict.fromkeys(case for case, _ in _ROWS)) == _CASES


def test_every_test_of_the_catalogue_exists() -> None:
    """Each test that the catalogue names stands where it says."""
    for case, tests in _ROWS:
        named = re.findall(r"`([^`]+)::(\w+)`", tests)
        assert named, case
        for path, name in named:
            assert f"def {name}(" in (_BASE / path).read_text(), f"{case}: {path}::{name}"


def test_every_test_of_the_http_port_exists() -> None:
    """Each test that its table names stands where it says."""
    assert _HTTP
    for path, name in _HTTP:
        assert f"def {name}(" in (_BASE / path).read_text(), f"{path}::{name}"


def test_every_test_of_faults_stands_in_the_catalogue() -> None:
    """No test of a fault is missing from the table, and its docstring names its case."""
    known = {name: case for case, tests in _ROWS for name in re.findall(r"::(\w+)`", tests)}
    for path in sorted((_BASE / "faults").glob("test_*.py")):
        found = re.findall(r'^def (test_\w+)\([^"]*"""([A-Z]\d+): ', path.read_text(), re.MULTILINE)
        assert len(found) == path.read_text().count("\ndef test_"), path
        for name, case in found:
            assert known.get(name) == case, name
