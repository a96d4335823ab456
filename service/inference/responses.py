"""The engine of models that answer request by request, with any number of responses each.

Each instance of the model has a thread and serves several requests in turns, a response each. A
request whose caller does not read is put aside, so that it holds up nobody but itself. Every
accepted request ends exactly once.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

from service.errors import InvalidRequest, ShuttingDown
from service.inference.admission import SchedulerConfig
from service.inference.costs import RunCost
from service.inference.instance import Instance, Shared
from service.inference.producer import Producer
from service.inference.request import Request
from service.observability.stats import ModelStats

_LOG = logging.getLogger(__name__)
_STOP_S: Final = 3.0  # for a model to notice that nobody waits for its answer


class ResponseEngine:
    """Serves one model version; see Engine for what the methods of both promise."""

    def __init__(
        self,
        model: str,
        make: Callable[[], Producer],
        config: SchedulerConfig,
        *,
        decoupled: bool,
        on_closed: Callable[[], None] = lambda: None,
        stats: ModelStats | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """make: called once on the thread of each instance; raises LoadError if it cannot.

        decoupled: requests have any number of responses; else each has one, which ends it.
        on_closed: called when no instance is left.
        """
        self.stats = stats or ModelStats()
        self._model = model
        self._max_rows = config.batch.max_rows
        self._on_closed = on_closed
        self._shared = Shared(model, config, self.stats, clock, decoupled=decoupled)
        self._instances = [
            Instance(self._shared, f"{model}-{index}", make) for index in range(config.instances)
        ]

    def start(self) -> None:
        """Make every instance. Raises what one of them raised, and keeps none then."""
        for instance in self._instances:
            instance.thread.start()
        try:
            for instance in self._instances:
                instance.made.result()
        except BaseException:
            self.close(_STOP_S)
            raise

    @property
    def max_rows(self) -> int:
        """Return the rows of the largest request."""
        return self._max_rows

    @property
    def queue_depth(self) -> int:
        """Return how many requests wait to be begun."""
        return len(self._shared.waitlist)

    @property
    def batches_in_progress(self) -> int:
        """Return how many requests have been begun and have not ended."""
        return sum(len(instance.active) for instance in self._instances)

    @property
    def mean_run_s(self) -> float:
        """Return the running mean of the time that a request takes the model, in seconds."""
        return self._shared.costs.mean_s

    def run_costs(self) -> list[RunCost]:
        """Return nothing: what a request costs depends on the request."""
        return []

    def submit(self, request: Request, *, deferred: bool = False) -> None:
        """Accept a valid request; its responses and its end are told on the model's threads.

        Raises QueueFull or ShuttingDown, and InvalidRequest if it has more rows than are taken.
        """
        del deferred  # nothing is gained by waiting for others
        if request.rows > self._max_rows:
            raise InvalidRequest(
                f"inference request batch-size must be <= {self._max_rows} for '{self._model}'"
            )
        shared = self._shared
        with shared.lock:
            if shared.closing:
                raise ShuttingDown
            shared.waitlist.add(request, shared.clock())
            request.on_leave = self._left
            idlest = min(self._instances, key=lambda each: (each.is_busy, len(each.active)))
            idlest.is_busy = True  # the next request is for another one
            idlest.wake.notify()
        if request.ended:  # its caller left before on_leave was set
            self._left(request)

    def serve_now(self, request: Request) -> bool:
        """Return False: a model that may wait for anything is kept off the caller's thread."""
        del request
        return False

    def shrink(self, request: Request) -> None:
        """Do nothing: a request stands for one caller."""

    def flush(self) -> None:
        """Do nothing: requests are begun as they come."""

    def close(self, timeout: float) -> bool:
        """Refuse new requests, finish those accepted, close the model.

        timeout: seconds; what goes on then is ended with ShuttingDown, and the model told so. A
        model that does not stop even then is left behind on its threads.
        Returns True if everything accepted was answered by the model.
        """
        shared = self._shared
        with shared.lock:
            shared.closing = True
            for instance in self._instances:
                instance.wake.notify()
        if self._end(timeout):
            return True
        with shared.lock:
            rest = shared.waitlist.drain()
            rest += [task.request for instance in self._instances for task in instance.active]
        cut_off = [request.fail(ShuttingDown()) for request in rest]
        if self._end(_STOP_S):
            return not any(cut_off)
        _LOG.error(
            "model %s does not stop, its threads are left behind: a model has to return, to yield "
            "or to wait by request.sleep()",
            self._model,
        )
        return False

    def _end(self, timeout: float) -> bool:
        """Wait for the threads to end. False at the time-out."""
        deadline = time.monotonic() + timeout
        started = [one.thread for one in self._instances if one.thread.ident is not None]
        for thread in started:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in started):
            return False
        self._on_closed()
        return True

    def _left(self, request: Request) -> None:
        with self._shared.lock:
            self._shared.waitlist.leave(request)
