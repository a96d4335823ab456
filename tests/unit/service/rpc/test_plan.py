"""Requests recognised by their bytes: the shortcut and the long way must judge alike."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import RequestError
from service.inference.model import Model
from service.inference.policy import BatchPolicy
from service.inference.request import Outcome
from service.inference.scheduler import Scheduler, SchedulerConfig
from service.lifecycle.manager import Manager
from service.pb.grpc_service_pb2 import ModelInferRequest
from service.pb.model_config_pb2 import ModelConfig
from service.repository.layout import ModelSource, VersionSource
from service.rpc.infer import InferService
from service.rpc.plan import cut_message
from service.rpc.served import ServedModel
from tests.support.fake import FakeBackend


class Exchanged:
    """Keeps how a request ended."""

    served: ServedModel

    def __init__(self) -> None:
        self.request_id = ""
        self.outcome: Outcome | None = None

    def ended(self, outcome: Outcome) -> None:
        """Keep the outcome."""
        self.outcome = outcome


class Bench:
    """An InferService with one model Y = 2 X that runs when `judge` flushes."""

    def __init__(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        directory = tmp_path_factory.mktemp("model")
        self.manager: Manager[Model] = Manager(lambda _source: None, self._load)
        self.source = ModelSource("m", directory, (VersionSource("m", 1, directory),))
        self.manager.apply([self.source])
        self.forget()

    def forget(self) -> None:
        """Start anew: no head is known."""
        self.service = InferService(self.manager, 60.0)

    def _load(self, source: VersionSource, _config: ModelConfig | None) -> Model:
        backend = FakeBackend(is_open=True)
        scheduler = Scheduler("m", backend, SchedulerConfig(BatchPolicy(8)))
        return Model("m", str(source.version), backend.signature, ModelConfig(), scheduler, "fake")

    def judge(self, message: bytes) -> tuple[str, str, bytes]:
        """Return id, error text and the inputs that were accepted."""
        exchange = Exchanged()
        try:
            request = self.service.submit(message, None, exchange)
        except RequestError as error:
            return exchange.request_id, f"{type(error).__name__}: {error}", b""
        inputs = request.inputs["X"]
        shape = repr((inputs.shape, request.outputs, request.rows, request.priority))
        accepted = shape.encode() + inputs.tobytes()
        request.cancel()
        return exchange.request_id, "", accepted


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Bench]:
    """Return a service that is warmed with a request each time, and one that never is."""
    return Bench(tmp_path_factory), Bench(tmp_path_factory)


def message_of(rows: int, width: int, request_id: str = "7", **fields: object) -> bytes:
    """Return a serialised request of ones."""
    request = ModelInferRequest(model_name="m", id=request_id)
    request.inputs.add(name="X", datatype="FP32", shape=[rows, width])
    request.raw_input_contents.append(np.ones((rows, width), np.float32).tobytes())
    if "priority" in fields:
        request.parameters["priority"].int64_param = 1
    if "output" in fields:
        request.outputs.add(name="Y")
    return request.SerializeToString()


def learn(bench: Bench, message: bytes) -> None:
    """Let a service judge a message, so that it knows its head."""
    bench.forget()
    assert bench.judge(message)[1] == ""


mutations = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 255), st.sampled_from(["set", "insert", "cut"])),
    min_size=0,
    max_size=3,
)


@given(
    rows=st.integers(1, 3),
    width=st.integers(0, 9),
    request_id=st.text(max_size=5),
    fields=st.sampled_from([{}, {"priority": 1}, {"output": 1}]),
    changes=mutations,
)
def test_a_known_head_is_judged_as_an_unknown_one(
    benches: tuple[Bench, Bench],
    rows: int,
    width: int,
    request_id: str,
    fields: dict[str, object],
    changes: list[tuple[int, int, str]],
) -> None:
    """Any message gets the same answer from a service that knows its head and one that does not."""
    warm, cold = benches
    learn(warm, message_of(rows, width, "first", **fields))
    message = bytearray(message_of(rows, width, request_id, **fields))
    for position, value, kind in changes:
        at = position % max(1, len(message))
        if kind == "set" and message:
            message[at] = value
        elif kind == "insert":
            message.insert(at, value)
        else:
            del message[at:]
    cold.forget()
    assert warm.judge(bytes(message)) == cold.judge(bytes(message))


def test_a_known_head_takes_the_shortcut(benches: tuple[Bench, Bench]) -> None:
    """The inputs of a request with a known head are views on its message."""
    warm, _ = benches
    learn(warm, message_of(2, 3))
    message = message_of(2, 3, "other")
    exchange = Exchanged()
    request = warm.service.submit(message, None, exchange)
    array = request.inputs["X"]
    request.cancel()
    assert exchange.request_id == "other"
    assert array.base is not None
    assert not array.flags.owndata
    assert np.shares_memory(array, np.frombuffer(message, np.uint8))


def test_a_new_version_is_not_hidden_by_a_known_head(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A request with a known head goes to the version that is newest when it comes."""
    bench = Bench(tmp_path_factory)
    learn(bench, message_of(1, 1))
    newer = VersionSource("m", 2, bench.source.directory)
    bench.manager.apply([ModelSource("m", bench.source.directory, (newer,))])
    exchange = Exchanged()
    bench.service.submit(message_of(1, 1), None, exchange).cancel()
    assert exchange.served.model.version == "2"


def test_a_message_out_of_the_usual_order_is_not_cut() -> None:
    """Fields in another order are left to the parser."""
    message = message_of(1, 1)
    cut = cut_message(message)
    assert cut is not None
    start, end = cut.raws[0]
    raw_field, head = message[start - 2 : end], message[: start - 2]
    assert cut_message(raw_field + head) is None
    assert cut_message(head + raw_field + b"\x1a\x01x") is None
