"""States: outputs that go into an input at the next step, and the proof that they carry over.

Knows numpy and a function that runs the source; knows no framework.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from exporter.cases import Case, Explain, Limits, Reference, random_inputs
from exporter.errors import ConversionFailed, UsageError, VerificationFailed
from exporter.inputs import BATCH, Input, Inputs, datatype_of
from exporter.proof import Run, compare, difference_table, line_of
from service.errors import dims, listed
from service.repository.manifest import Tolerance
from service.repository.signature import Graph, GraphTensor
from service.repository.state_pairs import fits, infer_pairs
from service.tensors import Tensors

_STEPS: Final = 3
_ROWS: Final = 2


@dataclass(frozen=True, slots=True)
class Stepping:
    """A sequence as the source computes it.

    pairs: output by input, of the states. steps: in order; the states of each are what the one
    before it gave. whole: all of them in one run, None of a model without an axis of steps.
    time: that axis, by the names of the tensors that have it.
    """

    pairs: Mapping[str, str]
    steps: tuple[Case, ...]
    whole: Case | None = None
    time: Mapping[str, int] | None = None


def find_states(given: Mapping[str, str], inputs: Inputs, cases: Sequence[Case]) -> dict[str, str]:
    """Return the output of each state by its input: what is given, else what names show.

    Names are asked only where the batch of an input is not on axis 0, as it may be in a state:
    otherwise nothing depends on it, and a server finds them by the same rule.
    Raises UsageError for a pair that does not fit, or if such an input is no state.
    """
    apart = [item for item in inputs if item.batch_axis]
    if not (given or apart):
        return {}
    graph = _graph_of(inputs, cases)
    _check_pairs(given, graph)
    pairs = dict(given) or infer_pairs(graph)
    for item in apart:
        if item.name not in pairs:
            raise UsageError(
                f"input '{item.name}': the batch is on axis {item.batch_axis}, which only a state "
                f"may have, and none of the outputs {listed([t.name for t in graph.outputs])} is "
                f"known to be what follows it: say --state {item.name}=OUTPUT (state=), or name "
                "the output so that it shows, as hn for h0; any other input has it on axis 0",
            )
    return pairs


def batch_axes(inputs: Inputs, pairs: Mapping[str, str]) -> dict[str, int]:
    """Return the axis of the batch of the tensors that have it elsewhere than on axis 0."""
    apart = {item.name: item.batch_axis for item in inputs if item.batch_axis}
    return {**apart, **{pairs[name]: axis for name, axis in apart.items()}}


def run_steps(
    reference: Reference,
    inputs: Inputs,
    pairs: Mapping[str, str],
    cases: Sequence[Case],
    *,
    seed: int,
    explain: Explain,
    limits: Limits,
) -> Stepping | None:
    """Run the source step by step, and over all steps at once if it has an axis for that.

    cases: of the proof. Returns None without states.
    Raises ConversionFailed if the source does not take the states that it gave.
    """
    if not pairs:
        return None
    names = tuple(cases[0].outputs)
    rows = min(_ROWS, max(case.rows for case in cases))
    random = np.random.default_rng(seed)
    steps: list[Case] = []
    for number in range(1, _STEPS + 1):
        given = random_inputs(inputs, {BATCH: rows} if rows else {}, random)
        if steps:
            given.update({name: steps[-1].outputs[output] for name, output in pairs.items()})
        try:
            found = reference({name: array.copy() for name, array in given.items()})
        except Exception as error:  # whatever the source raises
            way_out = "Are the pairs of --state right? What comes out must fit in, at every step."
            where = f"at step {number} of a sequence, given the states that it returned"
            raise ConversionFailed(explain(error, where, way_out)) from error
        steps.append(Case(rows, given, dict(zip(names, found, strict=True)), cases[0].batch_axes))
    time = _time_axes(inputs, pairs, cases, limits)
    whole = _run_whole(reference, steps, time) if time else None
    return Stepping(dict(pairs), tuple(steps), whole, time or None)


def prove_steps(run: Run, stepping: Stepping, tolerance: Tolerance) -> None:
    """Show that a sequence of steps, each on the states of the one before, is the source's.

    And that it is what the source makes of all steps at once, where it can be asked.
    Raises VerificationFailed with a table of what differs.
    """
    states: Tensors = {}
    rows: list[list[str]] = []
    for number, step in enumerate(stepping.steps, start=1):
        got = run({**step.inputs, **states})
        states = {name: got[output] for name, output in stepping.pairs.items()}
        for name, want in step.outputs.items():
            found = compare(got[name], want, tolerance)
            if not found.passes:
                rows.append(line_of(f"{number} of {len(stepping.steps)}", name, found))
    if rows:
        raise VerificationFailed(
            "step by step, on its own states, the exported model computes something else than its "
            "source:\n" + difference_table("step", rows),
        )
    rows = _differs_from_whole(stepping, tolerance)
    if rows:
        pairs = ", ".join(f"{name}={output}" for name, output in stepping.pairs.items())
        raise VerificationFailed(
            f"the states {pairs} do not carry over: the steps of a sequence differ from the whole "
            "in one run, in the source already:\n" + difference_table("steps", rows) + "\n  Are "
            "the pairs right, and all states among them? Does the model look ahead? If it is meant "
            "so, give a number for the axis of the steps.",
        )


def _graph_of(inputs: Inputs, cases: Sequence[Case]) -> Graph:
    """Return the inputs and outputs as a server sees them: free where the extents differ."""

    def output(name: str) -> GraphTensor:
        arrays = [case.outputs[name] for case in cases]
        shape = tuple(
            extents[0] if len(set(extents)) == 1 else None
            for extents in zip(*(array.shape for array in arrays), strict=False)
        )
        return GraphTensor(name, datatype_of(name, arrays[0].dtype), shape)

    return Graph(
        tuple(GraphTensor(item.name, item.datatype, _shape(item)) for item in inputs),
        tuple(output(name) for name in cases[0].outputs),
    )


def _shape(item: Input) -> tuple[int | str, ...]:
    return tuple(item.axes.get(axis, extent) for axis, extent in enumerate(item.example.shape))


def _check_pairs(pairs: Mapping[str, str], graph: Graph) -> None:
    """Raise UsageError unless each pair is an input and an output of one type and shape."""
    takes, gives = ({t.name: t for t in tensors} for tensors in (graph.inputs, graph.outputs))
    for name, source in pairs.items():
        if name not in takes or source not in gives:
            raise UsageError(
                f"state {name}={source}: expected INPUT=OUTPUT of the inputs {listed(list(takes))} "
                f"and the outputs {listed(list(gives))}",
            )
        have, want = gives[source], takes[name]
        if not fits(have, want):
            raise UsageError(
                f"state {name}={source}: the output is {have.datatype}{dims(have.wire_shape)}, "
                f"the input {want.datatype}{dims(want.wire_shape)}; what comes out must fit in",
            )
    twice = sorted({name for name in pairs.values() if list(pairs.values()).count(name) > 1})
    if twice:
        raise UsageError(f"state: output {listed(twice)} goes to two inputs")


def _time_axes(
    inputs: Inputs, pairs: Mapping[str, str], cases: Sequence[Case], limits: Limits
) -> dict[str, int]:
    """Return the axis that steps lie along, by tensor; {} if there is none, or several might be.

    It is the one free axis of the inputs besides their states, and outputs have it too.
    """
    free = {name for item in inputs if item.name not in pairs for name in item.axes.values()}
    free -= {BATCH, *(name for item in inputs if item.name in pairs for name in item.axes.values())}
    if len(free) != 1:
        return {}
    label = free.pop()
    taken = {
        item.name: axis for item in inputs for axis, name in item.axes.items() if name == label
    }
    first, axis = next(iter(taken.items()))
    extents = [case.inputs[first].shape[axis] for case in cases]
    given = {
        name: axis
        for name, array in cases[0].outputs.items()
        if name not in pairs.values()
        for axis in range(array.ndim)
        if [case.outputs[name].shape[axis] for case in cases] == extents
    }
    longest = limits[label][1] if label in limits else _STEPS * extents[0]
    is_moving = len(set(extents)) > 1  # else an extent is equal to it by chance
    everywhere = all(item.name in pairs or item.name in taken for item in inputs)
    fits_in = _STEPS * extents[0] <= longest
    return {**taken, **given} if given and is_moving and everywhere and fits_in else {}


def _run_whole(reference: Reference, steps: Sequence[Case], time: Mapping[str, int]) -> Case | None:
    given = {
        name: np.concatenate([step.inputs[name] for step in steps], time[name])
        if name in time
        else array
        for name, array in steps[0].inputs.items()
    }
    try:
        found = reference({name: array.copy() for name, array in given.items()})
    except Exception:  # noqa: BLE001 (whatever the source raises, it does not take so many steps)
        return None
    return Case(steps[0].rows, given, dict(zip(steps[0].outputs, found, strict=True)))


def _differs_from_whole(stepping: Stepping, tolerance: Tolerance) -> list[list[str]]:
    whole, time, steps = stepping.whole, stepping.time, stepping.steps
    if whole is None or time is None:
        return []
    rows = []
    for name, want in whole.outputs.items():
        if name in time:
            got = np.concatenate([step.outputs[name] for step in steps], time[name])
        elif name in stepping.pairs.values():
            got = steps[-1].outputs[name]
        else:
            continue
        found = compare(got, want, tolerance)
        if not found.passes:
            rows.append(line_of(f"1 to {len(steps)}", name, found))
    return rows
