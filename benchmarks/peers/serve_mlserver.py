"""MLServer with a minimal ONNX runtime, in one process.

.tools/peers/mlserver/bin/python -m benchmarks.peers.serve_mlserver MODEL.onnx PORT THREADS ROWS
"""

import asyncio
import sys

import onnxruntime as ort
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.ports import free_port


class OnnxRuntime(MLModel):
    """Runs the file that the settings name."""

    async def load(self) -> bool:
        """Open the session."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(sys.argv[3])
        self._session = ort.InferenceSession(sys.argv[1], options)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run it."""
        inputs = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        names = [output.name for output in self._session.get_outputs()]
        outputs = zip(names, self._session.run(names, inputs), strict=True)
        return InferenceResponse(
            model_name=self.name,
            id=payload.id,
            outputs=[NumpyCodec.encode_output(name, array) for name, array in outputs],
        )


if __name__ == "__main__":
    # Its worker processes cost more than they give on such models, see docs/benchmarks.md.
    settings = Settings(
        host="127.0.0.1",
        grpc_port=int(sys.argv[2]),
        http_port=free_port(),
        metrics_port=free_port(),
        parallel_workers=0,
        debug=False,
    )
    model = ModelSettings(name="model", implementation=OnnxRuntime)
    asyncio.run(MLServer(settings).start([model]))
