"""Triton's C++ front end with its Python backend, by nvidia-pytriton, around ONNX Runtime.

.tools/peers/pytriton/bin/python -m benchmarks.peers.serve_pytriton MODEL.onnx PORT THREADS ROWS
"""

import sys

import numpy as np
import onnxruntime as ort
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.ports import free_port


def main(path: str, port: int, threads: int, rows: int) -> None:
    """Serve until killed."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(path, options)
    (source,), (target,) = session.get_inputs(), session.get_outputs()

    @batch
    def infer(**inputs):  # type: ignore[no-untyped-def]  # noqa: ANN003, ANN202
        return dict(zip([target.name], session.run([target.name], inputs), strict=True))

    config = TritonConfig(
        grpc_address="127.0.0.1",
        grpc_port=port,
        http_address="127.0.0.1",
        http_port=free_port(),
        allow_metrics=False,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="model",
            infer_func=infer,
            inputs=[Tensor(name=source.name, dtype=np.float32, shape=tuple(source.shape[1:]))],
            outputs=[Tensor(name=target.name, dtype=np.float32, shape=tuple(target.shape[1:]))],
            config=ModelConfig(
                max_batch_size=rows, batcher=DynamicBatcher(max_queue_delay_microseconds=0)
            ),
        )
        triton.serve()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
