"""Graph, configuration and manifest brought together into what is served."""

import pytest
from google.protobuf import text_format

from service.errors import ConfigError, ManifestError
from service.pb.model_config_pb2 import ModelConfig
from service.repository.manifest import Manifest
from service.repository.signature import (
    Graph,
    GraphTensor,
    ModelSpec,
    declared,
    is_batchable,
    normalised,
    resolve,
)
from service.tensors import FP32, INT64, TensorSpec

Extents = tuple[int | str | None, ...]


def graph(x: Extents = ("batch", 3), y: Extents = ("batch", 2)) -> Graph:
    """Return a graph from X to Y."""
    return Graph((GraphTensor("X", FP32, x),), (GraphTensor("Y", FP32, y),))


def config(text: str) -> ModelConfig:
    """Return a configuration."""
    return text_format.Parse(text, ModelConfig())


def manifest(max_batch_size: int, x: tuple[int, ...] = (-1, 3)) -> Manifest:
    """Return a manifest of graph()."""
    return Manifest(
        "m",
        1,
        (TensorSpec("X", FP32, x),),
        (TensorSpec("Y", FP32, (-1, 2)),),
        max_batch_size,
        21,
        {},
    )


INPUT = 'input { name: "X" data_type: TYPE_FP32 dims: 3 }'
OUTPUT = 'output { name: "Y" data_type: TYPE_FP32 dims: 2 }'


@pytest.mark.parametrize(
    ("x", "y", "batches"),
    [
        (("batch", 3), ("batch", 2), True),
        (("batch", 3), ("rows", 2), False),
        ((1, 3), (1, 2), False),
        ((None, 3), (None, 2), False),
        (("batch",), (), False),
        ((), (), False),
    ],
)
def test_batching_is_read_from_the_graph(x: Extents, y: Extents, batches: bool) -> None:  # noqa: FBT001
    """A model may batch if axis 0 of everything is the same named dimension."""
    assert is_batchable(graph(x, y)) is batches
    spec = resolve(graph(x, y), None, None)
    assert spec.signature.batched is batches
    assert spec.max_batch_size == (64 if batches else 0)
    assert spec.is_proved is not batches


def test_every_extent_that_is_not_fixed_is_any() -> None:
    """Named and unknown extents are -1 for clients."""
    (spec,) = resolve(graph((None, "n", 5)), None, None).signature.inputs
    assert spec.shape == (-1, -1, 5)


def test_manifest_says_what_was_proved() -> None:
    """The exporter's largest batch is taken, and needs no proof again."""
    spec = resolve(graph(), None, manifest(16))
    assert (spec.max_batch_size, spec.is_proved, spec.signature.batched) == (16, True, True)
    spec = resolve(graph(), None, manifest(0))
    assert (spec.max_batch_size, spec.is_proved, spec.signature.batched) == (0, True, False)


def test_manifest_of_another_graph_is_refused() -> None:
    """A manifest whose tensors are not the graph's is an error that shows both."""
    with pytest.raises(ManifestError, match=r"inputs are X FP32\[-1,4\], but the graph has X FP32"):
        resolve(graph(), None, manifest(16, (-1, 4)))


def test_configuration_wins() -> None:
    """max_batch_size of config.pbtxt stands, and its dims leave the batch out."""
    spec = resolve(graph(), config(f"max_batch_size: 4 {INPUT} {OUTPUT}"), manifest(16))
    assert (spec.max_batch_size, spec.is_proved) == (4, True)
    assert [s.shape for s in spec.signature.inputs] == [(-1, 3)]
    unbatched = INPUT.replace("3 }", "[ -1, 3 ] }") + OUTPUT.replace("2 }", "[ -1, 2 ] }")
    spec = resolve(graph(), config(unbatched), None)
    assert (spec.max_batch_size, spec.signature.batched) == (0, False)


def test_configuration_may_fix_what_the_graph_leaves_open() -> None:
    """A dynamic extent of the graph may be narrowed, and tensors may be left out of the text."""
    spec = resolve(graph(("batch", "n")), config(f"max_batch_size: 4 {INPUT}"), None)
    assert spec.signature.inputs[0].shape == (-1, 3)
    assert spec.signature.outputs[0].shape == (-1, 2)


def test_optional_inputs() -> None:
    """An input with a default may be left out if the configuration says so, and only then."""
    optional = 'input { name: "D" data_type: TYPE_FP32 dims: 1 optional: true }'
    default = GraphTensor("D", FP32, ("batch", 1), optional=True)
    plain = graph()
    given = Graph(plain.inputs, plain.outputs, (default,))
    spec = resolve(given, config(f"max_batch_size: 4 {INPUT} {optional} {OUTPUT}"), None)
    assert [(s.name, s.optional) for s in spec.signature.inputs] == [("X", False), ("D", True)]
    required = optional.replace("optional: true", "")
    spec = resolve(given, config(f"max_batch_size: 4 {INPUT} {required} {OUTPUT}"), None)
    assert not spec.signature.inputs[1].optional
    assert [s.name for s in resolve(given, None, None).signature.inputs] == ["X"]


def test_input_that_the_graph_declares_optional_is() -> None:
    """Without a configuration, what is optional in the graph is so for clients."""
    tensors = (GraphTensor("X", FP32, ("batch", 3)), GraphTensor("O", FP32, ("batch", 1), True))
    spec = resolve(Graph(tensors, graph().outputs), None, None)
    assert [(s.name, s.optional) for s in spec.signature.inputs] == [("X", False), ("O", True)]
    unnamed = resolve(Graph(tensors, graph().outputs), config(f"max_batch_size: 4 {INPUT}"), None)
    assert [s.name for s in unnamed.signature.inputs] == ["X"]
    full = normalised("m", spec, None, on_gpu=False, instances=1)
    assert [entry.optional for entry in full.input] == [False, True]


def test_code_of_a_model_needs_no_reshape() -> None:
    """A model without a graph has its tensors as clients see them; reshape is refused by name."""
    assert declared(config(f"{INPUT} {OUTPUT}")).signature.inputs[0].shape == (3,)
    text = INPUT.replace("dims: 3", "dims: 1 reshape { }")
    with pytest.raises(ConfigError, match="'X' has a reshape, which is for ONNX graphs"):
        declared(config(text))


@pytest.mark.parametrize(
    ("batch", "dims", "reshape", "in_graph", "on_wire"),
    [
        (0, "[ 2, 3 ]", "[ 1, 2, 3 ]", (1, 2, 3), (2, 3)),
        (4, "1", "[ ]", ("batch",), (-1, 1)),
        (4, "-1", "[ -1, 1 ]", ("batch", "n", 1), (-1, -1)),
        (4, "-1", "[ -1, 1 ]", ("batch", 5, 1), (-1, 5)),
        (4, "[ -1, 6 ]", "[ -1, 2, 3 ]", ("batch", None, None, 3), (-1, -1, 6)),
    ],
)
def test_reshape_is_what_the_graph_sees(
    batch: int, dims: str, reshape: str, in_graph: Extents, on_wire: tuple[int, ...]
) -> None:
    """Clients see dims, the graph must agree with reshape; what the graph fixes is fixed."""
    text = f"max_batch_size: {batch} {INPUT}".replace(
        "dims: 3", f"dims: {dims} reshape {{ shape: {reshape} }}"
    )
    spec = resolve(graph(in_graph), config(text), None)
    assert spec.signature.inputs[0].shape == on_wire
    assert len(spec.graph.inputs[0].shape) == len(in_graph)
    assert spec.graph.outputs == spec.signature.outputs


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('input { name: "Z" data_type: TYPE_FP32 dims: 3 }', "input 'Z' is not in the graph"),
        ('input { name: "X" data_type: TYPE_INT64 dims: 3 }', "but the graph has TYPE_FP32"),
        ('input { name: "X" data_type: TYPE_FP32 dims: 4 }', "which with max_batch_size 4 means"),
        ('output { name: "Y" data_type: TYPE_FP32 dims: [ 2, 1 ] }', "but the graph has [-1,2]"),
        (
            'input { name: "X" data_type: TYPE_FP32 dims: 3 optional: true }',
            "input 'X' is optional, but the graph cannot do without it",
        ),
        (
            'output { name: "Y" data_type: TYPE_FP32 dims: 4 reshape { shape: [ 2, 2 ] } }',
            "has reshape [2,2], which with max_batch_size 4 means",
        ),
    ],
)
def test_contradictions_are_refused(text: str, reason: str) -> None:
    """A configuration that does not fit the graph is an error that shows both."""
    with pytest.raises(ConfigError) as caught:
        resolve(graph(), config(f"max_batch_size: 4 {text}"), None)
    assert reason in str(caught.value)


def test_fixed_batch_cannot_be_batched() -> None:
    """max_batch_size on a graph with a fixed axis 0 says how to mend it."""
    with pytest.raises(ConfigError, match="export it with a dynamic batch, or set max_batch_size"):
        resolve(graph((1, 3), (1, 2)), config("max_batch_size: 4"), None)


def test_input_that_is_left_out_is_named() -> None:
    """A configuration that lists inputs must list all."""
    two = Graph(
        (GraphTensor("X", FP32, ("b", 3)), GraphTensor("N", INT64, ("b",))),
        (GraphTensor("Y", FP32, ("b", 2)),),
    )
    with pytest.raises(ConfigError, match=r"lacks input\(s\) \['N'\] of the graph"):
        resolve(two, config(f"max_batch_size: 4 {INPUT}"), None)


def complete(text: str, spec: ModelSpec | None = None) -> ModelConfig:
    """Return the normalised configuration."""
    given = config(text)
    return normalised("m", spec or resolve(graph(), given, None), given, on_gpu=False, instances=2)


def test_normalised_configuration_is_complete() -> None:
    """Clients find tensors, instances, version policy and batching, whatever was left out."""
    full = complete("")
    assert (full.name, full.platform, full.backend) == ("m", "onnxruntime_onnx", "onnxruntime")
    assert full.default_model_filename == "model.onnx"
    assert [(i.name, list(i.dims)) for i in full.input] == [("X", [3])]
    assert [(o.name, list(o.dims)) for o in full.output] == [("Y", [2])]
    assert full.max_batch_size == 64
    assert full.version_policy.latest.num_versions == 1
    assert list(full.dynamic_batching.preferred_batch_size) == [64]
    (group,) = full.instance_group
    assert (group.name, group.count, group.kind) == ("m", 2, group.KIND_CPU)
    assert full.optimization.input_pinned_memory.enable
    assert full.optimization.output_pinned_memory.enable


def test_normalising_keeps_what_was_said() -> None:
    """Nothing that the operator wrote is replaced."""
    full = complete(
        "max_batch_size: 8 instance_group { count: 3 kind: KIND_CPU } "
        "dynamic_batching { preferred_batch_size: 4 max_queue_delay_microseconds: 7 } "
        "version_policy { all { } } default_model_filename: 'net.onnx'"
    )
    assert full.max_batch_size == 8
    assert full.instance_group[0].count == 3
    assert list(full.dynamic_batching.preferred_batch_size) == [4]
    assert full.dynamic_batching.max_queue_delay_microseconds == 7
    assert full.version_policy.WhichOneof("policy_choice") == "all"
    assert full.default_model_filename == "net.onnx"


def test_each_of_several_groups_has_a_name() -> None:
    """Groups without a name are told apart by their place."""
    full = complete('instance_group [ { count: 1 }, { name: "second" }, { } ]')
    assert [group.name for group in full.instance_group] == ["m_0", "second", "m_2"]
    assert not complete(
        "optimization { input_pinned_memory { } }"
    ).optimization.input_pinned_memory.enable


def test_model_without_batches_has_no_batching() -> None:
    """An unset scheduling choice stays unset where the model does not batch."""
    spec = resolve(graph((1, 3), (1, 2)), None, None)
    assert complete("", spec).WhichOneof("scheduling_choice") is None
