"""`penstock inspect` of files and of a running server."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from service.repository.manifest import (
    MODEL_FILE,
    Axis,
    Manifest,
    Parity,
    SessionOptions,
    sha256_of,
)
from service.tensors import FP32, TensorSpec
from tests.support import models, sequences
from tests.support.commands import NOBODY, Run
from tests.support.requests import one, raw_request
from tests.support.sequences import accumulator_config
from tests.support.servers import RunningServer, serve


def test_inspect_a_repository(penstock: Run, broken: Path) -> None:
    """Every version is described, with its state and, if it failed, the reason."""
    ran = penstock("inspect", broken, "--json")
    described = {(each["model"], each["version"]): each for each in json.loads(ran.out)}
    assert ran.code == 1
    assert {key: each["state"] for key, each in described.items()} == {
        ("cut", "1"): "FAILED",
        ("empty", ""): "FAILED",
        ("good", "1"): "NOT SERVED",
        ("good", "3"): "READY",
        ("wrong", ""): "FAILED",
    }
    assert "ONNX Runtime cannot load it" in described["cut", "1"]["reason"]
    assert "config.pbtxt:2" in described["wrong", ""]["reason"]
    assert "only the newest is served" in described["good", "1"]["reason"]
    assert described["good", "3"]["inputs"] == [
        {"name": "X", "datatype": "FP32", "shape": [-1, 784]}
    ]


def test_inspect_an_onnx_file(penstock: Run, tmp_path: Path) -> None:
    """A bare file is described by its graph, for people."""
    path = tmp_path / "classifier.onnx"
    path.write_bytes(models.mlp())
    ran = penstock("inspect", path)
    assert ran.code == 0
    assert ran.out.splitlines()[:3] == [
        "classifier 1  READY",
        "  inputs     X FP32[-1,784]",
        "  outputs    Y FP32[-1,10]",
    ]
    assert f"  size       {len(models.mlp()) / 1000:.1f} kB" in ran.out
    assert "  digests    none: no manifest.json" in ran.out


@pytest.mark.parametrize(
    ("model", "config", "expected"),
    [
        (models.mlp(), None, "up to 64 rows: axis 0 has one name in all tensors"),
        (models.mlp(), "max_batch_size: 4", "up to 4 rows: config.pbtxt says so"),
        (
            models.mlp(),
            'input { name: "X" data_type: TYPE_FP32 dims: [ -1, 784 ] }',
            "no: config.pbtxt says max_batch_size 0, its default",
        ),
        (models.coupled(), None, "no: requests are not batched: rows of a batch could not be"),
        (models.fixed_batch(), None, "no: axis 0 of 'X' is fixed at 2"),
        (models.scalar(), None, "no: 'X' has no axis"),
    ],
    ids=["trial", "config", "config 0", "coupled", "fixed", "scalar"],
)
def test_inspect_says_why_a_model_batches_or_not(
    penstock: Run, tmp_path: Path, model: bytes, config: str | None, expected: str
) -> None:
    """The line on batching names who says so, or what is in the way."""
    models.publish(tmp_path, "m", model, config=config)
    assert f"  batching   {expected}" in penstock("inspect", tmp_path).out


def test_inspect_a_manifest(penstock: Run, tmp_path: Path) -> None:
    """Digests, parity and producer of an exported version are shown; a changed file fails it."""
    path = models.publish(tmp_path, "m", models.mlp())
    manifest = Manifest(
        name="m",
        version=1,
        inputs=(TensorSpec("X", FP32, (-1, 784)),),
        outputs=(TensorSpec("Y", FP32, (-1, 10)),),
        max_batch_size=16,
        opset=21,
        files={MODEL_FILE: sha256_of(path)},
        parity=(Parity(1, "Y", 1e-7, 2e-7), Parity(16, "Y", 3e-7, 4e-7)),
        producer={"torch": "2.13.0"},
        variant="int8-static",
        session=SessionOptions("extended", ("SkipLayerNormFusion",)),
        axes=(Axis("batch", {"X": 0}, 1, 16, (1, 16)), Axis("length", {"X": 1}, 1, 0, (5, 9))),
    )
    (path.parent / "manifest.json").write_text(manifest.to_json())
    text = penstock("inspect", tmp_path / "m").out
    assert "up to 16 rows: proved by the exporter (manifest.json)" in text
    assert "  digests    ok (1 files)" in text
    assert "at batch 1, 16: worst difference 3e-07 absolute, 4e-07 relative ('Y')" in text
    assert "  made by    torch 2.13.0" in text
    assert "  variant    int8-static; graph optimised at level extended; without Skip" in text
    assert "  axes       length 1 to any, proved at 5, 9" in text
    path.write_bytes(models.mlp(seed=8))
    ran = penstock("inspect", tmp_path / "m")
    assert (ran.code, "checksum mismatch" in ran.out) == (1, True)


def test_inspect_a_queue_policy(penstock: Run, tmp_path: Path) -> None:
    """What config.pbtxt says of the queue is shown in text and JSON."""
    config = (
        "max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 500 "
        "preferred_batch_size: [4, 8] priority_levels: 3 default_priority_level: 2 "
        "default_queue_policy { max_queue_size: 10 default_timeout_microseconds: 9 "
        "timeout_action: DELAY } }"
    )
    models.publish(tmp_path, "m", models.mlp(), config=config)
    assert (
        "  queue      delay 500 us; preferred batch 4, 8; at most 10 requests; "
        "timeout 9 us then DELAY; 3 priority levels\n"
    ) in penstock("inspect", tmp_path).out
    (described,) = json.loads(penstock("inspect", tmp_path, "--json").out)
    assert described["queue"]["default_queue_policy"]["timeout_action"] == "DELAY"


def test_inspect_a_running_server(penstock: Run, broken: Path, rows: Path) -> None:
    """A running server tells signature, failed versions and the traffic that it has had."""
    with serve(broken) as running:
        assert penstock("predict", rows, "--server", running.address, "--model", "good").code == 0
        ran = penstock("inspect", "--live", running.address, "--json")
        text = penstock("inspect", "good", "--live", running.address).out
    described = {each["model"]: each for each in json.loads(ran.out)}
    assert ran.code == 1
    assert described["cut"]["state"] == "UNAVAILABLE"
    assert "ONNX Runtime cannot load it" in described["cut"]["reason"]
    assert described["good"]["statistics"]["requests"] == 1
    assert described["good"]["statistics"]["mean_batch_rows"] == 3
    assert text.startswith("good 3  READY\n  inputs     X FP32[-1,784]\n")
    assert "1 answered, 0 failed; mean batch 3.0 rows" in text
    assert "cut" not in text


def test_inspect_says_how_a_running_model_is_scheduled(
    penstock: Run, tmp_path: Path, rows: Path
) -> None:
    """Threads, run times by size, where such a run takes place, batches, and what waits."""
    models.publish(tmp_path, "good", models.mlp())
    with serve(tmp_path, "--threads", "1") as running, running.stub() as stub:
        for _ in range(40):
            stub.infer(raw_request("good", one(FP32, np.zeros((1, 784), np.float32))))
        assert penstock("predict", rows, "--server", running.address, "--model", "good").code == 0
        (described,) = json.loads(penstock("inspect", "--live", running.address, "--json").out)
        text = penstock("inspect", "--live", running.address).out
        metrics = running.metrics()
    scheduling = described["statistics"]["scheduling"]
    single, three = scheduling["run_costs"]
    assert (single["max_rows"], single["runs"]) == (1, 40)
    assert (three["max_rows"], three["runs"], three["inline"]) == (3, 1, False)
    assert single["inline"] == (single["mean_us"] <= 500)
    assert [batch["rows"] for batch in described["statistics"]["batches"]] == [1, 3]
    labels = (("model", "good"), ("version", "1"))
    assert metrics["penstock_run_threads", labels] == 1
    assert metrics["penstock_inline_rows", labels] == (1 if single["inline"] else 0)
    assert metrics["penstock_run_mean_seconds", labels] > 0
    assert "  threads    1 a run, spinning off\n" in text
    assert re.search(r"  batches    40 of 1 row \(\d+ us\), 1 of 3 rows \(\d+ us\)\n", text)
    assert "  now        0 requests wait, 0 batches run\n" in text
    assert re.search(r"  run time   mean \d+ us; up to 1 row \d+ us (inline|handed over); ", text)


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        ((), 2, "nothing to inspect"),
        (("no/such",), 1, "no/such: no such file or directory"),
        (("--live", NOBODY), 1, f"no server answers at {NOBODY}"),
    ],
)
def test_inspect_what_is_not_there(
    penstock: Run, arguments: tuple[str, ...], code: int, expected: str
) -> None:
    """A missing target is an error with its name and the code of its kind."""
    ran = penstock("inspect", *arguments)
    assert (ran.code, expected in ran.err) == (code, True)


def test_inspect_an_unknown_model_of_a_server(penstock: Run, server: RunningServer) -> None:
    """A model that the server lacks is wrong usage."""
    ran = penstock("inspect", "nope", "--live", server.address)
    assert (ran.code, "has no model 'nope'" in ran.err) == (2, True)


def test_inspect_tells_states(penstock: Run, tmp_path: Path) -> None:
    """States are shown with who says so, of files and of a running server alike."""
    models.publish(tmp_path, "gru", sequences.gru())
    config = accumulator_config("total", "max_sequence_idle_microseconds: 5000000 oldest { }")
    models.publish(tmp_path, "total", sequences.accumulator(), config=config)
    inferred = "sequences  hn into h0, by the names of its tensors: kept for requests with a"
    said = (
        "sequences  total_out into total_in; strategy oldest; idle for at most 5 s; at most 1024 "
        "wait for a place"
    )
    ran = penstock("inspect", tmp_path)
    assert ran.code == 0
    assert inferred in ran.out
    assert said in ran.out
    with serve(tmp_path) as server:
        ran = penstock("inspect", "--live", server.address)
        assert inferred in ran.out
        assert said in ran.out
        ran = penstock("inspect", "--live", server.address, "--json")
    described = {each["model"]: each["sequences"] for each in json.loads(ran.out)}
    assert described["gru"]["states"] == [{"input": "h0", "output": "hn"}]
    assert described["total"]["idle_s"] == 5.0
