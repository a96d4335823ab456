"""One stream for threads: requests as the window allows, answers as they come."""

import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Final, NoReturn, Self, Unpack

import grpc

from service.client.core import parameters_of
from service.client.errors import MalformedAnswer, WindowFull
from service.client.ledger import Answer, Ledger
from service.client.link import Link
from service.client.options import Parameter, RequestOptions, Wishes, replaced
from service.client.requests import Encoded, Inputs

WINDOW: Final = 64  # requests; `penstock serve` reads as many of a stream ahead


class Window:
    """As many requests as may be without an answer that was received."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"window is {size}, expected at least 1")
        self.size = size
        self.is_stopped = False
        self._slots = threading.Semaphore(size)

    def enter(self, timeout_s: float | None = None) -> bool:
        """Wait for a free slot and take it. False: the window was stopped, or time was up."""
        if not self._slots.acquire(timeout=timeout_s):
            return False
        if self.is_stopped:
            self._slots.release()  # wakes up the next who waits
        return not self.is_stopped

    def leave(self) -> None:
        """Free a slot."""
        self._slots.release()

    def stop(self) -> None:
        """Let nobody enter any more, and wake up who waits."""
        self.is_stopped = True
        self._slots.release()


class Stream:
    """An open stream. One thread may send while another receives.

    At most `window` requests have no final answer that was received; `send` waits for that.
    Leaving the `with` block cancels what has no answer yet.
    """

    def __init__(
        self,
        link: Link,
        model: str,
        wishes: Wishes,
        *,
        window: int = WINDOW,
        is_decoupled: bool = False,
        source: Iterable[Inputs] | None = None,
    ) -> None:
        """source: gives the requests, on another thread, in place of `send`."""
        self._link = link
        self._model = model
        self._wishes = wishes
        self._fixed = empty_final(is_decoupled=is_decoupled)
        self._ledger = Ledger(model, is_decoupled=is_decoupled)
        self._window = Window(window)
        self._sending, self._receiving = threading.Lock(), threading.Lock()
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._is_done = source is not None
        requests = iter(self._queue.get, None) if source is None else self._drawn(source)
        self._call = link.stream(requests, wishes)
        self._call.add_callback(self._over)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Answer]:
        """Receive until the last answer; ends after `done_sending` only."""
        while True:
            try:
                answer = self.recv()
            except EOFError:
                return
            yield answer

    def send(self, inputs: Inputs, **options: Unpack[RequestOptions]) -> int:
        """Send one request and return its index. options: in place of those of the stream.

        Waits while the window is full. Raises WindowFull if nobody receives for the client's
        deadline, ClientError if the stream has broken, ValueError after `done_sending`.
        """
        wishes = replaced(self._wishes, options)
        return self.send_encoded(self._link.encode(self._model, inputs, wishes), wishes, {})

    def send_encoded(self, encoded: Encoded, wishes: Wishes, more: Mapping[str, Parameter]) -> int:
        """Send one request that is encoded but for its parameters, as `send` does."""
        give_up_s = self._link.core.settings.deadline
        with self._sending:
            if self._is_done:
                raise ValueError("nothing can be sent on this stream after done_sending()")
            if not self._window.enter(give_up_s):
                if not self._window.is_stopped:
                    raise WindowFull(self._window.size, give_up_s)
                self._raise_end()
            try:
                index, message = self._next(encoded, wishes, more)
            except BaseException:
                self._window.leave()
                raise
            self._queue.put(message)
        return index

    def recv(self) -> Answer:
        """Return the next answer.

        Raises EOFError after the last one, ClientError if the stream breaks.
        """
        with self._receiving:
            try:
                data = next(self._call)
            except StopIteration:
                self._check_end()
                raise EOFError("the stream has no more answers") from None
            except grpc.RpcError as error:
                raise self._link.core.translated(error, self._model) from None
            answer = self._ledger.match(self._link.core.decoder.decode_stream(data))
        if answer.is_final:
            self._window.leave()
        return answer

    def done_sending(self) -> None:
        """Tell the server that no more requests follow; answers still come."""
        with self._sending:
            self._is_done = True
            self._queue.put(None)

    def close(self) -> None:
        """End the stream; what has no answer yet is cancelled."""
        self._is_done = True
        self._window.stop()
        self._queue.put(None)
        self._call.cancel()

    def _drawn(self, source: Iterable[Inputs]) -> Iterator[bytes]:
        """Give gRPC the messages of source. Runs on gRPC's thread."""
        inputs = iter(source)
        while self._window.enter():
            try:
                encoded = self._link.encode(self._model, next(inputs), self._wishes)
                _index, message = self._next(encoded, self._wishes, {})
            except StopIteration:
                return
            except Exception as error:  # noqa: BLE001  of the caller's iterable: raised to him
                self._failure = error
                return
            yield message

    def _next(
        self, encoded: Encoded, wishes: Wishes, more: Mapping[str, Parameter]
    ) -> tuple[int, bytes]:
        name = self._ledger.name(wishes.request_id)
        message = encoded.message(name, parameters_of(wishes, **self._fixed, **more))
        return self._ledger.issue(name), message

    def _check_end(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._ledger.check_complete()

    def _raise_end(self) -> NoReturn:
        """Raise what ended the stream, for who still wants to send."""
        if self._call.code() is grpc.StatusCode.OK:
            raise MalformedAnswer("the server ended the stream", model=self._model)
        raise self._link.core.translated(self._call, self._model)

    def _over(self) -> None:
        self._window.stop()
        self._queue.put(None)


def empty_final(*, is_decoupled: bool) -> dict[str, Parameter]:
    """Return the parameters by which a request of a decoupled model has its end told."""
    return {"triton_enable_empty_final_response": True} if is_decoupled else {}
