"""`penstock-export quantize`: one variant of an ONNX file, without a gate."""

import argparse

from exporter.console import Console
from exporter.verbs.export import check_installed


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Make the variant, and show what it is. Raises ExportError."""
    check_installed()
    from exporter.specs import read_samples  # noqa: PLC0415 (--help without numpy)
    from exporter.variants import quantize  # noqa: PLC0415
    from exporter.variants.graph import facts_of  # noqa: PLC0415

    console.say(f"making {arguments.kind} of {arguments.model}")
    sets = [read_samples(path, "--calibration") for path in arguments.calibration or ()]
    variant = quantize(
        arguments.model,
        arguments.output,
        arguments.kind,
        calibration=sets or None,
        method=arguments.method,
        timeout_s=arguments.timeout,
    )
    before = facts_of(arguments.model).file_bytes
    operators = ", ".join(f"{name} {count:+d}" for name, count in variant.changed.items())
    lines = [
        f"wrote {variant.path}",
        f"  size       {before} -> {variant.file_bytes} bytes ({before / variant.file_bytes:.2f}x)",
        f"  operators  {operators or 'none changed'}",
    ]
    lines += [f"  note       {variant.note}"] if variant.note else []
    lines.append(
        f"next: penstock-export bench {arguments.model} {variant.path}; it is not gated",
    )
    console.result(
        "\n".join(lines),
        {
            "kind": variant.kind,
            "path": str(variant.path),
            "file_bytes": variant.file_bytes,
            "source_bytes": before,
            "changed_operators": dict(variant.changed),
            "note": variant.note,
            "session": {
                "graph_level": variant.options.graph_level,
                "disabled_optimizers": list(variant.options.disabled_optimizers),
            },
        },
    )
    return 0
