"""docs/compatibility.md claims nothing that the run of all these tests does not show."""

import pytest

from tests.foreign import record
from tests.support.servers import ROOT

DOCUMENT = ROOT / "docs" / "compatibility.md"


@pytest.mark.foreign
@pytest.mark.last
def test_the_tables_claim_only_what_was_seen(*, everything_ran: bool) -> None:
    """Each mark of the tables was seen on the wire in this run, and the versions are these."""
    shown = record.render()
    out = ROOT / "out" / "compatibility.md"
    out.parent.mkdir(exist_ok=True)
    out.write_text(shown)
    if not everything_ran:
        pytest.skip("only some of the tests with clients ran")
    text = DOCUMENT.read_text()
    remedy = "run `make compatibility`"
    assert record.claims(text) - record.claims(shown) == set(), remedy
    assert record.versions(text) == record.versions(shown), remedy


def test_a_false_claim_is_noticed() -> None:
    """A mark in an empty cell, and another mark than was seen, are claims of their own."""
    page = "| | a | b |\n|---|---|---|\n| ModelInfer | ◐ |  |\n"
    honest = record.claims(page)
    assert honest == {("ModelInfer", "a", "native")}
    assert record.claims(page.replace("|  |", "| ● |")) - honest == {
        ("ModelInfer", "b", "native"),
        ("ModelInfer", "b", "threaded"),
    }
    assert record.claims(page.replace("◐", "●")) - honest == {("ModelInfer", "a", "threaded")}
