"""A server that restricts what changes it and what it computes, by Triton's own client.

Run by run_cases.py in tritonclient's environment. The secret of `admin` and `app` is "secret".
"""

from functools import partial
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

ADMIN = {"triton-grpc-protocol-admin": "secret"}
APP = {"triton-grpc-protocol-app": "secret"}
connect = grpcclient.InferenceServerClient


def refused(call: Any, headers: dict[str, str] | None) -> str:
    """Return the text of the refusal, which must be UNAVAILABLE."""
    try:
        call(headers=headers)
    except InferenceServerException as error:
        assert error.status() == "StatusCode.UNAVAILABLE"
        return str(error.message())
    raise AssertionError("the server accepted what it should refuse")


def inputs() -> list[Any]:
    """Return the inputs of a request to simple."""
    tensors = []
    for name in ("INPUT0", "INPUT1"):
        tensor = grpcclient.InferInput(name, [1, 16], "INT32")
        tensor.set_data_from_numpy(np.ones((1, 16), np.int32))
        tensors.append(tensor)
    return tensors


def test_administration(client: Any) -> None:
    """Each call passes with the header of its group, and with no other."""
    calls = {
        "admin": [
            client.get_model_repository_index,
            client.get_inference_statistics,
            client.get_trace_settings,
            client.get_log_settings,
            partial(client.load_model, "simple"),
            partial(client.unload_model, "absent"),
        ],
        "app": [partial(client.infer, "simple", inputs())],
    }
    for key, of_group in calls.items():
        text = f"This protocol is restricted, expecting header 'triton-grpc-protocol-{key}'"
        right, other = (ADMIN, APP) if key == "admin" else (APP, ADMIN)
        for call in of_group:
            for headers in (None, other, {next(iter(right)): "wrong"}):
                assert refused(call, headers) == text
            call(headers=right)


def test_what_is_open(client: Any) -> None:
    """What is in no group is open to all."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    assert client.get_server_metadata().name
    assert client.get_model_config("simple").config.name == "simple"


def test_many_requests(client: Any) -> None:
    """The hundredth request of one form is asked for its header as the first one is."""
    infer = partial(client.infer, "simple", inputs())
    for _ in range(50):
        assert infer(headers=APP).as_numpy("OUTPUT0").sum() == 32
        assert "restricted" in refused(infer, None)


def test_statistics(client: Any) -> None:
    """Statistics of a model begin anew when it is loaded again, and add up."""
    client.load_model("simple", headers=ADMIN, config='{"max_batch_size": 4}')

    def read() -> Any:
        (stats,) = client.get_inference_statistics("simple", headers=ADMIN).model_stats
        return stats

    assert read().inference_stats.success.count == 0
    for _ in range(3):
        client.infer("simple", inputs(), headers=APP)
    stats = read()
    inference = stats.inference_stats
    assert (stats.inference_count, inference.success.count, inference.queue.count) == (3, 3, 3)
    parts = (inference.compute_input, inference.compute_infer, inference.compute_output)
    assert inference.success.ns == inference.queue.ns + sum(part.ns for part in parts)
    assert [(batch.batch_size, batch.compute_infer.count) for batch in stats.batch_stats] == [
        (1, 3)
    ]
    client.load_model("simple", headers=ADMIN, config='{"max_batch_size": 8}')
    assert read().inference_stats.success.count == 0
