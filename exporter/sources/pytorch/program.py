"""A program of torch.export, live or in a .pt2 file: captured already, with the axes it has.

torch unpickles example inputs when it loads a .pt2 file, and so runs what a crafted one holds; no
switch of its turns that off. The file is loaded only if the user trusts it.
"""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir
import torch
from torch.utils import _pytree as pytree

from exporter.errors import ConversionFailed, UnsafeArtefact, UsageError, in_one_line
from exporter.inputs import make_inputs
from exporter.sources.base import Opened, Request
from exporter.sources.graph import apply_names, free_axes
from exporter.sources.pytorch.arguments import as_array
from exporter.sources.pytorch.capture import check_opset, quiet
from exporter.sources.pytorch.outputs import flatten, name_outputs, to_array
from exporter.sources.pytorch.translate import explain, explain_failure
from exporter.sources.pytorch.weights import digest, refuse_nan
from service.repository.manifest import sha256_of
from service.tensors import Array, Tensors

_WAY_OUT: Final = (
    "Capture it with torch.export.export(module, args, "
    'dynamic_shapes={"ARGUMENT": {0: torch.export.Dim.DYNAMIC}})'
)


@contextmanager
def opened(request: Request) -> Iterator[Opened]:
    """Open a program: its inputs, examples and free axes are its own.

    Raises UnsafeArtefact for a file that is not trusted, UsageError if the program's axes are not
    those asked for, WeightsError for NaN.
    """
    provenance = {}
    program = request.source
    if not isinstance(program, torch.export.ExportedProgram):
        program = load(Path(program), is_trusted=request.trust_pickle)
        provenance["file_sha256"] = sha256_of(Path(request.source))
    refuse_nan(program.state_dict)
    names = request.input_names or tuple(program.graph_signature.user_inputs)
    leaves, structure = pytree.tree_flatten(program.example_inputs)
    if len(leaves) != len(names):
        raise UsageError(f"the program has {len(leaves)} inputs, {len(names)} names were given")
    given = _by_name(request.examples, names)
    examples = {
        name: as_array(name, given.get(name, leaf))
        for name, leaf in zip(names, leaves, strict=True)
    }
    shapes = dict(zip(names, _shapes(program), strict=True))
    axes = free_axes(shapes, batch=request.batch, way_out=_WAY_OUT)
    inputs = make_inputs(
        examples, batch=request.batch, dynamic_axes={**axes, **request.dynamic_axes},
        ranges=request.ranges,
    )  # fmt: skip
    module = program.module()

    def call(tensors: Tensors) -> Any:
        values = [torch.from_numpy(tensors[name]) for name in names]
        positional, keywords = pytree.tree_unflatten(values, structure)
        with torch.no_grad():
            return module(*positional, **keywords)

    def run(tensors: Tensors) -> Sequence[Array]:
        return [to_array(tensor) for _, tensor in flatten(call(tensors))]

    outputs = name_outputs(call(examples), names, request.output_names)

    def convert() -> ir.Model:
        try:
            with quiet():
                written = torch.onnx.export(program, opset_version=request.opset, verbose=False)
        except Exception as error:  # whatever a decomposition raises
            raise ConversionFailed(explain(error, inputs, [])) from error
        check_opset(written, request.opset)
        model: ir.Model = written.model
        apply_names(model, inputs, outputs)
        return model

    label = request.label or "torch.export.ExportedProgram"
    provenance = {"module": label, "weights_sha256": digest(module), **provenance}
    yield Opened(inputs, outputs, run, convert, request.opset, provenance, explain=explain_failure)


def load(path: Path, *, is_trusted: bool) -> torch.export.ExportedProgram:
    """Load a .pt2 file. Raises UnsafeArtefact unless it is trusted: nothing of it was run."""
    if not zipfile.is_zipfile(path):
        raise ConversionFailed(f"{path}: not a torch.export program, or one that was cut off")
    if not is_trusted:
        raise UnsafeArtefact(
            f"{path}: refused: torch unpickles a part of every .pt2 file, which can run any code. "
            "It was not loaded. If you made it, or trust who did, say --trust-pickle "
            "(trust_pickle=True); or export the module itself: FILE.py:BUILDER",
        )
    try:
        with quiet():
            return torch.export.load(str(path))
    except Exception as error:  # it reads a file that may hold anything
        raise ConversionFailed(
            f"{path}: torch {torch.__version__} cannot load this program: {in_one_line(error)}",
        ) from error


def _shapes(program: torch.export.ExportedProgram) -> list[list[int | str | None]]:
    """Return the extents of each input; the name of torch's symbol where it is free."""
    inputs = set(program.graph_signature.user_inputs)
    nodes = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in inputs]
    return [
        [extent if isinstance(extent, int) else f"dim_{extent}" for extent in n.meta["val"].shape]
        for n in nodes
    ]


def _by_name(examples: Any, names: Sequence[str]) -> Mapping[str, Any]:
    if examples is None:
        return {}
    if isinstance(examples, Mapping):
        return examples
    values = examples if isinstance(examples, list | tuple) else [examples]
    return dict(zip(names, values, strict=False))
