"""The examples of shared memory: tensors and text in POSIX regions, and what is refused."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.utils.shared_memory as shm
from example import FIRST, SECOND, connect, outputs, pair, refusal, text
from tritonclient.utils import serialize_byte_tensor, serialized_byte_size

__all__ = ["connect"]
SIZE = FIRST.nbytes
TEXT_SIZE = 1024


@contextmanager
def region(client: Any, name: str, size: int) -> Iterator[Any]:
    """Create and register a region; both end with the block."""
    key = f"/{name}-{os.getpid()}"
    handle = shm.create_shared_memory_region(name, key, size)
    client.register_system_shared_memory(name, key, size)
    try:
        yield handle
    finally:
        client.unregister_system_shared_memory(name)
        shm.destroy_shared_memory_region(handle)


def in_region(name: str, datatype: str, region_name: str, size: int, offset: int = 0) -> Any:
    """Return an input of shape [1,16] that lies in a region."""
    value = grpcclient.InferInput(name, [1, 16], datatype)
    value.set_shared_memory(region_name, size, offset=offset)
    return value


def to_region(name: str, region_name: str, size: int, offset: int = 0) -> Any:
    """Return a requested output that is to be written into a region."""
    value = grpcclient.InferRequestedOutput(name)
    value.set_shared_memory(region_name, size, offset=offset)
    return value


def test_tensors(client: Any) -> None:
    """Inputs are read from a region, and outputs written into another, unary and on a stream."""
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    with region(client, "input", 2 * SIZE) as source, region(client, "output", 2 * SIZE) as sink:
        shm.set_shared_memory_region(source, [FIRST, SECOND])
        inputs = [
            in_region("INPUT0", "INT32", "input", SIZE),
            in_region("INPUT1", "INT32", "input", SIZE, SIZE),
        ]
        wanted = [
            to_region("OUTPUT0", "output", SIZE),
            to_region("OUTPUT1", "output", SIZE, SIZE),
        ]
        result = client.infer("simple", inputs, outputs=wanted)
        assert list(result.get_response().raw_output_contents) == [b"", b""]
        sums = shm.get_contents_as_numpy(sink, np.int32, [1, 16])
        differences = shm.get_contents_as_numpy(sink, np.int32, [1, 16], SIZE)
        np.testing.assert_array_equal(sums, FIRST + SECOND)
        np.testing.assert_array_equal(differences, FIRST - SECOND)
        status = client.get_system_shared_memory_status()
        assert sorted(status.regions) == ["input", "output"]
        assert status.regions["input"].byte_size == 2 * SIZE
    assert not client.get_system_shared_memory_status().regions


def test_stream(client: Any) -> None:
    """A stream reads and writes regions as well."""
    answers: list[Any] = []
    with region(client, "streamed", SIZE) as handle, region(client, "written", SIZE) as sink:
        shm.set_shared_memory_region(handle, [FIRST])
        inputs = [in_region(name, "INT32", "streamed", SIZE) for name in ("INPUT0", "INPUT1")]
        client.start_stream(lambda result, error: answers.append(error or result))
        wanted = [to_region("OUTPUT0", "written", SIZE)]
        client.async_stream_infer("simple", inputs, outputs=wanted)
        client.stop_stream()
        (answer,) = answers
        assert answer.get_response().outputs[0].name == "OUTPUT0"
        sums = shm.get_contents_as_numpy(sink, np.int32, [1, 16])
        np.testing.assert_array_equal(sums, 2 * FIRST)


def test_text(client: Any) -> None:
    """Text lies in a region with the length before each element, as on the wire."""
    elements = text(FIRST.ravel(), [1, 16])
    with region(client, "text", TEXT_SIZE) as handle, region(client, "sums", TEXT_SIZE) as sink:
        shm.set_shared_memory_region(handle, [serialize_byte_tensor(elements)])
        size = serialized_byte_size(serialize_byte_tensor(elements))
        inputs = [in_region(name, "BYTES", "text", size) for name in ("INPUT0", "INPUT1")]
        wanted = [to_region("OUTPUT0", "sums", TEXT_SIZE)]
        result = client.infer("simple_string", inputs, outputs=wanted)
        assert result.get_response().outputs[0].datatype == "BYTES"
        sums = shm.get_contents_as_numpy(sink, np.object_, [1, 16])
        np.testing.assert_array_equal(sums.astype(np.int64), 2 * FIRST)


def test_mixed(client: Any) -> None:
    """Raw contents belong to the inputs that are in no region, whichever comes first."""
    with region(client, "mixed", SIZE) as handle:
        shm.set_shared_memory_region(handle, [FIRST])
        inputs = [in_region("INPUT0", "INT32", "mixed", SIZE), pair()[1]]
        result = client.infer("simple", inputs, outputs=outputs("OUTPUT1"))
        np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), FIRST - SECOND)


def test_refusals(client: Any) -> None:
    """Regions that are not there, or too small, are refused in Triton's words."""
    with region(client, "small", SIZE):
        status, message = refusal(
            lambda: client.register_system_shared_memory("small", "/anything", SIZE)
        )
        assert status == "ALREADY_EXISTS"
        assert "shared memory region 'small' already in manager" in message
        for name, size, offset, code, expected in (
            ("absent", SIZE, 0, "NOT_FOUND", "Unable to find shared memory region: 'absent'"),
            ("small", SIZE, SIZE, "INVALID_ARGUMENT", "Invalid offset for shared memory region"),
            ("small", SIZE, 4, "INVALID_ARGUMENT", "Invalid offset + byte size for shared memory"),
        ):
            inputs = [in_region("INPUT0", "INT32", name, size, offset), pair()[1]]
            status, message = refusal(lambda sent=inputs: client.infer("simple", sent))
            assert (status, expected in message) == (code, True), (status, message)
        wanted = [to_region("OUTPUT0", "small", 4)]
        status, message = refusal(lambda: client.infer("simple", pair(), outputs=wanted))
        assert status == "INTERNAL"
        assert "should be at least 64 bytes to hold the results" in message
    status, message = refusal(lambda: client.get_system_shared_memory_status("small"))
    assert status == "NOT_FOUND"
    assert message == "Unable to find system shared memory region: 'small'"
    status, message = refusal(lambda: client.register_system_shared_memory("no", "/no-such", 8))
    assert status == "INTERNAL"
    assert "Unable to open shared memory region: '/no-such'" in message


def test_cuda(client: Any) -> None:
    """Without a GPU, CUDA regions have a status, are unregistered, and refused at registration."""
    assert not client.get_cuda_shared_memory_status().regions
    client.unregister_cuda_shared_memory("absent")
    handle = b"AAAA" * 22
    status, message = refusal(lambda: client.register_cuda_shared_memory("gpu", handle, 0, 64))
    assert status == "INVALID_ARGUMENT", message
    assert "failed to register CUDA shared memory region: 'gpu'" in message
