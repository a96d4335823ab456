"""What each client was seen to do, and the tables of docs/compatibility.md that are made of it.

Nobody declares anything here: a cell is what passed over the wire in a test that passed.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from google.protobuf.message import DecodeError

from service.pb import grpc_service_pb2
from service.pb.grpc_service_pb2 import InferParameter, ModelInferRequest
from tests.foreign.clients import CLIENTS
from tests.support.tap_call import Call

_SERVICE: Final = "inference.GRPCInferenceService"
_DESCRIPTOR: Final = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
RPCS: Final = {
    **{f"/{_SERVICE}/{method.name}": method.name for method in _DESCRIPTOR.methods},
    "/grpc.health.v1.Health/Check": "Health/Check",
    "/grpc.health.v1.Health/Watch": "Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": "Reflection v1",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "Reflection v1alpha",
}
_INFER: Final = {f"/{_SERVICE}/ModelInfer": "unary", f"/{_SERVICE}/ModelStreamInfer": "stream"}
_PARAMETERS: Final = {
    "priority": "priority",
    "timeout": "timeout in the queue",
    "triton_enable_empty_final_response": "empty final response asked for",
}
_OK: Final = 0
# How a stream ends that its client leaves: reset, CANCELLED, DEADLINE_EXCEEDED; and UNAVAILABLE
# is what grpcio tells a client that has closed the connection.
_LEFT: Final = (None, 1, 4, 14)
_TRANSPORTS: Final = ("native", "threaded")
_SEQUENCE: Final = "sequence_id"

_MARKS: Final = {
    "●": _TRANSPORTS,
    "◐": ("native",),
    "○": ("threaded",),
    "refused": ("refused",),
}

# What was seen, as (table, row, client's title), by transport.
Cell = tuple[str, str, str]
_seen: dict[str, set[Cell]] = {transport: set() for transport in _TRANSPORTS}


def note(client: str, transport: str, calls: list[Call]) -> None:
    """Record the calls of a test that passed."""
    title = CLIENTS[client].title
    for call in calls:
        if call.path in RPCS:
            outcome = "rpc" if _is_served(call) else "refusal"
            _seen[transport].add((outcome, RPCS[call.path], title))
        for feature in features(call):
            _seen[transport].add(("feature", feature, title))


def features(call: Call) -> Iterator[str]:
    """Tell what a call made use of, besides its RPC; deadlines alone, if it was not served."""
    if call.path in _INFER and "grpc-timeout" in call.headers:
        yield "deadline"
    if not _is_served(call):
        return
    if call.headers.get("grpc-encoding", "identity") != "identity":
        yield f"requests in {call.headers['grpc-encoding']}"
    kind = _INFER.get(call.path)
    if kind is None:
        return
    if call.answers > call.sent:
        yield "several answers to a request (decoupled)"
    for message in call.requests:
        try:
            request = ModelInferRequest.FromString(message)
        except DecodeError:
            continue
        yield from _of_request(request, kind)


def _is_served(call: Call) -> bool:
    """Tell whether a call was answered with OK, or given answers until its client left."""
    return call.status == _OK or (call.status in _LEFT and call.answers > 0)


def _of_request(request: ModelInferRequest, kind: str) -> Iterator[str]:
    for name, value in _set(request.parameters):
        if name == _SEQUENCE:
            yield f"sequences by {'text' if value.string_param else 'numbers'}, {kind}"
        elif name not in ("sequence_start", "sequence_end"):
            yield _PARAMETERS.get(name, "parameters of the caller's own")
    for tensor in request.inputs:
        if "shared_memory_region" in tensor.parameters:
            way = "shared memory"
        else:
            way = "typed" if tensor.HasField("contents") else "raw"
        yield f"{tensor.datatype} {way}, {kind}"
    for output in request.outputs:
        yield "outputs by name"
        if "classification" in output.parameters:
            yield "classification"
        if "shared_memory_region" in output.parameters:
            yield "outputs in shared memory"


def _set(parameters: Mapping[str, InferParameter]) -> Iterator[tuple[str, InferParameter]]:
    """Give the parameters that say something: ids that mean "no sequence" do not."""
    for name, value in parameters.items():
        if name == _SEQUENCE and not (value.int64_param or value.string_param):
            continue
        yield name, value


def render() -> str:
    """Return docs/compatibility.md for what was seen."""
    head = """# Compatibility

Programs that nobody here wrote, run unchanged against Penstock by `make test`, which makes these
tables: `make compatibility` writes them anew. A test stands between client and server and reads
the wire; a cell is marked where, in a test that passed, the client made use of what the row says
and was answered with status OK, or itself left a stream that had answers. ● on both transports,
◐ on the native one only, ○ on the threaded one only, "refused" where every call was to be, and was.
An empty cell says that the client's tests do not use it, not that it would fail.

## Clients

| Client | Version | Stack |
|---|---|---|
"""
    used = [client for client in CLIENTS.values() if _all_of(client.title)]
    rows = "".join(f"| {c.title} | {c.version} | {c.stack} |\n" for c in used)
    titles = [client.title for client in used]
    seen_features = {
        row for cells in _seen.values() for table, row, _ in cells if table == "feature"
    }
    return (
        f"{head}{rows}\n## RPCs\n\n{_table('rpc', list(RPCS.values()), titles)}\n"
        f"## What requests make use of\n\n{_table('feature', sorted(seen_features), titles)}"
    )


def _all_of(title: str) -> set[Cell]:
    return {cell for cells in _seen.values() for cell in cells if cell[2] == title}


def _table(table: str, rows: list[str], titles: list[str]) -> str:
    def mark(row: str, title: str) -> str:
        cell = (table, row, title)
        if cell in _seen["native"]:
            return "●" if cell in _seen["threaded"] else "◐"
        if cell in _seen["threaded"]:
            return "○"
        return "refused" if table == "rpc" and ("refusal", row, title) in _seen["native"] else ""

    lines = [f"| | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    lines += [f"| {row} | {' | '.join(mark(row, title) for title in titles)} |" for row in rows]
    return "\n".join(lines) + "\n"


def claims(text: str) -> set[tuple[str, str, str]]:
    """Return what a page claims, as (row, client, transport)."""
    found, titles = set(), []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| |"):
            titles = cells[1:]
        for title, cell in zip(titles, cells[1:], strict=False):
            for transport in _MARKS.get(cell, ()):
                found.add((cells[0], title, transport))
    return found


def versions(text: str) -> set[str]:
    """Return the rows of the page's table of clients."""
    return set(re.findall(r"^\| [^|]+ \| [\w. ]+ \| [^|]+ \|$", text, re.MULTILINE))
