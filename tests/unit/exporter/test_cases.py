"""Cases of the proof: sizes, data and what the module makes of them."""

import numpy as np
import pytest
import torch
from torch import nn

from exporter.cases import make_cases
from exporter.errors import ConversionFailed
from exporter.inputs import Input, bind_inputs
from tests.unit.exporter.modules import Classifier, Masked


class FixedRows(nn.Module):
    """Refuses any batch but two rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x as it is."""
        if x.shape[0] != 2:
            raise ValueError("two rows, please")
        return x


class FixedLength(nn.Module):
    """Refuses any length but five."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of five columns."""
        return x @ torch.ones(5)


class Variadic(nn.Module):
    """Returns more outputs for more rows."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return x once or twice."""
        return (x,) if x.shape[0] < 3 else (x, x)


def test_every_size_that_matters_is_run() -> None:
    """Batches of one, two, three and the largest, each with the outputs of the module."""
    module, example = Classifier().eval(), torch.rand(1, 6)
    inputs = bind_inputs(module, example)
    cases = make_cases(module, inputs, ["logits"], max_batch_size=16, seed=0)
    assert [case.rows for case in cases] == [1, 2, 3, 16]
    for case in cases:
        with torch.no_grad():
            want = module(torch.from_numpy(case.inputs["image"]))["logits"].numpy()
        np.testing.assert_array_equal(case.outputs["logits"], want)


@pytest.mark.parametrize(("largest", "sizes"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3])])
def test_no_batch_is_larger_than_the_largest(largest: int, sizes: list[int]) -> None:
    """A small largest batch leaves out what is above it."""
    module = Classifier().eval()
    inputs = bind_inputs(module, torch.rand(4, 6))
    cases = make_cases(module, inputs, ["logits"], max_batch_size=largest, seed=0)
    assert [case.rows for case in cases] == sizes


def test_the_rows_of_the_example_come_first_and_random_ones_stay_in_its_range() -> None:
    """The user's own data is part of every case; the rest lies between its extremes."""
    module = Classifier().eval()
    example = torch.linspace(3.0, 4.0, 12).reshape(2, 6)
    inputs = bind_inputs(module, example)
    cases = make_cases(module, inputs, ["logits"], max_batch_size=64, seed=0)
    data = cases[-1].inputs["image"]
    np.testing.assert_array_equal(data[:2], example.numpy())
    assert 3.0 <= data[2:].min() < data[2:].max() <= 4.0
    assert len({row.tobytes() for row in data}) == 64


def test_equal_seeds_give_equal_cases() -> None:
    """The data depends on the seed and the example alone."""
    module = Classifier().eval()
    inputs = bind_inputs(module, torch.rand(1, 6))
    data = [
        make_cases(module, inputs, ["logits"], max_batch_size=8, seed=seed)[-1].inputs["image"]
        for seed in (1, 1, 2)
    ]
    assert data[0].tobytes() == data[1].tobytes() != data[2].tobytes()


def test_given_bounds_widen_the_random_data() -> None:
    """Bounds that are given replace those of the example."""
    tokens = Input("tokens", "tokens", None, torch.zeros(1, 50, dtype=torch.int64), {0: "batch"},
                   0, 9)  # fmt: skip
    cases = make_cases(Masked().eval(), (tokens,), ["output"], max_batch_size=64, seed=0)
    assert set(np.unique(cases[-1].inputs["tokens"])) == set(range(10))


def test_without_a_batch_the_shape_stays_and_the_data_changes() -> None:
    """The example itself, then random data of its shape."""
    module = FixedRows()
    inputs = bind_inputs(module, torch.rand(2, 3), batch=False)
    cases = make_cases(module, inputs, ["output"], max_batch_size=0, seed=0)
    assert [case.inputs["x"].shape for case in cases] == [(2, 3), (2, 3)]
    assert not np.array_equal(cases[0].inputs["x"], cases[1].inputs["x"])


def test_other_free_axes_take_other_sizes() -> None:
    """A free length is run at two lengths besides the example's."""
    module = Masked().eval()
    tokens = torch.ones(1, 5, dtype=torch.int64)
    inputs = bind_inputs(module, tokens, dynamic_axes={"tokens": {1: "length"}})
    cases = make_cases(module, inputs, ["output"], max_batch_size=4, seed=0)
    assert {case.inputs["tokens"].shape[1] for case in cases} == {5, 10, 6}


def test_a_batch_that_the_module_refuses_is_an_error() -> None:
    """The size, the module's own words and its line are said."""
    inputs = bind_inputs(FixedRows(), torch.rand(2, 3))
    with pytest.raises(ConversionFailed, match=r"(?s)batch=1: ValueError: two rows.*--no-batch"):
        make_cases(FixedRows(), inputs, ["output"], max_batch_size=4, seed=0)


def test_an_axis_that_is_not_free_is_an_error() -> None:
    """An axis that takes no other size than the example's is not free."""
    inputs = bind_inputs(FixedLength(), torch.rand(2, 5), dynamic_axes={"x": {1: "length"}})
    with pytest.raises(ConversionFailed, match="takes none of length=10"):
        make_cases(FixedLength(), inputs, ["output"], max_batch_size=4, seed=0)


def test_a_changing_number_of_outputs_is_an_error() -> None:
    """A served model always returns the same outputs."""
    inputs = bind_inputs(Variadic(), torch.rand(2, 5))
    with pytest.raises(ConversionFailed, match="returns 2 outputs at batch=3"):
        make_cases(Variadic(), inputs, ["output_0"], max_batch_size=4, seed=0)
