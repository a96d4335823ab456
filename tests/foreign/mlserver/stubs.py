"""What MLServer's stubs get from Penstock, one function a case.

Run in an environment of its own by test_programs.py. ModelStreamInfer is left out: MLServer's
answers on that path are of another type than Triton's, and Penstock's are Triton's.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import numpy as np
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc import model_repository_pb2 as mr
from mlserver.grpc.converters import ModelInferRequestConverter, ModelInferResponseConverter
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.types import InferenceRequest, RequestInput


@contextmanager
def connect(address: str) -> Iterator[GRPCInferenceServiceStub]:
    """Give the stub of a case."""
    with grpc.insecure_channel(address) as channel:
        yield GRPCInferenceServiceStub(channel)


def test_server(stub: GRPCInferenceServiceStub) -> None:
    """The server is live and ready, and says what it is."""
    assert stub.ServerLive(pb.ServerLiveRequest()).live
    assert stub.ServerReady(pb.ServerReadyRequest()).ready
    metadata = stub.ServerMetadata(pb.ServerMetadataRequest())
    assert metadata.name == "triton"
    assert "statistics" in metadata.extensions


def test_model(stub: GRPCInferenceServiceStub) -> None:
    """A model is ready, and its metadata has the tensors; an unknown one is not ready."""
    assert stub.ModelReady(pb.ModelReadyRequest(name="simple", version="1")).ready
    assert not stub.ModelReady(pb.ModelReadyRequest(name="absent")).ready
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name="simple"))
    assert list(metadata.versions) == ["1"]
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.outputs] == [
        ("OUTPUT0", "INT32", [-1, 16]),
        ("OUTPUT1", "INT32", [-1, 16]),
    ]
    assert not metadata.parameters


def test_infer_raw(stub: GRPCInferenceServiceStub) -> None:
    """Raw contents are answered raw."""
    values = np.arange(16, dtype=np.int32)
    answer = stub.ModelInfer(
        pb.ModelInferRequest(
            model_name="simple",
            id="7",
            inputs=[
                pb.ModelInferRequest.InferInputTensor(name=name, datatype="INT32", shape=[1, 16])
                for name in ("INPUT0", "INPUT1")
            ],
            raw_input_contents=[values.tobytes()] * 2,
        )
    )
    assert (answer.id, answer.model_version) == ("7", "1")
    sums = np.frombuffer(answer.raw_output_contents[0], np.int32)
    np.testing.assert_array_equal(sums, 2 * values)


def test_infer_typed(stub: GRPCInferenceServiceStub) -> None:
    """MLServer's own types go through its converters to Penstock and back."""
    values = list(range(16))
    request = InferenceRequest(
        id="9",
        inputs=[
            RequestInput(name=name, datatype="INT32", shape=[1, 16], data=values)
            for name in ("INPUT0", "INPUT1")
        ],
    )
    message = ModelInferRequestConverter.from_types(request, model_name="simple")
    answer = ModelInferResponseConverter.to_types(stub.ModelInfer(message))
    assert answer.id == "9"
    assert list(answer.outputs[0].data) == [2 * value for value in values]


def test_errors(stub: GRPCInferenceServiceStub) -> None:
    """An unknown model is NOT_FOUND."""
    try:
        stub.ModelInfer(pb.ModelInferRequest(model_name="absent"))
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.NOT_FOUND
    else:
        raise AssertionError("the server accepted what it should refuse")


def test_load(stub: GRPCInferenceServiceStub) -> None:
    """A model is unloaded and loaded again."""
    stub.RepositoryModelUnload(mr.RepositoryModelUnloadRequest(model_name="dummy"))
    assert not stub.ModelReady(pb.ModelReadyRequest(name="dummy")).ready
    stub.RepositoryModelLoad(mr.RepositoryModelLoadRequest(model_name="dummy"))
    assert stub.ModelReady(pb.ModelReadyRequest(name="dummy")).ready


def test_index(stub: GRPCInferenceServiceStub) -> None:
    """The index names every model with its state."""
    index = stub.RepositoryIndex(mr.RepositoryIndexRequest())
    assert ("simple", "1", "READY") in {(m.name, m.version, m.state) for m in index.models}
