"""Where a server listens and what it allows, from the flags down."""

import signal
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.pb.grpc_service_pb2 import ServerLiveRequest
from service.tensors import FP32
from tests.integration.conftest import Serve
from tests.support import models
from tests.support.certificates import Authority
from tests.support.http2 import RawClient, framed
from tests.support.requests import one, raw_request
from tests.support.servers import run_serve
from tests.support.stub import SERVICE, WAIT_S, Stub
from tests.support.waiting import eventually

INFER = f"{SERVICE}/ModelInfer".encode()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Write a repository with one small model."""
    root = tmp_path / "models"
    models.publish(root, "mlp", models.mlp())
    return root


def test_every_address_is_served(serve: Serve, repository: Path, tmp_path: Path) -> None:
    """The host and port, the Unix socket and what --listen names are served side by side."""
    first, second = f"unix:{tmp_path}/a", f"unix:{tmp_path}/b"
    flags = ("--unix-socket", f"{tmp_path}/a", "--listen", f"127.0.0.1:0,{second}")
    with serve(repository, *flags) as server:
        assert len(set(server.addresses)) == 4
        assert server.addresses[1::2] == [first, second]
        for address in server.addresses:
            with grpc.insecure_channel(address) as channel:
                assert Stub(channel).live(ServerLiveRequest(), timeout=WAIT_S).live


def test_address_in_use_ends_the_start(serve: Serve, repository: Path) -> None:
    """An address of --listen that is taken is named, and the exit code is not 0."""
    with serve(repository) as server:
        ended = run_serve(str(repository), "--port", "0", "--listen", server.address)
    assert ended.returncode != 0
    assert f"cannot listen on {server.address}: Address already in use" in ended.stderr


def test_limits_of_the_flags_hold(serve: Serve, repository: Path) -> None:
    """A limit that a flag sets is the transport's: headers above it do not become a call."""
    with serve(repository, "--max-header-kib", "1") as server, server.stub() as stub:
        assert stub.live(ServerLiveRequest(), timeout=WAIT_S).live
        with pytest.raises(grpc.RpcError) as caught:
            stub.live(ServerLiveRequest(), timeout=WAIT_S, metadata=(("key", "v" * 2000),))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.live(ServerLiveRequest(), timeout=WAIT_S).live
        assert server.sample("penstock_transport_calls_total") >= 2
        if "transport: native" in server.log.read_text():
            assert server.sample("penstock_transport_refused_total", reason="headers") == 1


def test_replies_of_models_are_compressed(serve: Serve, tmp_path: Path) -> None:
    """With --compression gzip large answers are compressed, each time, for those who take it."""
    models.publish(tmp_path, "identity_fp32", models.identity(FP32))
    request = raw_request("identity_fp32", one(FP32, np.zeros((1, 50_000), np.float32)))
    message = request.SerializeToString()
    with serve(tmp_path, "--compression", "gzip") as server, RawClient(server.address) as client:
        for accepted, flag in (("gzip", 1), ("gzip", 1), ("gzip", 1), ("identity", 0)):
            call = client.open(INFER, grpc_accept_encoding=accepted.encode())
            client.send_large(call, framed(message))
            answer = client.answer(call)
            assert (answer.grpc_status, answer.body[0]) == (0, flag)
            assert (len(answer.body) < 10_000) is bool(flag)
        with grpc.insecure_channel(server.address) as channel:
            replies = list(Stub(channel).stream(iter([request] * 5), timeout=WAIT_S))
        sizes = [len(reply.infer_response.raw_output_contents[0]) for reply in replies]
        assert sizes == [200_000] * 5


def test_sighup_reads_the_tls_files_again(serve: Serve, repository: Path, tmp_path: Path) -> None:
    """SIGHUP puts new TLS files to use; broken ones are logged and change nothing."""
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    pair, fresh = old.sign("server"), new.sign("fresh")
    flags = ("--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key))
    with serve(repository, *flags) as server:
        assert is_live(server.address, old)
        pair.key.write_text("broken")
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "SIGHUP: TLS: " in server.log.read_text(), "the refusal is logged")
        assert is_live(server.address, old)
        pair.key.write_bytes(fresh.key.read_bytes())
        pair.certificate.write_bytes(fresh.certificate.read_bytes())
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "are read again" in server.log.read_text(), "the reload is logged")
        assert is_live(server.address, new)
        assert not is_live(server.address, old)


def test_sighup_without_tls_does_no_harm(serve: Serve, repository: Path) -> None:
    """SIGHUP does not end a server without TLS, nor does it keep SIGTERM from doing so."""
    with serve(repository) as server, server.stub() as stub:
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "no TLS files" in server.log.read_text(), "the signal is logged")
        assert stub.live(ServerLiveRequest(), timeout=WAIT_S).live


def is_live(address: str, authority: Authority) -> bool:
    """Tell whether a client that trusts an authority, and connects now, is answered."""
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
    own = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(address, credentials, own) as channel:
        try:
            return bool(Stub(channel).live(ServerLiveRequest(), timeout=WAIT_S).live)
        except grpc.RpcError:
            return False
