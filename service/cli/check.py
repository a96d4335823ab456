"""`penstock check`: settings and repository as the server would take them, without serving."""

import argparse
import logging
import ssl
from pathlib import Path
from typing import Final

from service.app.loader import ModelLoader
from service.cli.table import table
from service.config import Settings
from service.errors import SettingsError
from service.inference.model import Model
from service.lifecycle.manager import Manager
from service.lifecycle.states import State, VersionStatus
from service.repository.layout import Repository
from service.repository.model_config import PYTHON
from service.rpc.restrict import Restrictions
from service.settings_sources import add_flags, load_settings

_CLOSE_S: Final = 5.0  # nothing is in flight when a model is closed here
_CANNOT_SERVE: Final = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the settings of the server, which are what is checked."""
    add_flags(parser)
    parser.epilog = (
        "Takes the settings of penstock serve and loads every version that it would serve:\n"
        "configuration, digests, golden pairs, warm-up. Nothing listens.\n"
        "exit code: 0 all can be served, 1 some cannot, 2 wrong settings"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print a line for each version and return 0 if all can be served.

    Raises SettingsError for wrong settings, RepositoryError if there is no repository.
    """
    settings = load_settings(vars(arguments))
    _check_tls(settings)
    Restrictions(settings.restrict)
    _silence_log()
    loader = ModelLoader(settings)
    manager: Manager[Model] = Manager(loader.read_config, loader.load)
    sources = Repository(Path(settings.repository), settings.model_name).scan()
    loader.plan(sources)
    manager.apply(sources)
    statuses = manager.index()
    models = {(model.name, int(model.version)): model for model in manager.servables()}
    rows = [_row(status, models.get((status.model, status.version))) for status in statuses]
    manager.close(_CLOSE_S)
    served = sum(status.state is State.READY for status in statuses)
    print(table(("MODEL", "VERSION", "STATE", "DETAILS"), rows))  # noqa: T201
    print(f"{served} of {len(statuses)} can be served")  # noqa: T201
    return 0 if served == len(statuses) else _CANNOT_SERVE


def _row(status: VersionStatus, model: Model | None) -> tuple[str, str, str, str]:
    version = str(status.version or "-")
    if model is None:
        return status.model, version, "FAILED", status.reason
    details = [
        model.provider,
        _batching(model),
        f"loaded in {model.load_s:.2f} s",
        *model.notes,
    ]
    return status.model, version, "OK", "; ".join(details)


def _batching(model: Model) -> str:
    if model.config.backend == PYTHON:
        return "requests are not joined"
    rows = model.config.max_batch_size
    return f"batches of up to {rows}" if model.signature.batched else "no batching"


def _check_tls(settings: Settings) -> None:
    """Raise SettingsError if the certificate, its key or the CA cannot be used."""
    if not settings.tls_certificate:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password="")
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"--tls-certificate {settings.tls_certificate} with --tls-key {settings.tls_key}: "
            f"{error.strerror or error}"
        ) from error
    if settings.tls_client_ca:
        try:
            context.load_verify_locations(settings.tls_client_ca)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"--tls-client-ca {settings.tls_client_ca}: {error.strerror or error}"
            ) from error


def _silence_log() -> None:
    """Keep the log from saying again what the table says."""
    logging.getLogger("service").addHandler(logging.NullHandler())
