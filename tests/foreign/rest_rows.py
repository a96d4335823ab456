"""Which rows of docs/compatibility.md a call over REST stands for: its path, and what it used."""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry

from service.rest.pages import add_probes, add_protocol
from service.rest.reply import HEADER_LENGTH
from service.rest.routes import Page, Routes
from service.rest.status import HttpError
from tests.support.tap_call import Call

_OF_A_VERSION: Final = "/versions/{version}"
_INFER: Final = "POST /v2/models/{model}/infer"


class _Named(Routes):
    """The server's own paths, whose pages are never asked, and the row of each page."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[Page, str] = {}
        add_probes(self, _unasked, CollectorRegistry())
        add_protocol(self, _unasked, _unasked)

    def add(self, method: str, template: str, page: Page) -> None:
        super().add(method, template, page)
        self.rows[page] = f"{method} /{template.replace(_OF_A_VERSION, '')}"


async def _unasked(*_: object) -> Any:
    raise NotImplementedError


_ROUTES: Final = _Named()
PATHS: Final = [row for row in dict.fromkeys(_ROUTES.rows.values()) if " /v2" in row]


def path_of(call: Call) -> str | None:
    """Return the row of a call's path, whether of a version or not; None if there is no such."""
    method, _, target = call.path.partition(" ")
    try:
        page, _names = _ROUTES.find(method, target.partition("?")[0])
    except HttpError:
        return None
    return _ROUTES.rows[page]


def is_served(call: Call) -> bool:
    """Tell whether a call was answered with a status of success."""
    return call.status is not None and 200 <= call.status < 300


def features(call: Call) -> Iterator[str]:
    """Tell what a served request for inference made use of."""
    if not is_served(call) or path_of(call) != _INFER:
        return
    coding = call.headers.get("content-encoding", "identity")
    if coding != "identity":
        yield f"requests in {coding}"
    body = _decoded(call.requests[0], coding)
    length = int(call.headers.get(HEADER_LENGTH, len(body)))
    if length == 0:
        yield "a raw body"
    else:
        yield from _of_request(json.loads(body[:length]))


def _of_request(request: Mapping[str, Any]) -> Iterator[str]:
    parameters = request.get("parameters", {})
    if correlation := parameters.get("sequence_id"):
        yield f"sequences by {'text' if isinstance(correlation, str) else 'numbers'}"
    for tensor in request["inputs"]:
        yield f"{tensor['datatype']} {_way(tensor)}"
    for output in request.get("outputs", ()):
        yield "outputs by name"
        own = output.get("parameters", {})
        if "classification" in own:
            yield "classification"
        if "shared_memory_region" in own:
            yield "outputs in shared memory"
        elif own.get("binary_data", parameters.get("binary_data_output", False)):
            yield "outputs as binary data"
        else:
            yield "outputs in JSON"


def _way(tensor: Mapping[str, Any]) -> str:
    parameters = tensor.get("parameters", {})
    if "shared_memory_region" in parameters:
        return "in shared memory"
    return "as binary data" if "binary_data_size" in parameters else "in JSON"


def _decoded(body: bytes, coding: str) -> bytes:
    if coding == "gzip":
        return gzip.decompress(body)
    return zlib.decompress(body) if coding == "deflate" else body
