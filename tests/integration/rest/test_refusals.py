"""What is refused over gRPC is refused over REST, with the same text; and what HTTP refuses."""

import gzip
import http.client
import json
import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from grpc import StatusCode

from service.rest.status import STATUSES
from service.tensors import FP32
from service.transport.seam import Code
from tests.support import models
from tests.support.bad import BAD, Bad
from tests.support.requests import one, raw_request, simple_request
from tests.support.rest import ask, binary_body, exchange, infer, infer_as
from tests.support.servers import RunningServer, serve
from tests.support.stub import Stub, refusal

_ERROR_ID: Final = re.compile(r"error id [0-9a-f]+")
# What JSON has no way to say, and what its own checks see first: tested where they are.
_NOT_REST: Final = {
    "no model", "long name", "rank of a bomb", "raw and typed mixed", "raw for one input only",
    "raw for one input too many", "no contents", "typed too short", "typed of the wrong kind",
    "typed of two kinds", "typed FP16", "typed BF16", "typed out of range", "many inputs",
    "input in shared memory", "endless version", "version in other digits",
}  # fmt: skip
CASES: Final = [bad for bad in BAD if bad.name not in _NOT_REST]
GOOD: Final = {"name": "X", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}


@pytest.mark.parametrize("bad", CASES, ids=lambda bad: bad.name)
def test_refused_as_over_grpc(server: RunningServer, stub: Stub, bad: Bad) -> None:
    """The status stands for gRPC's code, and the text is the same."""
    request = bad.make()
    code, text = refusal(stub.infer, request)
    got = infer_as(server.http_address, request, binary=True).error()
    assert got[0] == STATUSES[Code[code.name]]
    assert _ERROR_ID.sub("", got[1]) == _ERROR_ID.sub("", text)
    assert bad.text in got[1]


def test_every_code_has_a_status() -> None:
    """No status of gRPC is without one of HTTP, and only OK is a success."""
    assert {code.name for code in Code} == {code.name for code in StatusCode}
    assert set(STATUSES) == set(Code)
    assert [code for code, status in STATUSES.items() if status < 400] == [Code.OK]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "the body is not JSON"),
        (b"\xff\xfe", "the body is not JSON"),
        (b"[" * 200_000, "limit"),
        ({"inputs": [GOOD | {"data": [1, 1e39]}]}, "input 'X': element 1 is 1e+39, FP32 holds"),
        ({"inputs": [GOOD | {"data": [[1], [2]]}]}, "nested as [2,1], its shape is [1,2]"),
        ({"inputs": [GOOD | {"data": [1]}]},
         "input byte size mismatch for input 'X' for model 'identity_fp32'. Expected 8, got 4"),
        ({"inputs": [GOOD], "parameters": {"priority": True}}, "'priority' parameter"),
        ({"inputs": [GOOD], "parameters": {"priority": -1}}, "'priority' parameter"),
        ({"inputs": [GOOD], "parameters": {"timeout": "1"}}, "'timeout' parameter"),
        ({"inputs": [GOOD], "parameters": {"sequence_id": 1.5}}, "'sequence_id' parameter"),
        ({"inputs": [GOOD], "outputs": [{"name": "Y", "parameters": {"classification": 1.5}}]},
         "invalid value type for 'classification' parameter, expected int64_param"),
    ],
)  # fmt: skip
def test_json_that_is_wrong(server: RunningServer, body: Any, text: str) -> None:
    """It is 400, and the text says what and where."""
    status, got = infer(server.http_address, "identity_fp32", body).error()
    assert status == http.client.BAD_REQUEST
    assert text in got


def test_unknown_model_is_told_before_wrong_data(server: RunningServer) -> None:
    """Who asks for the wrong model is not told first what is wrong with the rest."""
    got = infer(server.http_address, "nope", b"{").error()
    assert got == (404, "Request for unknown model: 'nope' is not found")


@pytest.mark.parametrize(
    ("headers", "status", "text"),
    [
        ({"Inference-Header-Content-Length": "-1"}, 400, "expected a number of bytes"),
        ({"Inference-Header-Content-Length": "1e3"}, 400, "expected a number of bytes"),
        ({"Inference-Header-Content-Length": "999999"}, 400, "but the body has"),
        ({"Inference-Header-Content-Length": "10"}, 400, "the body is not JSON"),
        ({"Inference-Header-Content-Length": "10, 10"}, 400, "expected a number of bytes"),
        ({"Content-Encoding": "br"}, 415, "expected gzip, deflate or identity"),
        ({"Content-Encoding": "gzip"}, 400, "the body is not gzip"),
        ({"grpc-timeout": "soon"}, 400, "grpc-timeout is 'soon'"),
        ({"Sec-Fetch-Site": "cross-site"}, 403, "browser"),
    ],
)
def test_headers_that_are_wrong(
    server: RunningServer, headers: dict[str, str], status: int, text: str
) -> None:
    """Each is refused with its own status."""
    got = infer(server.http_address, "identity_fp32", {"inputs": [GOOD]}, headers).error()
    assert got[0] == status
    assert text in got[1]


@pytest.mark.parametrize(
    ("lengths", "status"),
    [
        ("{length}: %d \t", 200),  # white space around a value is none of it
        ("{length}: %d\r\n{length}: %d", 200),
        ("{length}: 5\r\n{length}: %d", 400),
        ("{length}: %d\r\n{length}: 5", 400),
    ],
)
def test_length_of_the_json_is_one_number(server: RunningServer, lengths: str, status: int) -> None:
    """Where the JSON ends must not depend on which of two headers is believed."""
    body = json.dumps({"inputs": [GOOD]}).encode()
    lines = lengths.format(length="Inference-Header-Content-Length").replace("%d", str(len(body)))
    answer = exchange(
        server.http_address,
        b"POST /v2/models/identity_fp32/infer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n%s\r\n\r\n%s" % (len(body), lines.encode(), body),
    )
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v2/models/simple/infer", 405), ("PUT", "/v2", 405), ("GET", "/v1/models", 404)],
)
def test_paths_that_are_wrong(server: RunningServer, method: str, path: str, status: int) -> None:
    """A path that there is not is 404, a method that it has not is 405."""
    assert ask(server.http_address, method, path).error()[0] == status


def test_refusals_are_counted(server: RunningServer) -> None:
    """Each counts as an outcome of its model, or of none."""
    known = {"model": "identity_int8", "version": "1", "outcome": "INVALID_ARGUMENT"}
    unknown = {"model": "_unknown", "version": "", "outcome": "NOT_FOUND"}
    name = "penstock_requests_total"
    before = [server.sample(name, **labels) for labels in (known, unknown)]
    infer(server.http_address, "identity_int8", b"{")
    infer(server.http_address, "identity_int8", {"inputs": []})
    infer(server.http_address, "nope", b"{")
    infer(server.http_address, "nope", {"inputs": []})
    infer(server.http_address, "nope", b"", {"Inference-Header-Content-Length": "0"})
    after = [server.sample(name, **labels) for labels in (known, unknown)]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 3]


def test_what_is_no_http(server: RunningServer) -> None:
    """What is no HTTP is refused in JSON, and the connection ends."""
    for request in (b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n"):
        answer = exchange(server.http_address, request)
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n"), request
        assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"error": "malformed HTTP request"}


def test_what_is_no_http_takes_no_answer_away(server: RunningServer) -> None:
    """A request that has come whole is answered, whatever follows it; then the connection ends."""
    body = json.dumps({"inputs": [GOOD]}).encode()
    head = b"POST /v2/models/identity_fp32/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    good = head % len(body) + body
    wrong_chunk = head.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked") + b"x\r\n"
    for noise in (b"nonsense\r\n\r\n", wrong_chunk, wrong_chunk[:-2]):
        answers = exchange(server.http_address, good * 2 + noise)
        statuses = re.findall(rb"HTTP/1.1 (\d+) ", answers)
        assert statuses in ([b"200"] * 2, [b"200", b"200", b"400"]), noise  # as it is read
    headless = head.replace(b"Content-Length: %d\r\n", b"") + body
    answer = exchange(server.http_address, headless)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"the body is not JSON" in answer


def test_body_that_breaks_off_is_answered_once(server: RunningServer) -> None:
    """The page that a request with a broken body is for does not answer it as well."""
    answer = exchange(
        server.http_address,
        b"POST /nope HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    )
    assert re.findall(rb"HTTP/1.1 (\d+) ", answer) == [b"400"]
    assert "ASGI" not in server.log.read_text()


def test_both_lengths_are_refused(server: RunningServer) -> None:
    """A request with Content-Length and chunks, which proxies may read in two ways, is refused."""
    answer = exchange(
        server.http_address,
        b"POST /v2/models/simple/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "trailer", [b"Sec-Fetch-Site: cross-site", b"Inference-Header-Content-Length: 3"]
)
def test_trailers_are_no_headers(server: RunningServer, trailer: bytes) -> None:
    """What follows a body in chunks says nothing: a proxy has not looked at it as at the head."""
    body = json.dumps({"inputs": [GOOD]}).encode()
    answer = exchange(
        server.http_address,
        b"POST /v2/models/identity_fp32/infer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n%s\r\nX-Last: 1\r\n\r\n"
        % (len(body), body, trailer),
    )
    assert answer.startswith(b"HTTP/1.1 200 "), answer


def test_headers_that_are_too_large(server: RunningServer) -> None:
    """More than --max-header-kib is refused, whole, in pieces, and in the trailers of a body."""
    line = b"x-%d: " + b"y" * 1000 + b"\r\n"
    many = b"".join(line % index for index in range(20))
    for request in (
        b"GET /v2 HTTP/1.1\r\nHost: x\r\n" + many + b"\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nx: " + b"y" * (1 << 20),
        b"POST /v2/repository/index HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n" + many + b"\r\n",
    ):
        assert exchange(server.http_address, request).startswith(b"HTTP/1.1 431 ")


def test_body_that_grows_when_it_is_inflated(server: RunningServer) -> None:
    """A bomb is refused at the limit of a body."""
    bomb = gzip.compress(bytes(70 << 20), 1)
    got = infer(server.http_address, "simple", bomb, {"Content-Encoding": "gzip"}).error()
    assert got == (413, f"the body is larger than {64 << 20} bytes (--max-message-mib)")


@pytest.mark.parametrize("element", [b"{}", b"[]", b"0"])
def test_json_that_grows_when_it_is_parsed(tmp_path: Path, element: bytes) -> None:
    """What a body takes as values of Python is bounded by --max-received-mib, binary data aside."""
    models.publish(tmp_path, "identity_fp32", models.identity(FP32))
    bomb = b'{"inputs":[' + b",".join([element] * 500_000) + b"]}"
    request = raw_request("identity_fp32", one(FP32, np.ones((1, 500_000), np.float32)))
    body, headers = binary_body(request)
    limits = ("--max-message-mib", "8", "--max-received-mib", "8")
    with serve(tmp_path, *limits) as server:
        status, text = infer(server.http_address, "identity_fp32", bomb).error()
        assert (status, "bytes of memory" in text) == (413, True)
        assert infer(server.http_address, "identity_fp32", body, headers).status == 200


def test_server_goes_on(server: RunningServer, stub: Stub) -> None:
    """After all of this both sides answer as before."""
    request = raw_request("identity_fp32", one(FP32, np.ones((1, 2), np.float32)))
    body, headers = binary_body(request)
    assert infer(server.http_address, "identity_fp32", body, headers).status == http.client.OK
    assert stub.infer(simple_request()).model_name == "simple"
