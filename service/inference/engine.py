"""What serves the requests of one model version, as everything else sees it."""

from typing import Protocol

from service.inference.costs import RunCost
from service.inference.request import Request
from service.observability.stats import ModelStats


class Engine(Protocol):
    """Accepts requests and ends each of them exactly once. Methods may be called by any thread."""

    stats: ModelStats

    @property
    def max_rows(self) -> int:
        """Return the rows of the largest batch."""

    @property
    def queue_depth(self) -> int:
        """Return how many requests wait."""

    @property
    def batches_in_progress(self) -> int:
        """Return how many batches run."""

    @property
    def mean_run_s(self) -> float:
        """Return the running mean of the time of one execution, in seconds."""

    def run_costs(self) -> list[RunCost]:
        """Return what runs cost by size of the batch."""

    def submit(self, request: Request, *, deferred: bool = False) -> None:
        """Accept a valid request, which is ended later, on any thread.

        deferred: the caller calls `flush` after a burst of requests.
        Raises RequestError if it is refused; the request has then not ended.
        """

    def serve_now(self, request: Request) -> bool:
        """Serve a request on this thread. False: it has to be submitted."""

    def shrink(self, request: Request) -> None:
        """Free the places of the callers who have left a request that others wait for."""

    def flush(self) -> None:
        """Serve what was submitted deferred."""

    def close(self, timeout: float) -> bool:
        """Refuse new requests, answer those accepted, free the model.

        timeout: seconds. Returns True if everything accepted was answered by the model.
        """
