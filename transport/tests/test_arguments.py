"""Arguments that cannot be are refused by name."""

import grpc
import pytest
from penstock_transport import Server

from harness import (
    HOLD,
    METHODS,
    PATIENCE_S,
    App,
    unary,
)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"message_bytes": 0}, "message_bytes must be at least 1"),
        ({"http2_stream_window": 1}, "http2_stream_window must be between"),
        ({"keepalive_time_s": -1.0}, "keepalive_time_s = -1"),
        ({"handshake_timeout_s": float("nan")}, "handshake_timeout_s = NaN"),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], part: str) -> None:
    """A setting that cannot be is refused by its name."""
    with pytest.raises(ValueError, match=part):
        Server([], METHODS, **settings)  # type: ignore[arg-type]


def test_too_few_kinds() -> None:
    """Every kind of event needs something that stands for it, but for the newest one."""
    with pytest.raises(ValueError, match="kinds: 6 given, expected request, opened, message, "):
        Server([], METHODS, kinds=range(6))
    Server([], METHODS, kinds=range(7)).close()


def test_methods_that_cannot_be() -> None:
    """A method is unary or a stream, and its path a string."""
    with pytest.raises(ValueError, match=r'a method is "unary" or "stream", not .both\.?'):
        Server([], {"/a/b": "both"})
    with pytest.raises(TypeError):
        Server([], {1: "unary"})  # type: ignore[dict-item]


def test_finish_that_cannot_be(app: App, channel: grpc.Channel) -> None:
    """A finish that makes no sense is refused, and the call can still be finished."""
    call = unary(channel, HOLD).future(b"", timeout=PATIENCE_S)
    served = app.expect("request").call
    with pytest.raises(ValueError, match="17 is not a status code"):
        served.finish(17)
    with pytest.raises(ValueError, match="needs a reply"):
        served.finish(0)
    with pytest.raises(ValueError, match="reserved"):
        served.finish(3, trailers=[("grpc-status", "0")])
    with pytest.raises(ValueError, match="printable"):
        served.finish(3, trailers=[("key", "a\nb")])
    served.finish(3, "\ud800 is no character")
    assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
