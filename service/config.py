"""Settings of the server: one frozen object, checked once. settings_sources.py reads them."""

import ipaddress
import os
import re
from dataclasses import dataclass, field, fields
from typing import Any, Final

from service.errors import SettingsError

PREFIX: Final = "PENSTOCK_"


NETWORK_LIMITS: Final = "network limits"  # a group of settings, in the help and the README


def _setting(
    default: Any,
    text: str,
    choices: tuple[str, ...] = (),
    group: str = "",
    metavar: str = "",
) -> Any:
    metadata = {"help": text, "choices": choices, "group": group, "metavar": metavar}
    return field(default=default, metadata=metadata)


def _secrets(text: str, metavar: str) -> Any:
    """Return a setting of texts that hold commas, and are shown to nobody."""
    metadata = {"help": text, "metavar": metavar, "is_secret": True}
    return field(default=(), metadata=metadata, repr=False)


def _limit(default: Any, text: str) -> Any:
    return _setting(default, text, group=NETWORK_LIMITS)


@dataclass(frozen=True, slots=True)
class Settings:
    """How the server runs. Names are those of the flags, with '_' for '-'."""

    repository: str = field(metadata={"help": "repository, directory of one model, or model.onnx"})
    model_name: str = _setting("", "name of a single model; default: from its path")
    host: str = _setting("127.0.0.1", "address to listen on")
    port: int = _setting(8001, "gRPC port; 0 picks a free one")
    http_port: int = _setting(8002, "HTTP port: metrics, health, REST; 0 picks a free one")
    rest: bool = _setting(True, "serve the protocol over REST, too; no: metrics and health only")
    unix_socket: str = _setting("", "also listen for gRPC on this Unix socket")
    listen: tuple[str, ...] = _setting(
        (),
        "also listen for gRPC here: HOST:PORT or unix:PATH; commas between several",
        metavar="ADDRESS",
    )
    transport: str = _setting("auto", "network implementation", ("auto", "native", "threaded"))
    network_threads: int = _setting(
        0, "threads that serve the network; 0: the one that schedules (least latency)"
    )
    compression: str = _setting("off", "compress replies for clients that take it", ("off", "gzip"))
    device: str = _setting(
        "auto", "where models run; cuda never falls back", ("auto", "cpu", "cuda")
    )
    cuda_device: int = _setting(0, "number of the GPU")
    cuda_graphs: bool = _setting(False, "on a GPU, replay captured runs, a graph for each bucket")
    gpu_memory_mib: int = _setting(0, "GPU memory of all models together in MiB; 0: no bound")
    threads: int = _setting(0, "threads of one model run; 0: its share of the usable CPUs")
    instances: int = _setting(1, "batches of one model that may run at once")
    max_batch_size: int = _setting(64, "rows in a batch, for models that batch and say no number")
    max_queue_requests: int = _setting(4096, "requests that may wait for one model")
    max_queue_mib: int = _setting(256, "their size in MiB")
    max_state_mib: int = _setting(1024, "states of all sequences of one model in MiB")
    max_message_mib: int = _limit(64, "largest message or HTTP body in MiB, inflated")
    max_header_kib: int = _limit(16, "all headers of one call in KiB")
    max_received_mib: int = _limit(
        1024, "received and unanswered, all connections together, in MiB"
    )
    max_unsent_mib: int = _limit(
        128, "answers that one connection has not taken, in MiB; above it new calls are refused"
    )
    max_unsent_total_mib: int = _limit(
        1024, "the same of all; above it those that hold more than their share are refused"
    )
    max_concurrent_calls: int = _limit(512, "calls and streams in progress at once")
    max_connection_calls: int = _limit(128, "of them on one connection")
    max_connections: int = _limit(2000, "connections, those in their handshake included")
    stream_window: int = _limit(64, "requests in flight on one stream")
    stream_unsent_kib: int = _limit(
        1024, "of one stream that its client has not taken, in KiB, before its producers wait"
    )
    max_resets_per_second: int = _limit(5000, "calls that one connection may cancel; else dropped")
    max_control_frames_per_second: int = _limit(
        1000, "PING, SETTINGS and PRIORITY frames of one connection; else dropped"
    )
    keepalive_time: float = _limit(60.0, "ping a client that is silent for so long; 0: never")
    keepalive_timeout: float = _limit(20.0, "drop it when it stays silent for so long after that")
    min_ping_interval: float = _limit(
        10.0, "drop a client that pings more often without being answered a call; 0: never"
    )
    connection_idle: float = _limit(900.0, "close a connection without calls after this; 0: never")
    connection_age: float = _limit(0.0, "close any connection after this; 0: never")
    connection_age_grace: float = _limit(300.0, "time for its calls to end before they are cut off")
    handshake_timeout: float = _limit(10.0, "time for TLS and the first bytes of HTTP/2")
    send_timeout: float = _limit(
        300.0, "drop a client that takes nothing of its answers for so long; 0: never"
    )
    default_deadline: float = _setting(
        60.0, "seconds in the queue for requests without a deadline; 0: any"
    )
    stream_state: bool = _setting(
        False, "a stream is a sequence: models keep their states for it, without an id"
    )
    drain_delay: float = _setting(1.0, "seconds between NOT_SERVING and refusing, on SIGTERM")
    grace: float = _setting(25.0, "seconds that accepted requests may take after SIGTERM")
    model_control: str = _setting(
        "none",
        "who changes what is served: nobody, callers by RPC, or the repository (see --watch)",
        ("none", "explicit", "poll"),
    )
    load_model: tuple[str, ...] = _setting(
        (), "with explicit: load this model at start; may be repeated, * is all", metavar="NAME"
    )
    load_timeout: float = _setting(
        300.0, "give up a version that is not loaded within so many seconds; 0: never"
    )
    watch: float = _setting(
        0.0, "with poll: look for new versions every so many seconds; given alone it means poll"
    )
    require_signature: str = _setting(
        "", "PEM file of a public key; only versions signed with it are served"
    )
    allow_client_shm: bool = _setting(
        False, "let clients register shared memory, for inputs and outputs"
    )
    max_shm_regions: int = _setting(256, "regions registered at once, an open file each")
    allow_python_backend: bool = _setting(
        False, "run model.py of models with backend 'python': code of the repository"
    )
    restrict: tuple[str, ...] = _secrets(
        "only callers that send the header triton-grpc-protocol-KEY with VALUE may call RPCs of "
        "these categories, with commas between them; VALUE may be @FILE or $VARIABLE; may be "
        "repeated",
        "CATEGORIES:KEY=VALUE",
    )
    forward_headers: str = _setting(
        "", "regular expression; headers with such a name become parameters of their requests"
    )
    reflection: bool = _setting(True, "serve the schema to grpcurl and its like")
    server_name: str = _setting("penstock", "name in ServerMetadata; some examples want 'triton'")
    tls_certificate: str = _setting("", "PEM file of the server's certificate")
    tls_key: str = _setting("", "PEM file of its key")
    tls_client_ca: str = _setting("", "PEM file; clients must present a certificate of this CA")
    allow_insecure: bool = _setting(False, "listen beyond loopback without TLS")
    trace_file: str = _setting("", "write traces of requests here, once TraceSetting asks for them")
    log_level: str = _setting(
        "info", "least level that is logged", ("debug", "info", "warning", "error")
    )
    log_format: str = _setting("text", "form of the log on stderr", ("text", "json"))

    def __post_init__(self) -> None:
        """Check every value. Raises SettingsError naming setting, value and expectation."""
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise SettingsError(f"{flag(name)} is {value}, expected {low} to {high}")
        for entry in fields(self):
            choices = entry.metadata.get("choices")
            if choices and getattr(self, entry.name) not in choices:
                raise SettingsError(
                    f"{flag(entry.name)} is '{getattr(self, entry.name)}', expected one of "
                    f"{', '.join(choices)}"
                )
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise SettingsError("--tls-certificate and --tls-key go together; one is missing")
        if self.tls_client_ca and not self.tls_certificate:
            raise SettingsError("--tls-client-ca needs --tls-certificate and --tls-key")
        if self.max_received_mib < self.max_message_mib:
            raise SettingsError(
                f"--max-received-mib is {self.max_received_mib}, less than the largest message: "
                f"expected at least --max-message-mib, {self.max_message_mib}"
            )
        self._check_control()
        self._check_addresses()

    @property
    def poll_interval_s(self) -> float:
        """Return how often the repository is looked at, in seconds; 0: never."""
        return self.watch or (_POLL_S if self.model_control == "poll" else 0.0)

    def _check_control(self) -> None:
        if self.load_model and self.model_control != "explicit":
            raise SettingsError("--load-model needs --model-control explicit")
        if self.watch and self.model_control == "explicit":
            raise SettingsError("--watch and --model-control explicit exclude each other")
        try:
            re.compile(self.forward_headers)
        except re.error as error:
            raise SettingsError(
                f"--forward-headers is '{self.forward_headers}', expected a regular expression: "
                f"{error}"
            ) from error

    def _check_addresses(self) -> None:
        _check_socket("--unix-socket", self.unix_socket)
        for address in self.listen:
            _check_address(address)
        hosts = [("--host", self.host), *(("--listen", _host_of(one)) for one in self.listen)]
        for name, host in hosts:
            if not (self.tls_certificate or self.allow_insecure or _is_loopback(host)):
                raise SettingsError(
                    f"{name} is '{host}', which others can reach, and there is no TLS. Give "
                    "--tls-certificate and --tls-key, or --allow-insecure if the network is trusted"
                )


_WEEK_S: Final = 604_800
_POLL_S: Final = 15.0  # as Triton
_MAX_SOCKET: Final = 107  # bytes; sun_path of unix(7), without its NUL
_RANGES: Final = (
    ("port", 0, 65535),
    ("http_port", 0, 65535),
    ("cuda_device", 0, 1024),
    ("gpu_memory_mib", 0, 1 << 20),
    ("threads", 0, 1024),
    ("instances", 1, 256),
    ("max_batch_size", 1, 65536),
    ("network_threads", 0, 64),
    ("max_queue_requests", 1, 1_000_000),
    ("max_queue_mib", 1, 1 << 20),
    ("max_state_mib", 1, 1 << 20),
    ("max_message_mib", 1, 2047),
    ("max_header_kib", 1, 1024),
    ("max_received_mib", 1, 1 << 20),
    ("max_unsent_mib", 1, 1 << 20),
    ("max_unsent_total_mib", 1, 1 << 20),
    ("max_concurrent_calls", 1, 100_000),
    ("max_connection_calls", 1, 100_000),
    ("max_connections", 1, 1_000_000),
    ("stream_window", 1, 65536),
    ("stream_unsent_kib", 1, 1 << 20),
    ("max_shm_regions", 1, 1_000_000),
    ("max_resets_per_second", 1, 1_000_000),
    ("max_control_frames_per_second", 1, 1_000_000),
    ("keepalive_time", 0, _WEEK_S),
    ("keepalive_timeout", 0.01, _WEEK_S),
    ("min_ping_interval", 0, _WEEK_S),
    ("connection_idle", 0, _WEEK_S),
    ("connection_age", 0, _WEEK_S),
    ("connection_age_grace", 0, _WEEK_S),
    ("handshake_timeout", 0.01, 3600),
    ("send_timeout", 0, _WEEK_S),
    ("default_deadline", 0, 86400),
    ("drain_delay", 0, 3600),
    ("grace", 0, 3600),
    ("load_timeout", 0, _WEEK_S),
    ("watch", 0, 86400),
)


def flag(name: str) -> str:
    """Return the flag of a setting."""
    return "REPOSITORY" if name == "repository" else "--" + name.replace("_", "-")


def _check_address(address: str) -> None:
    """Raise SettingsError unless an address of --listen can be one."""
    if address.removeprefix("unix:") != address:
        is_fine = bool(address.removeprefix("unix:"))
        _check_socket("--listen", address.removeprefix("unix:"))
    else:
        host, _, port = address.rpartition(":")
        is_bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
        is_number = port.isascii() and port.isdecimal()
        is_fine = bool(host) and not is_bare_ipv6 and is_number and int(port) <= 65535
    if not is_fine:
        raise SettingsError(
            f"--listen is '{address}', expected HOST:PORT, [IPV6]:PORT or unix:PATH"
        )


def _check_socket(name: str, path: str) -> None:
    """Raise SettingsError for a path that is too long for the socket that it is to be."""
    if (length := len(os.fsencode(path))) > _MAX_SOCKET:
        raise SettingsError(
            f"{name}: the path of a Unix socket has at most {_MAX_SOCKET} bytes, and '{path}' has "
            f"{length}"
        )


def _host_of(address: str) -> str:
    return "localhost" if address.startswith("unix:") else address.rpartition(":")[0]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
