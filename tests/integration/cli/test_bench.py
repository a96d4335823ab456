"""`penstock bench` against real servers: what it counts, and what it says where it cannot."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.cli.bench import plot
from service.cli.bench import server as bench_server
from service.transport.native import is_installed
from tests.support import models
from tests.support.certificates import Authority
from tests.support.commands import NOBODY, Run
from tests.support.servers import ROOT, RunningServer, serve
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(not is_installed(), reason="penstock-transport is not installed")

_QUICK = ("--warm-up-s", "0.1", "--window-s", "0.1", "--max-s", "0.3", "--agreement", "1000")


@pytest.fixture(scope="module", params=["native", "threaded"])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """Serve small models with each transport, on TCP and on the Unix socket `socket`."""
    root = tmp_path_factory.mktemp("bench")
    for name, model in (
        ("mlp", models.mlp()), ("gather", models.gather()), ("slow", models.slow()),
        ("two_axes", models.two_axes()), ("simple", models.simple()),
    ):  # fmt: skip
        models.publish(root / "models", name, model)
    flags = ("--transport", request.param, "--unix-socket", str(root / "socket"))
    with serve(root / "models", *flags) as running:
        running.log.with_name("socket").symlink_to(root / "socket")
        yield running


def bench(penstock: Run, *flags: str | Path, code: int = 0) -> Any:
    """Run the command and return its JSON; standard output holds nothing else."""
    ran = penstock("bench", *flags, *_QUICK, "--json", "-")
    assert ran.code == code, ran.err
    return json.loads(ran.out)


def answered_by_server(running: RunningServer, model: str) -> float:
    """Return how many requests the server has answered."""
    return running.sample("penstock_requests_total", model=model, version="1", outcome="OK")


def test_sweep_shows_a_table_and_recommends_a_load(
    penstock: Run, both: RunningServer, tmp_path: Path
) -> None:
    """Each concurrency has its row; the last line says which one to run at."""
    path = tmp_path / "result.json"
    flags = ("--model", "mlp", "--concurrency", "1,8", "--json", path)
    ran = penstock("bench", both.address, *flags, *_QUICK)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == (f"mlp at {both.address}: unary, closed loop, 1 row a request (X [1,784])")
    assert [line.split()[0] for line in lines[3:5]] == ["1", "8"]
    assert lines[-1].startswith("recommended: ")
    document = json.loads(path.read_text())
    assert document["schema"] == 1
    assert document.keys() == {
        "schema", "penstock", "time", "target", "client", "settings", "levels", "knee",
        "recommended", "reason", "interrupted",
    }  # fmt: skip
    assert document["recommended"] in (0, 1)


@pytest.mark.parametrize("stream", [(), ("--stream", "--streams", "3")], ids=["unary", "stream"])
@pytest.mark.parametrize(
    "load", [("--concurrency", "7"), ("--rate", "300")], ids=["closed", "open"]
)
def test_counts_add_up(
    penstock: Run, both: RunningServer, stream: tuple[str, ...], load: tuple[str, ...]
) -> None:
    """Answers are no more than the server has given; times in the server lie within latencies."""
    before = answered_by_server(both, "mlp")
    document = bench(penstock, both.address, "--model", "mlp", *load, *stream, "--connections", "2")
    given = answered_by_server(both, "mlp") - before
    (level,) = document["levels"]
    assert 10 < level["answered"] <= given
    assert (level["failures"], level["reconnects"]) == ([], 0)
    assert level["load"]["connections"] == 2
    assert level["per_second"] == pytest.approx(level["answered"] / level["seconds"])
    latency, server = level["latency"], level["server"]
    assert 0 < latency["p50_s"] <= latency["p99_s"] <= latency["max_s"]
    assert server["source"] == ("statistics" if stream else "trailers")
    assert server["queue_mean_s"] + server["compute_mean_s"] < latency["mean_s"] * 1.1


def test_unix_socket(penstock: Run, both: RunningServer) -> None:
    """A server on a Unix socket is measured like any other."""
    address = f"unix:{both.log.with_name('socket').resolve()}"
    document = bench(penstock, address, "--model", "mlp", "--concurrency", "2")
    assert document["levels"][0]["answered"] > 10
    assert document["target"]["address"] == address


def test_rows_and_several_inputs(penstock: Run, both: RunningServer) -> None:
    """--rows fills the batch axis of every input, and rows are counted beside requests."""
    document = bench(
        penstock, both.address, "--model", "simple", "--rows", "5", "--concurrency", "1"
    )
    assert document["target"]["inputs"] == "INPUT0 [5,16], INPUT1 [5,16]"
    (level,) = document["levels"]
    assert level["rows_per_second"] == pytest.approx(5 * level["per_second"])


def test_inputs_may_be_given(penstock: Run, both: RunningServer) -> None:
    """What is declared by flag is sent, whatever the server declares; headers do no harm."""
    flags = ("--model", "mlp", "--concurrency", "1", "--header", "x-token=secret")
    document = bench(penstock, both.address, *flags, "--input", "X:FP32[2,784]")
    assert document["target"]["inputs"] == "X [2,784]"
    ran = penstock("bench", both.address, *flags, *_QUICK, "--input", "Z:FP32[2,784]")
    assert (ran.code, "the first request was refused" in ran.err) == (1, True)
    ran = penstock("bench", both.address, *flags, *_QUICK, "--header", "grpc-status=0")
    assert (ran.code, 'metadata name "grpc-status" is reserved' in ran.err) == (2, True)


@pytest.mark.parametrize("stream", [(), ("--stream",)], ids=["unary", "stream"])
def test_failures_are_no_throughput(
    penstock: Run, both: RunningServer, tmp_path: Path, stream: tuple[str, ...]
) -> None:
    """Of real rows, every other one of which the model cannot take, half fail with its status."""
    path = tmp_path / "rows.npy"
    np.save(path, np.array([[0], [99]]))
    flags = ("--model", "gather", "--concurrency", "1", *stream)
    (level,) = bench(penstock, both.address, *flags, "--data", path, code=3)["levels"]
    (failure,) = level["failures"]
    assert failure["code"] == ("UNKNOWN" if stream else "INTERNAL")
    assert "inference failed for model 'gather'" in failure["text"]
    assert abs(level["answered"] - failure["count"]) <= 3
    assert level["failed"] == failure["count"]
    assert level["per_second"] == pytest.approx(level["answered"] / level["seconds"])


def test_overload_shows_in_an_open_loop(penstock: Run, both: RunningServer, tmp_path: Path) -> None:
    """More arrive than a slow model bears: latency grows far beyond the time of one run."""
    path = tmp_path / "steps.npy"
    np.save(path, np.array([[100]]))
    flags = ("--model", "slow", "--data", path, "--rate", "20000")
    (level,) = bench(penstock, both.address, *flags)["levels"]
    assert level["latency"]["max_s"] > 3 * level["server"]["compute_mean_s"]
    assert level["lag"]["max_s"] >= level["lag"]["p50_s"]


def test_a_limit_below_all_recommends_nothing(penstock: Run, both: RunningServer) -> None:
    """Where no load keeps the limit, that is what is said."""
    flags = ("--model", "mlp", "--concurrency", "1", "--latency-limit-ms", "0.001")
    document = bench(penstock, both.address, *flags)
    assert (document["recommended"], document["knee"]) == (None, 0)
    assert document["reason"] == "no load has a p99 within 0.001 ms"


def test_plot_is_drawn(penstock: Run, both: RunningServer, tmp_path: Path) -> None:
    """The picture is a PNG; a name of no known kind is refused."""
    path = tmp_path / "bench.png"
    flags = ("--model", "mlp", "--concurrency", "1,4")
    bench(penstock, both.address, *flags, "--plot", path)
    assert path.read_bytes().startswith(b"\x89PNG")
    ran = penstock("bench", both.address, *flags, *_QUICK, "--plot", tmp_path / "bench.xyz")
    assert ran.code == 2
    assert "bench.xyz: cannot be written" in ran.err


@pytest.mark.parametrize(
    ("flags", "code", "part"),
    [
        ((), 2, "--model is missing; the server has ['gather',"),
        (("--model", "nope"), 1, "ready are ['gather 1',"),
        (("--model", "mlp", "--version", "9"), 1, "ready are ['mlp 1'"),
        (("--model", "two_axes"), 2, "give --shape X=1,N"),
        (("--model", "mlp", "--shape", "Y=1"), 2, "--shape Y: the model has the inputs ['X']"),
        (("--model", "mlp", "--data", "no.npz"), 2, "no.npz: No such file"),
        (("--model", "mlp", "--tls-key", "k"), 2, "go together; one is missing"),
        (("--model", "mlp", "--tls-name", "n"), 2, "need --tls or --tls-ca"),
        (("--model", "mlp", "--tls-ca", "no.pem"), 2, "--tls-ca no.pem: cannot be read"),
        (("--model", "mlp", "--tls-insecure", "--tls"), 2, "--tls-insecure trusts anybody"),
        (("--model", "mlp", "--tls-insecure"), 1, "no TLS connection"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_what_cannot_be_measured(
    penstock: Run, both: RunningServer, flags: tuple[str, ...], code: int, part: str
) -> None:
    """The text says what is wrong before anything is measured."""
    ran = penstock("bench", both.address, *flags, *_QUICK)
    assert part in ran.err
    assert (ran.code, ran.out) == (code, "")


def test_what_is_always_refused_is_told_at_once(
    penstock: Run, both: RunningServer, tmp_path: Path
) -> None:
    """The first request is asked alone; its refusal ends the command with what can be done."""
    path = tmp_path / "rows.npy"
    np.save(path, np.array([[99]]))
    ran = penstock("bench", both.address, "--model", "gather", "--data", path, *_QUICK)
    assert (ran.code, ran.out) == (1, "")
    assert "INTERNAL: inference failed for model 'gather'" in ran.err
    assert "the first request was refused; --data FILE" in ran.err


def test_the_only_model_needs_no_name(penstock: Run, alone: RunningServer) -> None:
    """A server of one model is measured by its address alone."""
    assert bench(penstock, alone.address, "--concurrency", "1")["target"]["model"] == "mlp"


def test_nobody_there(penstock: Run) -> None:
    """Where nothing listens the text names the address and what to start."""
    ran = penstock("bench", NOBODY, *_QUICK)
    assert ran.code == 1
    assert f"no server answers at {NOBODY}: cannot connect to {NOBODY}: " in ran.err
    assert "Does `penstock serve` run there?" in ran.err
    ran = penstock("bench", "http://localhost:8001", *_QUICK)
    assert ran.code == 2
    assert "is neither HOST:PORT nor unix:/PATH" in ran.err


def test_tls(penstock: Run, tmp_path: Path) -> None:
    """A server that wants certificates is measured with them, and with no others."""
    authority, stranger = Authority(tmp_path, "ca"), Authority(tmp_path, "stranger")
    pair, own = authority.sign("server"), authority.sign("client")
    models.publish(tmp_path / "models", "mlp", models.mlp())
    flags = ("--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key))
    trust = ("--tls-ca", authority.certificate)
    me = ("--tls-certificate", own.certificate, "--tls-key", own.key)
    quick = ("--concurrency", "2")
    with serve(tmp_path / "models", *flags, "--tls-client-ca", str(authority.certificate)) as both:
        assert bench(penstock, both.address, *quick, *trust, *me)["levels"][0]["answered"] > 10
        assert bench(penstock, both.address, *quick, "--tls-insecure", *me)["levels"]
        for wrong, part in (
            (("--tls-ca", stranger.certificate, *me), "invalid peer certificate: UnknownIssuer"),
            ((*trust, *me, "--tls-name", "other.example"), "invalid peer certificate"),
            (trust, "no server answers at"),
            ((), "does not speak gRPC without TLS"),
        ):
            ran = penstock("bench", both.address, *quick, *_QUICK, *wrong)
            assert ran.code == 1
            assert part in ran.err


@contextmanager
def bench_process(running: RunningServer, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command beside the test; its windows never agree. It has sent requests already."""
    command = [sys.executable, "-m", "service", "bench", running.address, *flags]
    endless = ("--warm-up-s", "0", "--agreement", "0.000001")
    before = answered_by_server(running, "mlp")
    with subprocess.Popen(
        [*command, *endless], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        eventually(
            lambda: process.poll() is not None or answered_by_server(running, "mlp") > before + 300,
            "requests are answered",
        )
        yield process


def test_interrupt_shows_what_there_is(alone: RunningServer) -> None:
    """Control-C during a load shows what was measured of it, with exit code 130."""
    flags = ("--concurrency", "1,2", "--window-s", "0.2", "--max-s", "60")
    with bench_process(alone, *flags) as process:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")
    assert "interrupted; what there was" in out
    assert out.splitlines()[-1].startswith("recommended: 1 in flight")


def test_a_server_that_goes_away(tmp_path: Path) -> None:
    """What is in flight when a server dies has failed, and what can be told is told."""
    models.publish(tmp_path, "mlp", models.mlp())
    flags = ("--concurrency", "4,5", "--window-s", "0.1", "--max-s", "2")
    killed = -signal.SIGKILL
    with serve(tmp_path, exit_code=killed) as running, bench_process(running, *flags) as process:
        running.process.kill()
        out, err = process.communicate(timeout=30)
    assert "at 4: " in out
    assert " failed with UNAVAILABLE: " in out
    assert process.returncode == 1
    assert "the other loads were not measured: cannot connect to" in err


def test_without_the_native_client(penstock: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without penstock-transport the text says how to get it, with exit code 2."""
    monkeypatch.setattr(bench_server, "find_spec", lambda _name: None)
    ran = penstock("bench", NOBODY)
    assert ran.code == 2
    assert "penstock-transport, which is not installed" in ran.err
    assert "make native" in ran.err


def test_plot_without_matplotlib(penstock: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without matplotlib --plot is refused before anything is measured."""
    monkeypatch.setattr(plot, "find_spec", lambda _name: None)
    ran = penstock("bench", NOBODY, "--plot", "out.png")
    assert ran.code == 2
    assert "penstock[bench]" in ran.err
