"""Which page answers which path. A template's {name} stands for one segment, percent-decoded."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from service.errors import shown
from service.rest.exchange import HttpRequest
from service.rest.reply import Reply
from service.rest.status import HttpError

Handler = Callable[[HttpRequest, Mapping[str, str]], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Page:
    """What answers a method at a path.

    is_open: also for callers without the client certificate that the rest asks for.
    """

    handler: Handler
    is_open: bool = False


@dataclass(slots=True)
class _Node:
    children: dict[str, "_Node"] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    pages: dict[str, Page] = field(default_factory=dict)


class Routes:
    """A tree of segments. One that is written out wins over {name}."""

    def __init__(self) -> None:
        self._root = _Node()

    def add(self, method: str, template: str, page: Page) -> None:
        """Let a page answer a method at the paths of a template. GET answers HEAD as well."""
        node, names = self._root, []
        for segment in _segments(template):
            is_name = segment.startswith("{")
            if is_name:
                names.append(segment[1:-1])
            node = node.children.setdefault("{}" if is_name else segment, _Node())
        node.names = tuple(names)
        node.pages[method] = page

    def find(self, method: str, path: str) -> tuple[Page, dict[str, str]]:
        """Return the page for a path as it came, and what its template's names stand for.

        Raises HttpError: 404 for a path that there is not, 405 for the method.
        """
        segments = _segments(path)
        found = _walk(self._root, segments, ())
        if found is None:
            raise HttpError(
                404, f"no such path: '{shown(path)}'; docs/rest.md lists those there are"
            )
        node, values = found
        page = node.pages.get("GET" if method == "HEAD" else method)
        if page is None:
            methods = ", ".join(sorted(node.pages))
            raise HttpError(
                405, f"{shown(method)} is not for '{shown(path)}', {methods} is",
                headers={"allow": methods},
            )  # fmt: skip
        return page, dict(zip(node.names, values, strict=True))


def _walk(
    node: _Node, segments: list[str], values: tuple[str, ...]
) -> tuple[_Node, tuple[str, ...]] | None:
    if not segments:
        return (node, values) if node.pages else None
    first, rest = segments[0], segments[1:]
    for key in (first, "{}"):
        child = node.children.get(key) if first != "{}" or key == "{}" else None
        if child is not None:
            taken = (*values, unquote(first)) if key == "{}" else values
            if (found := _walk(child, rest, taken)) is not None:
                return found
    return None


def _segments(path: str) -> list[str]:
    return path.removeprefix("/").removesuffix("/").split("/")
