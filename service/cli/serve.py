"""`penstock serve`: the server, from settings to exit code."""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from service.app.server import Server, serve
from service.observability.logs import configure, forget_unwritable, say
from service.settings_sources import add_flags, load_settings

_LOG = logging.getLogger(__name__)
_LOST: Final = 3  # exit code if accepted requests were not answered
_BROKEN: Final = 4  # exit code if a thread of the server ended by an error
_HARD_EXIT_S: Final = 5.0  # past the grace period; a load or a run that cannot be stopped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the settings of the server."""
    add_flags(parser)
    parser.epilog = (
        "Every setting can come from the environment as PENSTOCK_NAME (PENSTOCK_PORT=9000) or\n"
        "from the TOML file. SIGTERM drains: health turns NOT_SERVING, accepted requests are\n"
        "answered, the exit code is 0. SIGHUP reads the TLS files again."
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT. Raises PenstockError if it cannot."""
    settings = load_settings(vars(arguments))
    configure(settings.log_level, settings.log_format)
    threading.excepthook = _end_process
    stop = threading.Event()
    # A Python handler runs on the main thread only when that wakes up, whichever thread the kernel
    # gave the signal to. The wake-up descriptor is written at once: a thread of ours reads it.
    running: list[Server] = []
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: None)
    threading.Thread(
        target=_wait_for_signals,
        args=(receiver, stop, settings.grace, running),
        name="signals",
        daemon=True,
    ).start()

    def on_ready(server: Server) -> None:
        running.append(server)
        _say_ready(server)

    try:
        code = 0 if serve(settings, stop, on_ready) else _LOST
    finally:
        forget_unwritable()
    if code == _LOST or any(server.manager.is_loading for server in running):
        os._exit(code)  # what the runtime still does on other threads aborts an orderly exit
    return code


def _wait_for_signals(
    receiver: int, stop: threading.Event, grace_s: float, running: Sequence[Server]
) -> None:
    """Set stop at every signal that ends; after the first of them there is an end to waiting.

    SIGHUP makes the running server, if it is ready, read its TLS files again.
    """
    while os.read(receiver, 1)[0] == signal.SIGHUP:
        for server in running:
            server.reload_tls()
    overdue = threading.Timer(grace_s + _HARD_EXIT_S, os._exit, (_LOST,))
    overdue.daemon = True
    overdue.start()
    stop.set()
    while number := os.read(receiver, 1):
        if number[0] != signal.SIGHUP:
            stop.set()


def _end_process(broken: threading.ExceptHookArgs) -> None:
    """End the process: without that thread it would accept requests and answer none.

    Every thread of ours handles what may happen; what is left is a fault, or no memory.
    """
    with suppress(Exception):  # no memory to log with, perhaps
        what = (broken.exc_type, broken.exc_value or broken.exc_type(), broken.exc_traceback)
        name = broken.thread.name if broken.thread else "a thread"
        _LOG.critical("%s has broken off, the server ends", name, exc_info=what)
    os._exit(_BROKEN)


def _say_ready(server: Server) -> None:
    for failure in server.failures():
        say(f"not served: {failure}", sys.stderr)
    addresses = " ".join(f"grpc={address}" for address in server.addresses)
    say(f"penstock ready {addresses} http={server.http_address}", sys.stdout)
