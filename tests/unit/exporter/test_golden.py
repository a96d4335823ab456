"""Golden pairs: which are kept, and how they are written."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from exporter.cases import Case
from exporter.golden import choose_pairs, read_golden, write_golden
from service.runtime.warmup import golden_pairs


def _case(rows: int, width: int = 2) -> Case:
    array = np.arange(rows * width, dtype=np.float32).reshape(rows, width)
    return Case(rows, {"x": array}, {"y": array * 2, "label": np.arange(rows)})


def test_the_server_reads_what_was_written(tmp_path: Path) -> None:
    """Inputs and outputs come back by name, in order, with type and shape."""
    cases = [_case(1), _case(3)]
    write_golden(tmp_path / "g.npz", cases)
    with np.load(tmp_path / "g.npz", allow_pickle=False) as archive:
        pairs = list(golden_pairs(dict(archive)))
    assert len(pairs) == 2
    for case, (inputs, outputs) in zip(cases, pairs, strict=True):
        for want, got in ((case.inputs, inputs), (case.outputs, outputs)):
            assert list(want) == list(got)
            assert all(np.array_equal(want[name], got[name]) for name in want)
            assert all(want[name].dtype == got[name].dtype for name in want)


def test_scalars_keep_their_shape(tmp_path: Path) -> None:
    """A tensor without axes is not given one."""
    scalar = np.array(1.5, np.float32)
    write_golden(tmp_path / "g.npz", [Case(0, {"x": scalar}, {"y": scalar})])
    with np.load(tmp_path / "g.npz", allow_pickle=False) as archive:
        assert archive["0.in.x"].shape == ()


def test_equal_pairs_give_equal_bytes(tmp_path: Path) -> None:
    """Nothing but the contents decides the bytes: no time, no user, no mode."""
    digests = set()
    for name in ("a.npz", "b.npz"):
        write_golden(tmp_path / name, [_case(1), _case(2)])
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1
    assert b"\x00\x00\x21\x00" in (tmp_path / "a.npz").read_bytes()[:16]  # 1 January 1980


def test_the_smallest_case_and_larger_ones_are_kept() -> None:
    """Between two and four pairs, one row alone first."""
    assert [c.rows for c in choose_pairs([_case(n) for n in (64, 1, 3, 2, 128)])] == [1, 2, 3, 64]


def test_large_cases_are_left_out() -> None:
    """A pair above 16 MB would make each load slow; the smallest stays even so."""
    large = _case(3_000_000)
    assert [c.rows for c in choose_pairs([large, _case(1), _case(2)])] == [1, 2]
    assert [c.rows for c in choose_pairs([large])] == [3_000_000]


def test_text_is_kept_without_a_pickle(tmp_path: Path) -> None:
    """Class names among the outputs come back as the runtime gives them."""
    names = np.array(["cat", "größer"], dtype=object)
    write_golden(tmp_path / "g.npz", [Case(2, {"x": np.zeros((2, 1))}, {"name": names})])
    with np.load(tmp_path / "g.npz", allow_pickle=False) as archive:
        ((_, outputs),) = golden_pairs(dict(archive))
    ((_, ours),) = read_golden(tmp_path / "g.npz")
    for found in (outputs["name"], ours["name"]):
        assert found.dtype == object
        assert list(found) == ["cat", "größer"]


def test_a_file_that_is_no_archive_is_an_error(tmp_path: Path) -> None:
    """A broken file is a ValueError, not whatever zipfile raises."""
    (tmp_path / "g.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(ValueError, match=r"\w"):
        read_golden(tmp_path / "g.npz")
