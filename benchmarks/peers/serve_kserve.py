"""KServe's model server with a minimal ONNX runtime, in one process.

.tools/peers/kserve/bin/python -m benchmarks.peers.serve_kserve MODEL.onnx PORT THREADS ROWS
"""

import logging
import sys

import onnxruntime as ort
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

from benchmarks.ports import free_port


class OnnxRuntime(Model):
    """Runs one file."""

    def __init__(self, path: str, threads: int) -> None:
        super().__init__("model")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(path, options)
        self._names = [output.name for output in self._session.get_outputs()]
        self.ready = True

    async def predict(self, payload: InferRequest, *_: object, **__: object) -> InferResponse:
        """Run it."""
        inputs = {tensor.name: tensor.as_numpy() for tensor in payload.inputs}
        outputs = []
        for name, array in zip(self._names, self._session.run(self._names, inputs), strict=True):
            output = InferOutput(name, list(array.shape), "FP32")
            output.set_data_from_numpy(array, binary_data=True)
            outputs.append(output)
        return InferResponse(payload.id, self.name, outputs)


if __name__ == "__main__":
    server = ModelServer(
        http_port=free_port(),
        grpc_port=int(sys.argv[2]),
        workers=1,
        enable_latency_logging=False,
        access_log_format=None,
    )
    logging.getLogger("kserve").setLevel(logging.WARNING)  # it logs a line for each call
    server.start([OnnxRuntime(sys.argv[1], int(sys.argv[3]))])
