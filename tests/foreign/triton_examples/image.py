"""The example of an image client: it reads the model's shapes and asks for classes with labels."""

from typing import Any

import numpy as np
from example import connect, outputs, tensor
from tritonclient.grpc import model_config_pb2 as mc

__all__ = ["connect"]


def test_image(client: Any) -> None:
    """An image client reads the model's shapes and gets the best classes with their labels."""
    metadata = client.get_model_metadata("densenet_onnx")
    config = client.get_model_config("densenet_onnx").config
    (source,), (scores,) = metadata.inputs, metadata.outputs
    assert list(source.shape) == [3, 224, 224]
    assert config.input[0].format == mc.ModelInput.FORMAT_NCHW
    assert config.max_batch_size == 0
    image = np.random.default_rng(5).standard_normal((3, 224, 224)).astype(np.float32)
    wanted = outputs(scores.name, class_count=3)
    result = client.infer("densenet_onnx", [tensor(source.name, image, "FP32")], outputs=wanted)
    score, index, label = result.as_numpy(scores.name)[0].decode().split(":")
    assert (index, label) == ("23", "VULTURE")
    assert float(score) > 1
    assert result.as_numpy(scores.name).shape == (3,)
