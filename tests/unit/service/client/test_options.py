"""Options of the client: what is refused, and what gRPC is told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.client import Client, Retry, Tls
from service.client.core import Core, parameters_of
from service.client.options import Wishes
from service.pb import grpc_service_pb2 as pb


def config(*, for_steps: bool = False, **options: Any) -> dict[str, Any]:
    """Return the service config of a channel."""
    arguments = dict(Core("h:1", **options).settings.channel_arguments(for_steps=for_steps))
    loaded: dict[str, Any] = json.loads(arguments["grpc.service_config"])
    return loaded


def test_idempotent_calls_are_retried_on_unavailable_alone() -> None:
    """The policy names UNAVAILABLE, the calls that change nothing, and what was asked for."""
    (method,) = config(retry=Retry(4, first_backoff_s=0.1, max_backoff_s=2, multiplier=3))[
        "methodConfig"
    ]
    assert method["retryPolicy"] == {
        "maxAttempts": 4,
        "initialBackoff": "0.100000000s",
        "maxBackoff": "2.000000000s",
        "backoffMultiplier": 3,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    names = {each["method"] for each in method["name"]}
    assert "ModelInfer" in names
    assert not names & {"ModelStreamInfer", "RepositoryModelLoad", "RepositoryModelUnload"}


def test_retries_and_balancing_can_be_off() -> None:
    """retry=None leaves no policy, balance=False takes the first address; steps have neither."""
    assert config()["loadBalancingConfig"] == [{"round_robin": {}}]
    off = config(retry=None, balance=False)
    assert off == {"loadBalancingConfig": [{"pick_first": {}}]}
    assert config(for_steps=True) == off


def test_messages_have_no_limit_and_pings_need_calls() -> None:
    """Answers of any size come through; keep-alive pings are sent only while calls are open."""
    arguments = dict(Core("h:1", keepalive_s=300).settings.channel_arguments(for_steps=False))
    assert arguments["grpc.max_receive_message_length"] == -1
    assert arguments["grpc.keepalive_time_ms"] == 300_000
    assert "grpc.keepalive_permit_without_calls" not in arguments


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"keepalive_s": 1.0}, "keepalive_s is 1, expected at least 10"),
        ({"compression": "zip"}, "compression 'zip': expected one of gzip, deflate, none"),
        ({"metadata": {"Authorization": "x"}}, "metadata key 'Authorization': expected lower case"),
        ({"metadata": [("grpc-timeout", "1S")]}, "metadata key 'grpc-timeout'"),
    ],
)
def test_wrong_options_are_refused_at_once(options: Any, text: str) -> None:
    """An option that gRPC would refuse later, or servers would punish, is refused by name."""
    with pytest.raises(ValueError, match=text):
        Client("h:1", **options)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"attempts": 1}, "attempts is 1, expected 2 to 5; retry=None turns retries off"),
        ({"attempts": 6}, "attempts is 6"),
        ({"first_backoff_s": 0}, "first_backoff_s is 0, expected a number above 0"),
        ({"first_backoff_s": 0.001}, "first_backoff_s is 0.001, expected at least 0.01"),
        ({"multiplier": float("nan")}, "multiplier is nan"),
    ],
)
def test_retries_that_grpc_would_change_are_refused(arguments: Any, text: str) -> None:
    """Retry says what gRPC takes, in place of letting it be ignored."""
    with pytest.raises(ValueError, match=text):
        Retry(**arguments)


def test_halves_of_tls_are_refused(tmp_path: Path) -> None:
    """A certificate without its key, two kinds of TLS and a missing file are refused."""
    with pytest.raises(ValueError, match="certificate and key go together"):
        Tls(certificate=b"pem")
    with pytest.raises(ValueError, match="tls and credentials are both given"):
        Client("h:1", tls=Tls(), credentials=Tls().credentials())
    with pytest.raises(FileNotFoundError, match=r"no\.pem"):
        Client("h:1", tls=Tls(ca=tmp_path / "no.pem"))


def test_a_key_is_not_shown() -> None:
    """The private key is not in what is printed of it."""
    assert "secret" not in repr(Tls(certificate=b"cert", key=b"secret"))


_MISSPELT: Any = {"dedline": 3}


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.infer("m", {}, **_MISSPELT),
        lambda client: client.infer_many("m", {}, **_MISSPELT),
        lambda client: client.stream("m", [], **_MISSPELT),
        lambda client: client.open_stream("m", **_MISSPELT),
        lambda client: client.sequence("m", **_MISSPELT),
        lambda client: client.metadata(**_MISSPELT),
    ],
    ids=["infer", "infer_many", "stream", "open_stream", "sequence", "metadata"],
)
def test_an_unknown_option_is_a_type_error(call: Callable[[Client], object]) -> None:
    """A misspelt option is named where it is given, and nothing is sent."""
    with Client("127.0.0.1:1") as client, pytest.raises(TypeError, match="dedline"):
        call(client)


def test_wishes_become_parameters() -> None:
    """Priority and queue timeout leave under the protocol's names, in its units."""
    wishes = Wishes(priority=2, queue_timeout_s=0.25, parameters={"beam": 4})
    request = pb.ModelInferRequest.FromString(parameters_of(wishes, sequence_id="a"))
    assert {key: str(value).strip() for key, value in request.parameters.items()} == {
        "priority": "int64_param: 2",
        "timeout": "int64_param: 250000",
        "beam": "int64_param: 4",
        "sequence_id": 'string_param: "a"',
    }
    assert parameters_of(Wishes()) == b""
