"""What changed between two versions: signature, weights, operators, answers, size, metadata."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exporter.children import DEFAULT_TIMEOUT_S, run_child
from exporter.errors import ConversionFailed, ExportError, UsageError, table
from exporter.golden import read_golden
from exporter.inspection import inspect, weight_digests
from exporter.proof import compare
from exporter.session import Session
from service.errors import ManifestError
from service.repository.manifest import MODEL_FILE, Manifest, Tolerance, read_manifest
from service.tensors import Tensors


@dataclass(frozen=True, slots=True)
class Answers:
    """How far the answers of the second version are from the first's, for one output.

    same_choice: share of rows whose largest value is at the same place; None if it has no classes.
    """

    output: str
    max_abs: float
    max_rel: float
    same_choice: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between two versions; each field is empty where nothing does.

    signature: lines of what was added (+) and removed (-). weights: names by what became of them.
    operators: nodes in the first and the second version. answers: on golden inputs; None if no
    golden inputs of one fit the other. metadata: (first, second) by key of the manifest.
    """

    signature: tuple[str, ...]
    weights: Mapping[str, tuple[str, ...]]
    operators: Mapping[str, tuple[int, int]]
    answers: tuple[Answers, ...] | None
    reason: str
    size: tuple[int, int]
    metadata: Mapping[str, tuple[Any, Any]]

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "signature": list(self.signature),
            "weights": {key: list(names) for key, names in self.weights.items()},
            "operators": {name: list(counts) for name, counts in self.operators.items()},
            "answers": None
            if self.answers is None
            else [
                {"output": a.output, "max_abs": a.max_abs, "max_rel": a.max_rel,
                 "same_choice": a.same_choice}
                for a in self.answers
            ],
            "answers_missing": self.reason,
            "bytes": list(self.size),
            "metadata": {key: list(pair) for key, pair in self.metadata.items()},
        }  # fmt: skip

    def to_text(self) -> str:
        """Return it for people."""
        changed = {key: names for key, names in self.weights.items() if key != "equal"}
        equal = len(self.weights.get("equal", ()))
        counts = ", ".join(f"{len(names)} {key}" for key, names in changed.items())
        lines = ["signature", *(f"  {line}" for line in self.signature or ("equal",))]
        lines.append(f"weights    {counts or 'equal'}" + (f", {equal} equal" if counts else ""))
        lines += [
            f"  {key}: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
            for key, names in changed.items()
        ]
        lines.append(f"size       {self.size[0]:,} -> {self.size[1]:,} bytes")
        if self.operators:
            rows = [[name, str(a), str(b)] for name, (a, b) in sorted(self.operators.items())]
            lines += ["operators", table(("operator", "first", "second"), rows)]
        else:
            lines.append("operators  equal")
        if self.answers is None:
            lines.append(f"answers    not compared: {self.reason}")
        else:
            rows = [
                [a.output, f"{a.max_abs:.3g}", f"{a.max_rel:.3g}",
                 "-" if a.same_choice is None else f"{a.same_choice:.1%}"]
                for a in self.answers
            ]  # fmt: skip
            heads = ("output", "max abs", "max rel", "same choice")
            lines += ["answers on the golden inputs", table(heads, rows)]
        lines += [f"{key}: {first} -> {second}" for key, (first, second) in self.metadata.items()]
        return "\n".join(lines)


def diff(
    first: str | Path, second: str | Path, *, timeout_s: float = DEFAULT_TIMEOUT_S
) -> Difference:
    """Compare two versions, given by their directories.

    Both files are loaded and run in a child process. Raises UsageError if one is no version,
    ConversionFailed if one is no ONNX file, ChildCrashed if running it ends the process.
    """
    first, second = Path(first), Path(second)
    for directory in (first, second):
        if not (directory / MODEL_FILE).is_file():
            raise UsageError(f"{directory}: not a version: it has no {MODEL_FILE}")
    found: Difference = run_child(
        "exporter.difference:compare_versions",
        (first, second),
        what=f"the comparison of {first.name} and {second.name}",
        timeout_s=timeout_s,
    )
    return found


def compare_versions(first: Path, second: Path) -> Difference:
    """Compare two versions in this process."""
    one, two = inspect(first / MODEL_FILE), inspect(second / MODEL_FILE)
    ends = [
        {f"{side} {end}" for side, ends in (("input", s.inputs), ("output", s.outputs))
         for end in ends}
        for s in (one, two)
    ]  # fmt: skip
    manifests = [_manifest(directory) for directory in (first, second)]
    answers, reason = _answers(first, second, manifests)
    names = sorted({*one.operators, *two.operators})
    counts = {name: (one.operators.get(name, 0), two.operators.get(name, 0)) for name in names}
    return Difference(
        signature=tuple(
            [f"- {line}" for line in sorted(ends[0] - ends[1])]
            + [f"+ {line}" for line in sorted(ends[1] - ends[0])]
        ),
        weights=_weights(first / MODEL_FILE, second / MODEL_FILE),
        operators={name: pair for name, pair in counts.items() if pair[0] != pair[1]},
        answers=answers,
        reason=reason,
        size=(sum(one.files.values()), sum(two.files.values())),
        metadata=_metadata(manifests),
    )


def _weights(first: Path, second: Path) -> dict[str, tuple[str, ...]]:
    one, two = weight_digests(first), weight_digests(second)
    shared = one.keys() & two.keys()
    groups = {
        "changed": [name for name in shared if one[name] != two[name]],
        "added": [*(two.keys() - one.keys())],
        "removed": [*(one.keys() - two.keys())],
        "equal": [name for name in shared if one[name] == two[name]],
    }
    return {key: tuple(sorted(names)) for key, names in groups.items() if names}


def _manifest(directory: Path) -> Manifest | None:
    try:
        return read_manifest(directory)
    except ManifestError as error:
        raise ConversionFailed(str(error)) from error


def _metadata(manifests: list[Manifest | None]) -> dict[str, tuple[Any, Any]]:
    """Return what the manifests say differently, besides what is compared in other ways."""
    own = {"version", "files", "inputs", "outputs", "parity"}
    contents = [{} if m is None else _flat(json.loads(m.to_json())) for m in manifests]
    keys = sorted({*contents[0], *contents[1]})
    return {
        key: (contents[0].get(key), contents[1].get(key))
        for key in keys
        if key.split(".")[0] not in own and contents[0].get(key) != contents[1].get(key)
    }


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _answers(
    first: Path, second: Path, manifests: list[Manifest | None]
) -> tuple[tuple[Answers, ...] | None, str]:
    """Run both versions on the golden inputs of the second, else of the first."""
    places = [
        directory / manifest.golden
        for directory, manifest in ((second, manifests[1]), (first, manifests[0]))
        if manifest is not None and manifest.golden
    ]
    if not places:
        return None, "neither version has golden inputs"
    sessions = [
        Session(directory / MODEL_FILE, manifest.session if manifest is not None else None)
        for directory, manifest in zip((first, second), manifests, strict=True)
    ]
    reason = ""
    for place in places:
        try:
            cases = [inputs for inputs, _ in read_golden(place)]
            ran = [[session.run(case) for case in cases] for session in sessions]
        except (OSError, ValueError, ExportError) as error:
            reason = f"golden inputs of {place.parent.name}: {error}"
            continue
        return _compared(ran[0], ran[1]), ""
    return None, reason


def _compared(first: list[Tensors], second: list[Tensors]) -> tuple[Answers, ...]:
    names = [name for name in first[0] if name in second[0]]
    return tuple(
        _one_output(name, [(a[name], b[name]) for a, b in zip(first, second, strict=True)])
        for name in names
    )


def _one_output(name: str, pairs: list[tuple[Any, Any]]) -> Answers:
    found = [compare(got, want, Tolerance()) for want, got in pairs]
    same: list[bool] = []
    for want, got in pairs:
        if want.shape == got.shape and want.ndim >= 2 and want.shape[-1] > 1 and want.size:
            same += list(np.ravel(want.argmax(axis=-1) == got.argmax(axis=-1)))
    return Answers(
        name,
        max(difference.max_abs for difference in found),
        max(difference.max_rel for difference in found),
        float(np.mean(same)) if same else None,
    )
