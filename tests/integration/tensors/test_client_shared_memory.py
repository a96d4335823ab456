"""Inputs of the Python clients in shared memory."""

import asyncio
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from service.client import AsyncClient, Client, NotFound, Unsupported
from tests.support import models
from tests.support.servers import RunningServer, serve

_OBJECTS = Path("/dev/shm")  # noqa: S108  where the objects are


def ours() -> list[str]:
    """Return the names of the objects that the clients of this process have made."""
    return [path.name for path in _OBJECTS.glob(f"penstock-client-{os.getpid()}-*")]


def test_arrays_are_read_where_they_lie(server: RunningServer) -> None:
    """What is in the segment at each request is its input; other inputs may come beside it."""
    with Client(server.address) as client:
        with client.shared_memory(4096) as memory:
            first = memory.array((1, 16), np.int32)
            second = memory.array((1, 16), np.int32)
            assert second.offset % 64 == 0
            assert second.offset >= first.array.nbytes
            for number in range(3):
                first.array[:] = number
                second.array[:] = 10
                outputs = client.infer("simple", {"INPUT0": first, "INPUT1": second})
                assert (outputs["OUTPUT0"] == number + 10).all()
            ones = np.ones((1, 16), np.int32)
            outputs = client.infer("simple", {"INPUT0": ones, "INPUT1": second})
            assert (outputs["OUTPUT0"] == 11).all()
        with pytest.raises(NotFound, match="Unable to find shared memory region"):
            client.infer("simple", {"INPUT0": first, "INPUT1": second})
    assert not ours()


@pytest.mark.parametrize(
    ("model", "dtype", "sent"),
    [
        ("identity_bool", bool, bool),
        ("identity_fp16", np.float16, np.float16),
        ("identity_bf16", np.uint16, np.uint16),
        ("identity_bf16", ml_dtypes.bfloat16, np.uint16),
        ("identity_fp64", np.float64, np.float64),
    ],
)
def test_types_are_those_of_the_model(
    server: RunningServer, model: str, dtype: Any, sent: Any
) -> None:
    """Arrays of each kind of type come back as they were put."""
    with Client(server.address) as client, client.shared_memory(64) as memory:
        shared = memory.array((2, 3), dtype)
        shared.array[:] = 1
        for answer in client.stream(model, [{"X": shared}] * 2):
            np.testing.assert_array_equal(answer.result()["Y"], shared.array.view(sent))


def test_the_asyncio_client_shares_memory_too(server: RunningServer) -> None:
    """The same arrays go into the methods of AsyncClient."""

    async def main() -> None:
        async with AsyncClient(server.address) as client, client.shared_memory(64) as memory:
            shared = memory.array((1, 2), np.float32)
            shared.array[:] = 5
            assert ((await client.infer("identity_fp32", {"X": shared}))["Y"] == 5).all()

    asyncio.run(main())
    assert not ours()


def test_what_does_not_fit_is_refused(server: RunningServer) -> None:
    """An array beyond the end, texts, and memory of no size are refused by what is wrong."""
    with Client(server.address) as client, client.shared_memory(100) as memory:
        memory.array((10,), np.int8)
        with pytest.raises(MemoryError, match=r"float32\[10\] needs 40 bytes, but 64 of the 100"):
            memory.array((10,), np.float32)
        for dtype in (object, "S4", ">f4", complex):
            with pytest.raises(TypeError, match="cannot be sent as it lies in shared memory"):
                memory.array((1,), dtype)
        assert memory.array((9,), np.float32).array.nbytes == 36
        with pytest.raises(ValueError, match="is 0 bytes"), client.shared_memory(0):
            pass


def test_a_server_that_has_gone_leaves_nothing_behind(tmp_path: Path) -> None:
    """The block ends without an error of its own when the server has ended inside of it."""
    models.publish(tmp_path, "mlp", models.mlp())
    with (
        serve(tmp_path, "--allow-client-shm") as running,
        Client(running.address) as client,
        client.shared_memory(64),
    ):
        running.terminate()
        running.wait()
    assert not ours()


def test_a_server_that_does_not_allow_it_leaves_nothing_behind(tmp_path: Path) -> None:
    """A refused registration is an error of the server, and the object is gone."""
    models.publish(tmp_path, "mlp", models.mlp())
    with (
        serve(tmp_path) as running,
        Client(running.address) as client,
        pytest.raises(Unsupported, match="--allow-client-shm"),
        client.shared_memory(64),
    ):
        pass
    assert not ours()
