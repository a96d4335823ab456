"""Protobuf's wire form by hand, and the count of a message's parts before it is parsed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.pb.grpc_service_pb2 import ModelInferRequest, ModelInferResponse, ModelStatistics
from service.rpc.wire import (
    check_counts,
    check_part_counts,
    length_delimited,
    text_field,
    varint,
)

PADDING = length_delimited(7, bytes(100_000))  # a raw tensor: large enough to be looked at


@given(st.integers(1, (1 << 64) - 1))
def test_varint_is_protobufs(value: int) -> None:
    """Every unsigned number is written as protobuf writes it."""
    tag = b"\x20"  # inference_count is field 4
    assert tag + varint(value) == ModelStatistics(inference_count=value).SerializeToString()


@given(st.text(max_size=300))
def test_length_delimited_field_is_read_by_protobuf(text: str) -> None:
    """A field written by hand is read as that field."""
    assert ModelInferResponse.FromString(length_delimited(3, text.encode())).id == text


@pytest.mark.parametrize(
    ("field", "name", "limit"),
    [(4, "parameters", 64), (5, "inputs", 256), (6, "outputs", 256),
     (7, "raw_input_contents", 256)],
)  # fmt: skip
def test_count_bomb_is_refused(field: int, name: str, limit: int) -> None:
    """One part more than the limit, in a large message, is refused with its name and limit."""
    used = 1 if field == 7 else 0
    check_part_counts(PADDING + length_delimited(field, b"") * (limit - used))
    with pytest.raises(InvalidRequest, match=f"too many {name}: at most {limit} in one request"):
        check_part_counts(PADDING + length_delimited(field, b"") * (limit + 1))


def test_parts_behind_other_fields_are_counted() -> None:
    """Fields of every wire type are skipped on the way, not taken for the end."""
    others = b"\x78\xff\x01" + b"\x79" + bytes(8) + b"\x7d" + bytes(4) + length_delimited(9, b"ab")
    with pytest.raises(InvalidRequest, match="too many inputs"):
        check_part_counts(PADDING + (others + length_delimited(5, b"")) * 257)


def test_small_messages_are_not_looked_at() -> None:
    """A small message is left to the parser: its parts cannot hurt."""
    check_part_counts(length_delimited(5, b"") * 1000)


def test_counts_after_parsing() -> None:
    """Parts of a parsed request are counted with the same limits."""
    check_counts("inputs", [0] * 256)
    with pytest.raises(InvalidRequest, match="too many inputs: 257, at most 256"):
        check_counts("inputs", [0] * 257)


@given(st.binary(max_size=200))
def test_noise_ends_the_scan(noise: bytes) -> None:
    """Whatever follows, the scan ends: it refuses by a count, or leaves it to the parser."""
    try:
        check_part_counts(PADDING + noise)
    except InvalidRequest as error:
        assert "too many" in str(error)  # noqa: PT017


@given(st.lists(st.sampled_from(["inputs", "outputs"]), max_size=20), st.integers(0, 255))
def test_good_requests_pass(parts: list[str], byte: int) -> None:
    """A large request with few parts passes."""
    request = ModelInferRequest(raw_input_contents=[bytes([byte]) * 66_000])
    for part in parts:
        getattr(request, part).add(name="x")
    check_part_counts(request.SerializeToString())


@given(st.text(), st.text(), st.binary())
def test_text_of_a_field_is_protobufs(model: str, version: str, contents: bytes) -> None:
    """A field of text is found without parsing the message, wherever it stands."""
    request = ModelInferRequest(model_name=model, model_version=version)
    request.raw_input_contents.append(contents)
    message = request.SerializeToString()
    assert text_field(message, 1) == model.encode()
    assert text_field(message, 2) == version.encode()
    assert text_field(message, 3) == b""
    assert text_field(message + length_delimited(1, b"last"), 1) == b"last"


@given(st.binary(max_size=200))
def test_text_of_what_is_no_message(message: bytes) -> None:
    """Any bytes give some text, and end."""
    assert isinstance(text_field(message, 2), bytes)
