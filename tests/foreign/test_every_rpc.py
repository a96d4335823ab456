"""Every unary RPC by reflection alone, with two command line clients: grpcurl and buf curl."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.support.shared import segment

SERVICE = "inference.GRPCInferenceService"
_CALL_S = 60.0

Json: TypeAlias = dict[str, Any]
Call: TypeAlias = Callable[[str, Json], tuple[int, Json]]

_ROW = {"intContents": list(range(16))}
_INPUTS = [
    {"name": name, "datatype": "INT32", "shape": ["1", "16"], "contents": _ROW}
    for name in ("INPUT0", "INPUT1")
]
_DOUBLED = (
    "AAAAAAIAAAAEAAAABgAAAAgAAAAKAAAADAAAAA4AAAAQAAAAEgAAABQAAAAWAAAAGAAAABoAAAAcAAAAHgAAAA=="
)

# Each RPC with a request, and what the answer must say.
_CASES: list[tuple[str, Json, Callable[[Json], bool]]] = [
    ("ServerLive", {}, lambda a: a == {"live": True}),
    ("ServerReady", {}, lambda a: a == {"ready": True}),
    ("ServerMetadata", {}, lambda a: a["name"] == "triton"),
    ("ModelReady", {"name": "simple"}, lambda a: a == {"ready": True}),
    ("ModelReady", {"name": "absent"}, lambda a: a == {}),
    ("ModelMetadata", {"name": "simple"}, lambda a: a["platform"] == "onnxruntime_onnx"),
    ("ModelConfig", {"name": "simple"}, lambda a: a["config"]["maxBatchSize"] == 8),
    ("ModelStatistics", {"name": "simple"}, lambda a: a["modelStats"][0]["version"] == "1"),
    (
        "ModelInfer",
        {"modelName": "simple", "id": "7", "inputs": _INPUTS},
        lambda a: a["id"] == "7" and a["rawOutputContents"][0] == _DOUBLED,
    ),
    ("RepositoryIndex", {"ready": True}, lambda a: all(m["state"] == "READY" for m in a["models"])),
    ("RepositoryModelLoad", {"modelName": "simple_int8"}, lambda a: a == {}),
    ("RepositoryModelUnload", {"modelName": "absent"}, lambda a: a == {}),
    ("SystemSharedMemoryStatus", {}, lambda a: a == {}),
    ("SystemSharedMemoryUnregister", {"name": "absent"}, lambda a: a == {}),
    ("CudaSharedMemoryStatus", {}, lambda a: a == {}),
    ("CudaSharedMemoryUnregister", {}, lambda a: a == {}),
    ("TraceSetting", {}, lambda a: a["settings"]["traceMode"] == {"value": ["triton"]}),
    ("LogSettings", {}, lambda a: a["settings"]["logFile"] == {"stringParam": ""}),
]
# What is refused here, with code and text; the region of a GPU is refused where there is none.
_REFUSED: list[tuple[str, Json, int, str]] = [
    ("ModelInfer", {"modelName": "absent"}, 5, "Request for unknown model: 'absent' is not found"),
    ("ModelStatistics", {"name": "absent"}, 3, "requested model 'absent' is not available"),
    ("RepositoryIndex", {"repositoryName": "x"}, 12, "'repository_name' specification is not"),
    ("RepositoryModelLoad", {"modelName": "absent"}, 13, "failed to load 'absent'"),
    (
        "SystemSharedMemoryRegister",
        {"name": "no", "key": "/no-such", "byteSize": 8},
        13,
        "Unable to open shared memory region: '/no-such'",
    ),
]


@pytest.fixture(
    params=[
        pytest.param("grpcurl", marks=pytest.mark.client("grpcurl")),
        pytest.param("buf", marks=pytest.mark.client("buf")),
    ]
)
def call(request: pytest.FixtureRequest, examples: str, tmp_path: Path) -> Call:
    """Give what calls a method with a request and returns gRPC's code and the answer or text."""
    program = str(request.getfixturevalue(request.param))

    def run(method: str, body: Json) -> tuple[int, Json]:
        if request.param == "grpcurl":
            command = [program, "-plaintext", "-d", json.dumps(body), examples]
            command.append(f"{SERVICE}/{method}")
        else:
            command = ["env", f"BUF_CACHE_DIR={tmp_path}", program, "curl", "--protocol", "grpc"]
            command += ["--http2-prior-knowledge", "-d", json.dumps(body)]
            command.append(f"http://{examples}/{SERVICE}/{method}")
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_CALL_S,
            check=False,
        )
        if ended.returncode == 0:
            return 0, json.loads(ended.stdout)
        code = ended.returncode - 64 if request.param == "grpcurl" else ended.returncode // 8
        return code, {"text": ended.stderr}

    return run


@pytest.mark.foreign
def test_every_rpc_answers(call: Call) -> None:
    """Each RPC is found by reflection and answered as it should be."""
    for method, body, is_right in _CASES:
        code, answer = call(method, body)
        assert code == 0, (method, answer)
        assert is_right(_camel(answer)), (method, answer)


@pytest.mark.foreign
def test_refusals_have_code_and_text(call: Call) -> None:
    """What is refused has gRPC's code and Triton's words."""
    for method, body, expected, text in _REFUSED:
        code, answer = call(method, body)
        assert code == expected, (method, answer)
        assert text in answer["text"], (method, answer)


@pytest.mark.foreign
def test_regions_come_and_go(call: Call) -> None:
    """A segment is registered, told of and forgotten."""
    with segment(64) as made:
        region = {"name": "shell", "key": made.key, "byteSize": "64"}
        assert call("SystemSharedMemoryRegister", region) == (0, {})
        code, answer = call("SystemSharedMemoryStatus", {"name": "shell"})
        assert (code, _camel(answer)) == (0, {"regions": {"shell": region}})
        assert call("SystemSharedMemoryUnregister", {"name": "shell"}) == (0, {})


def _camel(value: Any) -> Any:
    """Name fields as JSON has them: grpcurl takes their names from the descriptors as they are."""
    if isinstance(value, list):
        return [_camel(item) for item in value]
    if isinstance(value, dict):
        return {re.sub("_(.)", lambda m: m[1].upper(), k): _camel(v) for k, v in value.items()}
    return value
