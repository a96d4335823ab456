"""Network settings: every limit of a transport has one, and addresses are checked."""

import logging
from dataclasses import fields
from typing import Any

import pytest

from service.app.network import addresses_of, limits_of, make_transport
from service.config import NETWORK_LIMITS, Settings
from service.errors import SettingsError
from service.settings_sources import load_settings
from service.transport.grpcio_options import UNLIMITED
from service.transport.seam import Limits

_LIMITS = [entry for entry in fields(Settings) if entry.metadata.get("group") == NETWORK_LIMITS]


def test_every_limit_has_a_setting() -> None:
    """Each limit of a transport changes with a setting of the network limits, and only so."""
    usual = limits_of(Settings("models"))
    changed: set[str] = set()
    for entry in _LIMITS:
        default: Any = entry.default
        value = type(default)(default + 1)
        limits = limits_of(load_settings({"repository": "models", entry.name: value}, {}))
        moved = {
            limit.name
            for limit in fields(Limits)
            if getattr(limits, limit.name) != getattr(usual, limit.name)
        }
        assert moved, entry.name
        changed |= moved
    assert changed == {limit.name for limit in fields(Limits)}


def test_zero_is_never_where_never_can_be() -> None:
    """A time of 0 switches its limit off."""
    for name in ("keepalive_time", "min_ping_interval", "connection_idle", "send_timeout"):
        settings = load_settings({"repository": "models", name: 0.0}, {})
        assert getattr(limits_of(settings), f"{name}_s") is None


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"MAX_CONNECTIONS": "0"}, "--max-connections is 0, expected 1 to 1000000"),
        ({"KEEPALIVE_TIMEOUT": "0"}, "--keepalive-timeout is 0.0, expected 0.01 to"),
        ({"HANDSHAKE_TIMEOUT": "nan"}, "--handshake-timeout is nan, expected 0.01 to 3600"),
        ({"MAX_HEADER_KIB": "4096"}, "--max-header-kib is 4096, expected 1 to 1024"),
        (
            {"MAX_RECEIVED_MIB": "10"},
            r"--max-received-mib is 10, less than .* expected at least --max-message-mib, 64",
        ),
        ({"LISTEN": "localhost"}, "--listen is 'localhost', expected HOST:PORT,"),
        ({"LISTEN": "[::1]:x"}, r"--listen is '\[::1\]:x', expected HOST:PORT,"),
        ({"LISTEN": "::1:80"}, "--listen is '::1:80', expected HOST:PORT,"),
        ({"LISTEN": "127.0.0.1:70000"}, "--listen is '127.0.0.1:70000', expected HOST:PORT,"),
        ({"LISTEN": "127.0.0.1:\u0663"}, "--listen is .*, expected HOST:PORT,"),
        ({"LISTEN": "unix:"}, "--listen is 'unix:', expected HOST:PORT,"),
        ({"LISTEN": "[::1]:1,10.0.0.1:2"}, "--listen is '10.0.0.1', which others can reach"),
    ],
)
def test_impossible_limit_or_address_is_named(environment: dict[str, str], text: str) -> None:
    """A limit out of range and an address that cannot be one name setting and expectation."""
    environment = {f"PENSTOCK_{name}": value for name, value in environment.items()}
    with pytest.raises(SettingsError, match=text):
        load_settings({"repository": "x"}, environment)


def test_addresses_come_in_order() -> None:
    """The host and port come first, then the Unix socket, then what else is listened on."""
    settings = Settings("models", host="::1", unix_socket="/a", listen=("localhost:0", "unix:/b"))
    assert addresses_of(settings) == ["[::1]:8001", "unix:/a", "localhost:0", "unix:/b"]


def test_threaded_transport_says_what_it_ignores(caplog: pytest.LogCaptureFixture) -> None:
    """A limit that somebody set and the threaded transport does not have is a warning."""
    caplog.set_level(logging.INFO)
    assert set(UNLIMITED) < {limit.name for limit in fields(Limits)}
    settings = Settings("models", transport="threaded", max_resets_per_second=5, send_timeout=9.0)
    make_transport(settings, {}).close()
    warning, information = caplog.records[-2:]
    ignored = "the threaded transport ignores --max-resets-per-second, --send-timeout"
    assert warning.getMessage() == ignored
    assert warning.levelname == "WARNING"
    assert len(information.getMessage().split(",")) == len(UNLIMITED)
