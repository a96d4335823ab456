"""Errors of torch in words: the cause, the line of the user's code, a way out.

torch wraps them in banners of several pages; what matters is at the bottom of the chain.
"""

import re
import sysconfig
import traceback
from pathlib import Path
from typing import Final

from exporter.inputs import Inputs

_FIXED_AXIS: Final = re.compile(
    r"inferred a static shape of (?P<extent>\d+) for dimension "
    r"inputs\['(?P<input>[^']+)'\](?:\[\d+\])?\.shape\[(?P<axis>\d+)\]",
)
_NO_OPERATOR: Final = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)'")
_AT_NODE: Final = re.compile(r"Error when translating node %(\w+)")
_FRAME: Final = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in \w+\n\s*(?P<code>.+)')
_MAX_CAUSE: Final = 400  # characters of a cause that is not known
_LIBRARIES: Final = (
    sysconfig.get_path("purelib"),
    sysconfig.get_path("stdlib"),
    str(Path(__file__).resolve().parent),
)


def explain(error: BaseException, inputs: Inputs) -> str:
    """Return what went wrong in a conversion, where, and what to do."""
    chain = _chain(error)
    text = "\n".join(str(link) for link in chain)
    cause, way_out = _cause(text, chain[-1], inputs)
    line = _user_line(chain, text)
    return cause + (f"\n  at {line}" if line else "") + f"\n  {way_out}"


def _cause(text: str, last: BaseException, inputs: Inputs) -> tuple[str, str]:
    fixed = _FIXED_AXIS.search(text)
    if fixed:
        return _fixed_axis(fixed, inputs)
    if "data-dependent" in text:
        return (
            (
                "forward decides by the value of a tensor (if, while, int() or .item() on one), "
                "which a graph cannot do"
            ),
            "Use torch.where or torch.cond, or decide outside of the model.",
        )
    operator = _NO_OPERATOR.search(text) or _AT_NODE.search(text)
    if operator:
        return (
            f"the operator {operator.group(1)} has no ONNX form",
            "Leave it to the caller of the model, or write it with other operators.",
        )
    if "ScriptModule" in text:
        return (
            "the module is TorchScript, which cannot be captured again",
            "Export the module that it was scripted or traced from.",
        )
    return (
        f"torch cannot convert the module: {type(last).__name__}: {_short(last)}",
        "Try `torch.export.export(module, args)` alone: it shows the whole report.",
    )


def _fixed_axis(fixed: re.Match[str], inputs: Inputs) -> tuple[str, str]:
    axis, extent = int(fixed["axis"]), fixed["extent"]
    item = next((i for i in inputs if fixed["input"] in (i.argument, i.name)), None)
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
        for frame in reversed(traceback.extract_tb(link.__traceback__)):
            if _is_users(frame.filename) and frame.name == "forward":
                return f"{frame.filename}:{frame.lineno}: {frame.line}"
    for match in reversed(list(_FRAME.finditer(text))):
        if _is_users(match["file"]):
            return f"{match['file']}:{match['line']}: {match['code'].strip()}"
    return ""


def _is_users(file: str) -> bool:
    return not file.startswith(_LIBRARIES) and not file.startswith("<")


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= _MAX_CAUSE else text[:_MAX_CAUSE] + "..."
