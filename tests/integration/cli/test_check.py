"""`penstock check` of repositories and settings, good and bad."""

from pathlib import Path

import pytest

from tests.support import models
from tests.support.certificates import Authority
from tests.support.commands import Run


def test_check_a_good_repository(penstock: Run, repository: Path) -> None:
    """Where all can be served each version has its line and the exit code is 0."""
    ran = penstock("check", repository)
    states = {line.split()[0]: line.split()[2] for line in ran.out.splitlines()[1:-1]}
    assert (ran.code, set(states.values())) == (0, {"OK"})
    assert states.keys() == {path.name for path in repository.iterdir()}


def test_check_a_broken_repository(penstock: Run, broken: Path) -> None:
    """What cannot be served has its reason, the others are loaded, and the exit code is 1."""
    ran = penstock("check", broken)
    by_model = {line.split()[0]: line for line in ran.out.splitlines()[1:]}
    assert ran.code == 1
    assert "OK" in by_model["good"]
    assert "ONNX Runtime cannot load it" in by_model["cut"]
    assert "config.pbtxt:2" in by_model["wrong"]
    assert "no version" in by_model["empty"]
    assert ran.out.splitlines()[-1] == "1 of 4 can be served"
    assert "ONNX Runtime" not in ran.err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--port", "99999"), "--port is 99999, expected 0 to 65535"),
        (("--host", "192.0.2.1"), "which others can reach, and there is no TLS"),
        (("--tls-certificate", "no.pem", "--tls-key", "no.key"), "No such file or directory"),
        (("--config", "no.toml"), "no.toml"),
    ],
)
def test_check_wrong_settings(
    penstock: Run, tmp_path: Path, flags: tuple[str, ...], expected: str
) -> None:
    """A setting that the server would refuse is refused with exit code 2."""
    models.publish(tmp_path, "mlp", models.mlp())
    ran = penstock("check", tmp_path, *flags)
    assert (ran.code, expected in ran.err) == (2, True)


def test_check_certificates(penstock: Run, tmp_path: Path) -> None:
    """A certificate with its key passes; with the key of another it is a wrong setting."""
    models.publish(tmp_path / "models", "mlp", models.mlp())
    authority = Authority(tmp_path, "ca")
    one, other = authority.sign("one"), authority.sign("other")
    flags = ("check", tmp_path / "models", "--tls-certificate", one.certificate, "--tls-key")
    assert penstock(*flags, one.key).code == 0
    ran = penstock(*flags, other.key)
    assert (ran.code, "--tls-key" in ran.err) == (2, True)
