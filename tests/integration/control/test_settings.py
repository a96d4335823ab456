"""TraceSetting and LogSettings: whole answers, every refusal, and what they change."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from service.pb.grpc_service_pb2 import (
    LogSettingsRequest,
    LogSettingsResponse,
    TraceSettingRequest,
    TraceSettingResponse,
)
from tests.integration.conftest import Serve
from tests.support import models, servers
from tests.support.requests import simple_request
from tests.support.servers import RunningServer
from tests.support.stub import WAIT_S, Stub, refusal

CODE = grpc.StatusCode
MOST = 2**32 - 1
TRACE = {
    "trace_level": ["OFF"],
    "trace_rate": ["1000"],
    "trace_count": ["-1"],
    "log_frequency": ["0"],
    "trace_file": [""],
    "trace_mode": ["triton"],
}
LOG: dict[str, dict[str, Any]] = {
    "log_file": {"stringParam": ""},
    "log_info": {"boolParam": True},
    "log_warning": {"boolParam": True},
    "log_error": {"boolParam": True},
    "log_verbose_level": {"uint32Param": 0},
    "log_format": {"stringParam": "default"},
}
TIMES = [
    "REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START",
    "COMPUTE_END", "REQUEST_END",
]  # fmt: skip


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two models."""
    root = tmp_path_factory.mktemp("models")
    models.publish(root, "simple", models.simple(), config=models.SIMPLE_CONFIG)
    models.publish(root, "other", models.simple())
    return root


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[RunningServer]:
    """Serve them; settings know nothing of transports."""
    with servers.serve(repository) as running:
        yield running


@pytest.fixture
def stub(server: RunningServer) -> Iterator[Stub]:
    """Connect, and leave every setting as it was."""
    with server.stub() as connected:
        yield connected
        for model in ("simple", ""):
            set_trace(connected, model, dict.fromkeys(TRACE.keys() - {"trace_file"}, ()))
        connected.logs(json_format.ParseDict({"settings": LOG_WITHOUT_FILE}, LogSettingsRequest()))


LOG_WITHOUT_FILE = {key: value for key, value in LOG.items() if key != "log_file"}


def trace_request(model: str, settings: Mapping[str, Sequence[str]]) -> TraceSettingRequest:
    """Return a request that changes settings."""
    request = TraceSettingRequest(model_name=model)
    for key, values in settings.items():
        request.settings[key].value.extend(values)
        request.settings[key].SetInParent()
    return request


def set_trace(stub: Stub, model: str, settings: Mapping[str, Sequence[str]]) -> Any:
    """Change settings and return the answer."""
    return stub.trace(trace_request(model, settings), timeout=WAIT_S)


def trace_answer(**changes: list[str]) -> TraceSettingResponse:
    """Return the whole answer with the defaults but for some."""
    values = {key: {"value": value} for key, value in {**TRACE, **changes}.items()}
    return json_format.ParseDict({"settings": values}, TraceSettingResponse())


def log_answer(**changes: dict[str, Any]) -> LogSettingsResponse:
    """Return the whole answer with the defaults but for some."""
    return json_format.ParseDict({"settings": {**LOG, **changes}}, LogSettingsResponse())


def test_trace_settings_are_told_whole(stub: Stub) -> None:
    """The keys are exactly Triton's, of the server and of each model; unknown keys are ignored."""
    assert set_trace(stub, "", {}) == trace_answer()
    assert set_trace(stub, "simple", {}) == trace_answer()
    assert set_trace(stub, "", {"trace_color": ["red"]}) == trace_answer()


def test_trace_settings_of_a_model_inherit(stub: Stub) -> None:
    """What a model has not set follows the server; an empty list gives up what was set."""
    levels = ["TIMESTAMPS", "TENSORS"]
    assert set_trace(
        stub, "simple", {"trace_rate": ["12"], "log_frequency": ["34"]}
    ) == trace_answer(trace_rate=["12"], log_frequency=["34"])
    assert set_trace(
        stub, "", {"trace_rate": ["56"], "trace_count": ["78"], "trace_level": levels[::-1]}
    ) == trace_answer(trace_rate=["56"], trace_count=["78"], trace_level=levels)
    assert set_trace(stub, "simple", {}) == trace_answer(
        trace_rate=["12"], trace_count=["78"], trace_level=levels, log_frequency=["34"]
    )
    set_trace(stub, "", {"trace_rate": [], "trace_count": [], "trace_level": ["OFF"]})
    assert set_trace(stub, "simple", {"trace_rate": [], "trace_level": []}) == trace_answer(
        log_frequency=["34"]
    )
    assert set_trace(stub, "", {}) == trace_answer()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"trace_level": ["OFF", "TIMESTAMPS"]}, "Expect only one trace level 'OFF' is specified"),
        ({"trace_level": ["OFF", "OFF"]}, "Expect only one trace level 'OFF' is specified"),
        (
            {"trace_level": ["ALL"]},
            "Unable to parse 'trace_level', expected OFF, TIMESTAMPS or TENSORS, got: ALL",
        ),
        ({"trace_rate": ["x"]}, "Unable to parse 'trace_rate', got: x"),
        ({"trace_rate": [""]}, "Unable to parse 'trace_rate', got: "),
        ({"trace_rate": ["1.5"]}, "Unable to parse 'trace_rate', got: 1.5"),
        ({"trace_rate": ["1", "2"]}, "expect only 1 value for 'trace_rate'"),
        ({"trace_count": ["1", "2"]}, "expect only 1 value for 'trace_count'"),
        ({"log_frequency": ["1", "2"]}, "expect only 1 value for 'log_frequency'"),
        (
            {"trace_rate": ["-1"]},
            "Unable to parse 'trace_rate', value is out of range [ 0, 4294967295 ], got: -1",
        ),
        (
            {"trace_count": ["-2"]},
            "Unable to parse 'trace_count', value is out of range [ -1, 2147483647 ], got: -2",
        ),
        (
            {"log_frequency": [str(2**32)]},
            f"Unable to parse 'log_frequency', value is out of range [ 0, {MOST} ], got: {2**32}",
        ),
    ],
)
def test_trace_settings_that_are_none(
    stub: Stub, settings: dict[str, list[str]], text: str
) -> None:
    """Each is INVALID_ARGUMENT, and nothing of its request takes effect."""
    request = trace_request("", {"log_frequency": ["7"], **settings})
    assert refusal(stub.trace, request) == (CODE.INVALID_ARGUMENT, text)
    assert set_trace(stub, "", {}) == trace_answer()


def test_trace_settings_that_are_not_for_callers(stub: Stub) -> None:
    """No caller chooses a file; settings are of models that serve."""
    assert refusal(stub.trace, trace_request("", {"trace_file": ["/etc/passwd"]})) == (
        CODE.UNIMPLEMENTED,
        "trace file location can not be updated through network protocol",
    )
    for settings in ({}, {"trace_file": ["x"]}):
        assert refusal(stub.trace, trace_request("absent", settings)) == (
            CODE.INVALID_ARGUMENT,
            "Request for unknown model : absent",
        )


def test_log_settings_are_told_whole(stub: Stub) -> None:
    """Every value is set, also that which is nothing; unknown keys are ignored."""
    assert stub.logs(LogSettingsRequest(), timeout=WAIT_S) == log_answer()
    request = LogSettingsRequest()
    request.settings["log_color"].string_param = "red"
    assert stub.logs(request, timeout=WAIT_S) == log_answer()


def test_log_settings_change_the_log(server: RunningServer, stub: Stub) -> None:
    """What is set is told, and holds for the lines that follow."""
    changes: dict[str, dict[str, Any]] = {
        "log_info": {"boolParam": False},
        "log_verbose_level": {"uint32Param": 3},
        "log_format": {"stringParam": "ISO8601"},
    }
    request = json_format.ParseDict({"settings": changes}, LogSettingsRequest())
    assert stub.logs(request, timeout=WAIT_S) == log_answer(**changes)
    set_trace(stub, "", {})
    absent = simple_request(model="absent")
    assert refusal(stub.infer, absent)[0] is CODE.NOT_FOUND
    assert next(stub.stream(iter([absent]), timeout=WAIT_S)).error_message
    log = server.log.read_text()
    service = "/inference.GRPCInferenceService"
    assert f"Z DEBUG service.rpc.dispatch: {service}/TraceSetting of " in log
    for module, method in (("unary_infer", "ModelInfer"), ("stream_infer", "ModelStreamInfer")):
        told = rf"Z DEBUG service\.rpc\.{module}: {service}/{method} of \S+: NOT_FOUND: Request for"
        assert re.search(told, log), log


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("log_info", {"stringParam": "x"}, "expect boolean for 'log_info'"),
        ("log_warning", {"uint32Param": 1}, "expect boolean for 'log_warning'"),
        ("log_error", {}, "expect boolean for 'log_error'"),
        ("log_verbose_level", {"boolParam": True}, "expect int32 for 'log_verbose_level'"),
        ("log_format", {"boolParam": True}, "expect string for 'log_format'"),
        ("log_format", {"stringParam": "xml"}, "invalid argument for log_format, got: xml"),
    ],
)
def test_log_settings_that_are_none(stub: Stub, key: str, value: dict[str, Any], text: str) -> None:
    """Each is INVALID_ARGUMENT, and nothing of its request takes effect."""
    settings = {"log_verbose_level": {"uint32Param": 5}, key: value}
    request = json_format.ParseDict({"settings": settings}, LogSettingsRequest())
    assert refusal(stub.logs, request) == (CODE.INVALID_ARGUMENT, text)
    assert stub.logs(LogSettingsRequest(), timeout=WAIT_S) == log_answer()


def test_no_caller_chooses_the_place_of_the_log(stub: Stub) -> None:
    """It is UNIMPLEMENTED, whatever else is asked for."""
    request = LogSettingsRequest()
    request.settings["log_file"].string_param = "/etc/passwd"
    request.settings["log_info"].bool_param = False
    text = "log file location can not be updated through network protocol"
    assert refusal(stub.logs, request) == (CODE.UNIMPLEMENTED, text)
    assert stub.logs(LogSettingsRequest(), timeout=WAIT_S) == log_answer()


def test_traces_of_real_requests(repository: Path, tmp_path: Path, serve: Serve) -> None:
    """Also of a form that the lane knows, unary and streaming, and only as many as were asked.

    Requests that are refused are none of them.
    """
    path = tmp_path / "trace.json"
    flags = ("--trace-file", path, "--max-queue-requests", "32")
    with serve(repository, *flags) as server, server.stub() as stub:

        def ask(count: int, model: str = "simple") -> None:
            for number in range(count):
                request = simple_request(model=model, request_id=f"{model}{number}")
                stub.infer(request, timeout=WAIT_S)

        def bundled() -> float:
            return server.sample("penstock_overhead_seconds_count")

        ask(10)
        assert not path.exists()
        settings = {"trace_level": ["TIMESTAMPS"], "trace_rate": ["2"], "trace_count": ["4"]}
        answer = set_trace(stub, "simple", settings)
        assert list(answer.settings["trace_file"].value) == [str(path)]
        before = bundled()
        ask(4)
        assert bundled() == before
        for _ in range(2):  # one of them is sampled
            code, text = refusal(stub.infer, simple_request(rows=8 * 32 + 1))
            assert code is CODE.INVALID_ARGUMENT, text
        ask(10, "other")
        stream = (simple_request(request_id=f"s{number}") for number in range(20))
        assert len(list(stub.stream(stream, timeout=WAIT_S))) == 20
        answer = set_trace(stub, "simple", {})
        assert list(answer.settings["trace_count"].value) == ["0"]
        before = bundled()
        ask(10)
        has_lane = ("penstock_overhead_seconds_count", ()) in server.metrics()
        assert (bundled() > before) is has_lane
        assert stub.stats_of("simple").inference_count == 44
        assert ("penstock_traces_dropped_total", ()) in server.metrics()
    traces = json.loads(path.read_text())
    assert [trace["request_id"] for trace in traces] == ["simple1", "simple3", "s1", "s3"]
    assert [trace["id"] for trace in traces] == [1, 2, 3, 4]
    for trace in traces:
        assert (trace["model_name"], trace["model_version"]) == ("simple", 1)
        assert [entry["name"] for entry in trace["timestamps"]] == TIMES
        times = [entry["ns"] for entry in trace["timestamps"]]
        assert times == sorted(times)
