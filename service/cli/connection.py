"""How the commands reach a server: its address and the TLS flags. Knows no RPC."""

import argparse
from pathlib import Path
from typing import Final

import grpc

from service.cli.usage import UsageError
from service.config import Settings
from service.settings_sources import load_settings

ADDRESS_HELP: Final = "HOST:PORT or unix:/PATH (default: 127.0.0.1 and PENSTOCK_PORT or 8001)"
_ANY_HOST: Final = ("0.0.0.0", "::", "[::]")  # noqa: S104 -- recognised, not bound


def add_tls_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `credentials` reads."""
    group = parser.add_argument_group("TLS")
    group.add_argument("--tls", action="store_true", help="use TLS with the system's roots")
    group.add_argument("--tls-ca", metavar="FILE", help="use TLS; PEM file of the server's CA")
    group.add_argument("--tls-certificate", metavar="FILE", help="PEM file of our certificate")
    group.add_argument("--tls-key", metavar="FILE", help="PEM file of its key")
    group.add_argument(
        "--tls-name", metavar="NAME", default="", help="name in the server's certificate"
    )


def credentials(arguments: argparse.Namespace) -> grpc.ChannelCredentials | None:
    """Return what the TLS flags ask for, None without TLS.

    Raises UsageError for flags that do not go together and files that cannot be read.
    """
    if bool(arguments.tls_certificate) != bool(arguments.tls_key):
        raise UsageError("--tls-certificate and --tls-key go together; one is missing")
    if not (arguments.tls or arguments.tls_ca):
        if arguments.tls_certificate or arguments.tls_name:
            raise UsageError("--tls-certificate and --tls-name need --tls or --tls-ca FILE")
        return None
    return grpc.ssl_channel_credentials(
        root_certificates=_pem("--tls-ca", arguments.tls_ca),
        private_key=_pem("--tls-key", arguments.tls_key),
        certificate_chain=_pem("--tls-certificate", arguments.tls_certificate),
    )


def default_address() -> str:
    """Return where a server with the settings of this environment listens.

    Raises SettingsError if the environment's settings are wrong.
    """
    # Without a repository there are no settings, and what may listen where is not asked here.
    settings: Settings = load_settings({"repository": ".", "allow_insecure": True})
    host = "127.0.0.1" if settings.host in _ANY_HOST else settings.host
    return f"[{host}]:{settings.port}" if ":" in host else f"{host}:{settings.port}"


def _pem(flag: str, path: str | None) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{flag} {path}: cannot be read: {error.strerror}") from error
