"""`penstock-export bench`: ONNX files timed against the first of them, in alternation."""

import argparse
from dataclasses import asdict
from typing import Any

from exporter.console import Console
from exporter.errors import UsageError, table
from exporter.verbs.export import check_installed

_DEFAULT_BATCHES = (1, 8)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Time the files, and show medians and ratios. Raises ExportError."""
    check_installed()
    from exporter.bench import Effort, Entry, bench  # noqa: PLC0415 (--help without a runtime)

    for path in arguments.models:
        if not path.is_file():
            raise UsageError(f"{path}: no such file")
    if arguments.threads < 1 or not 0 < arguments.seconds <= 3600:
        raise UsageError("expected --threads from 1 and --seconds above 0, up to 3600")
    feeds = _feeds(arguments)
    console.say(f"timing {len(arguments.models)} file(s) at {len(feeds)} size(s)")
    effort = Effort(budget_s=arguments.seconds, threads=arguments.threads)
    timings = bench([Entry(path) for path in arguments.models], feeds, effort=effort)
    rows = [
        [
            str(arguments.models[t.entry]), str(t.rows), f"{t.median_us:.1f} us",
            f"{t.ratio:.2f}x", f"{t.low:.2f}-{t.high:.2f}",
        ]
        for t in timings
    ]  # fmt: skip
    console.result(
        table(("file", "rows", "median", "ratio", "quartiles"), rows),
        {
            "threads": arguments.threads,
            "timings": [{**asdict(t), "file": str(arguments.models[t.entry])} for t in timings],
        },
    )
    return 0


def _feeds(arguments: argparse.Namespace) -> list[Any]:
    """Return the inputs of each run: the samples, or zeros of the declared shape."""
    import numpy as np  # noqa: PLC0415 (--help without it)

    from exporter.specs import read_samples  # noqa: PLC0415
    from exporter.variants.make import input_specs  # noqa: PLC0415

    if arguments.sample:
        return [read_samples(path) for path in arguments.sample]
    specs = input_specs(arguments.models[0])
    free = [spec.name for spec in specs if -1 in spec.shape[1:]]
    if free:
        raise UsageError(
            f"input '{free[0]}' has free axes besides the batch: give its data with --sample",
        )
    batches = arguments.batch or _DEFAULT_BATCHES
    if min(batches) < 1:
        raise UsageError(f"--batch {min(batches)}: expected 1 or more")
    if not any(-1 in spec.shape for spec in specs):
        batches = batches[:1]  # a fixed shape has one size
    return [
        {
            spec.name: np.zeros(
                [rows if extent == -1 else extent for extent in spec.shape], spec.dtype
            )
            for spec in specs
        }
        for rows in batches
    ]
