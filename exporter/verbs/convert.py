"""`penstock-export convert SOURCE --out FILE.onnx`: a proved file, without a repository."""

import argparse
from pathlib import Path

from exporter.console import Console
from exporter.errors import UsageError
from exporter.files import convert_file
from exporter.verbs.export import check_installed, export_options
from service.repository.manifest import MODEL_FILE


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Convert and prove, and write the file. Raises ExportError; then there is no file."""
    target: Path | None = arguments.out
    if not arguments.source or target is None:
        raise UsageError("the following arguments are required: SOURCE, --out; see --help")
    if target.exists():
        raise UsageError(f"--out {target} exists, and is not overwritten")
    options = export_options(arguments)
    check_installed()
    report = convert_file(arguments.source, target, progress=console.say, **options)
    text = f"wrote {target}; proved equal to its source: see --json; publish it: penstock-export "
    states = "".join(f" --state {name}={output}" for name, output in options["state"].items())
    text += f"package {target} --name NAME --repository DIR{states}"
    if target.with_name(f"{MODEL_FILE}.data").exists():
        text += f"\nits weights lie in {MODEL_FILE}.data beside it"
    console.result(text, {"path": str(target), **report.to_json()})
    return 0
