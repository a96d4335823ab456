"""Models and repositories that cannot be served: the reason is told, the others serve."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import onnx
import pytest

from service.pb.grpc_service_pb2 import (
    ModelReadyRequest,
    RepositoryIndexRequest,
    ServerLiveRequest,
    ServerReadyRequest,
)
from service.repository.manifest import Manifest, sha256_of
from service.tensors import FP32, INT32, TensorSpec
from tests.support import models
from tests.support.requests import answer, one, raw_request, simple_request
from tests.support.servers import run_serve, serve
from tests.support.stub import WAIT_S, refusal

_FP32: Final = "TYPE_FP32"


def _publish(root: Path, config: str | None = None) -> Path:
    return models.publish(root, "bad", models.identity(FP32), config=config)


def _truncated(root: Path) -> None:
    path = models.publish(root, "bad", models.mlp())
    path.write_bytes(path.read_bytes()[:1000])


def _corrupt(root: Path) -> None:
    models.publish(root, "bad", b"\x08\x0a\xff\xff" * 100)


def _missing(root: Path) -> None:
    (root / "bad" / "1").mkdir(parents=True)


def _no_version(root: Path) -> None:
    (root / "bad").mkdir(parents=True)


def _external_data_missing(root: Path) -> None:
    path = models.publish(root, "bad", models.mlp())
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    (path.parent / "weights").unlink()


def _sequence(root: Path) -> None:
    value = onnx.helper.make_tensor_sequence_value_info("Y", onnx.TensorProto.FLOAT, None)
    node = onnx.helper.make_node("SequenceConstruct", ["X"], ["Y"])
    entry = onnx.helper.make_tensor_value_info("X", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([node], "graph", [entry], [value])
    model = onnx.helper.make_model(
        graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 21)]
    )
    models.publish(root, "bad", model.SerializeToString())


def _changed_after_publishing(root: Path) -> None:
    path = _publish(root)
    spec = (TensorSpec("X", FP32, (-1, -1)),), (TensorSpec("Y", FP32, (-1, -1)),)
    manifest = Manifest("bad", 1, *spec, 8, 21, {"model.onnx": sha256_of(path)})
    (path.parent / "manifest.json").write_text(manifest.to_json())
    path.write_bytes(models.identity(FP32, ("n", "m")))


def _manifest_is_nonsense(root: Path) -> None:
    (_publish(root).parent / "manifest.json").write_text(json.dumps({"format": 99}))


def _golden_differs(root: Path) -> None:
    path = models.publish(root, "bad", models.add_constant(1))
    golden = path.parent / "golden.npz"
    pair: Any = {"0.in.X": np.zeros((1, 1), "f4"), "0.out.Y": np.full((1, 1), 9, "f4")}
    np.savez(golden, **pair)
    files = {name: sha256_of(path.parent / name) for name in ("model.onnx", "golden.npz")}
    spec = (TensorSpec("X", FP32, (-1, 1)),), (TensorSpec("Y", FP32, (-1, 1)),)
    manifest = Manifest("bad", 1, *spec, 8, 21, files, golden="golden.npz")
    (path.parent / "manifest.json").write_text(manifest.to_json())


def _tensor(datatype: str, dims: str, name: str = "X") -> str:
    return (
        f'max_batch_size: 4 input {{ name: "{name}" data_type: {datatype} dims: {dims} }} '
        f'output {{ name: "Y" data_type: TYPE_FP32 dims: -1 }}'
    )


def _configured(text: str) -> Callable[[Path], object]:
    return lambda root: _publish(root, text)


CASES: Final = {
    "truncated": (_truncated, "model.onnx: ONNX Runtime cannot load it"),
    "corrupt": (_corrupt, "model.onnx: ONNX Runtime cannot load it"),
    "missing file": (_missing, "model.onnx: no such file"),
    "no version": (_no_version, "no version (VERSION/model.onnx or model.py) in it"),
    "no external data": (_external_data_missing, "model.onnx: ONNX Runtime cannot load it"),
    "no tensor": (_sequence, "which no tensor protocol can carry"),
    "changed": (_changed_after_publishing, "model.onnx: checksum mismatch"),
    "no manifest": (_manifest_is_nonsense, "manifest.json: not a manifest"),
    "golden": (_golden_differs, "golden pair 0: output 'Y' differs from what was exported"),
    "not text": (_configured("name: \xff"), "config.pbtxt:1"),
    "wrong type": (_configured('\n\nmax_batch_size: "eight"'), "config.pbtxt:3:17:"),
    "unknown field": (_configured("\nmax_batch: 8"), 'config.pbtxt:2:1: Message type "inference'),
    "wrong name": (_configured('name: "other"'), "name is 'other', but the directory is 'bad'"),
    "wrong platform": (_configured('platform: "tensorrt_plan"'), "only 'onnxruntime_onnx'"),
    "sequences": (
        _configured("sequence_batching { iterative_sequence: true }"),
        "iterative_sequence: not served",
    ),
    "wrong data_type": (_configured(_tensor("TYPE_INT32", "-1")), "but the graph has TYPE_FP32"),
    "wrong dims": (_configured(_tensor(_FP32, "[ -1, 3 ]")), "but the graph has [-1,-1]"),
    "wrong input": (_configured(_tensor(_FP32, "-1", "Z")), "input 'Z' is not in the graph"),
    "no such version": (
        _configured("version_policy { specific { versions: 7 } }"),
        "version_policy asks for versions [7], present are [1]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_model_that_cannot_be_served_tells_why(tmp_path: Path, case: str) -> None:
    """It is UNAVAILABLE with its reason in the index, stderr and status; the others serve."""
    make, reason = CASES[case]
    make(tmp_path)
    models.publish(tmp_path, "simple", models.simple(), config=models.SIMPLE_CONFIG)
    with serve(tmp_path) as server, server.stub() as stub:
        index = stub.index(RepositoryIndexRequest(), timeout=WAIT_S).models
        (entry,) = (entry for entry in index if entry.name == "bad")
        assert entry.state == "UNAVAILABLE"
        assert reason in entry.reason
        assert "not served: bad: " in server.log.read_text()
        assert reason in server.log.read_text()
        assert not stub.ready(ServerReadyRequest(), timeout=WAIT_S).ready
        assert stub.live(ServerLiveRequest(), timeout=WAIT_S).live
        assert not stub.model_ready(ModelReadyRequest(name="bad"), timeout=WAIT_S).ready
        code, text = refusal(stub.infer, simple_request(model="bad"))
        assert code is grpc.StatusCode.NOT_FOUND
        assert text == "Request for unknown model: 'bad' has no available versions"
        if entry.version:
            code, text = refusal(stub.infer, simple_request(model="bad", version=entry.version))
            assert code is grpc.StatusCode.UNAVAILABLE
            assert text.endswith(f"'bad' version {entry.version} is not at ready state")
        assert answer(stub.infer(simple_request(2, 2), timeout=WAIT_S), "OUTPUT0")[0, 0] == 4
        assert server.get("/v2/health/ready")[0] == 503
        assert server.get("/v2/health/live")[0] == 200


def test_index_can_be_of_what_is_ready(tmp_path: Path) -> None:
    """RepositoryIndex with ready lists what serves; a repository by name is not supported."""
    _corrupt(tmp_path)
    models.publish(tmp_path, "simple", models.simple(), config=models.SIMPLE_CONFIG)
    with serve(tmp_path) as server, server.stub() as stub:
        ready = stub.index(RepositoryIndexRequest(ready=True), timeout=WAIT_S).models
        assert [(entry.name, entry.version, entry.state) for entry in ready] == [
            ("simple", "1", "READY")
        ]
        code, text = refusal(stub.index, RepositoryIndexRequest(repository_name="other"))
        assert code is grpc.StatusCode.UNIMPLEMENTED
        assert text == "'repository_name' specification is not supported"


def test_server_without_a_single_model_does_not_start(tmp_path: Path) -> None:
    """When every model fails the server ends with 1 and each reason."""
    _corrupt(tmp_path)
    ended = run_serve(str(tmp_path), "--port", "0", "--http-port", "0")
    assert ended.returncode == 1
    assert "no model can be served: bad: " in ended.stderr
    assert "ONNX Runtime cannot load it" in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("path", "text"),
    [("none", "no such file or directory; expected a repository"), ("", "holds no model")],
    ids=["missing", "empty"],
)
def test_missing_or_empty_repository(tmp_path: Path, path: str, text: str) -> None:
    """A path without models ends the server with what was expected there."""
    ended = run_serve(str(tmp_path / path), "--port", "0", "--http-port", "0")
    assert ended.returncode == 1
    assert text in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("setting", ["--port", "--http-port"])
def test_port_in_use(tmp_path: Path, setting: str) -> None:
    """A port that is taken ends the server with 2 and the address."""
    models.publish(tmp_path, "simple", models.simple())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ports = {"--port": "0", "--http-port": "0", setting: port}
        ended = run_serve(str(tmp_path), *(part for pair in ports.items() for part in pair))
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
    assert "Address already in use" in ended.stderr


def test_single_file_and_single_directory_are_served(tmp_path: Path) -> None:
    """One .onnx file, and the directory of one model, are repositories too."""
    path = models.publish(tmp_path, "ints", models.identity(INT32))
    lone = tmp_path / "lone.onnx"
    lone.write_bytes(path.read_bytes())
    array = np.ones((1, 2), np.int32)
    for source, flags, name in (
        (lone, (), "lone"),
        (lone, ("--model-name", "named"), "named"),
        (tmp_path / "ints", (), "ints"),
        (tmp_path / "ints" / "1", ("--model-name", "one"), "one"),
    ):
        with serve(source, *flags) as server, server.stub() as stub:
            response = stub.infer(raw_request(name, one(INT32, array)), timeout=WAIT_S)
            assert (response.model_name, response.model_version) == (name, "1")


def test_device_that_is_missing_is_an_error(tmp_path: Path) -> None:
    """CUDA that was demanded and is not there is an error, not a silent fall-back."""
    import onnxruntime as ort

    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    models.publish(tmp_path, "simple", models.simple())
    ended = run_serve(str(tmp_path), "--port", "0", "--http-port", "0", "--device", "cuda")
    assert ended.returncode == 1
    assert "device cuda was asked for, but the installed onnxruntime" in ended.stderr
