"""A SavedModel of TensorFlow: its signature `serving_default`, or the only one that it has.

A SavedModel is a program. One that reads or writes files, or calls Python, is refused unless it
is trusted; such operators have no ONNX form anyway.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from exporter.errors import ConversionFailed, UnsafeArtefact, UsageError, in_one_line
from exporter.sources.base import Opened, Request
from exporter.sources.graph import planned_inputs
from exporter.sources.keras.structure import Signature
from service.errors import listed
from service.repository.manifest import sha256_of

GRAPH_FILE: Final = "saved_model.pb"
_DEFAULT: Final = "serving_default"
_WAY_OUT: Final = "Save it with a signature whose batch is None: tf.TensorSpec([None, 784])"
_UNSAFE: Final = frozenset(
    {"ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc",
     "Save", "SaveSlices", "PrintV2", "DebugIdentity", "LoadAndRemapMatrix"}
)  # fmt: skip


@contextmanager
def opened(request: Request) -> Iterator[Opened]:
    """Load the signature and open it. Raises UnsafeArtefact, UsageError, ConversionFailed."""
    import tensorflow as tf  # noqa: PLC0415 (an extra)

    from exporter.sources.keras.graph import opened_function  # noqa: PLC0415

    path = Path(request.source)
    if not request.trust_pickle:
        _refuse_unsafe(path)
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow raises errors of every kind
        raise ConversionFailed(
            f"{path}: TensorFlow does not load it: {in_one_line(error)}"
        ) from error
    function = _signature_function(path, loaded.signatures)
    # TensorFlow gives them in another order in every process; a version is to be the same.
    specs = dict(sorted(function.structured_input_signature[1].items()))
    signature = Signature(
        {name: _extents(spec) for name, spec in specs.items()},
        {name: np.dtype(spec.dtype.as_numpy_dtype) for name, spec in specs.items()},
        list,
    )
    inputs = planned_inputs(signature.shapes, signature.dtypes, request, _WAY_OUT)
    theirs = list(specs)

    def call(*tensors: Any) -> list[tuple[str, Any]]:
        found: Mapping[str, Any] = function(**dict(zip(theirs, tensors, strict=True)))
        return sorted(found.items())

    with opened_function(call, inputs, request) as source:
        yield replace(source, provenance={**source.provenance, "files_sha256": _digest(path)})


def _digest(path: Path) -> str:
    """Return the SHA-256 over names and digests of all files in the directory."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = [f"{file.relative_to(path).as_posix()} {sha256_of(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _refuse_unsafe(path: Path) -> None:
    """Look at the operators of every graph before anything is loaded: loading runs some."""
    from tensorflow.core.protobuf import saved_model_pb2  # noqa: PLC0415 (an extra)

    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString((path / GRAPH_FILE).read_bytes())
    except Exception as error:  # protobuf's error has no public type
        raise ConversionFailed(f"{path / GRAPH_FILE}: cut off, or not a SavedModel") from error
    graphs = [meta.graph_def for meta in saved.meta_graphs]
    nodes = [node for graph in graphs for node in graph.node]
    nodes += [n for graph in graphs for f in graph.library.function for n in f.node_def]
    functions = {f.signature.name for graph in graphs for f in graph.library.function}
    saver = {name for name in functions if "traced_save" in name or "traced_restore" in name}
    inside = {
        id(n) for g in graphs for f in g.library.function if f.signature.name in saver
        for n in f.node_def
    }  # fmt: skip
    found = sorted({node.op for node in nodes if node.op in _UNSAFE and id(node) not in inside})
    if found:
        raise UnsafeArtefact(
            f"{path}: refused: its graph has {listed(found)}, which reach files or Python. It was "
            "not loaded. If you made it, or trust who did, say --trust-pickle (trust_pickle=True)",
        )


def _signature_function(path: Path, signatures: Mapping[str, Any]) -> Any:
    if _DEFAULT in signatures:
        return signatures[_DEFAULT]
    if len(signatures) == 1:
        return next(iter(signatures.values()))
    raise UsageError(
        f"{path}: has the signatures {listed(sorted(signatures))}, none of them '{_DEFAULT}'; save "
        "it with model.export(), or with signatures={'serving_default': FUNCTION}",
    )


def _extents(spec: Any) -> list[int | str | None]:
    if spec.shape.rank is None:
        raise UsageError(f"input '{spec.name}' has any number of axes; a signature needs one")
    return list(spec.shape.as_list())
