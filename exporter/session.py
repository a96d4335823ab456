"""The exported file in ONNX Runtime, as the server will run it on a CPU."""

from pathlib import Path
from typing import Final

import onnxruntime as ort

from exporter.errors import ConversionFailed
from service.errors import dims
from service.repository.manifest import MODEL_FILE, SessionOptions
from service.tensors import BY_ONNX, Tensors, TensorSpec

LEVELS: Final = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


class Session:
    """A loaded ONNX file: its signature, and runs of it."""

    def __init__(self, path: Path, wanted: SessionOptions | None = None) -> None:
        """Load the file. Raises ConversionFailed if ONNX Runtime refuses it.

        wanted: how the graph is optimised; None: as ONNX Runtime does by itself.
        """
        wanted = wanted or SessionOptions()
        options = ort.SessionOptions()
        options.graph_optimization_level = LEVELS[wanted.graph_level]
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(
                str(path),
                sess_options=options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=list(wanted.disabled_optimizers) or None,
            )
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise ConversionFailed(
                f"ONNX Runtime does not load the exported {MODEL_FILE}: {_first_line(error)}",
            ) from error
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        # Inputs that have a value of their own; most are weights that an exporter declared so.
        self.defaults = tuple(
            _spec(node)
            for node in self._session.get_overridable_initializers()
            if node.type in BY_ONNX
        )

    def run(self, inputs: Tensors) -> Tensors:
        """Return the outputs by name. Raises ConversionFailed if the run fails."""
        names = [spec.name for spec in self.outputs]
        try:
            arrays = self._session.run(names, inputs)
        except Exception as error:  # ONNX Runtime's errors have no common base
            shapes = ", ".join(f"{name} {dims(a.shape)}" for name, a in inputs.items())
            raise ConversionFailed(
                f"ONNX Runtime fails where the source does not, with {shapes}: "
                f"{_first_line(error)}",
            ) from error
        return dict(zip(names, arrays, strict=True))


def _spec(node: ort.NodeArg) -> TensorSpec:
    is_optional = node.type.startswith("optional(")
    datatype = BY_ONNX.get(node.type[len("optional(") : -1] if is_optional else node.type)
    if datatype is None:
        raise ConversionFailed(
            f"'{node.name}' became {node.type}, which inference requests cannot carry",
        )
    shape = tuple(extent if isinstance(extent, int) else -1 for extent in node.shape)
    return TensorSpec(node.name, datatype, shape, is_optional)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
