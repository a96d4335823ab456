"""Whose an answer on a stream is."""

import pytest

from service.client import InvalidArgument, MalformedAnswer, Unsupported
from service.client.ledger import Ledger
from service.client.responses import Outputs, Response


def response(request_id: str, *, final: bool = True, error: str = "") -> Response:
    """Return a response without outputs."""
    return Response(request_id, Outputs(), {"triton_final_response": final}, error)


def ledger(count: int, *, is_decoupled: bool = False) -> Ledger:
    """Return the ledger of a stream on which so many requests wait."""
    made = Ledger("m", is_decoupled=is_decoupled)
    for _ in range(count):
        made.issue(made.name(""))
    return made


def test_answers_are_due_in_order() -> None:
    """Each answer is that of the oldest request; a server need not repeat the id."""
    book = ledger(3)
    indices = [book.match(response(name)).index for name in ("0", "", "2")]
    assert indices == [0, 1, 2]
    book.check_complete()


@pytest.mark.parametrize("name", ["1", "7"])
def test_another_id_than_the_one_due_is_malformed(name: str) -> None:
    """An answer out of order, or to nobody, is not taken for the one that is due."""
    with pytest.raises(MalformedAnswer, match=f"answered request {name} where 0 was due"):
        ledger(2).match(response(name))


def test_an_answer_when_none_is_due_is_malformed() -> None:
    """A second answer to a request that had its only one is not taken."""
    book = ledger(1)
    book.match(response("0"))
    with pytest.raises(MalformedAnswer, match="answered request 0 when none was due"):
        book.match(response("0"))


def test_answers_of_decoupled_requests_mix() -> None:
    """Answers of several requests interleave, and each request ends by its final one."""
    book = ledger(2, is_decoupled=True)
    order = [("1", False), ("0", False), ("1", True), ("0", False), ("0", True)]
    answers = [book.match(response(name, final=final)) for name, final in order]
    assert [(each.index, each.is_final) for each in answers] == [
        (1, False), (0, False), (1, True), (0, False), (0, True),
    ]  # fmt: skip
    book.check_complete()


def test_several_answers_on_a_plain_stream_name_the_remedy() -> None:
    """A decoupled model on a stream that is not is an error that says what to call."""
    with pytest.raises(Unsupported, match=r"several answers: use infer_many\(\)"):
        ledger(1).match(response("0", final=False))


def test_an_id_is_used_once_at_a_time() -> None:
    """A request may take an id that was answered, not one that is pending."""
    book = Ledger("m", is_decoupled=False)
    book.issue(book.name("mine"))
    with pytest.raises(ValueError, match="request_id 'mine' is that of a request without"):
        book.name("mine")
    book.match(response("mine"))
    assert book.name("mine") == "mine"


def test_a_stream_that_ends_early_is_malformed() -> None:
    """What is missing is counted."""
    book = ledger(3)
    book.match(response("0"))
    with pytest.raises(MalformedAnswer, match="ended the stream after 1 of 3 answers"):
        book.check_complete()


def test_an_error_is_typed_and_says_whose_it_is() -> None:
    """The error of an answer has class, model and request id, and result() raises it."""
    answer = ledger(1).match(response("0", error="[request id: 0] unexpected shape"))
    assert type(answer.error) is InvalidArgument
    assert (answer.error.model, answer.error.request_id) == ("m", "0")
    with pytest.raises(InvalidArgument):
        answer.result()
