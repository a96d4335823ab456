"""How the Python clients make calls: retries, deadlines, metadata, compression, addresses, TLS."""

import asyncio
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.client import (
    AccessDenied,
    AsyncClient,
    Client,
    DeadlineExceeded,
    InvalidArgument,
    MalformedAnswer,
    NotFound,
    RequestRefused,
    Retry,
    ServerUnreachable,
    Tls,
    Unavailable,
)
from service.pb import grpc_service_pb2 as pb
from tests.support import models
from tests.support.certificates import Authority
from tests.support.servers import RunningServer, serve
from tests.support.servicer import Refusal, serving
from tests.support.waiting import WAIT_S

_ROW = np.ones((1, 784), np.float32)
_QUICK = Retry(3, first_backoff_s=0.01)


def failing(
    times: int, code: grpc.StatusCode
) -> tuple[Callable[..., pb.ModelInferResponse], list[int]]:
    """Return what answers a request after so many refusals, and a list with an entry a call."""
    calls: list[int] = []

    def answer(_request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        calls.append(len(calls))
        if len(calls) <= times:
            raise Refusal(code, "not now")
        return pb.ModelInferResponse()

    return answer, calls


def test_unavailable_is_tried_again_as_often_as_asked() -> None:
    """A call that fails twice with UNAVAILABLE succeeds at the third of three attempts."""
    answer, calls = failing(2, grpc.StatusCode.UNAVAILABLE)
    with serving(infer=answer) as address, Client(address, retry=_QUICK) as client:
        client.infer("m", {})
    assert len(calls) == 3
    answer, calls = failing(3, grpc.StatusCode.UNAVAILABLE)
    with (
        serving(infer=answer) as address,
        Client(address, retry=_QUICK) as client,
        pytest.raises(Unavailable, match="not now"),
    ):
        client.infer("m", {})
    assert len(calls) == 3


def test_asyncio_calls_are_tried_again() -> None:
    """The asyncio client has the same service config."""
    answer, calls = failing(2, grpc.StatusCode.UNAVAILABLE)

    async def main(address: str) -> None:
        async with AsyncClient(address, retry=_QUICK) as client:
            await client.infer("m", {})

    with serving(infer=answer) as address:
        asyncio.run(main(address))
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("retry", "code"),
    [
        (None, grpc.StatusCode.UNAVAILABLE),
        (_QUICK, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (_QUICK, grpc.StatusCode.INTERNAL),
    ],
    ids=["off", "overload", "failure"],
)
def test_nothing_else_is_tried_again(retry: Retry | None, code: grpc.StatusCode) -> None:
    """With retries off, and for every other status, a call is made once."""
    answer, calls = failing(1, code)
    with (
        serving(infer=answer) as address,
        Client(address, retry=retry) as client,
        pytest.raises(RequestRefused, match="not now"),
    ):
        client.infer("m", {})
    assert len(calls) == 1


def test_a_load_is_never_sent_twice() -> None:
    """Calls that change the server are not retried."""
    calls = itertools.count(1)
    last = 0

    def refuse(_data: bytes) -> pb.RepositoryModelLoadResponse:
        nonlocal last
        last = next(calls)
        raise Refusal(grpc.StatusCode.UNAVAILABLE, "not now")

    with (
        serving(RepositoryModelLoad=refuse) as address,
        Client(address, retry=_QUICK) as client,
        pytest.raises(Unavailable),
    ):
        client.load("m")
    assert last == 1


def test_load_and_unload_carry_what_was_asked() -> None:
    """Configuration, files and the wish for dependents are in the parameters of the protocol."""
    seen: list[pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest] = []

    def load(data: bytes) -> pb.RepositoryModelLoadResponse:
        seen.append(pb.RepositoryModelLoadRequest.FromString(data))
        return pb.RepositoryModelLoadResponse()

    def unload(data: bytes) -> pb.RepositoryModelUnloadResponse:
        seen.append(pb.RepositoryModelUnloadRequest.FromString(data))
        return pb.RepositoryModelUnloadResponse()

    with (
        serving(RepositoryModelLoad=load, RepositoryModelUnload=unload) as address,
        Client(address) as client,
    ):
        client.load("m", config="{}", files={"1/model.onnx": b"onnx"})
        client.unload("m", dependents=True)
    assert [each.model_name for each in seen] == ["m", "m"]
    assert seen[0].parameters["config"].string_param == "{}"
    assert seen[0].parameters["file:1/model.onnx"].bytes_param == b"onnx"
    assert seen[1].parameters["unload_dependents"].bool_param


def test_the_default_deadline_holds_and_a_call_may_have_its_own() -> None:
    """A call that nobody answers ends at its own deadline, or else at that of the client."""
    is_over = threading.Event()

    def wait(_request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        is_over.wait(WAIT_S)
        return pb.ModelInferResponse()

    with serving(infer=wait) as address, Client(address, deadline=0.1) as client:
        with pytest.raises(DeadlineExceeded) as caught:
            client.infer("m", {}, request_id="7")
        is_over.set()
        client.infer("m", {}, deadline=WAIT_S)
    assert (caught.value.model, caught.value.request_id) == ("m", "7")


def test_wait_for_ready_waits_for_a_server(tmp_path: Path) -> None:
    """A call that may wait is answered by a server that comes later; others fail at once."""
    address = f"unix:{tmp_path}/socket"
    with (
        Client(address, retry=None, deadline=WAIT_S) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        with pytest.raises(ServerUnreachable):
            client.is_ready()
        ready = pool.submit(client.is_ready, wait_for_ready=True)
        is_ready = pb.ServerReadyResponse(ready=True)
        with serving(address=address, ServerReady=lambda _data: is_ready):
            assert ready.result(WAIT_S)


def test_metadata_of_client_and_call_arrive() -> None:
    """Every call carries the client's metadata and its own, streams too; bytes stay bytes."""
    seen: list[dict[str, str | bytes]] = []
    with (
        serving(
            infer=lambda _request: pb.ModelInferResponse(),
            stream=lambda _requests: iter(()),
            seen=seen,
        ) as address,
        Client(address, metadata={"authorization": "Bearer token"}) as client,
    ):
        client.infer("m", {}, metadata=[("x-trace-bin", b"\0\xff")])
        assert list(client.stream("m", [], metadata={"triton-grpc-protocol-a": "b"})) == []
    assert [each["authorization"] for each in seen] == ["Bearer token"] * 2
    assert seen[0]["x-trace-bin"] == b"\0\xff"
    assert seen[1]["triton-grpc-protocol-a"] == "b"
    assert str(seen[0]["user-agent"]).startswith("penstock-client/")


def test_a_call_without_its_token_is_denied() -> None:
    """UNAUTHENTICATED and PERMISSION_DENIED are one class."""

    def deny(_request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        raise Refusal(grpc.StatusCode.UNAUTHENTICATED, "no token")

    with (
        serving(infer=deny) as address,
        Client(address) as client,
        pytest.raises(AccessDenied, match="no token"),
    ):
        client.infer("m", {})


def test_bytes_that_are_no_answer_are_malformed() -> None:
    """An answer that is no message of the protocol names the call."""

    class Noise:
        @staticmethod
        def SerializeToString() -> bytes:  # noqa: N802  as protobuf has it
            """Return bytes that are no message."""
            return b"\x0a\xff"

    with (
        serving(ServerMetadata=lambda _data: Noise, ModelInfer=lambda _data: Noise) as address,
        Client(address) as client,
    ):
        with pytest.raises(MalformedAnswer, match="ServerMetadata is no such message"):
            client.metadata()
        with pytest.raises(MalformedAnswer, match="no ModelInferResponse") as caught:
            client.infer("m", {}, request_id="7")
    assert (caught.value.model, caught.value.request_id) == ("m", "7")


@pytest.mark.parametrize("compression", ["gzip", "deflate", "none"])
def test_compressed_requests_are_read(server: RunningServer, compression: str) -> None:
    """A server reads requests in each compression."""
    ones = np.ones((1, 5000), np.float32)
    with Client(server.address, compression=compression) as client:  # type: ignore[arg-type]
        np.testing.assert_array_equal(client.infer("identity_fp32", {"X": ones})["Y"], ones)


def test_threads_share_a_client(server: RunningServer) -> None:
    """Sixteen threads on one client each get their own answers, unary and on streams."""
    with Client(server.address) as client, ThreadPoolExecutor(16) as pool:

        def work(number: int) -> bool:
            array = np.full((1, 4), number, np.float32)
            answers = [client.infer("identity_fp32", {"X": array})["Y"] for _ in range(10)]
            answers += [
                each.result()["Y"] for each in client.stream("identity_fp32", [{"X": array}] * 10)
            ]
            return all((answer == array).all() for answer in answers)

        assert all(pool.map(work, range(16)))


def test_a_request_id_is_in_the_text_of_the_server(server: RunningServer) -> None:
    """The id that a caller chose comes back in the refusal, on calls and streams."""
    with Client(server.address) as client:
        with pytest.raises(InvalidArgument, match=r"\[request id: mine\]"):
            client.infer("mlp", {"X": _ROW[:, :3]}, request_id="mine")
        with client.open_stream("mlp") as stream:
            stream.send({"X": _ROW[:, :3]}, request_id="mine")
            error = stream.recv().error
        assert error is not None
        assert error.request_id == "mine"
        assert "[request id: mine]" in error.text


def test_stream_errors_are_those_of_calls(server: RunningServer) -> None:
    """A refusal has one class, whichever way the request went."""
    bad = {"X": _ROW.astype(np.int32)}
    with Client(server.address) as client, client.open_stream("mlp") as stream:
        for inputs, version, kind in (
            (bad, "", InvalidArgument),
            ({"Z": _ROW}, "", InvalidArgument),
            ({}, "", InvalidArgument),
            ({"X": _ROW}, "9", NotFound),
            ({"X": _ROW}, "x", InvalidArgument),
        ):
            with pytest.raises(kind):
                client.infer("mlp", inputs, version=version)
            stream.send(inputs, version=version)
            assert type(stream.recv().error) is kind


def test_mutual_tls_by_files(tmp_path: Path) -> None:
    """With its own certificate a client gets in where the server asks for one, and not without."""
    authority = Authority(tmp_path, "ca")
    ours, theirs = authority.sign("server"), authority.sign("client")
    models.publish(tmp_path / "models", "mlp", models.mlp())
    flags = (
        "--tls-certificate", str(ours.certificate), "--tls-key", str(ours.key),
        "--tls-client-ca", str(authority.certificate),
    )  # fmt: skip
    tls = Tls(ca=authority.certificate, certificate=theirs.certificate, key=theirs.key)
    with serve(tmp_path / "models", *flags) as running:
        with Client(running.address, tls=tls) as client:
            assert client.infer("mlp", {"X": _ROW})["Y"].shape == (1, 10)
        with (
            Client(running.address, tls=Tls(ca=authority.certificate)) as stranger,
            pytest.raises(ServerUnreachable),
        ):
            stranger.metadata()


def test_a_unix_socket_is_an_address(tmp_path: Path) -> None:
    """unix:/PATH reaches a server that listens there."""
    models.publish(tmp_path / "models", "mlp", models.mlp())
    with (
        serve(tmp_path / "models", "--listen", f"unix:{tmp_path}/s") as _running,
        Client(f"unix:{tmp_path}/s") as client,
    ):
        assert client.infer("mlp", {"X": _ROW})["Y"].shape == (1, 10)
