"""`penstock-export verify SOURCE FILE.onnx`: whether a file computes what a source computes."""

import argparse

from exporter.console import Console
from exporter.errors import UsageError, table
from exporter.files import verify_file
from exporter.verbs.export import check_installed, export_options


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Compare them at every size. Raises VerificationFailed with a table if they differ."""
    if not arguments.source or arguments.file is None:
        raise UsageError("the following arguments are required: SOURCE, FILE; see --help")
    options = export_options(arguments)
    check_installed()
    proven = verify_file(arguments.source, arguments.file, progress=console.say, **options)
    rows = [
        [str(p.batch or "-"), p.output, f"{p.max_abs:.3g}", f"{p.max_rel:.3g}"]
        for p in proven.agreement.parity
    ]
    report = {
        "equal": True,
        "parity": [
            {"batch": p.batch, "output": p.output, "max_abs": p.max_abs, "max_rel": p.max_rel}
            for p in proven.agreement.parity
        ],
        "ties": dict(proven.agreement.ties),
    }
    allowed = f"{proven.tolerance.relative:g} of the largest value"
    heads = ("batch", "output", "max abs", "max rel")
    console.result(f"they agree (allowed: {allowed}):\n{table(heads, rows)}", report)
    return 0
