"""From the figures to docs/benchmarks.md and its picture.

    python -m benchmarks.report out/bench docs

Reads compare.json and limits.json of the first directory, whichever are there, and writes
benchmarks.md and benchmarks.png into the second.
"""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

Servers: TypeAlias = Mapping[str, Mapping[str, Sequence[float]]]  # figures of a case, by server

YARDSTICK: Final = "yardstick"
LIMIT: Final = "ONNX Runtime in process"
_PANELS: Final = {
    "rows_per_second": "throughput",
    "cpu_us_per_row": "CPU a row",
}
_INTRODUCTION: Final = """\
# Benchmarks

Written by `make bench`, on this machine: {machine}. {date}, medians of {rounds} alternating rounds.

Every server serves the same ONNX file with {threads} thread{s} a run. h2load drives them from the
same machine, over one connection; the client takes CPU from the server, as it does for all. Ratios
are to the yardstick of the same round, a plain `grpc.aio` servicer that parses, runs and answers
(`benchmarks/yardstick.py`), with their range in brackets. CPU is that of all processes of a server,
for each row. Read the ratios: the machine has neighbours. How it is done:
`benchmarks/compare.py`. `make bench-peers` installs the peers.

The peers run as is best for one small model: Triton's dynamic batcher without a delay, MLServer
without worker processes, KServe with one worker. What a server cannot do, or a peer that is not
installed, is listed below the table.
"""
_LEGEND: Final = "rows/s · ratio to the yardstick (range) · CPU us a row"
_OF_LIMIT: Final = "; in the last column, the ratio to ONNX Runtime in process"


def table(document: Mapping[str, Any]) -> str:
    """Return the figures of the comparison as Markdown, a table for each workload."""
    parts = []
    for workload, cases in document["results"].items():
        legend = _LEGEND + (_OF_LIMIT if len(cases) == 1 else "")
        parts += [f"## {workload}", "", legend, "", *_workload(cases), ""]
        missing = document["missing"].get(workload, {})
        parts += [f"- {what}: no figures: {reason}" for what, reason in missing.items()]
        parts += [""] if missing else []
    return "\n".join(parts).rstrip() + "\n"


def ratios_of(
    servers: Servers, name: str, base_name: str = YARDSTICK, what: str = "rows_per_second"
) -> list[float]:
    """Return the ratios to another server in the same rounds, ascending; empty without one."""
    base = servers.get(base_name, {what: []})[what]
    values = servers[name][what] if name in servers else []
    return sorted(value / one for value, one in zip(values, base, strict=False) if one)


def _workload(cases: Mapping[str, Servers]) -> list[str]:
    names = list(dict.fromkeys(name for servers in cases.values() for name in servers))
    titles = [*cases, *(["of the limit"] if len(cases) == 1 else [])]
    lines = ["| server | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for name in names:
        cells = [_cell(servers, name) for servers in cases.values()]
        if len(cases) == 1:
            (servers,) = cases.values()
            cells.append(_ratio_text(ratios_of(servers, name, LIMIT)))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _cell(servers: Servers, name: str) -> str:
    figures = servers.get(name)
    if figures is None or not figures["rows_per_second"]:
        return "-"
    text = f"{statistics.median(figures['rows_per_second']):,.0f}"
    text += f" · {_ratio_text(ratios_of(servers, name))}"
    if figures["cpu_us_per_row"]:
        text += f" · {statistics.median(figures['cpu_us_per_row']):,.0f}"
    return text


def _ratio_text(ratios: Sequence[float]) -> str:
    if not ratios:
        return "-"
    return f"**{statistics.median(ratios):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def _at_rest(document: Mapping[str, Any]) -> list[str]:
    if not document["at_rest"]:
        return []
    lines = ["## At rest", "", "Serving the MLP, before the first request.", ""]
    lines += ["| server | memory, MiB (PSS) | processes |", "|---|---|---|"]
    lines += [
        f"| {name} | {each['memory_mib']:.0f} | {each['processes']:.0f} |"
        for name, each in document["at_rest"].items()
    ]
    return [*lines, ""]


def plot(document: Mapping[str, Any], path: Path) -> None:
    """Draw the ratios with their ranges on logarithmic axes: throughput, and CPU a row."""
    import matplotlib as mpl  # noqa: PLC0415  slow to import

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    rows = [
        (f"{workload}\n{case}", servers)
        for workload, cases in document["results"].items()
        for case, servers in cases.items()
    ]
    height = 0.55 * len(rows) + 1.6
    figure, both = plt.subplots(1, 2, figsize=(10, height), sharey=True, layout="constrained")
    for axes, (what, label) in zip(both, _PANELS.items(), strict=True):
        _panel(axes, [servers for _, servers in rows], what)
        axes.set_xlabel(f"{label}, ratio to the yardstick", fontsize=9)
    both[0].set_yticks(range(len(rows)), [label for label, _ in rows], fontsize=8)
    both[0].invert_yaxis()
    handles, labels = both[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    machine = document["machine"].partition(", Linux")[0]
    figure.suptitle(f"{document['date']}, {machine}: median and range", fontsize=9)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _panel(axes: Any, rows: Sequence[Servers], what: str) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter  # noqa: PLC0415  slow to import

    names = dict.fromkeys(name for servers in rows for name in servers)
    shown = [name for name in names if name not in (YARDSTICK, LIMIT)]
    axes.axvline(1, color="0.3", linewidth=1, label="yardstick (grpc.aio)")
    for number, name in enumerate(shown):
        shift = (number + 0.5) / len(shown) * 0.7 - 0.35
        points = [
            (place + shift, statistics.median(ratios), ratios[0], ratios[-1])
            for place, servers in enumerate(rows)
            if (ratios := ratios_of(servers, name, what=what))
        ]
        axes.errorbar(
            [middle for _, middle, _, _ in points],
            [place for place, *_ in points],
            xerr=(
                [middle - low for _, middle, low, _ in points],
                [high - middle for _, middle, _, high in points],
            ),
            fmt="o",
            markersize=4,
            linewidth=1,
            label=name,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", which="both", linewidth=0.3)


def limits_table(limits: Mapping[str, Any]) -> list[str]:
    """Return the figures of limits.json as lines of Markdown."""
    lines = ["| figure | wanted | measured | reached |", "|---|---|---|---|"]
    lines += [
        f"| {each['name']} | {each['wanted']} | {each['measured']} | "
        f"{'yes' if each['reached'] else '**no**'} |"
        for each in limits["figures"]
    ]
    return lines


def main(source: Path, target: Path) -> None:
    """Write the page and the picture."""
    parts: list[str] = []
    if (path := source / "compare.json").exists():
        document = json.loads(path.read_text())
        plural = "s" if document["threads"] > 1 else ""
        parts.append(_INTRODUCTION.format(**document, s=plural))
        plot(document, target / "benchmarks.png")
        parts += ["![Ratios to the yardstick](benchmarks.png)\n", table(document)]
        parts.append("\n".join(_at_rest(document)))
    if (path := source / "limits.json").exists():
        limits = json.loads(path.read_text())
        note = f"On {limits['machine']}. {limits['date']}. How: `benchmarks/limits.py`."
        parts.append("\n".join(["## Limits", "", note, "", *limits_table(limits), ""]))
    if not parts:
        raise SystemExit(f"{source}: neither compare.json nor limits.json is there")
    (target / "benchmarks.md").write_text("\n".join(parts).rstrip() + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
