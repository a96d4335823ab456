"""config.pbtxt: what a Triton server cannot read off the graph, written once for a model.

Penstock needs none for a version of the exporter: manifest.json says more.
"""

from google.protobuf import text_format

from exporter.inputs import BATCH
from service.pb.model_config_pb2 import ModelConfig, ModelInput, ModelOutput
from service.repository.manifest import Manifest
from service.repository.model_config import data_type_of
from service.tensors import TensorSpec


def can_say_batch(manifest: Manifest) -> bool:
    """Tell whether a config.pbtxt can say how a version batches: on axis 0 of every tensor."""
    return all(
        axis == 0 for free in manifest.axes if free.name == BATCH for axis in free.tensors.values()
    )


def config_of(manifest: Manifest) -> str:
    """Return the text of a config.pbtxt that serves this version, and later ones like it.

    Without batches where it cannot say them: a server takes it at its word.
    """
    max_batch_size = manifest.max_batch_size if can_say_batch(manifest) else 0
    config = ModelConfig(name=manifest.name, backend="onnxruntime", max_batch_size=max_batch_size)
    config.version_policy.latest.num_versions = 1
    skip = 1 if max_batch_size else 0  # max_batch_size says axis 0
    for spec in manifest.inputs:
        config.input.append(
            ModelInput(
                name=spec.name, data_type=data_type_of(spec.datatype), dims=spec.shape[skip:]
            )
        )
    for spec in manifest.outputs:
        config.output.append(
            ModelOutput(
                name=spec.name,
                data_type=data_type_of(spec.datatype),
                dims=spec.shape[skip:],
                label_filename=manifest.labels.get(spec.name, ""),
            ),
        )
    if max_batch_size:
        config.dynamic_batching.SetInParent()
    for rows in (manifest.warmup_batches if max_batch_size else ()) or (0,):
        _add_warmup(config, manifest.inputs, rows, skip)
    return text_format.MessageToString(config)


def _add_warmup(config: ModelConfig, inputs: tuple[TensorSpec, ...], rows: int, skip: int) -> None:
    """Add a warm-up with zeros, unless an extent is free: no size of it is known to be right."""
    if any(extent < 0 for spec in inputs for extent in spec.shape[skip:]):
        return
    warmup = config.model_warmup.add(name=f"zeros_{rows or 1}", batch_size=rows)
    for spec in inputs:
        entry = warmup.inputs[spec.name]
        entry.data_type = data_type_of(spec.datatype)
        entry.dims.extend(spec.shape[skip:])
        entry.zero_data = True
