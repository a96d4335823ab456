"""The Python client, against a real server and against ones that break the protocol."""

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.client import (
    Client,
    ClientError,
    MalformedAnswer,
    Ranked,
    RequestRefused,
    ServerUnreachable,
)
from service.pb import grpc_service_pb2 as pb
from service.tensors import DATATYPES, Array, Datatype
from tests.support import models
from tests.support.certificates import Authority
from tests.support.servers import RunningServer, serve
from tests.support.servicer import serving
from tests.support.waiting import WAIT_S, eventually

_ROW = np.ones((1, 784), np.float32)
_SLOW_STEPS = np.array([[1_000_000]], np.int64)  # minutes


def _response(datatype: str, shape: tuple[int, ...], raw: bytes) -> pb.ModelInferResponse:
    response = pb.ModelInferResponse(raw_output_contents=[raw])
    response.outputs.add(name="Y", datatype=datatype, shape=shape)
    return response


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    """Connect to the server."""
    with Client(server.address) as connected:
        yield connected


@pytest.mark.parametrize("datatype", DATATYPES, ids=str)
def test_each_datatype_comes_back_as_it_was_sent(client: Client, datatype: Datatype) -> None:
    """An array of every datatype returns with the same type, shape and values."""
    array = models.sample(np.random.default_rng(1), datatype, (3, 5))
    outputs = client.infer(f"identity_{datatype.wire.lower()}", {"X": array})
    assert outputs["Y"].dtype == array.dtype
    np.testing.assert_array_equal(outputs["Y"], array)


def test_text_is_sent_as_utf8(client: Client) -> None:
    """A numpy array of str arrives as BYTES in UTF-8."""
    outputs = client.infer("identity_bytes", {"X": np.array([["grün", ""]])})
    assert outputs["Y"].tolist() == [["grün".encode(), b""]]


def test_big_endian_arrays_are_turned(client: Client) -> None:
    """An array of the other byte order arrives with the same values."""
    array = np.array([[1.5, -2.0]], ">f4")
    np.testing.assert_array_equal(client.infer("identity_fp32", {"X": array})["Y"], array)


def test_an_array_that_no_datatype_carries_is_a_type_error(client: Client) -> None:
    """Complex numbers are refused before anything is sent, by the name of the input."""
    with pytest.raises(TypeError, match="input 'X' is of type complex128"):
        client.infer("identity_fp32", {"X": np.ones((1, 1), complex)})


def test_wanted_outputs_are_the_only_ones(client: Client) -> None:
    """A request that names one output gets that one."""
    ones = np.ones((1, 16), np.int32)
    outputs = client.infer("simple", {"INPUT0": ones, "INPUT1": ones}, outputs=["OUTPUT1"])
    assert outputs.keys() == {"OUTPUT1"}
    assert not outputs["OUTPUT1"].any()


def test_an_answer_larger_than_grpc_allows_by_default_is_read(client: Client) -> None:
    """An answer of 8 MiB comes through."""
    array = np.zeros((1, 2 << 20), np.float32)
    assert client.infer("identity_fp32", {"X": array})["Y"].nbytes == 8 << 20


def test_the_server_describes_itself(client: Client) -> None:
    """Metadata, configuration, index, readiness and health speak of the models that serve."""
    assert client.metadata().name == "penstock"
    metadata = client.model_metadata("mlp")
    assert [(each.name, list(each.shape)) for each in metadata.inputs] == [("X", [-1, 784])]
    assert client.model_config("simple").max_batch_size == 8
    assert ("mlp", "1", "READY") in {(e.name, e.version, e.state) for e in client.index()}
    assert (client.is_ready(), client.is_ready("mlp"), client.is_ready("nope")) == (
        True, True, False,
    )  # fmt: skip
    assert (client.health(), client.health("mlp")) == ("SERVING", "SERVING")


def test_the_best_elements_are_ranked(client: Client) -> None:
    """Classify gives for each row as many of the best elements as asked, best first."""
    rows = np.random.default_rng(3).normal(size=(2, 784)).astype(np.float32)
    scores = client.infer("mlp", {"X": rows})["Y"]
    ranked = client.classify("mlp", {"X": rows}, classes=3)["Y"]
    assert [[each.index for each in row] for row in ranked] == [
        list(np.argsort(-row)[:3]) for row in scores
    ]
    assert ranked[0][0].value == pytest.approx(scores[0].max(), abs=1e-5)


@pytest.mark.parametrize("text", [b"1.0", b"x:1", b"1.0:one:label", b"\xff:1"])
def test_a_broken_ranking_is_malformed(text: bytes) -> None:
    """A text that is no VALUE:INDEX[:LABEL] is shown in the error."""
    broken = _response("BYTES", (1,), len(text).to_bytes(4, "little") + text)
    with (
        serving(infer=lambda _request: broken) as address,
        Client(address) as client,
        pytest.raises(MalformedAnswer, match=r"output 'Y' has .* where VALUE:INDEX"),
    ):
        client.classify("m", {}, outputs=["Y"])


def test_labels_are_read_with_their_colons() -> None:
    """A label may hold colons; it is all behind the second one."""
    text = b"0.5:7:urn:cat"
    labelled = _response("BYTES", (1,), len(text).to_bytes(4, "little") + text)
    with serving(infer=lambda _request: labelled) as address, Client(address) as client:
        assert client.classify("m", {}, outputs=["Y"]) == {"Y": [Ranked(0.5, 7, "urn:cat")]}


def test_statistics_count_requests(client: Client) -> None:
    """Each answered request adds its rows to the statistics of its model."""
    (before,) = client.statistics("scalar")
    client.infer("scalar", {"X": np.float32(1)})
    (after,) = client.statistics("scalar")
    assert after.inference_count - before.inference_count == 1


def test_a_refusal_carries_code_and_text(client: Client) -> None:
    """An unknown model raises RequestRefused with the server's code and text."""
    with pytest.raises(RequestRefused, match="'nope' is not found") as caught:
        client.infer("nope", {"X": _ROW})
    assert caught.value.code is grpc.StatusCode.NOT_FOUND


def test_a_deadline_holds(client: Client) -> None:
    """A model that takes minutes is given up at the deadline."""
    with pytest.raises(RequestRefused) as caught:
        client.infer("slow", {"X": _SLOW_STEPS}, deadline=0.2)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_nobody_at_the_address() -> None:
    """A call to a port where nothing listens names the address and what to start."""
    with (
        Client("127.0.0.1:1") as client,
        pytest.raises(ServerUnreachable, match=r"no server answers at 127\.0\.0\.1:1.*serve"),
    ):
        client.metadata()


def test_tls_by_another_name(tmp_path: Path) -> None:
    """A server is trusted by its CA under its names, and not under another one."""
    authority = Authority(tmp_path, "ca")
    pair = authority.sign("server")
    models.publish(tmp_path / "models", "mlp", models.mlp())
    flags = ("--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key))
    trusted = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
    with serve(tmp_path / "models", *flags) as running:
        for name in ("", "localhost"):
            with Client(running.address, credentials=trusted, server_name=name) as client:
                assert client.infer("mlp", {"X": _ROW})["Y"].shape == (1, 10)
        with (
            Client(running.address, credentials=trusted, server_name="other.example") as stranger,
            pytest.raises(ServerUnreachable),
        ):
            stranger.metadata()


def test_a_stream_answers_in_order(client: Client) -> None:
    """A thousand requests of one stream are answered in their order, each with its values."""
    rows = ({"X": np.full((1, 1), number, np.float32)} for number in range(1000))
    answers = list(client.stream("identity_fp32", rows))
    assert [answer.index for answer in answers] == list(range(1000))
    assert [answer.result()["Y"].item() for answer in answers] == list(range(1000))


def test_a_failed_request_leaves_the_stream_open(client: Client) -> None:
    """The answer in the place of a bad request has the error, and those behind it are good."""
    good, bad = {"X": _ROW}, {"X": _ROW[:, :3]}
    first, second, third = client.stream("mlp", [good, bad, good])
    assert second.error is not None
    assert "Expected [-1,784], got [1,3]" in second.error.text
    with pytest.raises(RequestRefused):
        second.result()
    np.testing.assert_array_equal(first.result()["Y"], third.result()["Y"])


def test_a_stream_draws_no_more_than_its_window(client: Client) -> None:
    """A reader who has read ten answers of an endless input has made it give ten and a window."""
    drawn = itertools.count()
    last = [0]

    def rows() -> Iterator[dict[str, Array]]:
        for number in drawn:
            last[0] = number + 1
            yield {"X": _ROW}

    stream = client.stream("mlp", rows(), window=8)
    for _ in range(10):
        next(stream).result()
    # The answers that nobody has read settle nothing, however long it is waited.
    eventually(lambda: last[0] >= 17, "the window is used")
    assert last[0] <= 18
    stream.close()


def test_an_abandoned_stream_stops_drawing(client: Client) -> None:
    """When a stream is closed early, the thread that iterates over the input ends."""
    threads: list[threading.Thread] = []

    def rows() -> Iterator[dict[str, Array]]:
        threads.append(threading.current_thread())
        while True:
            yield {"X": _ROW}

    stream = client.stream("mlp", rows(), window=2)
    next(stream)
    stream.close()
    threads[0].join(WAIT_S)
    assert not threads[0].is_alive()


def test_what_the_input_raises_is_raised_after_its_answers(client: Client) -> None:
    """An input that fails has its earlier requests answered, then its own error is raised."""

    def rows() -> Iterator[dict[str, Array]]:
        yield {"X": _ROW}
        raise LookupError("no more data")

    stream = client.stream("mlp", rows())
    assert next(stream).error is None
    with pytest.raises(LookupError, match="no more data"):
        next(stream)


def test_a_stream_of_nothing_has_no_answers(client: Client) -> None:
    """An empty input gives an empty stream."""
    assert list(client.stream("mlp", [])) == []


def test_a_stream_keeps_its_deadline(client: Client) -> None:
    """A stream whose request takes minutes ends with an error at its deadline."""
    stream = client.stream("slow", [{"X": _SLOW_STEPS}], deadline=0.2)
    with pytest.raises(ClientError):
        next(stream).result()


def test_priority_is_sent() -> None:
    """A priority goes along as the parameter that Triton's protocol names."""
    seen: list[int] = []

    def answer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        seen.append(request.parameters["priority"].int64_param)
        return pb.ModelInferResponse()

    with serving(infer=answer) as address, Client(address) as client:
        client.infer("m", {"X": _ROW}, priority=2)
    assert seen == [2]


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (_response("FP32", (2, 2), b"\0" * 15), "Expected 16, got 15"),
        (_response("FP31", (1,), b"\0" * 4), "is of type 'FP31'"),
        (_response("BYTES", (1,), b"\xff\0\0\0"), "passes the end"),
        (pb.ModelInferResponse(raw_output_contents=[b"x"]), "0 outputs, but 1 raw contents"),
    ],
    ids=["short", "datatype", "length", "count"],
)  # fmt: skip
def test_a_broken_answer_is_malformed(response: pb.ModelInferResponse, text: str) -> None:
    """An answer whose contents are not what it says raises MalformedAnswer, not nonsense."""
    with (
        serving(infer=lambda _request: response) as address,
        Client(address) as client,
        pytest.raises(MalformedAnswer, match=text),
    ):
        client.infer("m", {"X": _ROW})


def test_a_stream_that_ends_early_is_malformed() -> None:
    """A server that ends a stream with requests unanswered does not look like success."""

    def answer(requests: Iterator[pb.ModelInferRequest]) -> Iterator[pb.ModelStreamInferResponse]:
        for request in itertools.islice(requests, 2):
            yield pb.ModelStreamInferResponse(infer_response=pb.ModelInferResponse(id=request.id))
        next(requests)

    with serving(stream=answer) as address, Client(address) as client:
        stream = client.stream("m", [{"X": _ROW}] * 3)
        assert [next(stream).index, next(stream).index] == [0, 1]
        with pytest.raises(MalformedAnswer, match="after 2 of 3 answers"):
            next(stream)


def test_answers_out_of_order_are_malformed() -> None:
    """An answer with the id of another request is not taken for the one that is due."""

    def answer(requests: Iterator[pb.ModelInferRequest]) -> Iterator[pb.ModelStreamInferResponse]:
        for _request in requests:
            yield pb.ModelStreamInferResponse(infer_response=pb.ModelInferResponse(id="7"))

    with (
        serving(stream=answer) as address,
        Client(address) as client,
        pytest.raises(MalformedAnswer, match="answered request 7 where 0 was due"),
    ):
        list(client.stream("m", [{"X": _ROW}]))
