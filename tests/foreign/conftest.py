"""A served repository and the clients that nobody here wrote, each where `make tools` puts it.

Where CI is set, a missing client is a failure; elsewhere it is a skip that says what to run.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent.parent
_READY_PREFIX = "penstock ready grpc="
_STOP_S = 30.0  # longest drain; nothing is in flight by then

SIMPLE_CONFIG = """
name: "simple"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [
  { name: "INPUT0" data_type: TYPE_INT32 dims: [ 16 ] },
  { name: "INPUT1" data_type: TYPE_INT32 dims: [ 16 ] }
]
output [
  { name: "OUTPUT0" data_type: TYPE_INT32 dims: [ 16 ] },
  { name: "OUTPUT1" data_type: TYPE_INT32 dims: [ 16 ] }
]
dynamic_batching { }
"""


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a repository in Triton's layout: simple, an identity a datatype, a slow model."""
    root = tmp_path_factory.mktemp("models")
    _publish(root, "simple", _add_and_subtract())
    (root / "simple" / "config.pbtxt").write_text(SIMPLE_CONFIG)
    _publish(root, "identity_fp32", _identity(TensorProto.FLOAT))
    _publish(root, "identity_fp16", _identity(TensorProto.FLOAT16))
    _publish(root, "identity_bf16", _identity(TensorProto.BFLOAT16))
    _publish(root, "identity_bytes", _identity(TensorProto.STRING))
    _publish(root, "slow", _slow())
    return root


@pytest.fixture(scope="session")
def address(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the repository at this HOST:PORT; the server must stop with exit code 0."""
    log = tmp_path_factory.mktemp("log") / "server"
    command = [sys.executable, "-m", "service", "serve", str(repository)]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [*command, "--port", "0", "--http-port", "0"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as server,
    ):
        assert server.stdout is not None
        ready = server.stdout.readline()
        try:
            assert ready.startswith(_READY_PREFIX), f"{ready}{log.read_text()}"
            yield ready.removeprefix(_READY_PREFIX).split()[0]
        finally:
            server.terminate()
            code = server.wait(timeout=_STOP_S)
    assert code == 0, log.read_text()


@pytest.fixture(scope="session")
def triton_python() -> Path:
    """Find the Python of the environment that has tritonclient."""
    return _installed(ROOT / ".venv-clients" / "bin" / "python")


@pytest.fixture(scope="session")
def grpcurl() -> Path:
    """Find the grpcurl program."""
    return _installed(ROOT / ".tools" / "bin" / "grpcurl")


@pytest.fixture(scope="session")
def buf() -> Path:
    """Find the buf program."""
    return _installed(ROOT / ".tools" / "node" / "node_modules" / ".bin" / "buf")


@pytest.fixture(scope="session")
def node() -> list[str]:
    """Find a node that knows @grpc/grpc-js, as the start of a command."""
    modules = _installed(ROOT / ".tools" / "node" / "node_modules" / "@grpc" / "grpc-js").parent
    program = shutil.which("node")
    if program is None:
        _missing("node is not on PATH")
    return ["env", f"NODE_PATH={modules.parent}", program]


def _installed(path: Path) -> Path:
    if not path.exists():
        _missing(f"{path.relative_to(ROOT)} is not there")
    return path


def _missing(what: str) -> NoReturn:
    reason = f"{what}: run `make tools`"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _publish(root: Path, name: str, graph: onnx.GraphProto) -> None:
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    path = root / name / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(model, path)


def _add_and_subtract() -> onnx.GraphProto:
    nodes = [
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    names = (["INPUT0", "INPUT1"], ["OUTPUT0", "OUTPUT1"])
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", 16]) for name in group]
        for group in names
    )
    return helper.make_graph(nodes, "simple", inputs, outputs)


def _identity(datatype: int) -> onnx.GraphProto:
    return helper.make_graph(
        [helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"])],
        "identity",
        [helper.make_tensor_value_info("INPUT0", datatype, ["batch", "n"])],
        [helper.make_tensor_value_info("OUTPUT0", datatype, ["batch", "n"])],
    )


def _slow() -> onnx.GraphProto:
    """INPUT0 INT64 [batch,1] -> OUTPUT0, the same after as many steps of 1 ms or so as it says.

    A step is one 512 x 512 matrix product. Zeros, as in a warm-up, cost nothing.
    """
    size = 512
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["matrix", "state"], ["next"]),
            helper.make_node("Identity", ["go_on"], ["go_on_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [size, size]),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [size, size]),
        ],
    )
    nodes = [
        helper.make_node("ReduceMax", ["INPUT0"], ["steps"], keepdims=0),
        helper.make_node("Loop", ["steps", "", "matrix"], ["result"], body=body),
        helper.make_node("ReduceMax", ["result"], ["zero"], keepdims=0),
        helper.make_node("Cast", ["zero"], ["nothing"], to=TensorProto.INT64),
        helper.make_node("Add", ["INPUT0", "nothing"], ["OUTPUT0"]),
    ]
    return helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("INPUT0", TensorProto.INT64, ["batch", 1])],
        [helper.make_tensor_value_info("OUTPUT0", TensorProto.INT64, ["batch", 1])],
        initializer=[numpy_helper.from_array(np.zeros((size, size), np.float32), "matrix")],
    )
