"""System shared memory as clients use it: registered, read and written by requests, forgotten."""

import numpy as np
import pytest

from service.pb.grpc_service_pb2 import (
    CudaSharedMemoryRegisterRequest,
    CudaSharedMemoryStatusRequest,
    CudaSharedMemoryUnregisterRequest,
    ModelInferRequest,
    SystemSharedMemoryRegisterRequest,
    SystemSharedMemoryStatusRequest,
)
from service.tensors import BYTES, INT64, to_raw
from tests.support.requests import answer, one, raw_request, simple_request
from tests.support.servers import RunningServer
from tests.support.shared import (
    begin_unregister,
    descriptors_of,
    place,
    region,
    register,
    segment,
    unregister,
)
from tests.support.stub import WAIT_S, Stub, refusal
from tests.support.waiting import eventually

FIRST, SECOND = (np.full((1, 16), value, np.int32).tobytes() for value in (30, 4))


def statuses(stub: Stub, name: str = "") -> dict[str, tuple[str, int, int]]:
    """Return what is registered: key, offset and size by name."""
    request = SystemSharedMemoryStatusRequest(name=name)
    found = stub.system_status(request, timeout=WAIT_S).regions
    assert all(name == status.name for name, status in found.items())
    return {name: (s.key, s.offset, s.byte_size) for name, s in found.items()}


def shared_simple(name: str, first: int = 0, second: int = 64) -> ModelInferRequest:
    """Return a request to simple whose inputs are at these offsets of a region."""
    request = simple_request(request_id="shm")
    request.ClearField("raw_input_contents")
    for tensor, offset in zip(request.inputs, (first, second), strict=True):
        place(tensor, name, 64, offset)
    return request


def test_regions_are_told_until_they_are_forgotten(stub: Stub) -> None:
    """Status gives all regions or one; what is forgotten is gone, and forgetting never fails."""
    with segment(256) as made:
        register(stub, "whole", made.key, 256)
        register(stub, "part", made.key, 16, offset=3)
        want = {"whole": (made.key, 0, 256), "part": (made.key, 3, 16)}
        assert statuses(stub) == want
        assert statuses(stub, "part") == {"part": want["part"]}
        unregister(stub, "part")
        unregister(stub, "part")
        assert statuses(stub) == {"whole": want["whole"]}
        code, text = refusal(stub.system_status, SystemSharedMemoryStatusRequest(name="part"))
        assert (code.name, text) == (
            "NOT_FOUND",
            "Unable to find system shared memory region: 'part'",
        )
        unregister(stub)
        assert statuses(stub) == {}
        assert made.path.exists()


def test_outputs_are_written_where_they_belong(stub: Stub) -> None:
    """Both outputs land at their offsets, the answer says where, and nothing else is touched."""
    with region(stub, 512, FIRST + SECOND + b"\xaa" * 384) as (name, made):
        request = shared_simple(name)
        for output, offset in (("OUTPUT1", 300), ("OUTPUT0", 130)):
            place(request.outputs.add(name=output), name, 80, offset)
        response = stub.infer(request, timeout=WAIT_S)
        assert list(response.raw_output_contents) == [b"", b""]
        assert [output.name for output in response.outputs] == ["OUTPUT1", "OUTPUT0"]
        assert [dict(_plain(output.parameters)) for output in response.outputs] == [
            {
                "shared_memory_region": name,
                "shared_memory_byte_size": 64,
                "shared_memory_offset": offset,
            }
            for offset in (300, 130)
        ]
        difference, total = (np.full(16, value, np.int32).tobytes() for value in (26, 34))
        want = bytearray(FIRST + SECOND + b"\xaa" * 384)
        want[300:364], want[130:194] = difference, total
        assert made.contents == bytes(want)


def _plain(parameters: object) -> list[tuple[str, object]]:
    assert hasattr(parameters, "items")
    return [
        (key, getattr(value, value.WhichOneof("parameter_choice")))
        for key, value in parameters.items()
    ]


def test_raw_contents_belong_to_the_other_inputs(stub: Stub) -> None:
    """With one input in shared memory the raw contents are those of the others, in their order."""
    for in_region, total in ((0, 30 + 2), (1, 1 + 30)):
        with region(stub, 64, FIRST) as (name, _):
            request = simple_request(1, 2)
            place(request.inputs[in_region], name, 64)
            del request.raw_input_contents[in_region]
            for _ in range(3):  # the second and third might be recognised, wrongly
                response = stub.infer(request, timeout=WAIT_S)
                assert answer(response, "OUTPUT0").tolist() == [[total] * 16]


def test_typed_contents_may_stand_beside_shared_memory(stub: Stub) -> None:
    """The other input may be typed."""
    with region(stub, 64, FIRST) as (name, _):
        request = simple_request()
        request.ClearField("raw_input_contents")
        place(request.inputs[0], name, 64)
        request.inputs[1].contents.int_contents.extend([5] * 16)
        assert answer(stub.infer(request, timeout=WAIT_S), "OUTPUT0").tolist() == [[35] * 16]


def test_each_request_reads_anew(stub: Stub) -> None:
    """The same request gives the answer to what is in the region now."""
    with region(stub, 128, FIRST + SECOND) as (name, made):
        request = shared_simple(name)
        for value in (30, 7, -1):
            made.put(np.full(16, value, np.int32).tobytes())
            response = stub.infer(request, timeout=WAIT_S)
            assert answer(response, "OUTPUT0").tolist() == [[value + 4] * 16]


def test_only_some_outputs_are_in_shared_memory(stub: Stub) -> None:
    """The others are in the answer, each in its place."""
    with region(stub, 64) as (name, made):
        request = simple_request(1, 2)
        request.outputs.add(name="OUTPUT0")
        place(request.outputs.add(name="OUTPUT1"), name, 64)
        response = stub.infer(request, timeout=WAIT_S)
        assert [len(raw) for raw in response.raw_output_contents] == [64, 0]
        assert made.contents == np.full(16, -1, np.int32).tobytes()


def test_name_that_is_taken_is_not_registered_again(stub: Stub) -> None:
    """Names are one space for memory of both kinds; the region that is there stays what it is."""
    with region(stub, 64, FIRST) as (name, made), segment(64) as other:
        for call, request in (
            (
                stub.register_system,
                SystemSharedMemoryRegisterRequest(name=name, key=made.key, byte_size=64),
            ),
            (
                stub.register_system,
                SystemSharedMemoryRegisterRequest(name=name, key=other.key, byte_size=64),
            ),
            (stub.register_cuda, CudaSharedMemoryRegisterRequest(name=name, byte_size=8)),
        ):
            code, text = refusal(call, request)
            assert code.name == "ALREADY_EXISTS"
            assert text == f"shared memory region '{name}' already in manager"
        assert statuses(stub) == {name: (made.key, 0, 64)}


@pytest.mark.parametrize("rpc", ["unary", "stream"])
def test_output_that_does_not_fit_is_told(stub: Stub, rpc: str) -> None:
    """A window that is too small is an error with both sizes, and nothing is written."""
    with region(stub, 64, b"\xaa" * 64) as (name, made):
        request = simple_request(1, 2, request_id="7")
        place(request.outputs.add(name="OUTPUT0"), name, 63)
        text = (
            "shared memory size specified with the request for output 'OUTPUT0' (63 bytes) should "
            "be at least 64 bytes to hold the results"
        )
        if rpc == "unary":
            code, told = refusal(stub.infer, request)
            assert (code.name, told) == ("INTERNAL", text)
        else:
            bad, good = stub.stream(iter([request, simple_request(1, 2)]), timeout=WAIT_S)
            assert (bad.error_message, bad.infer_response.id) == (text, "7")
            assert answer(good.infer_response, "OUTPUT0")[0, 0] == 3
        assert made.contents == b"\xaa" * 64


def test_large_request_is_split_and_joined(stub: Stub) -> None:
    """More rows than the largest batch come from shared memory and go there, in one piece."""
    array = np.arange(20 * 16, dtype=np.int32).reshape(20, 16)
    with region(stub, 2 * array.nbytes, array.tobytes()) as (name, made):
        request = simple_request(0, 1, rows=20)
        place(request.inputs[0], name, array.nbytes)
        del request.raw_input_contents[0]
        place(request.outputs.add(name="OUTPUT0"), name, array.nbytes, array.nbytes)
        response = stub.infer(request, timeout=WAIT_S)
        assert list(response.outputs[0].shape) == [20, 16]
        assert made.contents[array.nbytes :] == (array + 1).tobytes()


def test_strings_say_how_long_they_are(stub: Stub) -> None:
    """BYTES come and go with their lengths; the answer says how many bytes were written."""
    array = np.empty((1, 3), dtype=object)
    array[0] = [b"", b"\xff\0", b"x" * 30]
    raw = to_raw(BYTES, array)
    with region(stub, 256, raw) as (name, made):
        request = raw_request("identity_bytes", one(BYTES, array), outputs=["Y"])
        request.ClearField("raw_input_contents")
        place(request.inputs[0], name, len(raw))
        place(request.outputs[0], name, 128, 128)
        response = stub.infer(request, timeout=WAIT_S)
        assert dict(_plain(response.outputs[0].parameters))["shared_memory_byte_size"] == len(raw)
        assert made.contents[128 : 128 + len(raw)] == raw


def test_memory_is_kept_for_a_request_in_flight(server: RunningServer, stub: Stub) -> None:
    """Unregistering frees the name at once, and is answered when the request has been."""
    with segment(8, b"\xaa" * 8) as made, server.stub() as other:
        register(stub, "kept", made.key, 8)
        request = raw_request("slow", one(INT64, np.array([[5]])))
        place(request.outputs.add(name="Y"), "kept", 8)
        holding = stub.infer.future(raw_request("slow", one(INT64, np.array([[1_000_000]]))))
        eventually(lambda: server.runs("slow"), "the model is busy")
        waiting = stub.infer.future(request, timeout=WAIT_S)
        eventually(lambda: server.queue_depth("slow") == 1, "the request waits")
        unregistering = begin_unregister(other)
        eventually(lambda: statuses(other) == {}, "the name is gone")
        register(other, "kept", made.key, 4)  # the name is free at once
        unregister(other, "kept")
        assert not waiting.done()
        assert not unregistering.done()
        holding.cancel()
        unregistering.result()
        assert made.contents == np.array([5]).tobytes()
        assert descriptors_of(server.process.pid, made) == 0
        assert waiting.result().outputs[0].name == "Y"


def test_caller_who_leaves_takes_his_lease_along(server: RunningServer, stub: Stub) -> None:
    """A request that is cancelled keeps no memory open nor its unregistering waiting.

    Nothing is written any more.
    """
    with segment(8, b"\xaa" * 8) as made:
        register(stub, "left", made.key, 8)
        request = raw_request("slow", one(INT64, np.array([[100_000]])))
        place(request.outputs.add(name="Y"), "left", 8)
        future = stub.infer.future(request, timeout=WAIT_S)
        eventually(lambda: server.runs("slow"), "the model runs")
        unregistering = begin_unregister(stub)
        eventually(lambda: statuses(stub) == {}, "the name is gone")
        assert not unregistering.done()  # for 20 s, if the caller waited so long
        future.cancel()
        unregistering.result()
        assert descriptors_of(server.process.pid, made) == 0
        assert made.contents == b"\xaa" * 8


def test_gpu_memory_needs_a_gpu(stub: Stub) -> None:
    """Without a GPU, Status and Unregister of CUDA memory do nothing, and Register says why."""
    assert not stub.cuda_status(CudaSharedMemoryStatusRequest(), timeout=WAIT_S).regions
    stub.unregister_cuda(CudaSharedMemoryUnregisterRequest(), timeout=WAIT_S)
    stub.unregister_cuda(CudaSharedMemoryUnregisterRequest(name="n"), timeout=WAIT_S)
    code, text = refusal(stub.cuda_status, CudaSharedMemoryStatusRequest(name="n"))
    assert (code.name, text) == ("NOT_FOUND", "Unable to find cuda shared memory region: 'n'")
    request = CudaSharedMemoryRegisterRequest(name="n", raw_handle=bytes(64), byte_size=8)
    code, text = refusal(stub.register_cuda, request)
    assert (code.name, text) == (
        "INVALID_ARGUMENT",
        "failed to register CUDA shared memory region: 'n', GPUs not supported",
    )


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        (
            {"shared_memory_byte_size": 64},
            "'shared_memory_byte_size' can not be specified without 'shared_memory_region'",
        ),
        (
            {"shared_memory_offset": 0},
            "'shared_memory_offset' can not be specified without 'shared_memory_region'",
        ),
        (
            {"shared_memory_region": "r"},
            "'shared_memory_byte_size' must be specified along with 'shared_memory_region'",
        ),
        (
            {"shared_memory_region": 1, "shared_memory_byte_size": 64},
            "invalid value type for 'shared_memory_region' parameter for tensor",
        ),
        (
            {"shared_memory_region": "r", "shared_memory_byte_size": "64"},
            "invalid value type for 'shared_memory_byte_size' parameter for tensor",
        ),
        (
            {
                "shared_memory_region": "r",
                "shared_memory_byte_size": 64,
                "shared_memory_offset": "1",
            },
            "invalid value type for 'shared_memory_offset' parameter for tensor",
        ),
        (
            {"shared_memory_region": "r", "shared_memory_byte_size": -1},
            "invalid value for 'shared_memory_byte_size' parameter for tensor",
        ),
        (
            {
                "shared_memory_region": "r",
                "shared_memory_byte_size": 64,
                "shared_memory_offset": -1,
            },
            "invalid value for 'shared_memory_offset' parameter for tensor",
        ),
        ({"shared_memory_region": "r", "shared_memory_byte_size": 64}, "Unable to find shared"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("side", ["INPUT1", "OUTPUT1"])
def test_parameters_must_say_it_whole(
    stub: Stub, side: str, parameters: dict[str, object], text: str
) -> None:
    """Parameters that are incomplete or of a wrong type are refused, of inputs and outputs."""
    request = simple_request()
    tensor = request.inputs[1] if side == "INPUT1" else request.outputs.add(name=side)
    if side == "INPUT1":
        del request.raw_input_contents[1]
    for key, value in parameters.items():
        field = "string_param" if isinstance(value, str) else "int64_param"
        setattr(tensor.parameters[key], field, value)
    if "shared_memory_region" not in parameters and side == "INPUT1":
        request.raw_input_contents.append(bytes(64))
    code, told = refusal(stub.infer, request)
    assert text in told
    assert code.name == ("NOT_FOUND" if text.startswith("Unable") else "INVALID_ARGUMENT")
    assert told.count(side) == (0 if text.startswith("Unable") else 1)


def test_contents_and_shared_memory_exclude_each_other(stub: Stub) -> None:
    """An input is in one place; a result is classified or in shared memory."""
    with region(stub, 64, FIRST) as (name, _):
        request = simple_request()
        request.ClearField("raw_input_contents")
        place(request.inputs[0], name, 64)
        request.inputs[0].contents.int_contents.append(1)
        assert (
            "unexpected 'content' provided when using shared memory for input tensor 'INPUT0' for "
            "model 'simple'"
        ) in refusal(stub.infer, request)[1]
        request = simple_request()
        wanted = request.outputs.add(name="OUTPUT0")
        place(wanted, name, 64)
        wanted.parameters["classification"].int64_param = 1
        assert "cannot be classified into shared memory" in refusal(stub.infer, request)[1]


def test_size_must_be_the_tensors(stub: Stub) -> None:
    """An input's window has exactly its bytes, and raw contents are one for each other input."""
    with region(stub, 256, FIRST) as (name, _):
        request = shared_simple(name, 0, 64)
        request.inputs[1].parameters["shared_memory_byte_size"].int64_param = 128
        assert (
            "input byte size mismatch for input 'INPUT1' for model 'simple'. Expected 64, got 128"
        ) in refusal(stub.infer, request)[1]
        request = shared_simple(name)
        for count in (1, 2, 3):
            request.raw_input_contents.append(bytes(64))
            code, text = refusal(stub.infer, request)
            assert code.name == "INVALID_ARGUMENT"
            assert (
                f"expected 0 raw_input_contents for model 'simple', one an input, got {count}"
                in text
            )
