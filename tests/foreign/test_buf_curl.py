"""`buf curl` against Penstock: a second gRPC stack and both versions of reflection."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.foreign, pytest.mark.client("buf")]

SERVICE = "inference.GRPCInferenceService"
NOT_FOUND = 8 * 5  # buf exits with 8 times the status code
_CALL_S = 60.0
Curl = Callable[..., subprocess.CompletedProcess[str]]

FP32_REQUEST = json.dumps(
    {
        "modelName": "identity_fp32",
        "id": "1",
        "inputs": [
            {
                "name": "X",
                "datatype": "FP32",
                "shape": [1, 2],
                "contents": {"fp32Contents": [0.5, -2]},
            },
        ],
    },
)
FP32_RAW = "AAAAPwAAAMA="  # 0.5 and -2 as little-endian FP32


@pytest.fixture
def curl(buf: Path, address: str, tmp_path: Path) -> Curl:
    """Run `buf curl` on a path of the server; its cache stays in the test's own directory."""

    def run(path: str, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *("env", f"BUF_CACHE_DIR={tmp_path}", str(buf), "curl"),
                *("--protocol", "grpc", "--http2-prior-knowledge"),
                *options,
                f"http://{address}{path}",
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_CALL_S,
            check=False,
        )

    return run


@pytest.mark.parametrize("version", ["grpc-v1", "grpc-v1alpha"])
def test_reflection(curl: Curl, version: str) -> None:
    """Each version of reflection lists the same services."""
    run = curl("", "--reflect-protocol", version, "--list-services")
    assert run.returncode == 0, run.stderr
    assert {SERVICE, "grpc.health.v1.Health"} <= set(run.stdout.split())


@pytest.mark.parametrize("version", ["grpc-v1", "grpc-v1alpha"])
def test_model_infer(curl: Curl, version: str) -> None:
    """A request that is built from reflection alone is answered."""
    run = curl(f"/{SERVICE}/ModelInfer", "--reflect-protocol", version, "-d", FP32_REQUEST)
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout)
    assert answer["rawOutputContents"] == [FP32_RAW]
    assert answer["id"] == "1"


def test_model_stream_infer(curl: Curl, tmp_path: Path) -> None:
    """Several requests on one stream are answered in their order, errors among them."""
    requests = tmp_path / "requests"
    wrong = FP32_REQUEST.replace('"identity_fp32"', '"absent"')
    requests.write_text(f"{FP32_REQUEST}\n{wrong}\n{FP32_REQUEST}\n")
    run = curl(f"/{SERVICE}/ModelStreamInfer", "-d", f"@{requests}")
    assert run.returncode == 0, run.stderr
    answers = json.loads("[" + run.stdout.replace("}\n{", "},{") + "]")
    assert [answer.get("errorMessage", "") for answer in answers] == [
        "",
        "Request for unknown model: 'absent' is not found",
        "",
    ]
    assert answers[2]["inferResponse"]["rawOutputContents"] == [FP32_RAW]


def test_unknown_model(curl: Curl) -> None:
    """An unknown model is NOT_FOUND in Triton's words."""
    request = FP32_REQUEST.replace('"identity_fp32"', '"absent"')
    run = curl(f"/{SERVICE}/ModelInfer", "-d", request)
    assert run.returncode == NOT_FOUND
    assert "Request for unknown model: 'absent' is not found" in run.stderr


def test_health(curl: Curl) -> None:
    """A health check says SERVING."""
    run = curl("/grpc.health.v1.Health/Check", "-d", "{}")
    assert json.loads(run.stdout) == {"status": "SERVING"}, run.stderr
