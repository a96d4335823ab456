"""Restrictions: what is restricted by which text, and who passes."""

import pytest

from service.errors import NotPermitted, SettingsError
from service.rpc.methods import CATEGORIES, CATEGORY_OF
from service.rpc.restrict import Restrictions

HEADER = "triton-grpc-protocol-admin"
SECRET = "s3cret=:,"  # noqa: S105  with what separates other things


def test_nothing_is_restricted_without_a_group() -> None:
    """Without restrictions everybody passes."""
    restrictions = Restrictions()
    assert not restrictions
    for category in (*CATEGORIES, None):
        restrictions.check(category, ())


def test_only_the_header_with_the_value_passes() -> None:
    """The categories of a group ask for its header; all others are open."""
    restrictions = Restrictions([f"model-repository,trace:Admin={SECRET}"])
    assert restrictions
    for category in CATEGORIES:
        is_restricted = category in ("model-repository", "trace")
        assert restrictions.covers(category) is is_restricted
        if not is_restricted:
            restrictions.check(category, ())
    restrictions.check("trace", (("other", "x"), (HEADER, SECRET)))


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        ((HEADER, ""),),
        ((HEADER, SECRET[:-1]),),
        ((HEADER, SECRET + " "),),
        ((HEADER, "x" * 100_000),),
        ((HEADER + "x", SECRET),),
        (("authorization", SECRET),),
        ((HEADER, SECRET), (HEADER, SECRET)),
        ((HEADER, "wrong"), (HEADER, SECRET)),
        ((HEADER, "é"),),
    ],
)
def test_who_does_not_pass(metadata: tuple[tuple[str, str], ...]) -> None:
    """Whatever is wrong with the header, the text is one and the same, and tells no value."""
    restrictions = Restrictions([f"trace:admin={SECRET}"])
    with pytest.raises(NotPermitted) as refused:
        restrictions.check("trace", metadata)
    assert str(refused.value) == f"This protocol is restricted, expecting header '{HEADER}'"


@pytest.mark.parametrize(
    "group",
    [
        "", "trace", "trace:", "trace:key", "trace:key=", ":key=v", "tracing:key=v",
        "trace,:key=v", "trace:ke y=v", "trace:=v", "trace:key=é", "trace:key=a\n", "trace:key= a",
    ],
)  # fmt: skip
def test_groups_that_are_none(group: str) -> None:
    """Each is refused with its number, what was expected, and not its value."""
    with pytest.raises(SettingsError, match=r"--restrict, number 2: expected CATEGORIES:KEY=VALUE"):
        Restrictions(["health:key=v", group])


def test_a_category_is_restricted_once() -> None:
    """Two headers for one category would be two truths."""
    with pytest.raises(SettingsError, match="category 'trace' is restricted twice"):
        Restrictions(["trace,health:a=v", "trace:b=v"])


def test_every_category_has_methods() -> None:
    """The table of methods and the list of categories name the same."""
    assert set(CATEGORY_OF.values()) == set(CATEGORIES)
