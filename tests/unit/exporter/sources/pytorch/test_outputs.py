"""Outputs of a module: flattening and names."""

import pytest
import torch

from exporter.errors import ConversionFailed, UsageError
from exporter.sources.pytorch.outputs import flatten, name_outputs
from tests.unit.exporter.modules import Fields

_T = torch.zeros(1, 2)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (_T, ["output"]),
        ((_T, _T), ["output_0", "output_1"]),
        ({"logits": _T, "aux": _T}, ["logits", "aux"]),
        (Fields(_T, _T), ["mean", "spread"]),
        ({"a": (_T, {"b": _T})}, ["a_0", "a_1_b"]),
        ({"a": _T, "b": None}, ["a"]),
        ([[_T], _T], ["output_0_0", "output_1"]),
    ],
)
def test_names_come_from_keys_fields_and_places(value: object, names: list[str]) -> None:
    """Every tensor gets the name that the returned structure gives it."""
    assert [name for name, _ in flatten(value)] == names


@pytest.mark.parametrize("value", [{"a": _T, "b": 3}, (_T, "text"), None, {}, 1.0])
def test_what_is_no_tensor_is_refused(value: object) -> None:
    """A served model returns tensors, and at least one."""
    with pytest.raises(ConversionFailed, match="tensor"):
        flatten(value)


def test_given_names_replace_those_found() -> None:
    """Names that are given win, in order."""
    assert name_outputs((_T, _T), ["image"], ["a", "b"]) == ("a", "b")


@pytest.mark.parametrize(
    ("value", "names", "error", "text"),
    [
        ((_T, _T), ["a"], ConversionFailed, "1 output names"),
        ({"image": _T}, None, ConversionFailed, "name of an input"),
        ({"two words": _T}, None, UsageError, "cannot name an output"),
        ({"a_0": _T, "a": (_T,)}, None, UsageError, "given twice"),
    ],
)
def test_names_that_cannot_be_are_refused(
    value: object, names: list[str] | None, error: type[Exception], text: str
) -> None:
    """Wrong numbers, clashes and malformed names are refused."""
    with pytest.raises(error, match=text):
        name_outputs(value, ["image"], names)
