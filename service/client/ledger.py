"""Which requests of a stream wait for an answer, and whose an answer is. Waits for nothing."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc

from service.client.errors import MalformedAnswer, RequestRefused, Unsupported, refusal_by_text
from service.client.options import Parameter
from service.client.responses import Outputs, Response


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer on a stream. index: the place of its request in the stream, from 0.

    outputs: by name, empty if it failed. error: why it failed, None if it did not. parameters:
    of the answer. is_final: no more answers to the request follow.
    """

    index: int
    outputs: Outputs
    error: RequestRefused | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    is_final: bool = True

    def result(self) -> Outputs:
        """Return the outputs. Raises RequestRefused if the request failed."""
        if self.error is not None:
            raise self.error
        return self.outputs


class Ledger:
    """The requests of one stream, by id, in their order. One thread may send while one receives.

    is_decoupled: requests have any number of answers, and those of several mix.
    """

    def __init__(self, model: str, *, is_decoupled: bool) -> None:
        self._model = model
        self._is_decoupled = is_decoupled
        self._pending: dict[str, int] = {}
        self._lock = threading.Lock()
        self.sent = 0
        self.answered = 0

    def name(self, request_id: str) -> str:
        """Return the id of the next request. Raises ValueError for one that is in use."""
        name = request_id or str(self.sent)
        if name in self._pending:
            raise ValueError(f"request_id '{name}' is that of a request without an answer yet")
        return name

    def issue(self, name: str) -> int:
        """Note that the request of that name is sent; return its index."""
        with self._lock:
            index = self.sent
            self._pending[name] = index
            self.sent += 1
        return index

    def match(self, response: Response) -> Answer:
        """Return the answer that a response is. Raises MalformedAnswer if it is nobody's."""
        with self._lock:
            return self._match(response)

    def check_complete(self) -> None:
        """Raise MalformedAnswer if the stream has ended with requests unanswered."""
        if self._pending:
            raise self._malformed(f"ended the stream after {self.answered} of {self.sent} answers")

    def _match(self, response: Response) -> Answer:
        name = response.request_id
        due = next(iter(self._pending), None)
        if due is None:
            raise self._malformed(f"answered request {name} when none was due")
        if not name and (len(self._pending) == 1 or not self._is_decoupled):
            name = due
        if name not in self._pending or (name != due and not self._is_decoupled):
            raise self._malformed(f"answered request {name} where {due} was due")
        if not (response.is_final or self._is_decoupled):
            raise Unsupported(
                grpc.StatusCode.UNIMPLEMENTED,
                f"model '{self._model}' gives a request several answers: use infer_many(), or a "
                "stream with decoupled=True",
                model=self._model,
                request_id=name,
            )
        return self._answer(name, response)

    def _answer(self, name: str, response: Response) -> Answer:
        index = self._pending[name]
        is_final = response.is_final
        if is_final:
            del self._pending[name]
            self.answered += 1
        if response.error:
            refusal = refusal_by_text(response.error, model=self._model, request_id=name)
            return Answer(index, response.outputs, refusal, response.parameters, is_final)
        return Answer(index, response.outputs, None, response.parameters, is_final)

    def _malformed(self, what: str) -> MalformedAnswer:
        return MalformedAnswer(f"the server {what}", model=self._model)
