"""Settings: which source wins, and errors that name the setting."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from service.config import Settings
from service.errors import SettingsError
from service.settings_sources import add_flags, load_settings


def parsed(*arguments: str) -> dict[str, Any]:
    """Parse flags as the command does."""
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return vars(parser.parse_args(arguments))


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    """Write a TOML file with two settings."""
    path = tmp_path / "penstock.toml"
    path.write_text('repository = "from-file"\nport = 1111\nstream-window = 11\nwatch = 2\n')
    return path


def test_flag_wins_over_environment_over_file_over_default(toml: Path) -> None:
    """Each source overrides the ones behind it, setting by setting."""
    flags = parsed("from-flag", "--port", "3333", "--config", str(toml))
    environment = {"PENSTOCK_PORT": "2222", "PENSTOCK_GRACE": "7"}
    settings = load_settings(flags, environment)
    assert settings.repository == "from-flag"
    assert settings.port == 3333
    assert settings.grace == 7.0
    assert settings.stream_window == 11
    assert settings.http_port == 8002
    assert load_settings({"config": str(toml)}, environment).port == 2222
    assert load_settings({"config": str(toml)}, {}).port == 1111


def test_file_can_be_named_by_the_environment(toml: Path) -> None:
    """PENSTOCK_CONFIG names the TOML file where no flag does."""
    assert load_settings({}, {"PENSTOCK_CONFIG": str(toml)}).repository == "from-file"


def test_whole_numbers_are_numbers_of_seconds(toml: Path) -> None:
    """A setting in seconds may be written as a whole number."""
    assert load_settings({"config": str(toml)}, {}).watch == 2.0


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("TRUE", True), ("on", True), ("0", False), ("no", False), ("", False)],
)
def test_switches_in_the_environment(text: str, value: bool) -> None:  # noqa: FBT001  a column
    """A switch understands the usual words."""
    environment = {"PENSTOCK_REPOSITORY": "x", "PENSTOCK_REFLECTION": text}
    assert load_settings({}, environment).reflection is value


def test_the_port_of_a_service_in_kubernetes_is_no_setting() -> None:
    """A Service called penstock puts its address into PENSTOCK_PORT of containers beside it."""
    environment = {"PENSTOCK_PORT": "tcp://10.96.7.1:8001", "PENSTOCK_HTTP_PORT": "udp://[fd::1]:1"}
    settings = load_settings({"repository": "x"}, environment)
    assert (settings.port, settings.http_port) == (8001, 8002)
    with pytest.raises(SettingsError, match="PENSTOCK_PORT is 'http://x'"):
        load_settings({"repository": "x"}, {"PENSTOCK_PORT": "http://x"})


def test_switches_as_flags() -> None:
    """A switch has a flag to turn it on and one to turn it off."""
    assert load_settings(parsed("x", "--no-reflection"), {}).reflection is False
    assert load_settings(parsed("x", "--reflection"), {}).reflection is True


def test_addresses_come_as_lists(tmp_path: Path) -> None:
    """Further addresses are a list in the file, and have commas between them elsewhere."""
    path = tmp_path / "penstock.toml"
    path.write_text('repository = "x"\nlisten = ["localhost:1", "unix:/a"]\n')
    both = ("localhost:1", "unix:/a")
    assert load_settings({"config": str(path)}, {}).listen == both
    assert (
        load_settings({"repository": "x"}, {"PENSTOCK_LISTEN": "localhost:1, unix:/a"}).listen
        == both
    )
    flags = parsed("x", "--listen", "localhost:1", "--listen", "unix:/a,unix:/b")
    assert load_settings(flags, {}).listen == (*both, "unix:/b")
    path.write_text('listen = "localhost:1"\n')
    with pytest.raises(SettingsError, match="listen is 'localhost:1', expected a list of texts"):
        load_settings({"config": str(path)}, {})


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"PENSTOCK_PORT": "eight"}, "PENSTOCK_PORT is 'eight', expected a whole number"),
        ({"PENSTOCK_GRACE": "long"}, "PENSTOCK_GRACE is 'long', expected a number of seconds"),
        ({"PENSTOCK_REFLECTION": "maybe"}, "PENSTOCK_REFLECTION is 'maybe', expected true or"),
        ({"PENSTOCK_PORT": "70000"}, "--port is 70000, expected 0 to 65535"),
        ({"PENSTOCK_GRACE": "nan"}, "--grace is nan, expected 0 to 3600"),
        ({"PENSTOCK_MAX_BATCH_SIZE": "0"}, "--max-batch-size is 0, expected 1 to"),
        ({"PENSTOCK_DEVICE": "tpu"}, "--device is 'tpu', expected one of auto, cpu, cuda"),
        ({"PENSTOCK_TLS_KEY": "k"}, "--tls-certificate and --tls-key go together"),
        ({"PENSTOCK_TLS_CLIENT_CA": "c"}, "--tls-client-ca needs --tls-certificate"),
        ({"PENSTOCK_HOST": "0.0.0.0"}, "--host is '0.0.0.0', which others can reach"),  # noqa: S104
        ({"PENSTOCK_HOST": "example.org"}, "--allow-insecure if the network is trusted"),
        ({"PENSTOCK_HOST": "::"}, "which others can reach"),
        ({"PENSTOCK_UNIX_SOCKET": "/" + "x" * 107}, "--unix-socket: the path of a Unix socket has"),
        ({"PENSTOCK_LISTEN": f"unix:/{'é' * 54}"}, "at most 107 bytes, and '/éé"),
    ],
)
def test_wrong_value_names_the_setting(environment: dict[str, str], text: str) -> None:
    """A wrong value is an error that names the setting, the value and what was expected."""
    with pytest.raises(SettingsError) as caught:
        load_settings({"repository": "x"}, environment)
    assert text in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_tls(host: str) -> None:
    """Addresses that nobody else reaches are served without TLS."""
    assert Settings("x", host=host).host == host


def test_other_addresses_are_served_when_told_so() -> None:
    """With TLS, or with the word of the operator, others may be served."""
    Settings("x", host="0.0.0.0", allow_insecure=True)  # noqa: S104
    Settings("x", host="0.0.0.0", tls_certificate="c", tls_key="k")  # noqa: S104


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('prot = 1\nrepository = "x"', "unknown setting 'prot'"),
        ('port = "1"', "port is '1', expected a whole number"),
        ("port = true", "port is True, expected a whole number"),
        ("reflection = 1", "reflection is 1, expected true or false"),
        ("watch = true", "watch is True, expected a number of seconds"),
        ("port = ", "not TOML"),
    ],
)
def test_wrong_file_names_file_and_setting(tmp_path: Path, content: str, text: str) -> None:
    """A TOML file that is wrong is named, with the setting in it."""
    path = tmp_path / "wrong.toml"
    path.write_text(content)
    with pytest.raises(SettingsError) as caught:
        load_settings({"repository": "x", "config": str(path)}, {})
    assert text in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_file_is_named() -> None:
    """A TOML file that is not there is an error."""
    with pytest.raises(SettingsError, match=r"--config none\.toml: No such file"):
        load_settings({"repository": "x", "config": "none.toml"}, {})


def test_something_must_be_served() -> None:
    """Without a repository there is nothing to do, and the error says where to read on."""
    with pytest.raises(SettingsError, match=r"REPOSITORY is missing.*penstock serve --help"):
        load_settings({}, {})


def test_secrets_come_from_files_and_variables(tmp_path: Path) -> None:
    """A value may be named by its file or variable; no form of the settings shows it."""
    file = tmp_path / "token"
    file.write_text("one,two\n")
    flags = parsed("x", "--restrict", f"trace,logging:a=@{file}", "--restrict", "health:b=$TOKEN")
    settings = load_settings(flags, {"TOKEN": "three"})
    assert settings.restrict == ("trace,logging:a=one,two", "health:b=three")
    assert "one,two" not in repr(settings)
    environment = {"PENSTOCK_REPOSITORY": "x", "PENSTOCK_RESTRICT": "trace:a=1 health:b=2"}
    assert load_settings({}, environment).restrict == ("trace:a=1", "health:b=2")


def test_model_control() -> None:
    """--watch alone is poll; what excludes each other is refused."""
    assert load_settings(parsed("x"), {}).poll_interval_s == 0.0
    assert load_settings(parsed("x", "--watch", "3"), {}).poll_interval_s == 3.0
    assert load_settings(parsed("x", "--model-control", "poll"), {}).poll_interval_s == 15.0
    explicit = parsed("x", "--model-control", "explicit", "--load-model", "a", "--load-model", "b")
    assert load_settings(explicit, {}).load_model == ("a", "b")
    with pytest.raises(SettingsError, match="--load-model needs --model-control explicit"):
        load_settings(parsed("x", "--load-model", "a"), {})
    with pytest.raises(SettingsError, match="--watch and --model-control explicit exclude"):
        load_settings(parsed("x", "--watch", "1", "--model-control", "explicit"), {})


def test_forward_headers_is_a_regular_expression() -> None:
    """One that is none is refused with its fault."""
    with pytest.raises(SettingsError, match=r"--forward-headers is '\(', expected a regular"):
        load_settings(parsed("x", "--forward-headers", "("), {})
