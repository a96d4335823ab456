"""Tensors in other forms than usual: reshaped, left out, without axes, as classes, of any bytes."""

from collections.abc import Mapping

import numpy as np
import pytest

from service.pb.grpc_service_pb2 import (
    ModelConfigRequest,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
)
from service.tensors import BYTES, FP32, Array
from tests.support.requests import answer, one, raw_request, simple_request, typed_request
from tests.support.servers import RunningServer
from tests.support.stub import WAIT_S, Stub, refusal


def floats(model: str, inputs: Mapping[str, Array]) -> ModelInferRequest:
    """Return a request with tensors of FP32."""
    return raw_request(model, {name: (FP32, array) for name, array in inputs.items()})


def row(*values: float) -> Array:
    """Return a value a row."""
    return np.array([values], np.float32).T


def classes(request: ModelInferRequest, output: str, count: int) -> ModelInferRequest:
    """Ask for the best classes of an output instead of all of it."""
    request.outputs.add(name=output).parameters["classification"].int64_param = count
    return request


def infer(stub: Stub, request: ModelInferRequest) -> ModelInferResponse:
    """Send one request twice, as it is the second that might be recognised."""
    first, second = (stub.infer(request, timeout=WAIT_S) for _ in range(2))
    assert first == second
    response: ModelInferResponse = first
    return response


def test_image_has_no_batch_for_its_client(stub: Stub) -> None:
    """A graph with a batch fixed to one takes and gives tensors without it, by reshape."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    response = infer(stub, floats("fixed_image", {"X": array}))
    assert answer(response).tolist() == [0, 1, 2, 3, 4, 5]
    with_batch = floats("fixed_image", {"X": array[np.newaxis]})
    assert "Expected [2,3], got [1,2,3]" in refusal(stub.infer, with_batch)[1]


def test_metadata_and_configuration_show_the_clients_shapes(stub: Stub) -> None:
    """ModelMetadata has dims; ModelConfig has dims, reshape and label_filename, as Triton does."""
    metadata = stub.model_metadata(ModelMetadataRequest(name="fixed_image"), timeout=WAIT_S)
    assert [list(t.shape) for t in (*metadata.inputs, *metadata.outputs)] == [[2, 3], [6]]
    metadata = stub.model_metadata(ModelMetadataRequest(name="row_numbers"), timeout=WAIT_S)
    assert list(metadata.inputs[0].shape) == [-1, 1]
    config = stub.model_config(ModelConfigRequest(name="fixed_image"), timeout=WAIT_S).config
    assert list(config.input[0].dims) == [2, 3]
    assert list(config.input[0].reshape.shape) == [1, 2, 3]
    assert (list(config.output[0].dims), config.output[0].label_filename) == (
        [6],
        "names/labels.txt",
    )
    assert list(config.output[0].reshape.shape) == [1, 6, 1, 1]


def test_reshaped_rows_are_batched(stub: Stub) -> None:
    """Requests to a graph of rank 1 are joined and split by rows of rank 2."""
    futures = [
        stub.infer.future(floats("row_numbers", {"X": row(*range(rows))}), timeout=WAIT_S)
        for rows in (1, 5, 3, 8, 20)
    ]
    for rows, future in zip((1, 5, 3, 8, 20), futures, strict=True):
        assert answer(future.result()).tolist() == [[float(n + 1)] for n in range(rows)]


def test_reshape_keeps_extents_that_are_open(stub: Stub) -> None:
    """Each -1 of dims is what the -1 in its place of reshape is, in each request anew."""
    for length in (3, 0, 5):
        array = np.arange(4 * length, dtype=np.float32).reshape(2, length, 2, 1)
        response = infer(stub, floats("flat_pairs", {"X": array}))
        assert answer(response).tolist() == array.reshape(2, length, 2).tolist()


@pytest.mark.parametrize("model", ["with_default", "optional_type"])
def test_optional_input_may_be_left_out(stub: Stub, model: str) -> None:
    """Without the optional input the graph does what it does without; with it, it is used."""
    name, without = ("D", [9.0, 10.0]) if model == "with_default" else ("O", [4.0, 6.0])
    response = infer(stub, floats(model, {"X": row(2, 3)}))
    assert answer(response)[:, 0].tolist() == without
    response = infer(stub, floats(model, {"X": row(2, 3), name: row(20, 30)}))
    assert answer(response)[:, 0].tolist() == [22, 33]
    response = infer(stub, floats(model, {name: row(20), "X": row(2)}))
    assert answer(response)[:, 0].tolist() == [22]


def test_requests_with_and_without_do_not_share_a_batch(stub: Stub) -> None:
    """Of many requests at once each gets the answer to its own inputs."""
    inputs = [
        {"X": row(float(index)), **({"D": row(100.0)} if index % 3 else {})} for index in range(24)
    ]
    futures = [stub.infer.future(floats("with_default", each), timeout=WAIT_S) for each in inputs]
    for index, future in enumerate(futures):
        assert answer(future.result()).tolist() == [[index + (100.0 if index % 3 else 7.0)]]


def test_number_of_inputs_may_vary(stub: Stub) -> None:
    """Too few and too many inputs are told with both bounds, in Triton's words."""
    _, text = refusal(stub.infer, floats("with_default", {"D": row(1)}))
    assert "expected number of inputs between 1 and 2 but got 1 inputs for model" in text
    assert "missing required input(s) ['X']" in text
    _, text = refusal(stub.infer, floats("with_default", {name: row(1) for name in "XDE"}))
    assert "expected number of inputs between 1 and 2 but got 3 inputs for model" in text
    two_rows = floats("with_default", {"X": row(1), "D": row(1, 2)})
    assert "batch size does not match other inputs" in refusal(stub.infer, two_rows)[1]


def test_no_input_at_all_is_a_request(stub: Stub) -> None:
    """Where all inputs are optional a request may have none: it is one row; many at once too."""
    empty = ModelInferRequest(model_name="all_default")
    assert answer(infer(stub, empty)).tolist() == [[7.0]]
    futures = [stub.infer.future(empty, timeout=WAIT_S) for _ in range(16)]
    assert [answer(future.result()).tolist() for future in futures] == [[[7.0]]] * 16
    assert answer(infer(stub, floats("all_default", {"D": row(1, 2)}))).tolist() == [[1], [2]]
    (reply,) = stub.stream(iter([empty]), timeout=WAIT_S)
    assert answer(reply.infer_response).tolist() == [[7.0]]


@pytest.mark.parametrize("build", [raw_request, typed_request], ids=["raw", "typed"])
def test_scalar_is_one_element_without_an_axis(stub: Stub, build: object) -> None:
    """A tensor of rank 0 comes and goes with an empty shape, numbers and texts alike."""
    assert callable(build)
    response = infer(stub, build("scalar", one(FP32, np.array(2.5, np.float32))))
    assert (list(response.outputs[0].shape), answer(response).item()) == ([], 3.5)
    text = np.empty((), dtype=object)
    text[()] = b"\xff\0"
    response = infer(stub, build("scalar_text", one(BYTES, text)))
    assert (list(response.outputs[0].shape), answer(response).item()) == ([], b"\xff\0")


def test_bytes_of_any_kind_come_back(stub: Stub) -> None:
    """What a model only moves may be any bytes: NUL, broken UTF-8, emptiness, a megabyte."""
    array = np.empty((1, 5), dtype=object)
    array[0] = [b"", b"a\0b\0", bytes(range(256)), "\u6c34".encode(), b"\xfe" * (1 << 20)]
    response = infer(stub, raw_request("identity_bytes", one(BYTES, array)))
    assert answer(response).tolist() == array.tolist()


def test_classes_have_labels(stub: Stub) -> None:
    """The best elements come as value, index and label; a line that is empty is no label."""
    array = np.array([[1, 2, 9], [7, 8, 3]], np.float32)
    response = infer(stub, classes(floats("fixed_image", {"X": array}), "Y", 4))
    (output,) = response.outputs
    assert (output.datatype, list(output.shape)) == ("BYTES", [4])
    assert answer(response).tolist() == [
        b"9.000000:2",
        b"8.000000:4",
        b"7.000000:3:three",
        b"3.000000:5",
    ]


def test_exported_versions_have_labels_of_their_own(stub: Stub) -> None:
    """Each version answers with the labels that it was exported with, though a file is shared."""
    array = np.random.default_rng(1).random((2, 784), np.float32)
    for version, name in (("1", "digit"), ("2", "numeral")):
        request = floats("labelled", {"X": array})
        request.model_version = version
        scores = answer(infer(stub, request))
        found = answer(infer(stub, classes(request, "Y", 1)))
        best = scores.argmax(axis=1)
        assert found[:, 0].tolist() == [
            f"{scores[row, index]:f}:{index}:{name} {index}".encode()
            for row, index in enumerate(best.tolist())
        ]


def test_classes_of_a_batch_are_given_a_row(stub: Stub) -> None:
    """Each row has its own classes, and outputs without the parameter come as they are."""
    request = simple_request(5, 3, rows=2)
    classes(request, "OUTPUT1", 20)
    request.outputs.add(name="OUTPUT0")
    response = infer(stub, request)
    assert [output.name for output in response.outputs] == ["OUTPUT1", "OUTPUT0"]
    found = answer(response, "OUTPUT1")
    assert found.shape == (2, 16)
    assert found[1, :2].tolist() == [b"2:0", b"2:1"]
    assert answer(response, "OUTPUT0").tolist() == [[8] * 16] * 2


def test_classes_on_a_stream(stub: Stub) -> None:
    """Classes go out on a stream too, and the next request of the same bytes but them is plain."""
    plain = simple_request(5, 3, request_id="plain")
    wanted = classes(simple_request(5, 3, request_id="classes"), "OUTPUT0", 1)
    replies = list(stub.stream(iter([plain, wanted, plain]), timeout=WAIT_S))
    assert [reply.error_message for reply in replies] == ["", "", ""]
    first, second, third = (reply.infer_response for reply in replies)
    assert answer(second, "OUTPUT0").tolist() == [[b"8:0"]]
    assert first == third


def test_too_large_to_be_classified(stub: Stub) -> None:
    """Classes of more than a million elements are refused, the request is counted as failed."""
    array = np.zeros((1, 1_000_001), np.int8)
    request = ModelInferRequest(model_name="identity_int8")
    request.inputs.add(name="X", datatype="INT8", shape=array.shape)
    request.raw_input_contents.append(array.tobytes())
    code, text = refusal(stub.infer, classes(request, "Y", 1))
    assert code.name == "INVALID_ARGUMENT"
    assert "classification output tensor too large" in text


def test_server_says_that_it_classifies(server: RunningServer) -> None:
    """ServerMetadata lists the extensions of this file."""
    from service.pb.grpc_service_pb2 import ServerMetadataRequest

    with server.stub() as stub:
        extensions = stub.metadata(ServerMetadataRequest(), timeout=WAIT_S).extensions
    assert {"classification", "system_shared_memory", "cuda_shared_memory"} <= set(extensions)
