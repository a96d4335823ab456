"""Knowledge distillation: a small student learns from a teacher's scores, not only from labels.

    from exporter.distill import distill

    result = distill(student, teacher, batches, epochs=20, evaluate=accuracy)
    print(result.report)

The gain over training on labels alone is small where there are many labels; the report has what
the student would be worth without training, with it, and what the teacher is worth.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn import functional

from exporter.errors import UsageError

Batch: TypeAlias = tuple[Any, torch.Tensor | None]
Metric: TypeAlias = Callable[[nn.Module], float]
Progress: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DistillReport:
    """What came of it. metric: of the teacher, of the student before and after; None without.

    parameters: of teacher and student. losses: mean of each epoch.
    """

    parameters: tuple[int, int]
    teacher_metric: float | None
    student_before: float | None
    student_after: float | None
    losses: tuple[float, ...]

    def __str__(self) -> str:
        """Return the report as text for people."""
        teacher, student = self.parameters
        lines = [f"student has {student} parameters, teacher {teacher} ({student / teacher:.0%})"]
        if self.teacher_metric is not None:
            lines.append(
                f"metric: teacher {self.teacher_metric:.4f}, student {self.student_before:.4f} -> "
                f"{self.student_after:.4f}",
            )
        lines.append(f"loss: {self.losses[0]:.4f} -> {self.losses[-1]:.4f}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Distilled:
    """The trained student, a copy of the one that was given."""

    student: nn.Module
    report: DistillReport


def distill(  # noqa: PLR0913 (each argument is a decision of the user's, and has a default)
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Batch],
    *,
    epochs: int = 10,
    temperature: float = 2.0,
    hard: float = 0.5,
    output: str | None = None,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
    evaluate: Metric | None = None,
    progress: Progress | None = None,
) -> Distilled:
    """Train a copy of the student on the scores of the teacher.

    batches: (inputs, labels), gone through once an epoch, so not a generator; labels int64
    [batch], or None where there are none. Inputs: a tensor, a tuple or a dict of arguments.
    temperature: above 1 softens the scores, so that the ranking of wrong classes counts too.
    hard: weight of the labels' cross-entropy; the rest is the teacher's. output: which output
    holds the scores, where forward returns a dict. optimizer: of parameters; default: Adam.
    evaluate: metric of a module, higher is better. Raises UsageError where outputs do not fit.
    """
    if epochs < 1 or temperature <= 0 or not 0 <= hard <= 1:
        raise UsageError(
            f"epochs={epochs}, temperature={temperature:g}, hard={hard:g}; expected epochs from "
            "1, a temperature above 0, and hard from 0 to 1",
        )
    if iter(batches) is batches:
        raise UsageError("batches is a generator, which can be gone through once; give a list")
    learned = copy.deepcopy(student)
    chosen = (optimizer or torch.optim.Adam)(learned.parameters())
    was_training = teacher.training
    teacher.eval()
    try:
        first = evaluate(learned) if evaluate else None
        best = evaluate(teacher) if evaluate else None
        losses = []
        for epoch in range(epochs):
            learned.train()
            losses.append(_epoch(learned, teacher, batches, chosen, temperature, hard, output))
            if progress:
                progress(f"epoch {epoch + 1} of {epochs}: loss {losses[-1]:.4f}")
        learned.eval()
        last = evaluate(learned) if evaluate else None
    finally:
        teacher.train(was_training)
    sizes = (_count(teacher), _count(learned))
    return Distilled(learned, DistillReport(sizes, best, first, last, tuple(losses)))


def distillation_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor | None,
    *,
    temperature: float,
    hard: float,
) -> torch.Tensor:
    """Return the loss of a batch of scores [batch, classes].

    The divergence of the softened scores is multiplied by temperature squared, so that its
    gradient keeps its size whatever the temperature (Hinton et al., 2015).
    """
    soft = functional.kl_div(
        functional.log_softmax(student / temperature, dim=-1),
        functional.log_softmax(teacher / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    ) * (temperature * temperature)
    if labels is None:
        return soft
    return hard * functional.cross_entropy(student, labels) + (1 - hard) * soft


def _epoch(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    temperature: float,
    hard: float,
    output: str | None,
) -> float:
    total, rows = 0.0, 0
    for inputs, labels in batches:
        with torch.no_grad():
            target = _scores(teacher, inputs, output, "teacher")
        scores = _scores(student, inputs, output, "student")
        if scores.shape != target.shape:
            raise UsageError(
                f"the student gives scores {list(scores.shape)}, the teacher "
                f"{list(target.shape)}: both need the same classes",
            )
        loss = distillation_loss(scores, target, labels, temperature=temperature, hard=hard)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total, rows = total + float(loss.detach()) * len(scores), rows + len(scores)
    if not rows:
        raise UsageError("batches is empty; there is nothing to learn from")
    return total / rows


def _scores(module: nn.Module, inputs: Any, output: str | None, who: str) -> torch.Tensor:
    if isinstance(inputs, Mapping):
        found = module(**inputs)
    elif isinstance(inputs, tuple):
        found = module(*inputs)
    else:
        found = module(inputs)
    if isinstance(found, Mapping):
        names = list(found)
        if output is None and len(names) == 1:
            output = names[0]
        if output not in found:
            raise UsageError(f"the {who} returns {names}: say which holds the scores, output=")
        found = found[output]
    if not isinstance(found, torch.Tensor):
        raise UsageError(f"the {who} returns a {type(found).__name__}; expected a tensor of scores")
    return found


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
