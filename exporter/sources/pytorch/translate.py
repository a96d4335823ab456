"""Errors of torch in words: the cause, the line of the user's code, a way out.

torch wraps them in banners of several pages; what matters is at the bottom of the chain.
"""

import re
import traceback
from collections.abc import Callable, Sequence
from typing import Final

from exporter.inputs import Inputs
from exporter.sources.pytorch.guards import Guard
from exporter.sources.user_code import deepest_line, line_in_text

_FIXED_AXIS: Final = re.compile(
    r"inferred a static shape of (?P<extent>\d+) for dimension "
    r"inputs\['(?P<input>[^']+)'\](?:\[\d+\])?\.shape\[(?P<axis>\d+)\]",
)
_NO_OPERATOR: Final = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)'")
_AT_NODE: Final = re.compile(r"Error when translating node %(\w+)")
_MAX_CAUSE: Final = 400  # characters of a cause that is not known


def explain(
    error: BaseException,
    inputs: Inputs,
    guards: Sequence[Guard],
    locate: Callable[[str], str] = lambda _operator: "",
) -> str:
    """Return what went wrong in a conversion, where, and what to do.

    guards: what torch assumed of free axes before it gave up. locate: returns a source code
    excerpt as torch keeps it of the node or operator with this name, "" if it is not known.
    """
    chain = _chain(error)
    text = "\n".join(str(link) for link in chain)
    fixed = _FIXED_AXIS.search(text)
    if fixed:
        cause, way_out = _fixed_axis(fixed, inputs)
        line = _guard_line(guards, fixed["extent"])
    else:
        cause, way_out = _cause(text, chain[-1])
        operator = _operator(text)
        line = _user_line(chain, f"{text}\n{locate(operator) if operator else ''}")
    return _laid_out(cause, line, way_out)


def explain_failure(error: Exception, situation: str, way_out: str) -> str:
    """Return what the user's own forward raised, where, and what to do."""
    line = deepest_line(traceback.extract_tb(error.__traceback__))
    cause = f"the module itself fails {situation}: {type(error).__name__}: {_short(error)}"
    return _laid_out(cause, line, way_out)


def _laid_out(cause: str, line: str, way_out: str) -> str:
    return cause + (f"\n  at {line}" if line else "") + f"\n  {way_out}"


def _guard_line(guards: Sequence[Guard], extent: str) -> str:
    """Return the line that fixed an axis to this extent, else the first that fixed anything."""
    equalities = [guard for guard in guards if guard.line and "Eq(" in guard.text]
    exact = [guard for guard in equalities if re.search(rf"Eq\(\w+, {extent}\)", guard.text)]
    return next((guard.line for guard in (*exact, *equalities)), "")


def _cause(text: str, last: BaseException) -> tuple[str, str]:
    if "data-dependent" in text:
        return (
            (
                "forward decides by the value of a tensor (if, while, int() or .item() on one), "
                "which a graph cannot do"
            ),
            "Use torch.where or torch.cond, or decide outside of the model.",
        )
    operator = _operator(text)
    if operator:
        return (
            f"the operator {operator} has no ONNX form",
            "Leave it to the caller of the model, or write it with other operators.",
        )
    return (
        f"torch cannot convert the module: {type(last).__name__}: {_short(last)}",
        "Try `torch.export.export(module, args)` alone: it shows the whole report.",
    )


def _operator(text: str) -> str:
    """Return the operator or node that could not be written in ONNX, "" if that is not why."""
    found = _NO_OPERATOR.search(text) or _AT_NODE.search(text)
    return found.group(1) if found else ""


def _fixed_axis(fixed: re.Match[str], inputs: Inputs) -> tuple[str, str]:
    axis, extent = int(fixed["axis"]), fixed["extent"]
    item = next((i for i in inputs if fixed["input"] == i.name), None)
    name = item.axes.get(axis, "") if item else ""
    label = f"axis {axis} ({name})" if name else f"axis {axis}"
    way_out = "Remove the axis from the free ones."
    if axis == 0:
        way_out = (
            "Write it so that it works for any number of rows; or, if the model only ever runs "
            f"with {extent}, say --no-batch (batch=False)."
        )
    return (
        (
            f"the module fixes {label} of input '{fixed['input']}' to {extent}: a Python loop over "
            "it, int() of it, a reshape to a number"
        ),
        way_out,
    )


def _chain(error: BaseException) -> list[BaseException]:
    links = [error]
    while (cause := links[-1].__cause__ or links[-1].__context__) is not None:
        if cause in links:
            break
        links.append(cause)
    return links


def _user_line(chain: list[BaseException], text: str) -> str:
    """Return "FILE:LINE: CODE" of the last line of the user's own code, "" if none is known."""
    for link in reversed(chain):
        line = deepest_line(traceback.extract_tb(link.__traceback__))
        if line:
            return line
    return line_in_text(text)


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= _MAX_CAUSE else text[:_MAX_CAUSE] + "..."
