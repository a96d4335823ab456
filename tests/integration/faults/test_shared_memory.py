"""Abuse of shared memory, group J of docs/faults.md."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from service.pb.grpc_service_pb2 import (
    CudaSharedMemoryRegisterRequest,
    ModelInferRequest,
    SystemSharedMemoryRegisterRequest,
    SystemSharedMemoryStatusRequest,
    SystemSharedMemoryUnregisterRequest,
)
from service.tensors import BYTES, FP32, INT64, to_raw
from tests.integration.faults.conftest import LIMIT_MIB, Guarded
from tests.support import servers
from tests.support.requests import answer, one, raw_request, simple_request
from tests.support.servers import ROOT
from tests.support.shared import (
    Segment,
    descriptors_of,
    place,
    region,
    register,
    segment,
    unregister,
)
from tests.support.stub import WAIT_S, Stub, refusal
from tests.support.waiting import eventually

INVALID, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED
_REGIONS = 8
_DISABLED = "Client shared memory is disabled. Start the server with --allow-client-shm"


@pytest.fixture(scope="module")
def sharing(fault_repository: object, transport: str) -> Iterator[Guarded]:
    """Serve with shared memory and small limits."""
    flags = ["--allow-client-shm", f"--max-shm-regions={_REGIONS}", f"--transport={transport}"]
    flags += [f"--max-message-mib={LIMIT_MIB}"]
    with servers.serve(fault_repository, *flags) as server:  # type: ignore[arg-type]
        yield Guarded(server, transport)


def in_region(name: str, size: int = 64) -> ModelInferRequest:
    """Return a request to simple whose inputs and first output are one after another there."""
    request = simple_request()
    request.ClearField("raw_input_contents")
    for index, tensor in enumerate(request.inputs):
        place(tensor, name, size, index * 64)
    place(request.outputs.add(name="OUTPUT0"), name, size, 128)
    return request


def refused(stub: Stub, name: str, key: str, size: int, offset: int = 0) -> tuple[object, str]:
    """Return code and text with which a registration is refused."""
    request = SystemSharedMemoryRegisterRequest(name=name, key=key, byte_size=size, offset=offset)
    return refusal(stub.register_system, request)


def test_off_unless_it_is_asked_for(guarded: Guarded) -> None:
    """J1: By default nothing can be registered or used; Status is answered, and is empty."""
    with guarded.unharmed() as stub, segment(192) as made:
        for call, request in (
            (stub.register_system, SystemSharedMemoryRegisterRequest(name="r", key=made.key)),
            (stub.unregister_system, SystemSharedMemoryUnregisterRequest()),
            (stub.register_cuda, CudaSharedMemoryRegisterRequest(name="r")),
        ):
            assert refusal(call, request) == (grpc.StatusCode.UNIMPLEMENTED, _DISABLED)
        code, text = refusal(stub.infer, in_region("r"))
        assert code is grpc.StatusCode.UNIMPLEMENTED
        assert _DISABLED in text
        assert not stub.system_status(SystemSharedMemoryStatusRequest(), timeout=WAIT_S).regions


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        (0, 193), (192, 1), (1, 192), (0, 0), (0, (1 << 64) - 1), ((1 << 64) - 1, 1),
        ((1 << 64) - 1, (1 << 64) - 1), (1 << 63, 64),
    ],
)  # fmt: skip
def test_part_outside_of_an_object(sharing: Guarded, offset: int, size: int) -> None:
    """J2: A part that is not inside its object, or is empty, is not registered."""
    with sharing.unharmed() as stub, segment(192) as made:
        code, text = refused(stub, "r", made.key, size, offset)
        assert code is INVALID
        assert text.startswith("failed to register shared memory region 'r': invalid args: ")


@pytest.mark.parametrize(
    ("offset", "size", "text"),
    [
        (192, 64, "Invalid offset for shared memory region"),
        (129, 64, "Invalid offset + byte size for shared memory region"),
        ((1 << 63) - 1, (1 << 63) - 1, "Invalid offset for shared memory region"),
        (-1, 64, "expected value >= 0, got -1"),
        (0, -(1 << 63), "expected value >= 0, got -9223372036854775808"),
    ],
)
@pytest.mark.parametrize("side", ["input", "output"])
def test_window_outside_of_a_region(
    sharing: Guarded, side: str, offset: int, size: int, text: str
) -> None:
    """J2: A window that is not inside its region is refused, of inputs and outputs."""
    with sharing.unharmed() as stub, region(stub, 192) as (name, _):
        request = in_region(name)
        tensor = request.inputs[0] if side == "input" else request.outputs[0]
        place(tensor, name, size, offset)
        code, told = refusal(stub.infer, request)
        assert code is INVALID
        assert text in told


@pytest.mark.parametrize(
    "key",
    [
        "../x", "/etc/passwd", "/../etc/passwd", "a/b", ".", "", "x" * 256, "nul\0",
        "triton_python_backend_shm_region_0", "/triton_python_backend_shm_region_0", "sem.x",
    ],
)  # fmt: skip
def test_key_of_what_is_no_clients(sharing: Guarded, key: str) -> None:
    """J3: Paths, other programs' objects and endless names are no keys."""
    with sharing.unharmed() as stub:
        code, text = refused(stub, "r", key, 1)
        assert code is INVALID
        assert "root:" not in text
        assert "/dev/shm" not in text  # noqa: S108  where the server looks is not a client's affair


def test_object_of_another_user(sharing: Guarded) -> None:
    """J3: What its owner keeps to himself is not opened, whoever the server is."""
    if os.geteuid() != 0:
        pytest.skip("only root can give objects away")
    with sharing.unharmed() as stub, segment(64) as made:
        os.chown(made.path, 12345, 12345)
        code, text = refused(stub, "r", made.key, 64)
        assert code is INVALID
        assert "belongs to another user, who does not share it" in text


def test_name_of_an_object_that_is_not_there(sharing: Guarded) -> None:
    """J3: A missing object, or a link in its place, is INTERNAL, and nothing is opened."""
    with sharing.unharmed() as stub, segment(64) as made:
        made.unlink()
        for links in (False, True):
            if links:
                made.path.symlink_to("/etc/passwd")
            code, text = refused(stub, "r", made.key, 64)
            assert code is grpc.StatusCode.INTERNAL
            assert text.startswith(f"Unable to open shared memory region: '{made.key}'")


def test_object_that_shrinks_under_use(sharing: Guarded) -> None:
    """J4: An object that is cut short and grows again during use costs requests, not the server."""
    with sharing.unharmed() as stub, region(stub, 192) as (name, made):
        over = threading.Event()
        flips = 0

        def resize() -> None:
            nonlocal flips
            while not over.is_set():
                made.resize(0)
                made.resize(192)
                flips += 1

        thread = threading.Thread(target=resize)
        thread.start()
        try:
            futures = [stub.infer.future(in_region(name), timeout=WAIT_S) for _ in range(300)]
            codes = {future.code() for future in futures}
        finally:
            over.set()
            thread.join()
        assert flips
        assert codes <= {grpc.StatusCode.OK, INVALID}
        made.resize(64)
        code, text = refusal(stub.infer, in_region(name))
        assert code is INVALID
        assert "was cut short since it was registered: it has 64 bytes" in text


def test_object_that_is_unlinked_under_use(sharing: Guarded) -> None:
    """J4: An object whose name is gone is used as long as it is registered."""
    with sharing.unharmed() as stub, region(stub, 192) as (name, made):
        made.unlink()
        for _ in range(3):
            response = stub.infer(in_region(name), timeout=WAIT_S)
            assert list(response.raw_output_contents) == [b""]


def test_names_that_come_and_go_under_use(sharing: Guarded) -> None:
    """J5: Registering and forgetting a name during use leaves no descriptor, and mixes nothing up.

    A request finds the region or does not; what it writes is in the object that it has found.
    """
    ones, twos = (np.full(32, value, np.int32).tobytes() for value in (1, 2))
    with (
        sharing.unharmed() as stub,
        segment(192, ones) as first,
        segment(192, twos) as second,
    ):
        futures = []
        for turn in range(200):
            register(stub, "r", (first if turn % 2 else second).key, 192)
            futures += [stub.infer.future(in_region("r"), timeout=WAIT_S) for _ in range(3)]
            unregister(stub, "r")
        codes = {future.code() for future in futures}
        assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND}
        for made, value in ((first, 2), (second, 4)):
            assert set(np.frombuffer(made.contents[128:], np.int32).tolist()) <= {0, value}
            _is_let_go(sharing, made)


def _is_let_go(sharing: Guarded, made: Segment) -> None:
    pid = sharing.server.process.pid
    eventually(lambda: descriptors_of(pid, made) == 0, "its descriptor is closed")


def test_one_region_for_everything(sharing: Guarded) -> None:
    """J6: An output may lie on the input that it is made from: inputs are copied before."""
    contents = np.full(32, 5, np.int32).tobytes()
    with sharing.unharmed() as stub, region(stub, 128, contents) as (name, made):
        request = in_region(name)
        place(request.outputs[0], name, 64, 32)  # over the end of one and the start of the other
        stub.infer(request, timeout=WAIT_S)
        assert made.contents == contents[:32] + b"\x0a\0\0\0" * 16 + contents[:32]


def test_outputs_that_overlap(sharing: Guarded) -> None:
    """J6: Two outputs of one request may not lie on each other."""
    with sharing.unharmed() as stub, region(stub, 256) as (name, _):
        request = in_region(name)
        place(request.outputs.add(name="OUTPUT1"), name, 64, 191)
        code, text = refusal(stub.infer, request)
        assert code is INVALID
        assert "outputs 'OUTPUT0' and 'OUTPUT1' overlap in shared memory region" in text
        place(request.outputs[1], name, 64, 192)
        stub.infer(request, timeout=WAIT_S)


def test_memory_of_the_server_cannot_be_named(sharing: Guarded) -> None:
    """J7: The server has no shared memory of its own that a client could guess the name of."""
    with sharing.unharmed() as stub:
        pid = sharing.server.process.pid
        for _ in range(3):
            stub.infer(simple_request(), timeout=WAIT_S)
        with open(f"/proc/{pid}/maps") as maps:  # noqa: PTH123  a path of this system's own
            assert not [line for line in maps if "/dev/shm/" in line]  # noqa: S108


def test_too_many_regions(sharing: Guarded) -> None:
    """J8: Regions above the limit are refused, and there is room again when some are forgotten."""
    with sharing.unharmed() as stub, segment(64) as made:
        for number in range(_REGIONS):
            register(stub, f"r{number}", made.key, 64)
        code, text = refused(stub, "more", made.key, 64)
        assert code is EXHAUSTED
        assert text.startswith(f"{_REGIONS} shared memory regions are registered")
        unregister(stub, "r0")
        register(stub, "more", made.key, 64)
        unregister(stub)


def test_giant_region(sharing: Guarded) -> None:
    """J8: A giant region costs nothing, and no request reads more of it than a message may have."""
    size = 1 << 40
    with sharing.unharmed() as stub, region(stub, size) as (name, _):
        request = ModelInferRequest(model_name="identity_fp32")
        tensor = request.inputs.add(name="X", datatype="FP32", shape=(1, size // 4))
        place(tensor, name, size)
        code, text = refusal(stub.infer, request)
        assert code is EXHAUSTED
        assert f"at most {LIMIT_MIB << 20} are read for one request" in text
        within = (LIMIT_MIB << 20) // 4
        tensor.shape[1] = within
        place(tensor, name, within * 4)
        place(request.outputs.add(name="Y"), name, within * 4, within * 4)
        assert list(stub.infer(request, timeout=WAIT_S).outputs[0].shape) == [1, within]


def test_client_that_dies(sharing: Guarded) -> None:
    """J9: What a client that dies has registered stays for others to forget, as in Triton."""
    program = (
        "import sys, os, grpc\n"
        "from tests.support.shared import register\n"
        "from tests.support.stub import Stub\n"
        "register(Stub(grpc.insecure_channel(sys.argv[1])), 'orphan', sys.argv[2], 64)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    with sharing.unharmed() as stub, segment(64) as made:
        command = [sys.executable, "-c", program, sharing.address, made.key]
        ended = subprocess.run(command, cwd=ROOT, timeout=WAIT_S, check=False)
        assert ended.returncode == -9
        found = stub.system_status(SystemSharedMemoryStatusRequest(), timeout=WAIT_S).regions
        assert list(found) == ["orphan"]
        unregister(stub)


def test_contents_that_change_after_they_were_checked(sharing: Guarded) -> None:
    """J10: What runs is what was checked: a change while the request waits reaches no model."""
    array = np.empty((1, 2), dtype=object)
    array[0] = [b"abc", b"def"]
    good = to_raw(BYTES, array)
    with sharing.unharmed() as stub, region(stub, 64, good) as (name, made):
        strings = raw_request("identity_bytes", one(BYTES, array))
        numbers = raw_request("slow", one(INT64, np.array([[1]])))
        for request, size in ((strings, len(good)), (numbers, 8)):
            request.ClearField("raw_input_contents")
            place(request.inputs[0], name, size)
        assert answer(stub.infer(strings, timeout=WAIT_S)).tolist() == array.tolist()
        made.put(b"\xff" * 64)  # lengths of 4 GiB
        code, text = refusal(stub.infer, strings)
        assert code is INVALID
        assert "malformed BYTES element 0: length 4294967295" in text
        _change_while_it_waits(sharing, stub, numbers, made)


def _change_while_it_waits(
    sharing: Guarded, stub: Stub, request: ModelInferRequest, made: Segment
) -> None:
    """Hold the model up, send the request, overwrite its input, let go."""
    made.put(np.array([7]).tobytes())
    holding = stub.infer.future(
        raw_request("slow", one(INT64, np.array([[1_000_000]]))), timeout=WAIT_S
    )
    eventually(lambda: sharing.server.runs("slow"), "the model is busy")
    waiting = stub.infer.future(request, timeout=WAIT_S)
    eventually(lambda: sharing.server.queue_depth("slow") == 1, "the request waits")
    made.put(np.array([1_000_000]).tobytes())
    holding.cancel()
    assert answer(waiting.result()).tolist() == [[7]]


def test_float_that_is_none_is_read_as_it_is(sharing: Guarded) -> None:
    """J10: Bits are not looked at: NaN with a payload comes back bit for bit."""
    bits = np.array([0x7FC01234, 0xFF800001], np.uint32).tobytes()
    with sharing.unharmed() as stub, region(stub, 16, bits) as (name, made):
        request = raw_request("identity_fp32", one(FP32, np.zeros((1, 2), np.float32)))
        request.ClearField("raw_input_contents")
        place(request.inputs[0], name, 8)
        place(request.outputs.add(name="Y"), name, 8, 8)
        stub.infer(request, timeout=WAIT_S)
        assert made.contents[8:] == bits
