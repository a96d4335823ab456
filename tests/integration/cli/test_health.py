"""`penstock health`, and what all commands have in common."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import models
from tests.support.certificates import Authority
from tests.support.commands import NOBODY, Ran, Run
from tests.support.servers import ROOT, RunningServer, serve


def test_health_of_server_and_model(penstock: Run, server: RunningServer) -> None:
    """A serving server and a serving model are SERVING with exit code 0."""
    assert penstock("health", server.address) == Ran(0, "SERVING\n", "")
    assert penstock("health", server.address, "--service", "mlp").code == 0


def test_health_of_what_does_not_serve(penstock: Run, server: RunningServer) -> None:
    """An unknown model and an address where nothing listens are exit code 1, with the reason."""
    ran = penstock("health", server.address, "--service", "nope")
    assert (ran.code, "NOT_FOUND" in ran.err) == (1, True)
    ran = penstock("health", NOBODY)
    assert (ran.code, "UNAVAILABLE" in ran.err) == (1, True)


def test_health_of_a_server_with_a_failed_model(penstock: Run, broken: Path) -> None:
    """A server that lacks one of its models is NOT_SERVING as a whole, its good model SERVING."""
    with serve(broken) as running:
        assert penstock("health", running.address) == Ran(1, "NOT_SERVING\n", "")
        assert penstock("health", running.address, "--service", "good").code == 0


def test_health_finds_the_server_by_the_environment(
    penstock: Run, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an address the port is that of the environment's settings, on loopback."""
    monkeypatch.setenv("PENSTOCK_PORT", server.address.rpartition(":")[2])
    monkeypatch.setenv("PENSTOCK_HOST", "0.0.0.0")  # noqa: S104 -- nothing is bound
    assert penstock("health").code == 0


def test_health_over_tls(penstock: Run, tmp_path: Path) -> None:
    """With the CA health is SERVING; without TLS, or under another name, it is not."""
    authority = Authority(tmp_path, "ca")
    pair = authority.sign("server")
    models.publish(tmp_path / "models", "mlp", models.mlp())
    flags = ("--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key))
    trust = ("--tls-ca", authority.certificate)
    with serve(tmp_path / "models", *flags) as running:
        assert penstock("health", running.address, *trust).code == 0
        assert penstock("health", running.address, *trust, "--tls-name", "other.example").code == 1
        assert penstock("health", running.address).code == 1


def test_health_imports_little() -> None:
    """The health check starts without numpy and ONNX Runtime, which would make it slow."""
    program = (
        "import sys, service.cli; code = service.cli.main(['health', '127.0.0.1:1']); "
        "sys.exit(code if not {'numpy', 'onnxruntime'} & sys.modules.keys() else 9)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False
    )
    assert run.returncode == 1, run.stderr


def test_an_interrupted_command_says_nothing(
    penstock: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control-C ends a command with the exit code of SIGINT and no traceback."""

    def interrupted(_path: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "read_bytes", interrupted)
    ran = penstock("health", NOBODY, "--tls-ca", "ca.pem")
    assert ran == Ran(130, "", "")


def test_no_verb_prints_the_verbs(penstock: Run) -> None:
    """The bare command lists every verb; an unknown one is wrong usage."""
    ran = penstock()
    assert all(
        verb in ran.out for verb in ("serve", "predict", "inspect", "check", "bench", "health")
    )
    assert penstock("sevre").code == 2


@pytest.mark.parametrize("verb", ["serve", "predict", "inspect", "check", "bench", "health"])
def test_each_verb_has_help(penstock: Run, verb: str) -> None:
    """`penstock VERB --help` shows the usage of that verb."""
    ran = penstock(verb, "--help")
    assert (ran.code, ran.out.startswith(f"usage: penstock {verb} ")) == (0, True)
