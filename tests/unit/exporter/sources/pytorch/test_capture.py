"""Capturing modules one after another in one process."""

from pathlib import Path

import torch

from exporter import export


class Recurrent(torch.nn.Module):
    """The states of a GRU at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = torch.nn.GRU(2, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return y, [batch,steps,3]. x: [batch,steps,2]."""
        y: torch.Tensor = self.gru(x)[0]
        return y


def test_second_recurrent_module_keeps_its_free_axis(tmp_path: Path) -> None:
    """What torch remembers of the first one does not unroll the second over its example."""
    module = Recurrent().eval()
    for name in ("first", "second"):
        export(
            module,
            (torch.zeros(2, 3, 2),),
            name=name,
            repository=tmp_path,
            dynamic_axes={"x": {1: "steps"}},
        )
        assert (tmp_path / name / "1" / "model.onnx").is_file()
