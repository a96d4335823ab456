"""Streams as sequences, and what becomes of sequences when a server stops or a version changes."""

from pathlib import Path

import grpc
import pytest

from service.pb.grpc_service_pb2 import RepositoryModelLoadRequest
from service.tensors import FP32
from tests.integration.conftest import Serve
from tests.support import models, sequences
from tests.support.requests import answer
from tests.support.sequences import accumulator_config, step
from tests.support.servers import RunningServer
from tests.support.stub import WAIT_S, Outgoing, Stub, refusal
from tests.support.waiting import eventually

LONG = "max_sequence_idle_microseconds: 600000000 oldest { }"


def open_sequences(server: RunningServer, model: str) -> float:
    """Return how many sequences of a model are in progress."""
    return server.sample("penstock_sequences_open", model=model, version="1")


class Talk:
    """A stream on which one step is sent and one answer read at a time."""

    def __init__(self, stub: Stub) -> None:
        self.outgoing = Outgoing()
        self.replies = stub.stream(iter(self.outgoing), timeout=WAIT_S)

    def say(self, *arguments: object, **flags: object) -> float:
        """Send a step and return its answer."""
        self.outgoing.send(step(*arguments, **flags))  # type: ignore[arg-type]  # as they are
        reply = next(self.replies)
        assert reply.error_message == "", reply.error_message
        return float(answer(reply.infer_response)[0, 0])

    def fails(self, *arguments: object, **flags: object) -> str:
        """Send a step and return its error."""
        self.outgoing.send(step(*arguments, **flags))  # type: ignore[arg-type]  # as they are
        text: str = next(self.replies).error_message
        assert text
        return text


def test_sequences_of_a_half_closed_stream_do_not_wait_for_each_other(stub: Stub) -> None:
    """A sequence without its END gives its place up when its stream can send nothing more."""
    steps = [step("one_of_stream", value, name, start=True) for name, value in ((1, 1), (2, 5))]
    replies = list(stub.stream(iter(steps), timeout=WAIT_S))
    assert [float(answer(reply.infer_response)[0, 0]) for reply in replies] == [1, 5]


def test_stream_is_a_sequence(server: RunningServer, stub: Stub) -> None:
    """Without any id the requests of a stream are a sequence, from the first to its end."""
    before = open_sequences(server, "of_stream")
    first, second = Talk(stub), Talk(stub)
    assert [first.say("of_stream", v) for v in (1, 2, 3)] == [1, 3, 6]
    assert second.say("of_stream", 10) == 10
    assert first.say("of_stream", 4) == 10
    assert open_sequences(server, "of_stream") == before + 2
    first.outgoing.half_close()
    assert list(first.replies) == []
    assert first.replies.code() is grpc.StatusCode.OK
    eventually(lambda: open_sequences(server, "of_stream") == before + 1, "a state that is freed")
    second.replies.cancel()
    eventually(lambda: open_sequences(server, "of_stream") == before, "a state that is freed")


def test_ids_are_private_to_their_stream(stub: Stub) -> None:
    """The same id on two streams does not meet, nor does the sequence without an id."""
    first, second = Talk(stub), Talk(stub)
    assert first.say("of_stream", 1, 5, start=True) == 1
    assert second.say("of_stream", 10, 5, start=True) == 10
    assert first.say("of_stream", 100) == 100
    assert first.say("of_stream", 1, 5, end=True) == 2
    assert second.say("of_stream", 10, 5, end=True) == 20
    assert "must specify the START flag" in first.fails("of_stream", 1, 5)


def test_end_on_a_stream_begins_anew(stub: Stub) -> None:
    """END ends the sequence of the stream; what follows begins the next one by itself."""
    talk = Talk(stub)
    assert [talk.say("of_stream", 1), talk.say("of_stream", 1, end=True)] == [1, 2]
    assert talk.say("of_stream", 1) == 1
    assert talk.say("of_stream", 1, start=True) == 1


def test_call_without_a_stream_is_refused(stub: Stub) -> None:
    """A model whose state belongs to streams has none for a call of its own."""
    code, text = refusal(stub.infer, step("of_stream", 1, 5, start=True))
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert text == "model 'of_stream' keeps its state for a stream: use ModelStreamInfer"


def test_stream_is_no_sequence_of_a_model_with_ids(stub: Stub) -> None:
    """Without --stream-state a model with ids wants them on streams as well."""
    assert "non-zero or non-empty correlation ID" in Talk(stub).fails("total", 1)
    talk, other = Talk(stub), Talk(stub)
    assert talk.say("total", 1, 1234, start=True) == 1
    assert other.say("total", 1, 1234, end=True) == 2


def test_every_stream_is_a_sequence_if_the_server_says_so(serve: Serve, tmp_path: Path) -> None:
    """With --stream-state a plain exported GRU streams; ids stay private, calls have them too."""
    models.publish(tmp_path, "inferred", sequences.accumulator())
    models.publish(tmp_path, "total", sequences.accumulator(), config=accumulator_config("total"))
    by_id = 'parameters { key: "sequence_scope" value: { string_value: "id" } }'
    config = accumulator_config("by_id", extra=by_id)
    models.publish(tmp_path, "by_id", sequences.accumulator(), config=config)
    models.publish(tmp_path, "stateless", models.identity(FP32))
    with serve(tmp_path, "--stream-state") as server, server.stub() as stub:
        for model in ("inferred", "total"):
            talk = Talk(stub)
            assert [talk.say(model, v) for v in (1, 2, 3)] == [1, 3, 6]
            assert talk.say(model, 5, 7, start=True) == 5
            assert Talk(stub).say(model, 1) == 1
            assert answer(stub.infer(step(model, 2, 7, start=True, end=True), timeout=WAIT_S)) == 2
        assert "correlation ID" in Talk(stub).fails("by_id", 1)
        assert Talk(stub).say("stateless", 3) == 3


@pytest.mark.parametrize("scope", ["stream", "id"])
def test_sequences_end_before_the_server_stops(serve: Serve, tmp_path: Path, scope: str) -> None:
    """After SIGTERM a stream goes on with its sequence, begins no other, and ends with the END."""
    extra = f'parameters {{ key: "sequence_scope" value: {{ string_value: "{scope}" }} }}'
    config = accumulator_config("total", LONG, extra)
    models.publish(tmp_path, "total", sequences.accumulator(), config=config)
    models.publish(tmp_path, "stateless", models.identity(FP32))
    name = None if scope == "stream" else 5
    with serve(tmp_path, "--drain-delay", "0") as server, server.stub() as stub:
        talk, idle = Talk(stub), Talk(stub)
        assert talk.say("total", 1, name, start=True) == 1
        assert idle.say("stateless", 1) == 1
        server.terminate()
        with pytest.raises(grpc.RpcError) as ended:  # it has no sequence
            next(idle.replies)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert talk.say("total", 2, name) == 3
        text = "GRPC server is shutting down and has stopped accepting new requests."
        assert talk.fails("total", 1, 7, start=True) == text
        assert talk.say("total", 3, name, end=True) == 6
        with pytest.raises(grpc.RpcError) as ended:
            next(talk.replies)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.wait() == 0


def test_stream_whose_state_went_with_its_version_is_told(serve: Serve, tmp_path: Path) -> None:
    """After a reload a stream without an id has to start, as after any end that it did not ask for.

    One whose sequence has ended begins anew by itself.
    """
    scope = 'parameters { key: "sequence_scope" value: { string_value: "stream" } }'
    total = accumulator_config("total", LONG, scope)
    models.publish(tmp_path, "total", sequences.accumulator(), config=total)
    flags = ("--model-control", "explicit", "--load-model", "*")
    with serve(tmp_path, *flags) as server, server.stub() as stub:
        cut, ended = Talk(stub), Talk(stub)
        assert [cut.say("total", 1), ended.say("total", 1), ended.say("total", 1, end=True)]
        (tmp_path / "total" / "config.pbtxt").touch()
        stub.load(RepositoryModelLoadRequest(model_name="total"), timeout=WAIT_S)
        assert ended.say("total", 5) == 5
        for _ in range(2):
            assert cut.fails("total", 1) == (
                "inference request for sequence 0 to model 'total' must specify the START flag "
                "on the first request of the sequence; the one before ended: the model was "
                "unloaded"
            )
        assert [cut.say("total", 7, 0, start=True), cut.say("total", 1)] == [7, 8]


def test_stream_is_told_of_a_newer_version_beside_its_own(serve: Serve, tmp_path: Path) -> None:
    """Where the newest version is another one than before a stream without an id has to start.

    Who names versions has a sequence of each, and neither begins anew unasked.
    """
    more = 'parameters { key: "sequence_scope" value: { string_value: "stream" } }'
    config = accumulator_config("total", LONG, more + " version_policy: { all { } }")
    model = sequences.accumulator()
    models.publish(tmp_path, "total", model, config=config)
    with serve(tmp_path, "--watch", "0.05") as server, server.stub() as stub:
        newest, named = Talk(stub), Talk(stub)
        assert [newest.say("total", 1), named.say("total", 1, version="1")] == [1, 1]
        models.publish_by_rename(tmp_path, "total", model, 2)
        eventually(lambda: "version 2 is ready" in server.log.read_text(), "version 2")
        assert "must specify the START flag" in newest.fails("total", 1)
        assert newest.say("total", 5, 0, start=True) == 5
        for total in (2, 3):
            assert named.say("total", 1, version="1") == total
            assert named.say("total", 10, version="2") == 10 * (total - 1)


def test_new_version_knows_nothing_of_the_old_ones_sequences(serve: Serve, tmp_path: Path) -> None:
    """A sequence in progress ends with its version; its next request is told to start."""
    model = sequences.accumulator()
    models.publish(tmp_path, "total", model, config=accumulator_config("total", LONG))
    with serve(tmp_path, "--watch", "0.05") as server, server.stub() as stub:
        for value in (1, 2):
            request = step("total", 1, 5, start=value == 1)
            assert answer(stub.infer(request, timeout=WAIT_S)) == value
        models.publish_by_rename(tmp_path, "total", model, 2)
        eventually(lambda: "version 2 is ready" in server.log.read_text(), "version 2")
        code, text = refusal(stub.infer, step("total", 1, 5))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "must specify the START flag" in text
        assert answer(stub.infer(step("total", 1, 5, start=True, end=True), timeout=WAIT_S)) == 1
