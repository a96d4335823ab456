"""What each client was seen to do, and the tables of docs/compatibility.md that are made of it.

Nobody declares anything here: a cell is what passed over the wire in a test that passed.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from tests.foreign import grpc_rows, rest_rows
from tests.foreign.clients import EXAMPLES, GRPC, REST, Client
from tests.support.tap_call import Call

TRANSPORTS: Final = ("native", "threaded")

_MARKS: Final = {
    "●": TRANSPORTS,
    "◐": ("native",),
    "○": ("threaded",),
    "refused": ("refused",),
}
_PATH: Final = "path"  # an RPC, or a path of REST
_REFUSAL: Final = "refusal"
_FEATURE: Final = "feature"

# What was seen, as (kind, row, client's title), by transport.
Cell = tuple[str, str, str]
_seen: dict[str, set[Cell]] = {transport: set() for transport in TRANSPORTS}


def note(client: str, transports: Iterable[str], calls: list[Call]) -> None:
    """Record the calls of a test that passed, made over any of these transports."""
    cells = set(_rest_cells(client, calls) if client in REST else _grpc_cells(client, calls))
    for transport in transports:
        _seen[transport] |= cells


def _grpc_cells(client: str, calls: list[Call]) -> Iterator[Cell]:
    title = (GRPC | EXAMPLES)[client].title
    for call in calls:
        if call.path in grpc_rows.RPCS:
            kind = _PATH if grpc_rows.is_served(call) else _REFUSAL
            yield kind, grpc_rows.RPCS[call.path], title
        for feature in grpc_rows.features(call):
            yield _FEATURE, feature, title


def _rest_cells(client: str, calls: list[Call]) -> Iterator[Cell]:
    title = REST[client].title
    for call in calls:
        row = rest_rows.path_of(call)
        if row is not None:
            yield _PATH if rest_rows.is_served(call) else _REFUSAL, row, title
        for feature in rest_rows.features(call):
            yield _FEATURE, feature, title


def render() -> str:
    """Return docs/compatibility.md for what was seen."""
    grpc, rest, examples = _used(GRPC), _used(REST), _used(EXAMPLES)
    rpcs = list(grpc_rows.RPCS.values())
    taken = _rows(_PATH, examples)
    steps = [rpc for rpc in rpcs if rpc in taken]
    return f"""# Compatibility

Programs that nobody here wrote, and the example clients of this project, run against Penstock by
`make test`, which makes these tables: `make compatibility` writes them anew. A test stands between
client and server and reads the wire; a cell is marked where, in a test that passed, the client made
use of what the row says and was answered with status OK, or itself left a stream that had answers.
● on both transports, ◐ on the native one only, ○ on the threaded one only, "refused" where every
call was to be, and was. An empty cell says that the client's tests do not use it, not that it would
fail.

## Clients

Nobody here wrote them, and they run unchanged.

{_clients(grpc, "Client")}
## RPCs

{_table(grpc, rpcs)}
## What requests make use of

{_table(grpc, (), _rows(_FEATURE, grpc))}
## REST

Clients that nobody here wrote, over the HTTP port, which is one whatever carries gRPC. A path with
`/versions/VERSION` counts as that without.

{_clients(rest, "Client of REST")}
{_table(rest, rest_rows.PATHS)}
What requests for inference make use of:

{_table(rest, (), _rows(_FEATURE, rest))}
## Example clients

Those of [clients/](../clients), one a language, which all take the same steps. They are run over
TLS and a Unix socket as well, where nobody reads the wire.

{_clients(examples, "Language")}
{_table(examples, steps, _rows(_FEATURE, examples))}"""


def _used(clients: Mapping[str, Client]) -> list[Client]:
    titles = {title for cells in _seen.values() for _, _, title in cells}
    return [client for client in clients.values() if client.title in titles]


def _rows(kind: str, clients: Sequence[Client]) -> list[str]:
    titles = {client.title for client in clients}
    cells = set().union(*_seen.values())
    return sorted({row for of, row, title in cells if of == kind and title in titles})


def _clients(clients: Sequence[Client], head: str) -> str:
    rows = "".join(f"| {c.title} | {c.version} | {c.stack} |\n" for c in clients)
    return f"| {head} | Version | Stack |\n|---|---|---|\n{rows}"


def _table(clients: Sequence[Client], paths: Sequence[str], features: Sequence[str] = ()) -> str:
    titles = [client.title for client in clients]
    lines = [f"| | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for kind, rows in ((_PATH, paths), (_FEATURE, features)):
        for row in rows:
            marks = (_mark(kind, row, title) for title in titles)
            lines.append(f"| {row} | {' | '.join(marks)} |")
    return "\n".join(lines) + "\n"


def _mark(kind: str, row: str, title: str) -> str:
    where = tuple(name for name in TRANSPORTS if (kind, row, title) in _seen[name])
    if not where and kind == _PATH and (_REFUSAL, row, title) in _seen["native"]:
        where = ("refused",)
    return next((mark for mark, transports in _MARKS.items() if transports == where), "")


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
    """Return the rows of the page's tables of clients."""
    return set(re.findall(r"^\| [^|]+ \| [\w. ]+ \| [^|]+ \|$", text, re.MULTILINE))
