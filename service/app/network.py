"""From settings to a transport: its addresses, its limits, and which implementation it is."""

import logging
from collections.abc import Iterable
from dataclasses import fields
from typing import Final

from service.config import Settings, flag
from service.rpc.bundles import COMPUTE_US, QUEUE_US
from service.rpc.methods import INFER, STREAM_INFER
from service.transport.grpcio_options import UNLIMITED
from service.transport.native import is_installed, native_transport
from service.transport.seam import LaneMethods, Limits, Methods, Tls, Transport

_LOG = logging.getLogger(__name__)
_WITHOUT_NATIVE: Final = " (penstock-transport is not installed; it serves several times as much)"

# The settings behind the limits that the threaded transport has not.
_SETTING_OF: Final = {
    "received_bytes": "max_received_mib",
    "unsent_bytes": "max_unsent_mib",
    "unsent_total_bytes": "max_unsent_total_mib",
    "resets_per_second": "max_resets_per_second",
    "control_frames_per_second": "max_control_frames_per_second",
    "send_timeout_s": "send_timeout",
}


def make_transport(settings: Settings, methods: Methods) -> Transport:
    """Return the transport that the settings ask for; the log says which it is."""
    tls = tls_of(settings)
    addresses, limits = addresses_of(settings), limits_of(settings)
    compresses = settings.compression == "gzip"
    if settings.transport == "native" or (settings.transport == "auto" and is_installed()):
        _LOG.info("transport: native")
        return native_transport(
            addresses,
            methods,
            limits,
            tls,
            compress_replies=compresses,
            network_threads=settings.network_threads,
            lane=LaneMethods((INFER, STREAM_INFER), (QUEUE_US, COMPUTE_US)),
        )
    # grpcio is 10 MB and 70 ms that the native transport does without.
    from service.transport.threaded import ThreadedTransport  # noqa: PLC0415

    _LOG.info("transport: threaded%s", "" if is_installed() else _WITHOUT_NATIVE)
    _warn_of_unlimited(settings, UNLIMITED)
    return ThreadedTransport(addresses, methods, limits, tls, compress_replies=compresses)


def tls_of(settings: Settings) -> Tls | None:
    """Return the TLS files; None if there are none."""
    if not settings.tls_certificate:
        return None
    return Tls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca or None)


def addresses_of(settings: Settings) -> list[str]:
    """List where to listen for gRPC: "HOST:PORT" and "unix:PATH"."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    addresses = [f"{host}:{settings.port}"]
    if settings.unix_socket:
        addresses.append(f"unix:{settings.unix_socket}")
    return [*addresses, *settings.listen]


def limits_of(settings: Settings) -> Limits:
    """Return the limits in the transport's units. A time of 0 is never, where never can be."""
    return Limits(
        message_bytes=settings.max_message_mib << 20,
        header_bytes=settings.max_header_kib << 10,
        received_bytes=settings.max_received_mib << 20,
        unsent_bytes=settings.max_unsent_mib << 20,
        unsent_total_bytes=settings.max_unsent_total_mib << 20,
        concurrent_calls=settings.max_concurrent_calls,
        streams_per_connection=settings.max_connection_calls,
        connections=settings.max_connections,
        stream_window=settings.stream_window,
        stream_window_bytes=settings.max_message_mib << 20,  # many small ones, or one that is large
        outgoing_window_bytes=settings.stream_unsent_kib << 10,
        resets_per_second=settings.max_resets_per_second,
        control_frames_per_second=settings.max_control_frames_per_second,
        keepalive_time_s=settings.keepalive_time or None,
        keepalive_timeout_s=settings.keepalive_timeout,
        min_ping_interval_s=settings.min_ping_interval or None,
        connection_idle_s=settings.connection_idle or None,
        connection_age_s=settings.connection_age or None,
        connection_age_grace_s=settings.connection_age_grace,
        handshake_timeout_s=settings.handshake_timeout,
        send_timeout_s=settings.send_timeout or None,
    )


def _warn_of_unlimited(settings: Settings, unlimited: Iterable[str]) -> None:
    """Name the limits that the threaded transport has not; loudly those that somebody has set."""
    defaults = {entry.name: entry.default for entry in fields(Settings)}
    names = [_SETTING_OF[limit] for limit in unlimited]
    if given := [name for name in names if getattr(settings, name) != defaults[name]]:
        _LOG.warning("the threaded transport ignores %s", ", ".join(map(flag, given)))
    _LOG.info("the threaded transport has no %s", ", ".join(map(flag, names)))
