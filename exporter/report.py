"""What an export did, as text for people and as JSON for programs."""

from exporter.errors import table
from exporter.pipeline import ExportResult
from exporter.session import described


def as_text(result: ExportResult, repository: str) -> str:
    """Return where the version lies, its signature, the parity table and the next command."""
    manifest = result.manifest
    batches = (
        f"up to {manifest.max_batch_size} rows, each independent of the others"
        if manifest.max_batch_size
        else "none: a fixed shape"
    )
    allowed = f"{manifest.tolerance.relative:g} of the largest value"
    rows = [
        [str(p.batch or "-"), p.output, f"{p.max_abs:.3g}", f"{p.max_rel:.3g}"]
        for p in result.parity
    ]
    return "\n".join(
        (
            f"published {result.path}",
            f"  inputs   {described(manifest.inputs)}",
            f"  outputs  {described(manifest.outputs)}",
            f"  batches  {batches}",
            f"PyTorch and ONNX Runtime agree (allowed: {allowed}):",
            table(("batch", "output", "max abs", "max rel"), rows),
            f"next: penstock serve {repository}",
        ),
    )


def as_json(result: ExportResult) -> dict[str, object]:
    """Return the report of `--json`; `manifest` has everything else."""
    manifest = result.manifest
    return {
        "published": True,
        "path": str(result.path),
        "name": manifest.name,
        "version": result.version,
        "max_batch_size": manifest.max_batch_size,
        "inputs": [_spec(s.name, s.datatype.wire, s.shape) for s in manifest.inputs],
        "outputs": [_spec(s.name, s.datatype.wire, s.shape) for s in manifest.outputs],
        "parity": [
            {"batch": p.batch, "output": p.output, "max_abs": p.max_abs, "max_rel": p.max_rel}
            for p in result.parity
        ],
        "files": dict(manifest.files),
    }


def _spec(name: str, datatype: str, shape: tuple[int, ...]) -> dict[str, object]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}
