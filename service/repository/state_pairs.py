"""State pairs found in a graph by their names: an output that is meant to go into an input.

Pure. A pair needs names that belong together, one datatype and shapes that fit; and a model needs
an input and an output besides its pairs, or it would have nothing to do with a client.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from service.repository.signature import Graph, GraphTensor

# What stands for "before" in the name of an input, and for "after" in that of its output.
_WORDS: Final = (
    ("past_key_values", "present_key_values"),
    ("past_key_values", "present"),
    ("past", "present"),
    ("in", "out"),
    ("input", "output"),
    ("prev", "next"),
    ("previous", "next"),
    ("old", "new"),
    ("initial", "final"),
    ("before", "after"),
)
# These stand in the names of every other tensor too: the rest of the name has to speak of state.
_COMMON: Final = ("input", "out")
_OF_STATE: Final = re.compile(
    r"(?<![a-z])(states?|hidden|cell|cache|memory|mem|carry|context|ctx|kv|keys?|values?|[hc])(?![a-z])",
    re.IGNORECASE,
)
_ENDS: Final = (("0", "n"), ("_0", "_n"), ("x", "y"))  # h0 and hn, hx and hy
_BARE: Final = ("next", "new", "out", "present")  # state and state_next
_SHORT: Final = re.compile(r"[hc](_?0|x)")  # the names of recurrent networks
_BREAKS: Final = "._-/:"


def infer_pairs(graph: Graph) -> dict[str, str]:
    """Return the output of each state by the input that it goes into; empty if there are none."""
    outputs = {tensor.name: tensor for tensor in graph.outputs}
    pairs: dict[str, str] = {}
    for tensor in graph.inputs:
        for name in successors(tensor.name):
            if name in outputs and name not in pairs.values() and fits(outputs[name], tensor):
                pairs[tensor.name] = name
                break
    return pairs if leaves_something(graph, pairs) else {}


def successors(name: str) -> Iterator[str]:
    """Yield the names that the output of a state may have whose input has this name."""
    for before, after in _WORDS:
        for start, end in _words_of(name, before):
            if _says_enough(before, name[:start] + name[end:]):
                yield name[:start] + after + name[end:]
    if _SHORT.fullmatch(name):
        for before, after in _ENDS:
            if name.endswith(before):
                yield name.removesuffix(before) + after
    for word in _BARE:
        if not _says_enough(word, name):
            continue
        yield f"{name}_{word}"
        yield f"{word}_{name}"


def _says_enough(word: str, rest: str) -> bool:
    """Tell whether a name means a state by this word and what else it says."""
    if word in _COMMON:
        return _OF_STATE.search(rest) is not None
    return word != "in" or any(letter.isalpha() for letter in rest)


def fits(output: GraphTensor, tensor: GraphTensor) -> bool:
    """Tell whether what an output gives is of the type and shape that an input takes."""
    shapes = output.wire_shape, tensor.wire_shape
    return (
        output.datatype is tensor.datatype
        and len(shapes[0]) == len(shapes[1])
        and all(-1 in pair or pair[0] == pair[1] for pair in zip(*shapes, strict=True))
    )


def leaves_something(graph: Graph, pairs: Mapping[str, str]) -> bool:
    """Tell whether there are inputs and outputs besides the states."""
    given = set(pairs.values())
    return any(t.name not in pairs for t in graph.inputs) and any(
        t.name not in given for t in graph.outputs
    )


def _words_of(name: str, word: str) -> Iterator[tuple[int, int]]:
    """Yield where a word stands in a name: at its start, its end, or between breaks."""
    at = name.find(word)
    while at >= 0:
        end = at + len(word)
        begins = at == 0 or name[at - 1] in _BREAKS
        if begins and (end == len(name) or name[end] in _BREAKS):
            yield at, end
        at = name.find(word, at + 1)
