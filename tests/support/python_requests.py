"""Requests to the models of tests/support/python_models, and what is in their responses."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from service.pb.grpc_service_pb2 import ModelInferRequest, ModelStreamInferResponse
from service.tensors import INT32, UINT32
from tests.support.requests import answer, one, raw_request

FOR_EVER_MS = 86_400_000  # a day
_FINAL = "triton_final_response"


class Seen(NamedTuple):
    """What matters of one response: its id, its first output, its flag, its error."""

    id: str
    value: int | None
    final: bool
    error: str = ""


def repeat(
    values: Sequence[int],
    delays_ms: Sequence[int] | int = 0,
    *,
    request_id: str = "",
    empty_final: bool = False,
    model: str = "repeat_int32",
) -> ModelInferRequest:
    """Return a request to repeat_int32. empty_final: an empty response is to mark the end."""
    delays = [delays_ms] * len(values) if isinstance(delays_ms, int) else list(delays_ms)
    inputs = {
        "IN": (INT32, np.array(values, np.int32)),
        "DELAY": (UINT32, np.array(delays, np.uint32)),
        "WAIT": (UINT32, np.zeros(1, np.uint32)),
    }
    request = raw_request(model, inputs, request_id=request_id)
    if empty_final:
        request.parameters["triton_enable_empty_final_response"].bool_param = True
    return request


def square(count: int, *, request_id: str = "") -> ModelInferRequest:
    """Return a request to square_int32."""
    inputs = one(INT32, np.array([count], np.int32), "IN")
    return raw_request("square_int32", inputs, request_id=request_id)


def seen(responses: Iterable[ModelStreamInferResponse], output: str = "OUT") -> list[Seen]:
    """Return what matters of responses."""
    return [_seen(response, output) for response in responses]


def _seen(response: ModelStreamInferResponse, output: str) -> Seen:
    inner = response.infer_response
    value = int(answer(inner, output).reshape(-1)[0]) if inner.outputs else None
    final = inner.parameters[_FINAL].bool_param if _FINAL in inner.parameters else False
    return Seen(inner.id, value, final, response.error_message)
