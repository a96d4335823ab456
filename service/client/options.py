"""How a client reaches a server and what a request asks for, as values. Opens no channel."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypedDict

import grpc

from service import __version__

Metadata: TypeAlias = Mapping[str, str | bytes] | Sequence[tuple[str, str | bytes]]
Parameter: TypeAlias = bool | int | float | str
Compression: TypeAlias = Literal["gzip", "deflate", "none"]

SERVICE: Final = "inference.GRPCInferenceService"
HEALTH: Final = "grpc.health.v1.Health"

# Calls that may be sent twice: they change nothing at the server. Steps of sequences do, and
# leave over a channel that does not retry.
_IDEMPOTENT: Final = (
    *(
        {"service": SERVICE, "method": method}
        for method in (
            "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata",
            "ModelInfer", "ModelConfig", "ModelStatistics", "RepositoryIndex",
        )
    ),
    {"service": HEALTH, "method": "Check"},
)  # fmt: skip
_UNLIMITED: Final = -1  # answers may be larger than gRPC's default of 4 MiB
_MOST_ATTEMPTS: Final = 5  # gRPC takes more for 5
_SHORTEST_BACKOFF_S: Final = 0.01  # grpcio 1.85: below 1 ms, jitter counted, calls hang
_SHORTEST_KEEPALIVE_S: Final = 10.0  # what `penstock serve` allows; most others: 300
_KEEPALIVE_TIMEOUT_MS: Final = 20_000
_COMPRESSION: Final = {
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
    "none": grpc.Compression.NoCompression,
}


@dataclass(frozen=True, slots=True)
class Retry:
    """When gRPC sends a call again that failed with UNAVAILABLE and may be sent twice.

    attempts: in all, 2 to 5. Attempt n waits a random time of up to
    first_backoff_s * multiplier ** (n - 2), at most max_backoff_s. The deadline covers them all.
    """

    attempts: int = 3
    first_backoff_s: float = 0.05
    max_backoff_s: float = 1.0
    multiplier: float = 2.0

    def __post_init__(self) -> None:
        """Raise ValueError for what gRPC would refuse or silently change."""
        if not 2 <= self.attempts <= _MOST_ATTEMPTS:
            raise ValueError(
                f"Retry: attempts is {self.attempts}, expected 2 to {_MOST_ATTEMPTS}; "
                "retry=None turns retries off"
            )
        for name in ("first_backoff_s", "max_backoff_s", "multiplier"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"Retry: {name} is {value}, expected a number above 0")
        if self.first_backoff_s < _SHORTEST_BACKOFF_S:
            raise ValueError(
                f"Retry: first_backoff_s is {self.first_backoff_s:g}, expected at least "
                f"{_SHORTEST_BACKOFF_S:g}: gRPC loses calls that wait for less than a millisecond"
            )

    def policy(self) -> dict[str, Any]:
        """Return the retryPolicy of a service config."""
        return {
            "maxAttempts": self.attempts,
            "initialBackoff": f"{self.first_backoff_s:.9f}s",
            "maxBackoff": f"{self.max_backoff_s:.9f}s",
            "backoffMultiplier": self.multiplier,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS by PEM files or their contents; without arguments: with the system's roots.

    ca: who signed the server's certificate. certificate, key: ours, for mutual TLS.
    server_name: name in the server's certificate, if it is not that of the address.
    """

    ca: str | Path | bytes | None = None
    certificate: str | Path | bytes | None = None
    key: str | Path | bytes | None = field(default=None, repr=False)
    server_name: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError for half a pair."""
        if (self.certificate is None) != (self.key is None):
            raise ValueError("Tls: certificate and key go together; one is missing")

    def credentials(self) -> grpc.ChannelCredentials:
        """Return them for gRPC. Raises OSError for a file that cannot be read."""
        return grpc.ssl_channel_credentials(
            root_certificates=_pem(self.ca),
            private_key=_pem(self.key),
            certificate_chain=_pem(self.certificate),
        )


class ClientOptions(TypedDict, total=False):
    """What `Client` and `AsyncClient` take besides the address.

    tls: None: no TLS. credentials, server_name: in place of tls, what grpc made of it.
    deadline: seconds for calls that give none, 60 by default. metadata: sent with every call,
    tokens and headers of restricted protocols. retry: None: no call is sent twice.
    balance: calls take turns at the addresses of a name; False: all go to the first that
    answers. wait_for_ready: a call waits for a connection until its deadline, in place of
    failing. compression: of requests. keepalive_s: pings after so much silence while calls are
    open; below 300 only for servers that allow it (`penstock serve` does from 10 on).
    """

    tls: Tls | None
    credentials: grpc.ChannelCredentials | None
    server_name: str
    deadline: float
    metadata: Metadata
    retry: Retry | None
    balance: bool
    wait_for_ready: bool
    compression: Compression | None
    keepalive_s: float | None


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """The options of a client with their defaults."""

    tls: Tls | None = None
    credentials: grpc.ChannelCredentials | None = None
    server_name: str = ""
    deadline: float = 60.0
    metadata: Metadata = ()
    retry: Retry | None = Retry()
    balance: bool = True
    wait_for_ready: bool = False
    compression: Compression | None = None
    keepalive_s: float | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for options that do not go together or are out of range."""
        if self.tls is not None and self.credentials is not None:
            raise ValueError("tls and credentials are both given; one says it all")
        if self.keepalive_s is not None and self.keepalive_s < _SHORTEST_KEEPALIVE_S:
            raise ValueError(
                f"keepalive_s is {self.keepalive_s:g}, expected at least "
                f"{_SHORTEST_KEEPALIVE_S:g}: servers drop who pings more often"
            )
        compression_of(self.compression)
        pairs(self.metadata)

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """Return what the channel is secured with; None: a channel without TLS."""
        return self.credentials if self.tls is None else self.tls.credentials()

    def channel_arguments(self, *, for_steps: bool) -> list[tuple[str, Any]]:
        """Return the arguments of a gRPC channel.

        for_steps: no call may be sent twice or to another server than the one before.
        """
        arguments: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", _UNLIMITED),
            ("grpc.max_send_message_length", _UNLIMITED),
            ("grpc.primary_user_agent", f"penstock-client/{__version__}"),
            ("grpc.service_config", self._service_config(for_steps=for_steps)),
        ]
        name = self.server_name or (self.tls.server_name if self.tls else "")
        if name:
            arguments.append(("grpc.ssl_target_name_override", name))
        if self.keepalive_s is not None:
            # No pings without calls: servers count them as strikes even at long intervals.
            arguments += [
                ("grpc.keepalive_time_ms", round(self.keepalive_s * 1e3)),
                ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
                ("grpc.http2.max_pings_without_data", 0),
            ]
        return arguments

    def _service_config(self, *, for_steps: bool) -> str:
        policy = "round_robin" if self.balance and not for_steps else "pick_first"
        config: dict[str, Any] = {"loadBalancingConfig": [{policy: {}}]}
        if self.retry is not None and not for_steps:
            config["methodConfig"] = [{"name": _IDEMPOTENT, "retryPolicy": self.retry.policy()}]
        return json.dumps(config)


class CallOptions(TypedDict, total=False):
    """How one call is made. deadline: in seconds. Metadata is added to that of the client."""

    deadline: float | None
    metadata: Metadata
    wait_for_ready: bool | None
    compression: Compression | None


class RequestOptions(TypedDict, total=False):
    """What a request for inference may say besides model and inputs.

    version: "": the one served by default. outputs: names of those wanted; (): all.
    request_id: comes back with the answer and stands in the server's texts; on a stream "" is a
    number. priority: 1 is the highest, 0 the model's default. queue_timeout_s: longest wait in
    the server's queue, 0: the model's default. parameters: for the model.
    """

    version: str
    outputs: Sequence[str]
    request_id: str
    priority: int
    queue_timeout_s: float
    parameters: Mapping[str, Parameter]


class InferOptions(RequestOptions, CallOptions, total=False):
    """What a request says, and how its call is made."""


@dataclass(slots=True)
class Wishes:
    """The options of one call with their defaults, as `InferOptions` describes them."""

    version: str = ""
    outputs: Sequence[str] = ()
    request_id: str = ""
    priority: int = 0
    queue_timeout_s: float = 0.0
    parameters: Mapping[str, Parameter] | None = None
    deadline: float | None = None
    metadata: Metadata = ()
    wait_for_ready: bool | None = None
    compression: Compression | None = None


def replaced(wishes: Wishes, options: RequestOptions) -> Wishes:
    """Return wishes with options in place of theirs. Raises TypeError for an unknown one."""
    return replace(wishes, **options) if options else wishes


def pairs(metadata: Metadata) -> tuple[tuple[str, str | bytes], ...]:
    """Return metadata as gRPC wants it. Raises ValueError for a key that gRPC would refuse."""
    given = metadata.items() if isinstance(metadata, Mapping) else metadata
    for key, _value in given:
        if key != key.lower() or not key or key.startswith((":", "grpc-")):
            raise ValueError(
                f"metadata key '{key}': expected lower case, and neither ':' nor 'grpc-' before it"
            )
    return tuple(given)


def compression_of(name: Compression | None) -> grpc.Compression | None:
    """Return gRPC's name of a compression. Raises ValueError for one that it does not have."""
    if name is None:
        return None
    known = _COMPRESSION.get(name)
    if known is None:
        raise ValueError(f"compression '{name}': expected one of {', '.join(_COMPRESSION)} or None")
    return known


def _pem(given: str | Path | bytes | None) -> bytes | None:
    return given if given is None or isinstance(given, bytes) else Path(given).read_bytes()
