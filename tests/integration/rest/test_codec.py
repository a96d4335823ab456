"""An answer over REST is the answer over gRPC, byte by byte, for every datatype."""

from typing import Any

import numpy as np
import pytest

from service.tensors import BF16, BOOL, BYTES, DATATYPES, FP16, FP32, FP64, Array, Datatype
from tests.support.requests import one, raw_request, simple_request
from tests.support.rest import infer_as, response_of
from tests.support.servers import RunningServer
from tests.support.stub import WAIT_S, Stub

_TEXTS = ("", "plain", "Übergröße", "日本語", '\x00\x1f"\\/', "🙂", "line\nbreak", "x" * 1000)
_SUBNORMAL = {FP16: 5.960464477539063e-08, FP32: 1.401298464324817e-45, FP64: 5e-324}


def values_of(datatype: Datatype) -> Array:
    """Return a [2, n] tensor with every extreme of a datatype."""
    if datatype is BYTES:
        flat = np.empty(len(_TEXTS), object)
        flat[:] = [text.encode() for text in _TEXTS]
        return flat.reshape(2, -1)
    if datatype is BOOL:
        return np.array([[True, False, True], [False, False, True]])
    if datatype is BF16:  # zero, the least and the largest, one, infinities, and -0
        bits = [0x0000, 0x0001, 0x7F7F, 0xFF7F, 0x3F80, 0x7F80, 0xFF80, 0x8000]
        return np.array(bits, np.uint16).reshape(2, -1)
    if datatype.numpy.kind == "f":
        limits = np.finfo(datatype.numpy)
        numbers = [0.1, -0.0, 1 / 3, np.inf, -np.inf, limits.max, limits.min, _SUBNORMAL[datatype]]
        random = np.random.default_rng(5).standard_normal(992) * np.logspace(-4, 4, 992)
        return np.array([*numbers, *random], datatype.numpy).reshape(2, -1)
    whole = np.iinfo(datatype.numpy)
    middle = [whole.max // 3, whole.max // 2 + 1, 1]
    return np.array([whole.min, whole.max, 0, *middle], datatype.numpy).reshape(2, -1)


@pytest.mark.parametrize("form", ["json", "binary"])
@pytest.mark.parametrize("datatype", DATATYPES, ids=str)
def test_rest_and_grpc_answer_the_same(
    server: RunningServer, stub: Stub, datatype: Datatype, form: str
) -> None:
    """Names, types, shapes, id, version and every bit of the contents are those of gRPC."""
    model = f"identity_{datatype.wire.lower()}"
    tensor = values_of(datatype)
    request = raw_request(model, one(datatype, tensor), request_id="r-1", outputs=["Y"])
    expected = stub.infer(request, timeout=WAIT_S)
    answer = infer_as(server.http_address, request, binary=form == "binary")
    assert response_of(answer) == expected
    assert expected.raw_output_contents[0] == request.raw_input_contents[0]


@pytest.mark.parametrize("form", ["json", "binary"])
@pytest.mark.parametrize("datatype", [FP16, FP32, FP64, BF16], ids=str)
def test_no_number_stays_no_number(
    server: RunningServer, stub: Stub, datatype: Datatype, form: str
) -> None:
    """NaN goes in and comes out as NaN among the numbers beside it."""
    tensor: Any = np.array([[1.0, np.nan, -2.0]])
    tensor = np.array([[0x3F80, 0x7FC0, 0xC000]], np.uint16) if datatype is BF16 else tensor
    request = raw_request(
        f"identity_{datatype.wire.lower()}", one(datatype, tensor.astype(datatype.numpy))
    )
    answer = response_of(infer_as(server.http_address, request, binary=form == "binary"))
    assert answer == stub.infer(request, timeout=WAIT_S)


@pytest.mark.parametrize("form", ["json", "binary"])
def test_several_tensors_keep_their_places(server: RunningServer, stub: Stub, form: str) -> None:
    """Two inputs and two outputs are not mixed up, whatever order the outputs are asked in."""
    request = simple_request(5, 3, rows=2, request_id="both", version="1")
    for name in ("OUTPUT1", "OUTPUT0"):
        request.outputs.add(name=name)
    answer = response_of(infer_as(server.http_address, request, binary=form == "binary"))
    assert answer == stub.infer(request, timeout=WAIT_S)
    assert [output.name for output in answer.outputs] == ["OUTPUT1", "OUTPUT0"]
