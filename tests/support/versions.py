"""Versions as the exporter writes them, made without a framework."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort

from exporter.cases import Case
from exporter.flow import Proven
from exporter.model_config import config_of
from exporter.package import Contents, write_contents
from exporter.proof import Agreement
from exporter.publish import publish, staging
from service.repository.manifest import Axis, Manifest, Tolerance
from service.repository.signature import Graph, GraphTensor
from service.tensors import FP32, TensorSpec
from tests.support import models

GRAPH = Graph((GraphTensor("X", FP32, ("batch", 784)),), (GraphTensor("Y", FP32, ("batch", 10)),))


def mlp_contents(model: Path, *, seed: int = 7, name: str = "m") -> Contents:
    """Write models.mlp to a path; return it as the contents of a version, golden pairs included."""
    model.write_bytes(models.mlp(seed))
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    cases = []
    for rows in (1, 2):
        feed = {"X": random.random((rows, 784), np.float32)}
        cases.append(Case(rows, feed, {"Y": session.run(["Y"], feed)[0]}))
    axes = (Axis("batch", {"X": 0}, 1, 16, (1, 2, 16)),)
    specs = (TensorSpec("X", FP32, (-1, 784)),), (TensorSpec("Y", FP32, (-1, 10)),)
    proven = Proven(model, *specs, GRAPH, axes, Tolerance(), Agreement(()))
    return Contents(
        name=name, proven=proven, cases=cases, opset=21, max_batch_size=16,
        provenance={"module": "a:b"}, packages={"torch": "2.13.0"},
    )  # fmt: skip


def publish_mlp(
    root: Path, *, seed: int = 7, name: str = "m", write_config: bool = False, **changes: object
) -> tuple[Path, Manifest]:
    """Publish a version of models.mlp. changes: fields of its Contents."""
    with staging(root, name) as stage:
        contents = mlp_contents(stage.work / "model.onnx", seed=seed, name=name)
        contents = replace(contents, **changes)  # type: ignore[arg-type]
        manifest = write_contents(stage, contents)
        return publish(stage, manifest, None, config=config_of(manifest) if write_config else None)
