"""The native transport: HTTP/2 and gRPC in Rust, outside the interpreter lock.

The distribution penstock-transport implements the seam itself; here it is only made. Without it
the server runs on the threaded transport.
"""

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Final, cast

from service.errors import SettingsError
from service.transport.seam import Kind, Lane, LaneMethods, Limits, Methods, Tls, Transport

_LOG = logging.getLogger(__name__)
_MODULE: Final = "penstock_transport"
_KINDS: Final = (
    Kind.REQUEST,
    Kind.OPENED,
    Kind.MESSAGE,
    Kind.HALF_CLOSED,
    Kind.CANCELLED,
    Kind.BUNDLE,
    Kind.SHRUNK,
    Kind.WRITABLE,
)


def is_installed() -> bool:
    """Tell whether penstock-transport is there."""
    return find_spec(_MODULE) is not None


def native_transport(
    addresses: Sequence[str],
    methods: Methods,
    limits: Limits | None = None,
    tls: Tls | None = None,
    *,
    compress_replies: bool = False,
    network_threads: int = 0,
    lane: LaneMethods | None = None,
) -> Transport:
    """Return a native transport; see ThreadedTransport for the other arguments.

    network_threads: serve the network; with 0 it is served by whoever is in `take`, which saves
    a burst two wake-ups. lane: whose requests may be handed up in bundles.

    Raises SettingsError if penstock-transport is not installed or the TLS files are not usable.
    """
    if not is_installed():
        raise SettingsError(
            "--transport native: penstock-transport is not installed; build it with `make native` "
            "(needs cargo), or use --transport threaded",
        )
    import penstock_transport  # noqa: PLC0415  optional: only where it is used

    limits = limits or Limits()
    try:
        server = penstock_transport.Server(
            list(addresses),
            {path: arity.value for path, arity in methods.items()},
            kinds=_KINDS,
            lane=list(lane.methods) if lane else [],
            lane_trailers=list(lane.trailers) if lane else [],
            workers=network_threads,
            tls_certificate=tls.certificate if tls else None,
            tls_key=tls.key if tls else None,
            tls_client_ca=tls.client_ca if tls else None,
            tls_reloaded=_tell,
            message_bytes=limits.message_bytes,
            header_list_bytes=limits.header_bytes,
            buffered_bytes=limits.received_bytes,
            connection_outgoing_bytes=limits.unsent_bytes,
            outgoing_bytes=limits.unsent_total_bytes,
            compress_replies=compress_replies,
            concurrent_calls=limits.concurrent_calls,
            streams_per_connection=limits.streams_per_connection,
            connections=limits.connections,
            stream_window=limits.stream_window,
            stream_window_bytes=limits.stream_window_bytes,
            outgoing_window_bytes=limits.outgoing_window_bytes,
            resets_per_second=limits.resets_per_second,
            control_frames_per_second=limits.control_frames_per_second,
            keepalive_time_s=limits.keepalive_time_s,
            keepalive_timeout_s=limits.keepalive_timeout_s,
            min_ping_interval_s=limits.min_ping_interval_s,
            connection_idle_s=limits.connection_idle_s,
            connection_age_s=limits.connection_age_s,
            connection_age_grace_s=limits.connection_age_grace_s,
            handshake_timeout_s=limits.handshake_timeout_s,
            send_timeout_s=limits.send_timeout_s,
        )
    except (OSError, ValueError) as error:
        raise SettingsError(f"TLS: {error}") from error
    return cast("Transport", _Native(server))


def _tell(error: str | None) -> None:
    """Log what came of TLS files that have changed."""
    if error is None:
        _LOG.info("TLS files have changed and are in use")
    else:
        _LOG.warning("TLS: %s; the files from before stay in use", error)


class _Native:
    """A penstock_transport.Server whose errors are ours. `take` is its own."""

    name = "native"

    def __init__(self, server: Any) -> None:
        self._server = server
        self.take = server.take
        self.drain = server.drain
        self.close = server.close
        self.counters = server.counters
        self.lane: Lane = server

    @property
    def closed(self) -> bool:
        """True after close."""
        return bool(self._server.closed)

    def reload_tls(self) -> None:
        """Load the TLS files now; see seam.Transport."""
        try:
            self._server.reload_tls()
        except ValueError as error:
            raise SettingsError(f"TLS: {error}") from error

    def start(self) -> Sequence[str]:
        """Listen; see seam.Transport."""
        try:
            return list(self._server.start())
        except OSError as error:
            raise SettingsError(str(error)) from error
