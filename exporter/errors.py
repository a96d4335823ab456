"""Every error that the exporter raises on purpose, and how its text is laid out.

ExportError
├── UsageError              what was asked for is wrong: SOURCE, names, inputs
├── UnsafeArtefact          a file could run code when it is loaded; it was not loaded
├── WeightsError            the weights cannot be read or do not fit the module
├── ConversionFailed        the module has no faithful ONNX form
├── VerificationFailed      the ONNX model computes something else than the module
├── CompressionFailed       a step that makes a model smaller or faster did not work
├── GateFailed              the model that was asked for by name is not good enough
├── ChildCrashed            native code ended or blocked the process that it ran in
├── SignatureFailed         a version has no signature, or another key's, or was changed since
└── PublishFailed           the version could not be written to the repository
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from service.errors import PenstockError, dims

if TYPE_CHECKING:
    from service.tensors import TensorSpec


class ExportError(PenstockError):
    """Base of every error of the exporter; nothing was published. step: where it happened."""

    step: str = ""


class UsageError(ExportError):
    """What was asked for is wrong: SOURCE, a name, an input specification."""


class UnsafeArtefact(ExportError):
    """A file could run code when it is loaded. It was not loaded."""


class WeightsError(ExportError):
    """The weights cannot be read or do not fit the module."""


class ConversionFailed(ExportError):
    """The module has no faithful ONNX form; the text says which line is at fault."""


class VerificationFailed(ExportError):
    """The ONNX model computes something else than the module; the text has a table."""


class CompressionFailed(ExportError):
    """A step that makes a model smaller or faster did not work."""


class GateFailed(ExportError):
    """What was asked for by name is slower or less accurate than the gate allows."""


class ChildCrashed(ExportError):
    """Native code ended, or blocked, the child process that it ran in."""


class SignatureFailed(ExportError):
    """A version has no signature, one of another key, or was changed after it was signed."""


class PublishFailed(ExportError):
    """The version could not be written to the repository."""


def described(specs: "Sequence[TensorSpec]") -> str:
    """Return inputs or outputs as text: image FP32[-1,784]."""
    return ", ".join(f"{spec.name} {spec.datatype}{dims(spec.shape)}" for spec in specs)


def in_one_line(error: BaseException) -> str:
    """Return the beginning of an error's text, in one line; for those of other packages."""
    return " ".join(str(error).split())[:300]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as text in aligned columns, each line indented by two spaces."""
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    lines = [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *rows)
    ]
    return "\n".join(lines)
