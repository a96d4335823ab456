"""Whichever way a request takes through the server, its answer is the same, byte for byte.

One server has a lane and one has none. A burst goes to the one without, as unary calls and as one
stream, and twice to the other: the first time it teaches, the second time what can be bundled is.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.pb.grpc_service_pb2 import ModelInferRequest
from service.rpc.methods import INFER, STREAM_INFER
from service.rpc.wire import length_delimited
from service.tensors import BF16, BOOL, BYTES, FP16, FP32, INT8, INT64, UINT64, Datatype
from service.transport.native import is_installed
from tests.support import models, servers
from tests.support.requests import one, raw_request, simple_request, typed_request
from tests.support.servers import RunningServer
from tests.support.stub import WAIT_S, stream, unary

pytestmark = pytest.mark.skipif(not is_installed(), reason="only the native transport has a lane")

IDENTITY: Sequence[Datatype] = (FP32, INT64, INT8, UINT64, FP16, BF16, BOOL, BYTES)
TYPED = [datatype for datatype in IDENTITY if datatype.contents is not None]
IDS = st.one_of(
    st.sampled_from(["", "7", "größer"]),
    st.text(max_size=5),
    st.sampled_from(["x" * 1024, "x" * 1025]),
)
_ERROR_ID = re.compile(rb"error id [0-9a-f]{8}")
_OVERHEAD = "penstock_overhead_seconds_count"


@dataclass(frozen=True)
class Way:
    """A server, and a connection to it."""

    server: RunningServer
    channel: grpc.Channel

    def unary(self, burst: Sequence[bytes]) -> list[tuple[Any, ...]]:
        """Send a burst of calls at once; return reply, code and text of each."""
        method = unary(self.channel, INFER)
        futures = [method.future(message, timeout=WAIT_S) for message in burst]
        return [_outcome(future) for future in futures]

    def stream(self, burst: Sequence[bytes], *metadata: tuple[str, str]) -> list[bytes]:
        """Send a burst on one stream; return the replies, and the status as the last of them."""
        replies = stream(self.channel, STREAM_INFER)(iter(burst), timeout=WAIT_S, metadata=metadata)
        found: list[bytes] = []
        with suppress(grpc.RpcError):  # whose code is told below; what came before it stays
            found.extend(map(_masked, replies))
        return [*found, _masked(f"{replies.code()}: {replies.details()}".encode())]

    def outcomes(self) -> Counter[tuple[str, str]]:
        """Count the requests by model and status."""
        found: Counter[tuple[str, str]] = Counter()
        for (name, labels), value in self.server.metrics().items():
            if name == "penstock_requests_total":
                told = dict(labels)
                found[told["model"], told["outcome"]] += int(value)
        return found


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Way, Way]]:
    """Serve the same models without a lane and with one."""
    root = tmp_path_factory.mktemp("models")
    models.publish(root, "simple", models.simple(), config=models.SIMPLE_CONFIG)
    models.publish(root, "gather", models.gather())
    models.publish(root, "scalar", models.scalar())
    models.publish(root, "fixed", models.fixed_batch())
    models.publish(root, "two_axes", models.two_axes())
    for datatype in IDENTITY:
        models.publish(root, f"identity_{datatype.wire.lower()}", models.identity(datatype))
    with _way(root, "threaded") as plain, _way(root, "native") as lane:
        yield plain, lane


@st.composite
def good_requests(draw: st.DrawFn) -> ModelInferRequest:
    """Draw a request that is well-formed, though its values may make the run fail."""
    kind = draw(st.sampled_from(["simple", "simple", "identity", "gather", "scalar", "two_axes"]))
    request_id, rows = draw(IDS), draw(st.integers(1, 3))
    if kind == "simple":
        request = simple_request(
            draw(st.integers(-9, 9)), draw(st.integers(-9, 9)), rows=rows, request_id=request_id
        )
        for name in draw(st.sampled_from([(), (), ("OUTPUT1",), ("OUTPUT1", "OUTPUT0")])):
            request.outputs.add(name=name)
        return request
    if kind == "identity":
        datatype = draw(st.sampled_from(IDENTITY))
        random = np.random.default_rng(draw(st.integers(0, 99)))
        array = models.sample(random, datatype, (rows, draw(st.integers(0, 3))))
        is_typed = datatype in TYPED and draw(st.booleans())
        make = typed_request if is_typed else raw_request
        name = f"identity_{datatype.wire.lower()}"
        return make(name, one(datatype, array), request_id=request_id)
    if kind == "gather":  # 8 and more are outside its table
        index = np.array([[draw(st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8]))]], np.int64)
        return raw_request("gather", one(INT64, index), request_id=request_id)
    if kind == "scalar":
        value = np.array(draw(st.integers(-9, 9)), np.float32)
        return raw_request("scalar", one(FP32, value), request_id=request_id)
    array = np.full((rows, draw(st.integers(1, 3))), draw(st.integers(-9, 9)), np.float32)
    return raw_request("two_axes", one(FP32, array), request_id=request_id)


@st.composite
def requests(draw: st.DrawFn) -> ModelInferRequest:
    """Draw a request: mostly a good one, else one that says something wrong."""
    request = draw(good_requests())
    wrong = draw(st.sampled_from(["no"] * 8 + ["datatype", "shape", "name", "model", "parameter"]))
    tensor = request.inputs[0]
    if wrong == "datatype":
        tensor.datatype = draw(st.sampled_from(["FP32", "INT32", "FP99", ""]))
    elif wrong == "shape":
        tensor.shape.append(draw(st.sampled_from([1, 0, -1, 1 << 40])))
    elif wrong == "name":
        tensor.name = draw(st.sampled_from(["", "INPUT1", "Y"]))
    elif wrong == "model":
        request.model_name = draw(st.sampled_from(["", "nope"]))
    elif wrong == "parameter":
        name = draw(st.sampled_from(["priority", "timeout", "triton_x", "mine"]))
        request.parameters[name].int64_param = draw(st.integers(-1, 2))
    return request


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Draw the bytes of a request, now and then damaged."""
    message = draw(requests()).SerializeToString()
    at = draw(st.integers(0, len(message) - 1))
    changed = bytes([message[at] ^ 1 << draw(st.integers(0, 7))])
    damaged = {
        "cut off": message[:at],
        "longer": message + changed,
        "more": message + length_delimited(7, bytes(4)),
        "unknown field": length_delimited(15, b"?") + message,
        "bit": message[:at] + changed + message[at + 1 :],
    }
    return damaged.get(draw(st.sampled_from(["no"] * 9 + [*damaged])), message)


def test_every_way_gives_the_same_answers(ways: tuple[Way, Way]) -> None:
    """Replies, codes and texts are equal, and so is what was counted."""
    plain, lane = ways
    before = plain.outcomes(), lane.outcomes(), lane.server.sample(_OVERHEAD)

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(messages(), min_size=1, max_size=12))
    def check(burst: list[bytes]) -> None:
        expected = plain.unary(burst), plain.stream(burst)
        for _ in range(2):
            assert (lane.unary(burst), lane.stream(burst)) == expected

    check()
    assert lane.server.sample(_OVERHEAD) > before[2] + 50, "hardly anything was bundled"
    counted = plain.outcomes() - before[0]
    assert lane.outcomes() - before[1] == Counter({key: 2 * n for key, n in counted.items()})


def test_large_bursts_of_one_form(ways: tuple[Way, Way]) -> None:
    """Bundles that are cut, and with a request in each that fails, answer each of their callers."""
    plain, lane = ways
    for value in (8, 7):  # the first is outside the table
        burst = [
            raw_request(
                "gather",
                one(INT64, np.array([[value if at % 50 == 30 else at % 8]])),
                request_id=str(at),
            ).SerializeToString()
            for at in range(100)
        ]
        burst += [
            simple_request(at, 1, request_id=str(at)).SerializeToString() for at in range(100)
        ]
        expected = plain.unary(burst), plain.stream(burst)
        for _ in range(3):
            assert (lane.unary(burst), lane.stream(burst)) == expected


def test_streams_that_end_on_an_error(ways: tuple[Way, Way]) -> None:
    """A stream that wants it so ends with the status of the first error in its order."""
    burst = [
        raw_request(
            "gather", one(INT64, np.array([[index]])), request_id=str(index)
        ).SerializeToString()
        for index in (1, 2, 9)
    ]
    plain, lane = ways
    wish = ("triton_grpc_error", "true")
    expected = plain.stream(burst, wish)
    assert expected[-1].startswith(b"StatusCode.INTERNAL")
    for _ in range(3):
        assert lane.stream(burst, wish)[-1] == expected[-1]


def _outcome(future: Any) -> tuple[Any, ...]:
    try:
        reply = future.result()
    except grpc.RpcError as error:
        return b"", error.code(), _masked((error.details() or "").encode())
    timings = [key for key, _ in future.trailing_metadata() if key.startswith("penstock-")]
    return reply, future.code(), sorted(timings)


def _masked(text: bytes) -> bytes:
    return _ERROR_ID.sub(b"error id ........", text)


@contextmanager
def _way(root: Path, transport: str) -> Iterator[Way]:
    with (
        servers.serve(root, "--transport", transport) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield Way(server, channel)
