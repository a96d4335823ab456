"""Cases of the proof: sizes, data and what the source makes of them."""

from collections.abc import Sequence

import numpy as np
import pytest

from exporter.cases import make_cases
from exporter.errors import ConversionFailed, UsageError
from exporter.inputs import Input, make_inputs
from service.tensors import Array, Tensors

_EXAMPLE = np.random.default_rng(0).random((2, 6), np.float32)


def _double(tensors: Tensors) -> Sequence[Array]:
    return [tensors["x"] * 2]


def _two_rows(tensors: Tensors) -> Sequence[Array]:
    if len(tensors["x"]) != 2:
        raise ValueError("two rows, please")
    return [tensors["x"]]


def _six_columns(tensors: Tensors) -> Sequence[Array]:
    return [tensors["x"] @ np.ones((6, 1), np.float32)]


def _variadic(tensors: Tensors) -> Sequence[Array]:
    x = tensors["x"]
    return [x] if len(x) < 3 else [x, x]


def test_every_size_that_matters_is_run() -> None:
    """Batches of one, two, three and the largest, each with the outputs of the source."""
    inputs = make_inputs({"x": _EXAMPLE}, batch=True)
    cases = make_cases(_double, inputs, ["y"], max_batch_size=16, seed=0)
    assert [case.rows for case in cases] == [1, 2, 3, 16]
    for case in cases:
        np.testing.assert_array_equal(case.outputs["y"], case.inputs["x"] * 2)


@pytest.mark.parametrize(("largest", "sizes"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3])])
def test_no_batch_is_larger_than_the_largest(largest: int, sizes: list[int]) -> None:
    """A small largest batch leaves out what is above it."""
    inputs = make_inputs({"x": _EXAMPLE}, batch=True)
    cases = make_cases(_double, inputs, ["y"], max_batch_size=largest, seed=0)
    assert [case.rows for case in cases] == sizes


def test_the_rows_of_the_example_come_first_and_random_ones_stay_in_its_range() -> None:
    """The user's own data is part of every case; the rest lies between its extremes."""
    example = np.linspace(3.0, 4.0, 12, dtype=np.float32).reshape(2, 6)
    inputs = make_inputs({"x": example}, batch=True)
    data = make_cases(_double, inputs, ["y"], max_batch_size=64, seed=0)[-1].inputs["x"]
    np.testing.assert_array_equal(data[:2], example)
    assert 3.0 <= data[2:].min() < data[2:].max() <= 4.0
    assert len({row.tobytes() for row in data}) == 64


def test_equal_seeds_give_equal_cases() -> None:
    """The data depends on the seed and the example alone."""
    inputs = make_inputs({"x": _EXAMPLE}, batch=True)
    data = [
        make_cases(_double, inputs, ["y"], max_batch_size=8, seed=seed)[-1].inputs["x"]
        for seed in (1, 1, 2)
    ]
    assert data[0].tobytes() == data[1].tobytes() != data[2].tobytes()


def test_given_bounds_widen_the_random_data() -> None:
    """Bounds that are given replace those of the example."""
    tokens = Input("x", np.zeros((1, 50), np.int64), {0: "batch"}, 0, 9)
    cases = make_cases(_double, (tokens,), ["y"], max_batch_size=64, seed=0)
    assert set(np.unique(cases[-1].inputs["x"])) == set(range(10))


def test_a_source_that_writes_into_its_input_changes_no_case() -> None:
    """What is proved is the data that was given, not what the source made of it."""

    def spoil(tensors: Tensors) -> Sequence[Array]:
        tensors["x"] += 1
        return [tensors["x"].copy()]

    inputs = make_inputs({"x": _EXAMPLE}, batch=True)
    for case in make_cases(spoil, inputs, ["y"], max_batch_size=4, seed=0):
        np.testing.assert_array_equal(case.outputs["y"], case.inputs["x"] + 1)


def test_without_a_batch_the_shape_stays_and_the_data_changes() -> None:
    """The example itself, then random data of its shape."""
    inputs = make_inputs({"x": _EXAMPLE}, batch=False)
    cases = make_cases(_two_rows, inputs, ["y"], max_batch_size=0, seed=0)
    assert [case.inputs["x"].shape for case in cases] == [(2, 6), (2, 6)]
    assert not np.array_equal(cases[0].inputs["x"], cases[1].inputs["x"])


def test_other_free_axes_take_other_sizes() -> None:
    """A free length is run at three lengths besides the example's, one of them 1."""
    inputs = make_inputs({"x": _EXAMPLE}, batch=True, dynamic_axes={"x": {1: "length"}})
    cases = make_cases(_double, inputs, ["y"], max_batch_size=4, seed=0)
    assert {case.inputs["x"].shape[1] for case in cases} == {6, 12, 7, 1}


def _even_columns(inputs: Tensors) -> list[Array]:
    if inputs["x"].shape[1] % 2:
        raise ValueError("an even number, please")
    return [inputs["x"]]


def test_a_length_that_takes_two_sizes_alone_is_not_free() -> None:
    """Fewer than three sizes prove nothing; which ones were taken is said, and a way out."""
    inputs = make_inputs({"x": _EXAMPLE}, batch=True, dynamic_axes={"x": {1: "length"}})

    def short(given: Tensors) -> list[Array]:
        return [given["x"]] if given["x"].shape[1] == 7 else [*_six_columns(given)]

    with pytest.raises(ConversionFailed, match=r"takes only length=7\. Give.*--axis"):
        make_cases(short, inputs, ["y"], max_batch_size=4, seed=0)


def test_the_ends_of_a_range_are_run() -> None:
    """Smallest and largest size of an axis are proved, and nothing outside."""
    inputs = make_inputs({"x": _EXAMPLE}, batch=True, dynamic_axes={"x": {1: "length"}})
    cases = make_cases(_double, inputs, ["y"], max_batch_size=4, seed=0, limits={"length": (4, 9)})
    sizes = {case.inputs["x"].shape[1] for case in cases}
    assert {4, 6, 9} <= sizes <= {4, 5, 6, 7, 8, 9}


def test_the_end_of_a_range_that_the_source_refuses_is_an_error() -> None:
    """A range that is said must be one that the source takes."""
    inputs = make_inputs({"x": _EXAMPLE}, batch=True, dynamic_axes={"x": {1: "length"}})
    with pytest.raises(ConversionFailed, match="an even number, please"):
        make_cases(_even_columns, inputs, ["y"], max_batch_size=4, seed=0,
                   limits={"length": (4, 9)})  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "says"),
    [({"width": (1, 9)}, "limits for the axis 'width'"), ({"length": (7, 9)}, "7 to 9")],
)
def test_limits_that_do_not_fit_are_refused(limits: dict[str, tuple[int, int]], says: str) -> None:
    """Limits are for an axis that is free, and the example lies within them."""
    inputs = make_inputs({"x": _EXAMPLE}, batch=True, dynamic_axes={"x": {1: "length"}})
    with pytest.raises(UsageError, match=says):
        make_cases(_double, inputs, ["y"], max_batch_size=4, seed=0, limits=limits)


def test_buckets_are_run_too() -> None:
    """A size of batch that is to be served is proved; what is above the largest is not."""
    inputs = make_inputs({"x": _EXAMPLE}, batch=True)
    cases = make_cases(_double, inputs, ["y"], max_batch_size=16, seed=0, batches=(8, 32))
    assert [case.rows for case in cases] == [1, 2, 3, 8, 16]


def test_a_batch_that_the_source_refuses_is_an_error() -> None:
    """The size, the source's own words and a way out are said."""
    inputs = make_inputs({"x": _EXAMPLE}, batch=True)
    with pytest.raises(ConversionFailed, match=r"(?s)batch=1: ValueError: two rows.*--no-batch"):
        make_cases(_two_rows, inputs, ["y"], max_batch_size=4, seed=0)


def test_an_axis_that_is_not_free_is_an_error() -> None:
    """An axis that takes no other size than the example's is not free."""
    inputs = make_inputs({"x": _EXAMPLE}, batch=True, dynamic_axes={"x": {1: "length"}})
    with pytest.raises(ConversionFailed, match="takes none of length=12"):
        make_cases(_six_columns, inputs, ["y"], max_batch_size=4, seed=0)


def test_a_changing_number_of_outputs_is_an_error() -> None:
    """A served model always returns the same outputs."""
    inputs = make_inputs({"x": _EXAMPLE}, batch=True)
    with pytest.raises(ConversionFailed, match="returns 2 outputs at batch=3"):
        make_cases(_variadic, inputs, ["y"], max_batch_size=4, seed=0)
