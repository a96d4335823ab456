"""The making of variants: each kind is one function from a file to a file, run in a child process.

The quantisers of ONNX Runtime are told what is right on x86: QDQ format, U8 activations, S8
weights, one scale a channel. Their defaults are several times slower there.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import onnx

from exporter.children import run_child
from exporter.errors import ChildCrashed, CompressionFailed, UsageError
from exporter.silence import silent
from exporter.variants import graph
from exporter.variants.calibration import Calibration, InputSpec, single_rows, split
from exporter.variants.kinds import (
    FP16,
    INT8_DYNAMIC,
    INT8_STATIC,
    KINDS,
    W4,
    Variant,
    check_request,
)
from exporter.variants.remote import RemoteSession
from service.repository.manifest import SessionOptions
from service.tensors import Tensors

METHODS: Final = ("minmax", "percentile")
_PERCENTILE: Final = 99.999
_HISTOGRAM_ROWS: Final = 32  # all activations of all of them are in memory at once
_CONVOLUTIONS: Final = ("Conv", "ConvTranspose")
_MIN_ELEMENTS: Final = 1 << 16  # of a weight matrix; smaller ones are not what makes a file large
_BLOCK: Final = 32  # weights that share a scale in 4 bits: the finest, and the least error
_INT8_COMPUTE: Final = 4  # accuracy level of MatMulNBits: activations in 8 bits
# ONNX Runtime's CPU provider has no kernels for FP16 and casts around every node; of the graph
# transformers that do so for level "all" one crashes on pre-norm encoders, whatever operators
# are kept in FP32. Level "extended" leaves it out.
_FP16_OPTIONS: Final = (SessionOptions(), SessionOptions(graph_level="extended"))
_TRIAL_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Job:
    """What a child process is to make. teach: batches of calibration data."""

    kind: str
    source: Path
    target: Path
    teach: tuple[Tensors, ...] = ()
    method: str = "minmax"


def quantize(
    model: Path,
    output: Path,
    kind: str,
    *,
    calibration: Calibration | None = None,
    method: str = "minmax",
    timeout_s: float = 600.0,
) -> Variant:
    """Make one variant of a model, ungated: a smaller file that may be slower or less accurate.

    kind: one of KINDS. output: the file to write, which must not exist. calibration: needed for
    int8-static. method: of int8-static, "minmax", or "percentile" that cuts off rare extremes.
    Raises UsageError for what cannot be asked for, CompressionFailed if the model has nothing to
    quantise or the step fails, ChildCrashed if it crashes or takes longer than timeout_s.
    """
    if kind not in KINDS:
        raise UsageError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")
    if method not in METHODS:
        raise UsageError(f"calibration method {method!r}: expected one of {', '.join(METHODS)}")
    check_request(kind, "cpu", calibrated=calibration is not None)
    if not model.is_file():
        raise UsageError(f"{model}: no such file")
    if output.exists():
        raise UsageError(f"{output} exists, and is not overwritten")
    if not output.parent.is_dir():
        raise UsageError(f"{output.parent}: no such directory")
    teach: tuple[Tensors, ...] = ()
    if kind == INT8_STATIC and calibration is not None:
        inputs = input_specs(model)
        teach = split(calibration, inputs, batched=is_batched(inputs)).teach
    return run_job(Job(kind, model, output, teach, method), timeout_s=timeout_s)


def run_job(job: Job, *, timeout_s: float) -> Variant:
    """Make the variant in a timed child process; an FP16 one is then loaded in another."""
    variant: Variant = run_child(
        "exporter.variants.make:make", (job,), timeout_s=timeout_s, what=f"making {job.kind}"
    )
    if job.kind != FP16 or not variant.changed:
        return variant
    options = loadable(variant.path, _FP16_OPTIONS)
    if options == _FP16_OPTIONS[0]:
        return variant
    return replace(
        variant,
        options=options,
        note=f"ONNX Runtime crashes on it with its default options; it loads at graph level "
        f"{options.graph_level}, which the manifest tells the server",
    )


def loadable(path: Path, candidates: Sequence[SessionOptions]) -> SessionOptions:
    """Return the first of the options that the file loads with, each tried in a child process.

    Raises ChildCrashed if ONNX Runtime crashes with all of them.
    """
    for options in candidates[:-1]:
        with suppress(ChildCrashed):
            RemoteSession(path, options, timeout_s=_TRIAL_S).close()
            return options
    RemoteSession(path, candidates[-1], timeout_s=_TRIAL_S).close()
    return candidates[-1]


def make(job: Job) -> Variant:
    """Make the variant in this process; see `quantize`."""
    before = graph.histogram(onnx.load(str(job.source), load_external_data=False))
    try:
        with silent(logging.CRITICAL):  # what the quantisers advise is done already
            note = _MAKERS[job.kind](job)
    except (UsageError, CompressionFailed):
        raise
    except Exception as error:  # the quantisers raise whatever they meet
        raise CompressionFailed(f"{job.kind}: {type(error).__name__}: {error}") from error
    graph.restamp(job.target, job.source)
    after = graph.histogram(onnx.load(str(job.target), load_external_data=False))
    changed = _counted(job.kind, graph.changes(before, after))
    if not changed and "changed nothing" not in note:
        note = "it changed nothing: the graph has no operator that it applies to"
    return Variant(job.kind, job.target, graph.file_bytes(job.target), changed, note=note)


def input_specs(model: Path) -> tuple[InputSpec, ...]:
    """Return the inputs that a graph declares."""
    loaded = onnx.load(str(model), load_external_data=False)
    constants = {tensor.name for tensor in loaded.graph.initializer}
    return tuple(_spec(value) for value in loaded.graph.input if value.name not in constants)


def is_batched(inputs: Sequence[InputSpec]) -> bool:
    """Tell whether axis 0 of every input is free."""
    return all(spec.shape[:1] == (-1,) for spec in inputs)


def _spec(value: onnx.ValueInfoProto) -> InputSpec:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
    return InputSpec(value.name, dtype, shape)


def _int8_dynamic(job: Job) -> str:
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415 (slow)

    model = graph.load(job.source)
    found = [op for op in _CONVOLUTIONS if op in graph.histogram(model)]
    if found:
        raise CompressionFailed(
            f"int8-dynamic is refused for a model with {' and '.join(found)}: convolutions that "
            "are quantised while they run take up to 8 times as long. Take int8-static, with "
            "calibration data",
        )
    quantize_dynamic(
        model,
        str(job.target),
        op_types_to_quantize=["MatMul", "Gemm"],
        weight_type=QuantType.QInt8,
        per_channel=True,
        extra_options={"MatMulConstBOnly": True},
        use_external_data_format=_is_large(job.source),
    )
    return "rows of a batch share one scale: a row of large values makes the others less exact"


def _int8_static(job: Job) -> str:
    with TemporaryDirectory(prefix=".ready-", dir=job.target.parent) as place:
        _quantize_ready(job, Path(place) / "ready.onnx")
    return ""


def _quantize_ready(job: Job, ready: Path) -> None:
    """Fold and optimise the graph into `ready`, as the quantiser needs it, and quantise that."""
    from onnxruntime.quantization import (  # noqa: PLC0415 (slow)
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    # Symbolic shape inference fails on graphs that torch writes; that of onnx does not.
    large = _is_large(job.source)
    quant_pre_process(
        str(job.source), str(ready), skip_symbolic_shape=True, save_as_external_data=large,
        all_tensors_to_one_file=True, external_data_location="ready.onnx.data",
    )  # fmt: skip
    operators = graph.histogram(onnx.load(str(ready), load_external_data=False))
    convolves = any(op in operators for op in _CONVOLUTIONS)
    extra: dict[str, Any] = {"ActivationSymmetric": False, "WeightSymmetric": True}
    teach: Sequence[Tensors] = job.teach
    if job.method == "percentile":
        extra["CalibPercentile"] = _PERCENTILE
        teach = single_rows(teach, _HISTOGRAM_ROWS) if is_batched(input_specs(ready)) else teach
    quantize_static(
        str(ready),
        str(job.target),
        _Reader(teach),
        quant_format=QuantFormat.QDQ,
        # A graph of convolutions stays in 8 bits from layer to layer; that of an encoder would
        # lose its softmax and normalisations to it.
        op_types_to_quantize=None if convolves else ["MatMul", "Gemm"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method={
            "minmax": CalibrationMethod.MinMax,
            "percentile": CalibrationMethod.Percentile,
        }[job.method],
        extra_options=extra,
        use_external_data_format=large,
    )


def _w4(job: Job) -> str:
    from onnxruntime.quantization.matmul_nbits_quantizer import (  # noqa: PLC0415 (slow)
        MatMulNBitsQuantizer,
    )

    model = graph.load(job.source)
    graph.gemm_to_matmul(model)
    large, small = graph.large_linear(model, _MIN_ELEMENTS)
    if not large:
        graph.save(model, job.target)
        return f"it changed nothing: no linear layer has {_MIN_ELEMENTS} weights or more"
    quantizer = MatMulNBitsQuantizer(
        model, 4, _BLOCK, is_symmetric=True, accuracy_level=_INT8_COMPUTE, nodes_to_exclude=small
    )
    quantizer.process()
    graph.save(quantizer.model.model, job.target)
    return ""


def _fp16(job: Job) -> str:
    from onnxruntime.transformers.float16 import (  # noqa: PLC0415 (slow)
        convert_float_to_float16,
    )

    # Inputs and outputs stay FP32: clients need not know. Its own list keeps operators in FP32
    # that have no FP16 form.
    model = convert_float_to_float16(graph.load(job.source), keep_io_types=True)
    graph.save(model, job.target)
    return ""


_MAKERS: Final[Mapping[str, Callable[[Job], str]]] = {
    INT8_DYNAMIC: _int8_dynamic,
    INT8_STATIC: _int8_static,
    W4: _w4,
    FP16: _fp16,
}


def _counted(kind: str, changed: Mapping[str, int]) -> dict[str, int]:
    """Return the changes that count: without those that come of rewriting Gemm as MatMul alone."""
    if kind == W4 and "MatMulNBits" not in changed:
        return {}
    return dict(changed)


class _Reader:
    """Hands calibration batches to the quantiser, which asks until there are none."""

    def __init__(self, batches: Sequence[Tensors]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> Tensors | None:
        return next(self._batches, None)


def _is_large(path: Path) -> bool:
    return graph.file_bytes(path) >= graph.INLINE_LIMIT
