"""What the transport's lane is taught: heads of requests that it may cut and bundle by itself."""

from collections.abc import Callable, Iterable

from service.rpc.bundles import BundleAnswer, FindStream, can_bundle
from service.rpc.plan import Plan
from service.transport.seam import Arity, Bundle, Lane


class Teacher:
    """Teaches one lane, and makes it forget what is true no more. Without one it does nothing."""

    def __init__(self) -> None:
        self._lane: Lane | None = None
        self._generation = -1
        self._arity_of: Callable[[str], Arity] = lambda _: Arity.UNARY
        self._find_stream: FindStream = lambda _: None

    def use(
        self, lane: Lane | None, arity_of: Callable[[str], Arity], find_stream: FindStream
    ) -> None:
        """Teach a lane from now on."""
        self._lane, self._arity_of, self._find_stream = lane, arity_of, find_stream

    def unlearn(self, generation: int) -> None:
        """Let it forget what was found out before the served versions changed."""
        if self._lane is not None and self._generation != generation:
            self._lane.forget()
            self._generation = generation

    def forget(self) -> None:
        """Let it forget everything."""
        if self._lane is not None:
            self._lane.forget()

    def shrunk(self) -> Iterable[Bundle]:
        """Return the bundles that fewer wait for since calls were finished early."""
        return self._lane.shrunk() if self._lane is not None else ()

    def teach(self, head: bytes, plan: Plan, free_shrunk: Callable[[], None]) -> None:
        """Teach the lane what a head was found to ask for, if it can make use of it."""
        max_rows = plan.served.model.scheduler.max_rows if plan.is_batched else 1
        if self._lane is None or plan.rows > max_rows or not can_bundle(plan):
            return
        self.unlearn(plan.generation)
        answer = BundleAnswer(plan, self._arity_of, self._find_stream, free_shrunk)
        sizes = [entry.size for entry in plan.inputs]
        self._lane.learn(head, sizes, plan.rows, max_rows, answer)
