"""Who may still wait for a model: the bounds of its queue, and deadlines that cannot be met.

Knows no clock, no thread and no lock: the scheduler owns it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from service.errors import DeadlineUnmeetable, InvalidRequest, QueueFull
from service.inference.costs import Costs
from service.inference.policy import BatchPolicy
from service.inference.queue import QueuePolicy
from service.inference.request import Request


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """How one model is scheduled.

    instances: batches that may run at once. queue_requests, queue_bytes: bounds of what waits.
    """

    batch: BatchPolicy
    queue: QueuePolicy = field(default_factory=QueuePolicy)
    instances: int = 1
    queue_requests: int = 4096
    queue_bytes: int = 256 << 20


class Waiting:
    """What waits for one model. requests: of callers, as are rows and bytes."""

    __slots__ = ("_config", "_model", "bytes", "requests", "rows")

    def __init__(self, model: str, config: SchedulerConfig) -> None:
        self.requests = 0
        self.rows = 0
        self.bytes = 0
        self._model = model
        self._config = config

    def add(self, request: Request) -> None:
        """Count a request that waits from now on."""
        request.waiting = True
        self.requests += request.count
        self.rows += request.rows
        self.bytes += request.bytes

    def remove(self, request: Request) -> None:
        """Count a request that waits no more."""
        request.waiting = False
        self.requests -= request.count
        self.rows -= request.rows
        self.bytes -= request.bytes

    def admit(
        self,
        request: Request,
        batches: int,
        now: float,
        costs: Costs,
        count_level: Callable[[int], int],
    ) -> None:
        """Raise if a request that runs as so many batches is not to be accepted now.

        count_level: how many requests wait on a level of priority.
        Raises InvalidRequest if it could never be, QueueFull or DeadlineUnmeetable.
        """
        config = self._config
        count = max(batches, request.count)  # places in the queue
        level = config.queue.level_of(request.priority)
        limit = config.queue.policy_of(level).max_requests
        capacity = min(config.queue_requests, limit or config.queue_requests)
        if batches > capacity:
            raise InvalidRequest(
                f"inference request batch-size must be <= {capacity * config.batch.max_rows} for "
                f"'{self._model}', got {request.rows}: more rows than its queue can hold",
            )
        if self.requests + count > config.queue_requests:
            raise QueueFull(self._model, f"{self.requests} requests")
        if self.requests and self.bytes + request.bytes > config.queue_bytes:
            raise QueueFull(self._model, f"{self.bytes >> 20} MiB")
        if limit and count_level(level) + count > limit:
            raise QueueFull(self._model, f"{limit} requests")
        if request.first_deadline is not None and costs.is_known and self.requests:
            left_s = request.first_deadline - now
            ahead = 1 + self.rows // config.batch.max_rows
            needed_s = costs.mean_s * ahead / config.instances
            if needed_s > left_s:
                raise DeadlineUnmeetable(self._model, needed_s, left_s)
