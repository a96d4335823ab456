"""What the graph gets at one step of a sequence."""

import numpy as np
import pytest

from service.inference.request import Request
from service.inference.sequences.assembly import Assembly
from service.inference.sequences.sequence import Sequence, Step
from service.repository.sequences import Control, ControlSpec, SequenceSpec
from service.tensors import BYTES, INT64, UINT64, Datatype
from tests.support.sequence_rig import TOTAL


@pytest.mark.parametrize("datatype", [BYTES, UINT64, INT64])
@pytest.mark.parametrize("name", [0, ""])
def test_a_sequence_without_an_id_has_the_empty_one_of_its_type(
    datatype: Datatype, name: int | str
) -> None:
    """A stream's own sequence has no id: CORRID is 0, or "" where it is text."""
    control = ControlSpec("ID", Control.CORRID, datatype, (1,))
    assembly = Assembly("m", SequenceSpec((TOTAL,), (control,)), batched=True)
    request = Request(
        {"X": np.zeros((1, 1), np.float32)}, ("Y",), rows=1, on_end=lambda _: None
    )  # fmt: skip
    step = Step(request, Sequence(name, object()), start=True, end=False, arrived=0.0)
    inputs, _ = assembly.inputs(step, request.inputs)
    assert inputs["ID"].tolist() == [["" if datatype is BYTES else 0]]
    assert inputs["ID"].dtype == datatype.numpy
