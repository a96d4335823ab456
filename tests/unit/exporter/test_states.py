"""States: found, proved step by step, with their batch on whatever axis."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from exporter.cases import Case, make_cases, plainly
from exporter.errors import ConversionFailed, UsageError, VerificationFailed
from exporter.inputs import Inputs, make_inputs
from exporter.proof import prove_rows
from exporter.states import Stepping, batch_axes, find_states, prove_steps, run_steps
from service.repository.manifest import Tolerance
from service.tensors import Array, Tensors

_OUTPUTS = ("y", "hn")


def _sums(given: Tensors) -> list[Array]:
    """Return running sums over time of x [batch,time,2], begun at h0 [1,batch,2], and the last."""
    y = given["h0"][0][:, None] + np.cumsum(given["x"], axis=1)
    return [y, y[:, -1][None]]


def _inputs(rows: int = 2, *, time: bool = True) -> Inputs:
    x, h0 = np.ones((rows, 5 if time else 1, 2), np.float32), np.zeros((1, rows, 2), np.float32)
    axes = {"h0": {1: "batch"}, **({"x": {1: "time"}} if time else {})}
    return make_inputs({"x": x, "h0": h0}, batch=True, dynamic_axes=axes)


def _cases(inputs: Inputs, outputs: Sequence[str] = _OUTPUTS) -> tuple[Case, ...]:
    return make_cases(_sums, inputs, outputs, max_batch_size=4, seed=0)


def _stepping(
    inputs: Inputs, reference: object = _sums, pairs: Mapping[str, str] | None = None
) -> Stepping:
    found = run_steps(
        reference, inputs, pairs or {"h0": "hn"}, _cases(inputs),  # type: ignore[arg-type]
        seed=0, explain=plainly, limits={},
    )  # fmt: skip
    assert found is not None
    return found


def _run(given: Tensors) -> Tensors:
    return dict(zip(_OUTPUTS, _sums(given), strict=True))


def test_names_show_the_state_of_a_recurrent_network() -> None:
    """h0 with its batch on axis 1 is found to be the state that hn gives."""
    inputs = _inputs()
    pairs = find_states({}, inputs, _cases(inputs))
    assert pairs == {"h0": "hn"}
    assert batch_axes(inputs, pairs) == {"h0": 1, "hn": 1}


def test_only_a_state_has_its_batch_elsewhere() -> None:
    """An input whose batch is on axis 1, and that nothing follows, is refused with a way out."""
    inputs = _inputs()
    with pytest.raises(UsageError, match=r"'h0': the batch is on axis 1.*--state h0=OUTPUT"):
        find_states({}, inputs, _cases(inputs, ("y", "last")))
    assert find_states({"h0": "last"}, inputs, _cases(inputs, ("y", "last"))) == {"h0": "last"}


def test_nothing_is_a_state_that_nobody_needs_to_be_one() -> None:
    """With the batch on axis 0 everywhere, names alone change nothing of an export."""
    inputs = make_inputs({"h0": np.zeros((2, 3), np.float32)}, batch=True)
    cases = make_cases(lambda given: [given["h0"]], inputs, ["hn"], max_batch_size=2, seed=0)
    assert find_states({}, inputs, cases) == {}


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"h": "h2"}, ""),
        ({"h": "y"}, "the output is FP32[-1,3], the input FP32[-1,8]"),
        ({"h": "half"}, "the output is FP16"),
        ({"q": "h2"}, "expected INPUT=OUTPUT"),
        ({"h": "h2", "c": "h2"}, "goes to two inputs"),
    ],
)
def test_state_pairs_fit_each_other(state: dict[str, str], says: str) -> None:
    """What an input is given next time has its type and shape."""
    inputs = make_inputs({n: np.ones((2, 8), np.float32) for n in ("h", "c")}, batch=True)
    cases = make_cases(
        lambda given: [given["h"], given["h"][:, :3], given["h"].astype(np.float16)],
        inputs, ["h2", "y", "half"], max_batch_size=4, seed=0,
    )  # fmt: skip
    if says:
        with pytest.raises(UsageError, match=re.escape(says)):
            find_states(state, inputs, cases)
    else:
        assert find_states(state, inputs, cases) == state


def test_rows_are_taken_along_the_axis_of_each_tensor() -> None:
    """Rows are alone what they are in a batch, though a state has them on axis 1."""
    inputs = _inputs()
    cases = _cases(inputs)
    axes = batch_axes(inputs, {"h0": "hn"})
    prove_rows(_run, [Case(c.rows, c.inputs, c.outputs, axes) for c in cases], Tolerance())

    def coupled(given: Tensors) -> Tensors:
        found = _run(given)
        return {**found, "hn": found["hn"] - found["hn"].mean(axis=1, keepdims=True)}

    with pytest.raises(VerificationFailed, match="hn"):
        prove_rows(coupled, [Case(c.rows, c.inputs, c.outputs, axes) for c in cases], Tolerance())


@pytest.mark.parametrize("time", [True, False])
def test_steps_that_carry_their_state_are_proved(time: bool) -> None:  # noqa: FBT001
    """A faithful model passes, with and without an axis of steps; the whole is run with one."""
    stepping = _stepping(_inputs(time=time))
    prove_steps(_run, stepping, Tolerance())
    assert (stepping.whole is not None) is time


@pytest.mark.parametrize("time", [True, False])
def test_state_that_the_file_gets_wrong_is_seen_at_the_next_step(time: bool) -> None:  # noqa: FBT001
    """A file that ignores the state it is given differs from its source from step 2 on."""

    def forgetful(given: Tensors) -> Tensors:
        return _run({**given, "h0": given["h0"] * 0 if (given["h0"] > 3).any() else given["h0"]})

    def scaled(given: Tensors) -> list[Array]:
        return _sums({**given, "x": given["x"] + 4})

    def run(given: Tensors) -> Tensors:
        return forgetful({**given, "x": given["x"] + 4})

    with pytest.raises(VerificationFailed, match=r"step by step(?s:.*)2 of 3"):
        prove_steps(run, _stepping(_inputs(time=time), scaled), Tolerance())


def test_pair_that_is_no_state_is_told_by_the_whole() -> None:
    """Steps on an output that only looks like the state differ from all steps in one run."""

    def first_instead_of_last(given: Tensors) -> list[Array]:
        y, _ = _sums(given)
        return [y, y[:, 0][None]]

    def run(given: Tensors) -> Tensors:
        return dict(zip(_OUTPUTS, first_instead_of_last(given), strict=True))

    with pytest.raises(VerificationFailed, match=r"h0=hn do not carry over"):
        prove_steps(run, _stepping(_inputs(), first_instead_of_last), Tolerance())


def test_source_that_refuses_its_own_state_is_told_the_step() -> None:
    """What the source raises at the second step is said with the step."""

    def picky(given: Tensors) -> list[Array]:
        if (given["h0"] > 1).any():
            raise ValueError("too much")
        return _sums(given)

    with pytest.raises(ConversionFailed, match=r"step [23] of a sequence.*too much"):
        _stepping(_inputs(), picky)
