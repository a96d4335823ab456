"""The page of the benchmarks, from figures."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import main, ratios_of, table


def figures(*rates: float) -> dict[str, list[float]]:
    """Return the figures of one server in one case."""
    return {"rows_per_second": list(rates), "cpu_us_per_row": [50.0 for _ in rates]}


DOCUMENT: dict[str, Any] = {
    "machine": "2 CPUs (a CPU), Linux 6",
    "date": "2026-01-02",
    "rounds": 3,
    "threads": 1,
    "missing": {"mlp": {"Peer, streams": "UNIMPLEMENTED: no such method"}},
    "at_rest": {"yardstick": {"memory_mib": 49.4, "processes": 1}},
    "results": {
        "mlp": {
            "unary": {"yardstick": figures(100, 200, 400), "Peer": figures(50, 200, 800)},
            "streams": {"yardstick": figures(10, 10, 10), "Peer": figures()},
        },
        "cnn": {
            "busy": {
                "ONNX Runtime in process": figures(200, 200, 200),
                "yardstick": figures(100, 100, 100),
                "Peer": figures(190, 190, 190),
            },
        },
    },
}


def test_ratios_are_of_the_same_round() -> None:
    """A round that was slow for both is no difference; the median of ratios is what is told."""
    servers = DOCUMENT["results"]["mlp"]["unary"]
    assert ratios_of(servers, "Peer") == [0.5, 1.0, 2.0]
    assert "| Peer | 200 · **1.00** (0.50 to 2.00) · 50 | - |" in table(DOCUMENT)


def test_what_has_no_figures_is_said() -> None:
    """A peer that cannot do something is listed with the reason, not left out."""
    assert "- Peer, streams: no figures: UNIMPLEMENTED: no such method" in table(DOCUMENT)


def test_large_models_are_compared_with_the_limit() -> None:
    """Where a workload has one case, the ratio to ONNX Runtime in process stands beside it."""
    line = next(line for line in table(DOCUMENT).splitlines() if line.startswith("| Peer | 190"))
    assert line.endswith("| **0.95** (0.95 to 0.95) |")


def test_page_and_picture(tmp_path: Path) -> None:
    """Machine, date, tables, what a server takes at rest, limits and a small picture."""
    limits = {
        "machine": "the same",
        "date": "2026-01-03",
        "figures": [{"name": "idle", "wanted": "0 %", "measured": "1 %", "reached": False}],
    }
    (tmp_path / "compare.json").write_text(json.dumps(DOCUMENT))
    (tmp_path / "limits.json").write_text(json.dumps(limits))
    main(tmp_path, tmp_path)
    page = (tmp_path / "benchmarks.md").read_text()
    assert "2 CPUs (a CPU), Linux 6. 2026-01-02, medians of 3 alternating rounds" in page
    assert "| yardstick | 49 | 1 |" in page
    assert "| idle | 0 % | 1 % | **no** |" in page
    assert 1_000 < (tmp_path / "benchmarks.png").stat().st_size < 100_000


def test_no_figures_at_all(tmp_path: Path) -> None:
    """Without figures there is no page, and the message says what is missing."""
    with pytest.raises(SystemExit, match=r"neither compare\.json nor limits\.json"):
        main(tmp_path, tmp_path)
