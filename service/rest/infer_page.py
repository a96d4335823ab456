"""POST /v2/models/MODEL/infer: a request in JSON or binary, through the engine, and its answer."""

import asyncio
from collections.abc import Mapping
from typing import Final

from service.errors import InvalidRequest
from service.pb.grpc_service_pb2 import ModelInferRequest
from service.rest.call import Asker
from service.rest.exchange import HttpRequest, off_loop
from service.rest.raw_body import read_raw
from service.rest.reply import HEADER_LENGTH, Reply, infer_reply
from service.rest.request import Forms, read_infer
from service.rest.status import HttpError
from service.rpc.infer import InferService
from service.rpc.methods import INFER
from service.rpc.restrict import Restrictions
from service.rpc.unary_infer import UnaryInfer
from service.transport.seam import Call

_JSON_PER_BYTE: Final = 4  # bytes of JSON for one of raw contents, about


class InferPage:
    """Takes infer requests on the event loop's thread, as the ingress thread does for gRPC."""

    def __init__(self, infer: InferService, restrictions: Restrictions, most_calls: int) -> None:
        """infer: for this page alone. most_calls: in progress at once."""
        self._infer = infer
        self._unary = UnaryInfer(infer)
        self._asker = Asker(self._start, self._unary.cancelled, restrictions)
        self._most_calls = most_calls
        self._calls = 0
        self._will_flush = False

    async def __call__(self, request: HttpRequest, names: Mapping[str, str]) -> Reply:
        """Answer one request."""
        if self._calls >= self._most_calls:
            raise HttpError(429, f"Too many calls in progress, at most {self._most_calls}")
        call = self._asker.call(INFER, request)
        self._calls += 1
        try:
            message, forms = await self._read(request, names["model"], names.get("version", ""))
            reply = await self._asker.run(call, message, request)
        finally:
            self._calls -= 1
        size = 0 if forms.are_binary else len(reply) * _JSON_PER_BYTE
        return await off_loop(size, infer_reply, reply, forms)

    async def _read(self, request: HttpRequest, model: str, version: str) -> tuple[bytes, Forms]:
        length = request.natural(HEADER_LENGTH)
        signature = self._infer.signature(model, version) if length == 0 else None
        try:
            if signature is not None:
                return _serialized(read_raw(model, version, signature, request.body))
            size = len(request.body) if length is None else length
            return await off_loop(size, _message, model, version, request.body, length)
        except InvalidRequest as error:
            raise self._infer.refused(model, version, error) from None

    def _start(self, call: Call, message: bytes) -> None:
        self._unary.request(call, message)
        if not self._will_flush:  # all requests that came in one burst are served together
            self._will_flush = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._will_flush = False
        self._infer.flush()


def _message(model: str, version: str, body: bytes, length: int | None) -> tuple[bytes, Forms]:
    return _serialized(read_infer(model, version, body, length))


def _serialized(request: tuple[ModelInferRequest, Forms]) -> tuple[bytes, Forms]:
    message, forms = request
    return message.SerializeToString(), forms
