"""External data of an ONNX file: weights in other files, which the graph names by path.

A crafted graph names files that are not its own, to have them read and published, or an address
in memory. Nothing is opened here; what passes lies in the folder of the model.
"""

import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

import onnx

from exporter.errors import ConversionFailed, UnsafeArtefact

_MEMORY_MARKER: Final = "_ORT_MEM_ADDR_"  # ONNX Runtime's name for weights at an address


def check_external_data(path: Path, proto: onnx.ModelProto) -> None:
    """Check where every tensor that lies outside of the file lies.

    Raises UnsafeArtefact for a place that is not a plain file in the model's folder, and
    ConversionFailed for a file that is missing or too short.
    """
    for tensor in external_tensors(proto):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        what = f"{path}: tensor '{tensor.name}' says that its data lies in '{location}'"
        _check_name(what, location)
        size = _size(what, path.parent, location)
        _check_extent(what, entries, size)


def external_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor with external data, also those of branches, functions and attributes."""
    pending: list[Any] = [proto.graph, *proto.functions]
    while pending:
        graph = pending.pop()
        tensors = [*getattr(graph, "initializer", ())]
        for sparse in getattr(graph, "sparse_initializer", ()):
            tensors += [sparse.values, sparse.indices]
        for node in graph.node:
            for attribute in node.attribute:
                tensors += [attribute.t, *attribute.tensors]
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    tensors += [sparse.values, sparse.indices]
                if attribute.HasField("g"):
                    pending.append(attribute.g)
                pending.extend(attribute.graphs)
        yield from (t for t in tensors if t.data_location == onnx.TensorProto.EXTERNAL)


def _check_name(what: str, location: str) -> None:
    if _MEMORY_MARKER in location:
        raise UnsafeArtefact(
            f"{what}, ONNX Runtime's mark for an address in memory: a file cannot mean that, and "
            "was not loaded",
        )
    parts = (*PurePosixPath(location).parts, *PureWindowsPath(location).parts)
    is_absolute = location.startswith(("/", "\\")) or bool(PureWindowsPath(location).drive)
    if not location or is_absolute or ".." in parts or "\0" in location:
        raise UnsafeArtefact(
            f"{what}, which is not a file in the folder of the model; it was not loaded. Save the "
            "model again with its data beside it",
        )


def _size(what: str, folder: Path, location: str) -> int:
    """Return the size of the file, which must lie in the folder itself, whatever links say."""
    file = folder / location
    try:
        status = file.stat()
        is_inside = file.resolve(strict=True).is_relative_to(folder.resolve(strict=True))
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        raise ConversionFailed(
            f"{what}, but there is no such file; copy it along with the model",
        ) from None
    if not is_inside:
        raise UnsafeArtefact(f"{what}, a link that leaves the folder of the model; not loaded")
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeArtefact(f"{what}, which is not a plain file; it was not loaded")
    if status.st_nlink > 1:
        raise UnsafeArtefact(
            f"{what}, a hard link to a file that has another name too, maybe outside of the "
            "folder; it was not loaded. Copy the file instead of linking it",
        )
    return status.st_size


def _check_extent(what: str, entries: dict[str, str], size: int) -> None:
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries["length"]) if entries.get("length") else size - offset
    except ValueError:
        raise ConversionFailed(f"{what} at no number of bytes: {entries}") from None
    if offset < 0 or length < 0 or offset + length > size:
        raise ConversionFailed(
            f"{what}, bytes {offset} to {offset + length}, but the file has {size}: it was cut "
            "off, or belongs to another model",
        )
