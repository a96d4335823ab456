"""`penstock serve`: the server, from settings to exit code."""

import argparse
import signal
import sys
import threading
from types import FrameType

from service.app.server import Server, serve
from service.config import add_flags, load_settings
from service.observability.logs import configure

_LOST = 3  # exit code if accepted requests were not answered


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the settings of the server."""
    add_flags(parser)
    parser.epilog = (
        "Every setting can come from the environment as PENSTOCK_NAME (PENSTOCK_PORT=9000) or\n"
        "from the TOML file. SIGTERM drains: health turns NOT_SERVING, accepted requests are\n"
        "answered, the exit code is 0."
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT. Raises PenstockError if it cannot."""
    settings = load_settings(vars(arguments))
    configure(settings.log_level, settings.log_format)
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    return 0 if serve(settings, stop, _say_ready) else _LOST


def _say_ready(server: Server) -> None:
    for failure in server.failures():
        print(f"not served: {failure}", file=sys.stderr)  # noqa: T201
    addresses = " ".join(f"grpc={address}" for address in server.addresses)
    print(f"penstock ready {addresses} http={server.http_address}", flush=True)  # noqa: T201
