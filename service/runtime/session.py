"""One ONNX model in ONNX Runtime: load, describe, run, interrupt."""

import ctypes
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from service.errors import BackendError, BackendInterrupted, LoadError
from service.inference.backend import Interrupt
from service.repository.signature import GraphTensor
from service.runtime.providers import Device, check_provider, provider_options
from service.tensors import BF16, BY_ONNX, Array, Signature, Tensors

# What ONNX Runtime raises has no common base; all of it derives from these.
_ORT_ERRORS: Final = (RuntimeError, ValueError, TypeError, NotImplementedError)
_ORT_FAILURES: Final = tuple(
    getattr(ort.capi.onnxruntime_pybind11_state, name)
    for name in (
        "EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel",
        "NoSuchFile", "NotImplemented", "RuntimeException", "EngineError", "ModelLoaded",
    )
    if hasattr(ort.capi.onnxruntime_pybind11_state, name)
)  # fmt: skip
_FAILURES: Final = (*_ORT_FAILURES, *_ORT_ERRORS)
_ONNX_BFLOAT16: Final = 16
_OPTIONAL: Final = re.compile(r"optional\((.*)\)")  # of the type of an input that may be left out
_NO_GRAPH: Final = -1  # of run option gpu_graph_id: neither capture nor replay
_LEVELS: Final = {
    -1: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    2: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """How a session is made.

    intra_op_threads: threads of one node. inter_op_threads: nodes at once, if parallel.
    spinning: threads that wait for work keep a CPU busy. graph_level:
    ModelOptimizationPolicy.Graph.level. disabled_optimizers: graph transformers left out.
    cuda_graphs: capture what is run by `run_bound`.
    gpu_memory_bytes: most that the session's arena may take of the GPU; 0: no bound.
    """

    device: Device = Device.AUTO
    cuda_device: int = 0
    intra_op_threads: int = 1
    graph_level: int = 0
    inter_op_threads: int = 1
    parallel: bool = False
    spinning: bool = False
    disabled_optimizers: tuple[str, ...] = ()
    cuda_graphs: bool = False
    gpu_memory_bytes: int = 0


class _Stoppable:
    """Options of one run at a time, and what ends that run from another thread, for good."""

    __slots__ = ("options",)

    def __init__(self, graph: int | None = None) -> None:
        """graph: number of the CUDA graph to capture or replay; None: say nothing of graphs."""
        self.options = ort.RunOptions()
        if graph is not None:
            self.options.add_run_config_entry("gpu_graph_id", str(graph))

    def stop(self) -> None:
        self.options.terminate = True


class Session:
    """A loaded ONNX file. `run` may be called by several threads at once."""

    def __init__(self, path: Path, config: SessionConfig) -> None:
        """Load the file at path.

        Raises LoadError if it is missing, corrupt, needs what this runtime lacks or has inputs
        that no tensor protocol can carry; ProviderUnavailable if the device is not there.
        """
        self.path = path
        self.config = config
        if not path.is_file():
            raise LoadError(f"{path}: no such file")
        providers = provider_options(
            config.device,
            config.cuda_device,
            graphs=config.cuda_graphs,
            memory_bytes=config.gpu_memory_bytes,
        )
        try:
            self._session = ort.InferenceSession(
                str(path),
                sess_options=_options(config),
                providers=providers,
                disabled_optimizers=list(config.disabled_optimizers) or None,
            )
        except _FAILURES as error:
            raise LoadError(f"{path}: ONNX Runtime cannot load it: {_first_line(error)}") from error
        self._session.disable_fallback()  # a failed run is an error, not a session elsewhere
        # Without the wrapper, which looks up names that validation has checked already: a run of
        # the digits MLP takes 5.8 instead of 6.9 us, together with options that are used again.
        self._run: Callable[..., list[Array]] = getattr(self._session, "_sess", self._session).run
        self._idle: list[_Stoppable] = []
        self._no_graph = _NO_GRAPH if config.cuda_graphs else None
        self.provider = check_provider(self._session, config.device)
        self.inputs = tuple(_graph_tensor(path, node) for node in self._session.get_inputs())
        self.outputs = tuple(_graph_tensor(path, node) for node in self._session.get_outputs())
        self.defaults = tuple(
            replace(_graph_tensor(path, node), optional=True)
            for node in self._session.get_overridable_initializers()
            if node.type in BY_ONNX  # else it is a weight that nobody could send
        )
        taken = (*self.inputs, *self.defaults)
        self._typed = BF16 in {tensor.datatype for tensor in (*taken, *self.outputs)}
        self._datatypes = {tensor.name: tensor.datatype for tensor in taken}

    def run(self, inputs: Tensors, outputs: Sequence[str], interrupt: Interrupt) -> Tensors:
        """Run the graph once; see Backend.run. BYTES inputs are object arrays of str."""
        try:
            stoppable = self._idle.pop()
        except IndexError:
            stoppable = _Stoppable(self._no_graph)
        interrupt.bind(stoppable.stop)
        try:
            if self._typed:
                return self._run_typed(inputs, outputs, stoppable.options)
            arrays = self._run(outputs, inputs, stoppable.options)
        except _FAILURES as error:
            raise _translated(error, interrupt) from error
        finally:
            if interrupt.unbind():  # else a late stop might hit the next run
                self._idle.append(stoppable)
        return dict(zip(outputs, arrays, strict=True))

    def io_binding(self) -> Any:
        """Return a new ort.IOBinding."""
        return self._session.io_binding()

    def run_bound(self, binding: Any, interrupt: Interrupt, graph: int | None = None) -> None:
        """Run on what an ort.IOBinding binds; raises as `run` does.

        graph: the CUDA graph to capture in the first run and to replay in those after it.
        """
        stoppable = _Stoppable(self._no_graph if graph is None else graph)
        interrupt.bind(stoppable.stop)
        try:
            self._session.run_with_iobinding(binding, stoppable.options)
        except _FAILURES as error:
            raise _translated(error, interrupt) from error
        finally:
            interrupt.unbind()

    def release_graph(self, graph: int) -> None:
        """Free a captured CUDA graph, if there is one of this number."""
        self._session.release_captured_graph(graph)

    def close(self) -> None:
        """Free the session."""
        del self._session, self._run

    def _run_typed(
        self, inputs: Tensors, outputs: Sequence[str], options: ort.RunOptions
    ) -> Tensors:
        feeds = {name: self._to_value(name, array) for name, array in inputs.items()}
        values = self._session.run_with_ort_values(outputs, feeds, options)
        return {name: _to_array(value) for name, value in zip(outputs, values, strict=True)}

    def _to_value(self, name: str, array: Array) -> ort.OrtValue:
        if self._datatypes.get(name) is BF16:
            return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(
                np.ascontiguousarray(array), _ONNX_BFLOAT16
            )
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


class OnnxBackend:
    """A Session behind the names and shapes that clients see."""

    def __init__(self, session: Session, signature: Signature) -> None:
        self._session = session
        self._signature = signature

    @property
    def signature(self) -> Signature:
        """Return what the model takes and gives."""
        return self._signature

    def run(self, inputs: Tensors, outputs: Sequence[str], interrupt: Interrupt) -> Tensors:
        """Run the model once; see Backend.run."""
        return self._session.run(inputs, outputs, interrupt)

    def close(self) -> None:
        """Free the session."""
        self._session.close()


def _options(config: SessionConfig) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = config.intra_op_threads
    options.inter_op_num_threads = config.inter_op_threads
    if config.parallel:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.graph_optimization_level = _LEVELS[config.graph_level]
    spinning = "1" if config.spinning else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    options.add_session_config_entry("session.inter_op.allow_spinning", spinning)
    # What fails is raised and reaches our log, which escapes it; ONNX Runtime's own lines would
    # stand between ours on stderr, coloured and neither text nor JSON of ours.
    options.log_severity_level = 4
    return options


def _graph_tensor(path: Path, node: Any) -> GraphTensor:
    inner = _OPTIONAL.fullmatch(node.type)
    datatype = BY_ONNX.get(inner[1] if inner else node.type)
    if datatype is None:
        raise LoadError(
            f"{path}: '{node.name}' is of type {node.type}, which no tensor protocol can carry",
        )
    return GraphTensor(node.name, datatype, tuple(node.shape), optional=inner is not None)


def _to_array(value: ort.OrtValue) -> Array:
    if value.data_type() != BF16.onnx:
        array: Array = value.numpy()
        return array
    shape = tuple(value.shape())
    size = int(np.prod(shape, dtype=np.int64)) * BF16.itemsize
    raw = ctypes.string_at(value.data_ptr(), size)  # numpy has no type for BF16: copy the bits
    return np.frombuffer(raw, BF16.numpy).reshape(shape)


def _translated(error: BaseException, interrupt: Interrupt) -> BackendError:
    if interrupt.requested:
        return BackendInterrupted("stopped: nobody waits for the answer")
    return BackendError(_first_line(error))


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
