"""The clients of the tables, by the name that the tests give in their mark `client`."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Client:
    """title: as the tables call it. stack: language and implementation of gRPC under it."""

    title: str
    version: str
    stack: str


def _found(pattern: str, path: str) -> str:
    found = re.search(pattern, (_ROOT / path).read_text(), re.MULTILINE)
    assert found, f"{pattern} is not in {path}"
    return found[1]


def _pinned(requirements: str, package: str) -> str:
    return _found(rf"^{package}(?:\[\w+\])?==(\S+)$", requirements)


def _npm(directory: str, package: str) -> str:
    content = json.loads((_ROOT / directory / "package.json").read_text())
    return str(content["dependencies"][package])


def _made(variable: str) -> str:
    return _found(rf"^{variable} := v(\S+)$", "Makefile")


_CLIENTS: Final = "tests/foreign/requirements.txt"
_OLD: Final = "tests/foreign/requirements-pytriton.txt"
_MLSERVER: Final = "tests/foreign/requirements-mlserver.txt"
_NODE: Final = "tests/foreign/node"

# Over gRPC, by nobody here.
GRPC: Final = {
    "tritonclient": Client(
        "tritonclient", _pinned(_CLIENTS, "tritonclient"), "Python, grpcio, protobuf 6"
    ),
    "old_triton": Client(
        "tritonclient, older", _pinned(_OLD, "tritonclient"), "Python, grpcio, protobuf 4"
    ),
    "perf_analyzer": Client("perf_analyzer", _pinned(_OLD, "tritonclient"), "C++, gRPC C++"),
    "pytriton": Client("PyTriton", _pinned(_OLD, "nvidia-pytriton"), "Python, tritonclient"),
    "kserve": Client("KServe SDK", _pinned(_CLIENTS, "kserve"), "Python, grpcio asyncio"),
    "mlserver": Client("MLServer stubs", _pinned(_MLSERVER, "mlserver"), "Python, grpcio"),
    "grpclib": Client("grpclib", _pinned(_CLIENTS, "grpclib"), "Python, hyper-h2"),
    "reflection": Client(
        "grpc-requests", _pinned(_CLIENTS, "grpc-requests"), "Python, grpcio, by reflection"
    ),
    "grpcurl": Client("grpcurl", _made("GRPCURL_VERSION"), "Go, grpc-go, by reflection"),
    "buf": Client("buf curl", _npm(_NODE, "@bufbuild/buf"), "Go, connect-go, by reflection"),
    "grpc_js": Client("grpc-js", _npm(_NODE, "@grpc/grpc-js"), "JavaScript, Node's HTTP/2"),
    "health_probe": Client("grpc_health_probe", _made("HEALTH_PROBE_VERSION"), "Go, grpc-go"),
    "h2load": Client("h2load", "of the system", "C++, nghttp2, no gRPC"),
}

# Over REST, by nobody here.
REST: Final = {
    "triton_http": Client(
        "tritonclient.http", _pinned(_CLIENTS, "tritonclient"), "Python, geventhttpclient"
    ),
    "triton_aio": Client(
        "tritonclient.http.aio", _pinned(_CLIENTS, "tritonclient"), "Python, aiohttp"
    ),
    "kserve_rest": Client("KServe SDK, REST", _pinned(_CLIENTS, "kserve"), "Python, httpx"),
}

# The examples of clients/; the version is that of the implementation of gRPC.
EXAMPLES: Final = {
    "python": Client("Python", _pinned("clients/python/requirements.txt", "grpcio"), "grpcio"),
    "go": Client("Go", _found(r"google\.golang\.org/grpc v(\S+)$", "clients/go/go.mod"), "grpc-go"),
    "java": Client(
        "Java", _found("<grpc.version>(.+)</grpc.version>", "clients/java/pom.xml"), "grpc-java"
    ),
    "javascript": Client("JavaScript", _npm("clients/javascript", "@grpc/grpc-js"), "grpc-js"),
    "rust": Client(
        "Rust", _found(r'^name = "tonic"\nversion = "(.+)"$', "clients/rust/Cargo.lock"), "tonic"
    ),
    "cpp": Client("C++", "of the system", "gRPC C++"),
}
