"""Distillation: the student learns from the teacher, and both are reported."""

from typing import Any

import pytest
import torch
from torch import nn

from exporter.distill import distill, distillation_loss
from exporter.errors import UsageError

_X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))


def _teacher() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 3)).eval()


def _student() -> nn.Module:
    torch.manual_seed(2)
    return nn.Linear(4, 3)


def _agreement(teacher: nn.Module) -> Any:
    with torch.no_grad():
        want = teacher(_X).argmax(dim=1)
    return lambda module: float((module(_X).argmax(dim=1) == want).double().mean())


def test_the_student_comes_closer_to_the_teacher() -> None:
    """Without a label: it agrees more often, and the report has both."""
    teacher, student = _teacher(), _student()
    batches: list[Any] = [(part, None) for part in _X.split(16)]
    result = distill(
        student, teacher, batches, epochs=20, evaluate=_agreement(teacher),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.05),
    )  # fmt: skip
    report = result.report
    assert report.teacher_metric == 1.0
    assert report.student_before is not None
    assert report.student_after is not None
    assert report.student_after >= max(0.85, report.student_before + 0.1)
    assert report.losses[-1] < report.losses[0]
    assert report.parameters == (4 * 32 + 32 + 32 * 3 + 3, 15)
    assert "teacher 1.0000, student 0." in str(report)


def test_the_given_modules_stay_as_they_were() -> None:
    """A copy learns; the teacher keeps its mode and its weights."""
    teacher, student = _teacher().train(), _student()
    before = student.weight.clone()
    weights = [parameter.clone() for parameter in teacher.parameters()]
    result = distill(student, teacher, [(_X, None)], epochs=1)
    assert torch.equal(student.weight, before)
    assert not torch.equal(result.student.weight, before)
    assert teacher.training
    assert all(torch.equal(a, b) for a, b in zip(weights, teacher.parameters(), strict=True))


def test_equal_scores_have_no_loss() -> None:
    """The teacher itself is the best student."""
    scores = torch.randn(5, 3)
    loss = distillation_loss(scores, scores, None, temperature=3.0, hard=0.0)
    assert float(loss) == pytest.approx(0.0, abs=1e-6)


def test_the_loss_is_the_softened_divergence_times_the_temperature_squared() -> None:
    """So that its gradient keeps its size, whatever the temperature."""
    student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    p, q = torch.softmax(teacher / 4, 1), torch.softmax(student / 4, 1)
    want = 16 * float((p * (p / q).log()).sum())
    loss = distillation_loss(student, teacher, None, temperature=4.0, hard=0.0)
    assert float(loss) == pytest.approx(want, rel=1e-5)


def test_labels_count_as_much_as_was_said() -> None:
    """With hard=1 only the labels are left."""
    scores, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    loss = distillation_loss(scores, torch.zeros(5, 3), labels, temperature=3.0, hard=1.0)
    want = nn.functional.cross_entropy(scores, labels)
    assert float(loss) == pytest.approx(float(want))


class _Named(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": x[:, :3], "extra": x}


@pytest.mark.parametrize(
    ("batches", "options", "says"),
    [
        ([], {}, "batches is empty"),
        (iter([(_X, None)]), {}, "a generator"),
        ([(_X, None)], {"epochs": 0}, "epochs from 1"),
        ([(_X, None)], {"temperature": 0.0}, "temperature above 0"),
        ([(_X, None)], {"hard": 1.5}, "hard from 0 to 1"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(
    batches: Any, options: dict[str, Any], says: str
) -> None:
    """Before or at the first step, with what was expected."""
    with pytest.raises(UsageError, match=says):
        distill(_student(), _teacher(), batches, **options)


def test_the_output_with_the_scores_is_named() -> None:
    """Of several outputs one has to be chosen, and classes must be the same ones."""
    with pytest.raises(UsageError, match=r"teacher returns \['logits', 'extra'\]"):
        distill(_student(), _Named(), [(_X, None)])
    assert distill(_student(), _Named(), [(_X, None)], epochs=1, output="logits")
    with pytest.raises(UsageError, match=r"student gives scores \[64, 3\], the teacher \[64, 4\]"):
        distill(_student(), _Named(), [(_X, None)], output="extra")
