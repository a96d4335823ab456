"""What an export did, as text for people, as JSON for programs and as files of the version.

The files say nothing of times but those that a choice hangs on: equal exports give equal bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from exporter.errors import PublishFailed, described, table
from exporter.proof import Agreement
from exporter.publish import Stage
from service.repository.manifest import Manifest
from service.tensors import TensorSpec

REPORT_JSON: Final = "report.json"
REPORT_MARKDOWN: Final = "report.md"
_SUSPICIOUS: Final = 0.1  # of what is allowed; 20 times what faithful FP32 models show


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is known of an export.

    seconds: of each step, still growing while it runs. compression: what was tried to make the
    model smaller or faster, as JSON, and its table; empty if nothing was asked for.
    """

    manifest: Manifest
    agreement: Agreement
    seconds: Mapping[str, float]
    compression: Mapping[str, Any] = field(default_factory=dict)
    compression_table: str = ""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what passed, but is worth a look."""
        limit = self.manifest.tolerance.relative * _SUSPICIOUS
        far = [p for p in self.manifest.parity if p.max_rel > limit]
        worst = max(far, key=lambda p: p.max_rel, default=None)
        warnings = []
        if worst is not None and self.manifest.variant == "source":
            warnings.append(
                f"output '{worst.output}' is off by {worst.max_rel:.2g} of its largest value at "
                f"batch {worst.batch}; that is allowed, but faithful models stay below "
                f"{limit:.0e}",
            )
        warnings += [
            f"output '{output}': {count} indices differ where two scores are as good as equal"
            for output, count in self.agreement.ties.items()
        ]
        return tuple(warnings)

    def to_json(self) -> dict[str, Any]:
        """Return what report.json holds."""
        manifest = self.manifest
        return {
            "name": manifest.name,
            "variant": manifest.variant,
            "max_batch_size": manifest.max_batch_size,
            "inputs": [_spec(spec) for spec in manifest.inputs],
            "outputs": [_spec(spec) for spec in manifest.outputs],
            "axes": [asdict(axis) for axis in manifest.axes],
            "state": dict(manifest.state),
            "tolerance": asdict(manifest.tolerance),
            "parity": [asdict(entry) for entry in manifest.parity],
            "columns": [asdict(column) for column in self.agreement.columns],
            "ties": dict(self.agreement.ties),
            "warnings": list(self.warnings),
            "compression": dict(self.compression),
            "source": dict(manifest.source),
            "producer": dict(manifest.producer),
        }

    def to_markdown(self) -> str:
        """Return what report.md holds."""
        manifest = self.manifest
        made_by = ", ".join(f"{name} {version}" for name, version in manifest.producer.items())
        source = ", ".join(f"{key} `{value}`" for key, value in manifest.source.items())
        parts = [
            f"# {manifest.name}",
            f"Variant: {manifest.variant}. Source: {source}. Made by {made_by}.",
            "## Signature",
            _markdown(("", "name", "type", "shape"), [
                [side, spec.name, str(spec.datatype), str(list(spec.shape))]
                for side, specs in (("input", manifest.inputs), ("output", manifest.outputs))
                for spec in specs
            ]),
            "## Sizes that were compared with the source",
            _markdown(("axis", "of", "from", "to", "proved"), [
                [axis.name, ", ".join(f"{t}[{n}]" for t, n in axis.tensors.items()),
                 str(axis.low), str(axis.high or "any"), ", ".join(map(str, axis.proved))]
                for axis in manifest.axes
            ]),
            "## Agreement with the source",
            _markdown(("batch", "output", "max abs", "max rel"), _parity(manifest)),
        ]  # fmt: skip
        if self.agreement.columns:
            parts.append("The column that is furthest off on its own scale:")
            parts.append(_markdown(("output", "column", "max abs", "max rel"), [
                [c.output, str(c.index), f"{c.max_abs:.3g}", f"{c.max_rel:.3g}"]
                for c in self.agreement.columns
            ]))  # fmt: skip
        parts += [f"Worth a look: {warning}." for warning in self.warnings]
        if self.compression_table:
            parts += ["## Variants", self.compression_table]
        return "\n\n".join(part for part in parts if part) + "\n"


def write_reports(stage: Stage, report: Report) -> None:
    """Write report.json and report.md into a stage. Raises PublishFailed."""
    try:
        text = json.dumps(report.to_json(), indent=2, sort_keys=True) + "\n"
        (stage.files / REPORT_JSON).write_text(text, encoding="utf-8")
        (stage.files / REPORT_MARKDOWN).write_text(report.to_markdown(), encoding="utf-8")
    except OSError as error:
        raise PublishFailed(f"{stage.model}: cannot be written: {error.strerror}") from error


def as_text(report: Report, path: Path, repository: str, *, published: bool) -> str:
    """Return where the version lies, its signature, the parity table and the next command."""
    manifest = report.manifest
    batches = (
        f"up to {manifest.max_batch_size} rows, each independent of the others"
        if manifest.max_batch_size
        else "none: a fixed shape"
    )
    allowed = f"{manifest.tolerance.relative:g} of the largest value"
    lines = [
        f"published {path}" if published else f"dry run: would be published as {path}",
        f"  inputs   {described(manifest.inputs)}",
        f"  outputs  {described(manifest.outputs)}",
        f"  batches  {batches}",
    ]
    lines += [
        f"  axis     {axis.name}: proved at {', '.join(map(str, axis.proved))}"
        for axis in manifest.axes
        if axis.name != "batch"
    ]
    lines += [
        f"  state    {output} into {name}: proved over several steps"
        for name, output in manifest.state.items()
    ]
    if report.compression_table:
        lines.append(report.compression_table.rstrip("\n"))
    lines += [
        f"the source and ONNX Runtime agree (allowed: {allowed}):",
        table(("batch", "output", "max abs", "max rel"), _parity(manifest)),
        *(f"warning: {warning}" for warning in report.warnings),
    ]
    if published:
        lines.append(f"next: penstock serve {repository}")
    return "\n".join(lines)


def as_json(report: Report, path: Path, *, published: bool) -> dict[str, Any]:
    """Return the report of `--json`: what report.json holds, where it is and how long it took."""
    return {
        "published": published,
        "path": str(path),
        "version": report.manifest.version,
        **report.to_json(),
        "files": dict(report.manifest.files),
        "seconds": {step: round(seconds, 3) for step, seconds in report.seconds.items()},
    }


def _parity(manifest: Manifest) -> list[list[str]]:
    return [
        [str(p.batch or "-"), p.output, f"{p.max_abs:.3g}", f"{p.max_rel:.3g}"]
        for p in manifest.parity
    ]


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype.wire, "shape": list(spec.shape)}


def _markdown(heads: tuple[str, ...], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    lines = [list(heads), ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
