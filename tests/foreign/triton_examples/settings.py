"""The examples of trace and log settings: what is set is answered, and Triton's keys exactly."""

from typing import Any

from example import connect, refusal

__all__ = ["connect"]
TRACE_KEYS = {
    "trace_level",
    "trace_rate",
    "trace_count",
    "log_frequency",
    "trace_file",
    "trace_mode",
}
LOG_KEYS = {
    "log_file",
    "log_info",
    "log_warning",
    "log_error",
    "log_verbose_level",
    "log_format",
}


def test_trace(client: Any) -> None:
    """Trace settings are those of the server until a model has its own, and are cleared again."""
    # perf_analyzer may have been here before.
    client.update_trace_settings(settings={"trace_level": ["OFF"], "trace_rate": None})
    settings = client.get_trace_settings().settings
    assert set(settings) == TRACE_KEYS
    assert list(settings["trace_level"].value) == ["OFF"]
    changed = client.update_trace_settings(
        model_name="simple", settings={"trace_level": ["TIMESTAMPS"], "trace_rate": "1"}
    ).settings
    assert list(changed["trace_level"].value) == ["TIMESTAMPS"]
    assert list(changed["trace_rate"].value) == ["1"]
    assert list(client.get_trace_settings().settings["trace_level"].value) == ["OFF"]
    cleared = client.update_trace_settings(
        model_name="simple", settings={"trace_level": None, "trace_rate": None}
    ).settings
    assert list(cleared["trace_level"].value) == ["OFF"]


def test_trace_refusals(client: Any) -> None:
    """No caller sets a file, and an unknown model is refused in Triton's words."""
    status, message = refusal(lambda: client.update_trace_settings(settings={"trace_file": "/x"}))
    assert status == "UNIMPLEMENTED"
    assert message == "trace file location can not be updated through network protocol"
    status, message = refusal(lambda: client.get_trace_settings("absent"))
    assert status == "INVALID_ARGUMENT"
    assert "Request for unknown model : absent" in message


def test_log(client: Any) -> None:
    """Log settings are set and answered, every key with a value of its type."""
    settings = client.get_log_settings(as_json=True)["settings"]
    assert set(settings) == LOG_KEYS
    assert settings["log_file"] == {"string_param": ""}
    changed = client.update_log_settings({"log_verbose_level": 1}).settings
    assert changed["log_verbose_level"].uint32_param == 1
    assert client.update_log_settings({"log_verbose_level": 0}).settings["log_info"].bool_param
    status, message = refusal(lambda: client.update_log_settings({"log_file": "/x"}))
    assert status == "UNIMPLEMENTED"
    assert message == "log file location can not be updated through network protocol"
