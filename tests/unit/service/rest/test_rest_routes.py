"""Paths to pages."""

import pytest

from service.rest.exchange import HttpRequest
from service.rest.reply import Reply
from service.rest.routes import Page, Routes
from service.rest.status import HttpError


async def nothing(_request: HttpRequest, _names: object) -> Reply:
    """Answer with nothing."""
    return Reply(200, b"")


METADATA, INFER, STATS, READY = (Page(nothing) for _ in range(4))


@pytest.fixture
def routes() -> Routes:
    """Give four pages."""
    tree = Routes()
    tree.add("GET", "v2/models/{model}", METADATA)
    tree.add("POST", "v2/models/{model}/versions/{version}/infer", INFER)
    tree.add("GET", "v2/models/stats", STATS)
    tree.add("GET", "v2/models/{model}/ready", READY)
    return tree


@pytest.mark.parametrize(
    ("method", "path", "page", "names"),
    [
        ("GET", "/v2/models/m", METADATA, {"model": "m"}),
        ("HEAD", "/v2/models/m/", METADATA, {"model": "m"}),
        ("POST", "/v2/models/m/versions/2/infer", INFER, {"model": "m", "version": "2"}),
        ("GET", "/v2/models/a%2Fb%20%C3%A4", METADATA, {"model": "a/b \u00e4"}),
        ("GET", "/v2/models/%7Bmodel%7D", METADATA, {"model": "{model}"}),
        ("GET", "/v2/models/{}", METADATA, {"model": "{}"}),
        ("GET", "/v2/models/stats", STATS, {}),
        ("GET", "/v2/models/stats/ready", READY, {"model": "stats"}),
    ],
)
def test_found(routes: Routes, method: str, path: str, page: Page, names: dict[str, str]) -> None:
    """A path leads to its page, with what its names stand for, decoded."""
    found, got = routes.find(method, path)
    assert found is page
    assert got == names


@pytest.mark.parametrize("path", ["/", "", "/v2", "/v2/models", "/v3", "/v2/models/m/x", "/v2//m"])
def test_no_such_path(routes: Routes, path: str) -> None:
    """Any other path is 404."""
    with pytest.raises(HttpError, match="no such path") as refused:
        routes.find("GET", path)
    assert refused.value.status == 404


def test_wrong_method(routes: Routes) -> None:
    """A method that the path does not have is 405, and the answer says which it has."""
    with pytest.raises(HttpError, match="DELETE is not for '/v2/models/m', GET is") as refused:
        routes.find("DELETE", "/v2/models/m")
    assert refused.value.status == 405
    assert refused.value.headers == {"allow": "GET"}
