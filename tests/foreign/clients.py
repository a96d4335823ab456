"""The clients that nobody here wrote, by the name that the tests give in their mark `client`."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).resolve().parent
_MAKEFILE: Final = _HERE.parents[1] / "Makefile"


@dataclass(frozen=True, slots=True)
class Client:
    """title: as the tables call it. stack: language and implementation of gRPC under it."""

    title: str
    version: str
    stack: str


def _pinned(requirements: str, package: str) -> str:
    text = (_HERE / requirements).read_text()
    found = re.search(rf"^{package}(?:\[\w+\])?==(\S+)$", text, re.MULTILINE)
    assert found, f"{package} is not pinned in {requirements}"
    return found[1]


def _npm(package: str) -> str:
    content = json.loads((_HERE / "node" / "package.json").read_text())
    return str(content["dependencies"][package])


def _made(variable: str) -> str:
    found = re.search(rf"^{variable} := v(\S+)$", _MAKEFILE.read_text(), re.MULTILINE)
    assert found, f"{variable} is not in the Makefile"
    return found[1]


_CLIENTS, _OLD = "requirements.txt", "requirements-pytriton.txt"

CLIENTS: Final = {
    "tritonclient": Client(
        "tritonclient", _pinned(_CLIENTS, "tritonclient"), "Python, grpcio, protobuf 6"
    ),
    "old_triton": Client(
        "tritonclient, older", _pinned(_OLD, "tritonclient"), "Python, grpcio, protobuf 4"
    ),
    "perf_analyzer": Client("perf_analyzer", _pinned(_OLD, "tritonclient"), "C++, gRPC C++"),
    "pytriton": Client("PyTriton", _pinned(_OLD, "nvidia-pytriton"), "Python, tritonclient"),
    "kserve": Client("KServe SDK", _pinned(_CLIENTS, "kserve"), "Python, grpcio asyncio"),
    "mlserver": Client(
        "MLServer stubs", _pinned("requirements-mlserver.txt", "mlserver"), "Python, grpcio"
    ),
    "grpclib": Client("grpclib", _pinned(_CLIENTS, "grpclib"), "Python, hyper-h2"),
    "reflection": Client(
        "grpc-requests", _pinned(_CLIENTS, "grpc-requests"), "Python, grpcio, by reflection"
    ),
    "grpcurl": Client("grpcurl", _made("GRPCURL_VERSION"), "Go, grpc-go, by reflection"),
    "buf": Client("buf curl", _npm("@bufbuild/buf"), "Go, connect-go, by reflection"),
    "grpc_js": Client("grpc-js", _npm("@grpc/grpc-js"), "JavaScript, Node's HTTP/2"),
    "health_probe": Client("grpc_health_probe", _made("HEALTH_PROBE_VERSION"), "Go, grpc-go"),
    "h2load": Client("h2load", "of the system", "C++, nghttp2, no gRPC"),
}
