"""What runs have cost, by size."""

from service.inference.costs import Costs

KEY, OTHER = ((("X", (2,)),),), ((("X", (3,)),),)  # shapes of requests; any hashable will do


def costs_of(*notes: tuple[object, int, int, int]) -> list[tuple[int, int, int, bool]]:
    """Return the costs by size after these runs: shape, rows, microseconds, how many."""
    costs = Costs()
    for key, rows, micros, times in notes:
        for _ in range(times):
            costs.note(key, rows, micros / 1e6)  # type: ignore[arg-type]
    return [
        (cost.max_rows, cost.runs, round(cost.mean_s * 1e6), cost.inline)
        for cost in costs.by_size(1000)
    ]


def test_sizes_are_grouped_by_powers_of_two() -> None:
    """Each entry says up to how many rows it speaks of; runs that were few are not yet cheap."""
    runs = ((KEY, 64, 1000, 9), (KEY, 1, 10, 8), (KEY, 2, 10, 3), (KEY, 3, 10, 4))
    assert costs_of(*runs) == [(1, 8, 10, True), (3, 7, 10, False), (127, 9, 1000, False)]


def test_one_dear_shape_makes_a_size_dear() -> None:
    """Over shapes the mean is weighted by runs, and inline means whatever the shape."""
    assert costs_of((KEY, 1, 100, 30), (OTHER, 1, 1000, 10)) == [(1, 40, 325, False)]


def test_nothing_has_run() -> None:
    """Before the first run there is nothing to tell."""
    assert costs_of() == []
