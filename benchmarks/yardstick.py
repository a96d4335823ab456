"""The yardstick: a straightforward grpc.aio server, as one would write it in an afternoon.

python benchmarks/yardstick.py MODEL.onnx PORT [THREADS]
"""

import asyncio
import sys

import grpc
import numpy as np
import onnxruntime as ort

from service.pb.grpc_service_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)


def main(path: str, port: str, threads: str = "1") -> None:
    """Serve until killed: parse, run the session inline, answer."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(threads)
    session = ort.InferenceSession(path, options)
    name = session.get_outputs()[0].name

    def infer(request: ModelInferRequest) -> ModelInferResponse:
        tensor = request.inputs[0]
        array = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(tensor.shape)
        (output,) = session.run([name], {tensor.name: array})
        response = ModelInferResponse(model_name=request.model_name, id=request.id)
        response.outputs.add(name=name, datatype="FP32", shape=output.shape)
        response.raw_output_contents.append(output.tobytes())
        return response

    async def unary(request: ModelInferRequest, _context: object) -> ModelInferResponse:
        return infer(request)

    async def stream(requests, _context: object):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        async for request in requests:
            yield ModelStreamInferResponse(infer_response=infer(request))

    async def serve() -> None:
        server = grpc.aio.server()
        handlers = {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(
                unary, ModelInferRequest.FromString, ModelInferResponse.SerializeToString
            ),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(
                stream, ModelInferRequest.FromString, ModelStreamInferResponse.SerializeToString
            ),
        }
        service = "inference.GRPCInferenceService"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        print(f"ready grpc=127.0.0.1:{port}", flush=True)
        await server.wait_for_termination()

    asyncio.run(serve())


if __name__ == "__main__":
    main(*sys.argv[1:])
