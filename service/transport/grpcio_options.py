"""The limits of a transport as options of grpcio, and those that it has none for."""

from typing import Final

from service.transport.seam import Limits

_GZIP_LEVEL: Final = 1  # "low": gzip, or deflate for those who take only that
_PING_STRIKES: Final = 2  # as the native transport: the third hasty ping is too many
_NEVER_MS: Final = (1 << 31) - 1  # what grpcio takes for infinity

# Fields of Limits that grpcio has no option for. Its own bounds: a call holds one message, and
# calls in progress are bounded by concurrent_calls.
UNLIMITED: Final = (
    "received_bytes",
    "unsent_bytes",
    "unsent_total_bytes",
    "resets_per_second",
    "control_frames_per_second",
    "send_timeout_s",
)


def options_of(limits: Limits, *, compress_replies: bool) -> list[tuple[str, int]]:
    """Return the options of a server with these limits."""
    return [
        # A level and not an algorithm: only then does grpcio look at what the peer takes.
        ("grpc.default_compression_level", _GZIP_LEVEL if compress_replies else 0),
        ("grpc.so_reuseport", 0),  # two servers on one port would split its traffic silently
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", limits.header_bytes),
        ("grpc.absolute_max_metadata_size", limits.header_bytes),
        ("grpc.max_concurrent_streams", limits.streams_per_connection),
        # On, it counts calls until Python has let go of them, and so refuses honest clients; what
        # it guards against is bounded by maximum_concurrent_rpcs here.
        ("grpc.http.overload_protection", 0),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.keepalive_time_ms", _ms(limits.keepalive_time_s)),
        ("grpc.keepalive_timeout_ms", _ms(limits.keepalive_timeout_s)),
        ("grpc.http2.ping_timeout_ms", _ms(limits.keepalive_timeout_s)),  # else a minute
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.max_ping_strikes", 0 if limits.min_ping_interval_s is None else _PING_STRIKES),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _ms(limits.min_ping_interval_s or 0)),
        ("grpc.max_connection_idle_ms", _ms(limits.connection_idle_s)),
        ("grpc.max_connection_age_ms", _ms(limits.connection_age_s)),
        ("grpc.max_connection_age_grace_ms", _ms(limits.connection_age_grace_s)),
        ("grpc.server_handshake_timeout_ms", _ms(limits.handshake_timeout_s)),
    ]


def _ms(seconds: float | None) -> int:
    return _NEVER_MS if seconds is None else min(_NEVER_MS - 1, round(seconds * 1000))
