"""The report: what people, programs and the version itself are told."""

from dataclasses import replace
from pathlib import Path

import pytest

from exporter.columns import Column
from exporter.proof import Agreement
from exporter.report import Report, as_json, as_text
from service.repository.manifest import Axis, Manifest, Parity
from service.tensors import FP32, TensorSpec

_MANIFEST = Manifest(
    name="m",
    version=3,
    inputs=(TensorSpec("x", FP32, (-1, -1)),),
    outputs=(TensorSpec("y", FP32, (-1, 4)),),
    max_batch_size=8,
    opset=20,
    files={"model.onnx": "ab" * 32},
    parity=(Parity(1, "y", 1e-7, 3e-7), Parity(8, "y", 2e-7, 4e-7)),
    source={"module": "a:b"},
    producer={"torch": "2.13.0"},
    axes=(Axis("batch", {"x": 0}, 1, 8, (1, 8)), Axis("length", {"x": 1}, 1, 0, (1, 5, 10))),
)
_AGREEMENT = Agreement(_MANIFEST.parity, (Column("y", 2, 1e-7, 5e-7, 1e-2),), {})
_REPORT = Report(_MANIFEST, _AGREEMENT, {"convert": 1.23456, "verify": 0.5})


def test_people_are_told_where_how_close_and_what_next() -> None:
    """Path, signature, sizes that were proved, agreement, and the command to serve it."""
    text = as_text(_REPORT, Path("models/m/3"), "models", published=True)
    for part in ("published models/m/3", "x FP32[-1,-1]", "length: proved at 1, 5, 10",
                 "up to 8 rows", "next: penstock serve models"):  # fmt: skip
        assert part in text
    assert "warning" not in text


def test_a_dry_run_does_not_say_that_it_published() -> None:
    """Nothing is there to serve."""
    text = as_text(_REPORT, Path("models/m/3"), "models", published=False)
    assert text.startswith("dry run: would be published as models/m/3")
    assert "next:" not in text


def test_programs_are_told_the_same_and_how_long_it_took() -> None:
    """The version's own report has no times; what is printed has them."""
    report = as_json(_REPORT, Path("models/m/3"), published=True)
    assert (report["published"], report["version"]) == (True, 3)
    assert report["seconds"] == {"convert": 1.235, "verify": 0.5}
    assert report["columns"] == [
        {"output": "y", "index": 2, "max_abs": 1e-7, "max_rel": 5e-7, "allowed": 1e-2}
    ]
    assert "seconds" not in _REPORT.to_json()


@pytest.mark.parametrize(("max_rel", "warns"), [(9e-6, False), (5e-5, True)])
def test_what_only_just_passes_is_worth_a_look(
    max_rel: float,
    warns: bool,  # noqa: FBT001 (a parameter of the test)
) -> None:
    """A difference that no faithful model shows is told, though it is allowed."""
    manifest = replace(_MANIFEST, parity=(Parity(8, "y", 1e-3, max_rel),))
    report = Report(manifest, _AGREEMENT, {})
    assert bool(report.warnings) is warns
    assert ("warning: output 'y'" in as_text(report, Path("p"), "r", published=True)) is warns


def test_ties_are_told() -> None:
    """Indices that differ without fault are counted where people look."""
    report = Report(_MANIFEST, Agreement(_MANIFEST.parity, (), {"label": 2}), {})
    assert "output 'label': 2 indices differ" in report.to_markdown()


def test_the_markdown_has_tables_of_all_that_was_proved() -> None:
    """Signature, sizes, agreement and the worst column, each in a table."""
    text = _REPORT.to_markdown()
    assert text.startswith("# m\n")
    for line in ("| input | x | FP32 | [-1, -1] |", "| length | x[1] | 1 | any | 1, 5, 10 |",
                 "| 8 | y | 2e-07 | 4e-07 |", "| y | 2 | 1e-07 | 5e-07 |"):  # fmt: skip
        assert line in text
