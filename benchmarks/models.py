"""The models of the benchmarks, made from nothing: `python -m benchmarks.models out/bench`."""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper


def mlp(path: Path) -> None:
    """Write the digits-sized MLP, 784 -> 128 -> 10, with random weights."""
    random = np.random.default_rng(0)
    weights = {
        "w1": random.standard_normal((784, 128)) * 0.05,
        "b1": np.zeros(128),
        "w2": random.standard_normal((128, 10)) * 0.05,
        "b2": np.zeros(10),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["image", "w1", "b1"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["active"]),
            helper.make_node("Gemm", ["active", "w2", "b2"], ["logits"]),
        ],
        "mlp",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 784])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [
            helper.make_tensor(name, TensorProto.FLOAT, values.shape, values.ravel().tolist())
            for name, values in weights.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)


def main(directory: Path) -> None:
    """Write every model into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    mlp(directory / "mlp.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
