"""The table where there are very many sequences, or very many steps of one."""

from unittest.mock import patch

from service.errors import DeadlineExceeded
from service.inference.request import Outcome, Request, SequenceStep
from service.inference.sequences import sequence as sequences
from service.inference.sequences.sequence import Limits
from service.inference.sequences.table import Table


def request(deadline: float | None = None) -> Request:
    """Return a request without inputs."""

    def ended(_outcome: Outcome) -> None:
        return None

    return Request({}, (), rows=1, on_end=ended, deadline=deadline)


def test_a_free_place_passes_by_any_number_that_came_too_late() -> None:
    """A place that gets free goes to the first of the backlog whose deadline has not passed."""
    table = Table("m", Limits(slots=1, backlog=4096, idle_s=1.0))
    first, _ = table.add(request(), SequenceStep(1, start=True, end=True), 0.0)
    for name in range(2, 4002):
        table.add(request(5.0), SequenceStep(name, start=True, end=True), 0.0)
    last, _ = table.add(request(9.0), SequenceStep(5000, start=True, end=True), 0.0)

    changes = table.done(first, {}, 0, 6.0)

    assert changes.runs == [last]
    assert len(changes.fails) == 4000
    assert {type(error) for _, error in changes.fails} == {DeadlineExceeded}
    assert (table.backlog, table.waiting) == (0, 0)


def test_a_step_that_joins_a_long_queue_looks_at_none_of_it() -> None:
    """What it costs to take a step does not grow with the steps that wait before it."""
    table = Table("m", Limits(slots=1, backlog=1, idle_s=1.0))
    table.add(request(), SequenceStep(1, start=True, end=False), 0.0)
    table.add(request(9.0), SequenceStep(2, start=True, end=False), 0.0)
    with patch.object(sequences, "gives_up_at", wraps=sequences.gives_up_at) as looks:
        for _ in range(100):
            table.add(request(9.0), SequenceStep(2, start=False, end=False), 0.0)
    assert looks.call_count == 100
    assert table.wakes_at == 9.0
