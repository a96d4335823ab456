"""Files that torch writes of whole models: programs, TorchScript, pickled modules."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim

from exporter.errors import ConversionFailed, UnsafeArtefact, UsageError, WeightsError
from exporter.sources.pytorch.weights import load_weights
from tests.support.sources import convert, proved
from tests.unit.exporter.modules import Classifier

# torch calls TorchScript deprecated, at each use; files of it will be around for years.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        """Have a file made by whoever loads this."""
        return os.system, (f"touch {self.canary}",)


class Choosing(nn.Module):
    """Takes one of two ways, by a value: TorchScript keeps both."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x or its negative."""
        if bool(x.sum() > 0):
            return x
        return -x


def _program(path: Path, *, batch: object = Dim.DYNAMIC) -> Path:
    shapes = {"image": {0: batch}} if batch else None
    torch.export.save(
        torch.export.export(Classifier().eval(), (torch.rand(2, 6),), dynamic_shapes=shapes), path
    )
    return path


def test_a_program_is_proved_with_the_axes_that_it_has(tmp_path: Path) -> None:
    """A trusted .pt2 needs no example: names, examples and the free batch are its own."""
    converted, proven = proved(_program(tmp_path / "m.pt2"), tmp_path, trust_pickle=True)
    assert [(s.name, s.shape) for s in proven.inputs] == [("image", (-1, 6))]
    assert [(s.name, s.shape) for s in proven.outputs] == [("logits", (-1, 3))]
    assert set(converted.provenance) == {"module", "weights_sha256", "file_sha256"}


def test_a_live_program_is_proved(tmp_path: Path) -> None:
    """What torch.export returned goes as it is."""
    program = torch.export.export(
        Classifier().eval(), (torch.rand(2, 6),), dynamic_shapes={"image": {0: Dim.DYNAMIC}}
    )
    assert proved(program, tmp_path)[1].inputs[0].shape == (-1, 6)


def test_a_program_with_a_fixed_batch_says_how_to_free_it(tmp_path: Path) -> None:
    """Plain torch.export fixes axes without a word; here it is told, with the way out."""
    path = _program(tmp_path / "m.pt2", batch=None)
    with pytest.raises(UsageError, match=r"fixed shape \[2,6\].*Dim\.DYNAMIC.*--no-batch"):
        convert(path, tmp_path, trust_pickle=True)
    assert proved(path, tmp_path, trust_pickle=True, batch=False)[1].inputs[0].shape == (2, 6)


def test_a_program_that_is_not_trusted_is_not_loaded(tmp_path: Path) -> None:
    """A crafted .pt2 runs nothing: it is refused before torch sees it."""
    path, canary = _program(tmp_path / "m.pt2"), tmp_path / "canary"
    crafted = tmp_path / "crafted.pt2"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(crafted, "w") as new:
        for name in old.namelist():
            is_pickle = name.endswith("sample_inputs/model.pt")
            new.writestr(name, pickle.dumps(Bomb(canary)) if is_pickle else old.read(name))
    for name in ("crafted.pt2", "renamed.pt"):
        (tmp_path / name).write_bytes(crafted.read_bytes())
        with pytest.raises(UnsafeArtefact, match="--trust-pickle"):
            convert(tmp_path / name, tmp_path)
    assert not canary.exists()


@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, torch.rand(2, 4))])
def test_torchscript_is_proved(tmp_path: Path, make: object) -> None:
    """Scripted and traced programs convert, with the names of forward's arguments."""
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()
    torch.jit.save(make(module), tmp_path / "m.pt")  # type: ignore[operator]
    _, proven = proved(
        tmp_path / "m.pt", tmp_path, trust_pickle=True,
        examples=np.random.default_rng(0).random((2, 4), np.float32),
    )  # fmt: skip
    assert [(s.name, s.shape) for s in proven.inputs] == [("input", (-1, 4))]


def test_a_scripted_branch_stays_a_branch(tmp_path: Path) -> None:
    """What a tensor decides, TorchScript can say in ONNX; both ways are computed."""
    script = torch.jit.script(Choosing().eval())
    converted, _ = proved(script, tmp_path, examples=torch.rand(2, 4), batch=False,
                          ranges={"x": (-1.0, 0.5)})  # fmt: skip
    signs = {bool(case.inputs["x"].sum() > 0) for case in converted.cases}
    assert signs == {True, False}


def test_torchscript_that_is_not_trusted_is_refused(tmp_path: Path) -> None:
    """A TorchScript program is code."""
    torch.jit.save(torch.jit.script(nn.ReLU()), tmp_path / "m.pt")
    with pytest.raises(UnsafeArtefact, match=r"m\.pt: refused: a TorchScript program"):
        convert(tmp_path / "m.pt", tmp_path, examples=torch.rand(2, 4))


def test_a_pickled_module_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    """The names in the pickle are listed; nothing of it ran."""
    torch.save(nn.Sequential(nn.Linear(4, 3)), tmp_path / "m.pt")
    with pytest.raises(UnsafeArtefact, match=r"torch\.nn\.modules\.linear\.Linear.*--allow-global"):
        convert(tmp_path / "m.pt", tmp_path, examples=torch.rand(2, 4))


def test_a_pickled_module_converts_when_trusted_or_when_every_name_is_allowed(
    tmp_path: Path,
) -> None:
    """Either the user trusts the file, or he allows each name in it."""
    torch.save(nn.Sequential(nn.Linear(4, 3)), tmp_path / "m.pt")
    names = ("torch.nn.modules.linear.Linear", "torch.nn.modules.container.Sequential")
    for options in ({"trust_pickle": True}, {"allow_globals": names}):
        _, proven = proved(tmp_path / "m.pt", tmp_path, examples=torch.rand(2, 4), **options)
        assert proven.outputs[0].shape == (-1, 3)


def test_allowing_some_names_is_not_trusting(tmp_path: Path) -> None:
    """A pickle that holds one name too many does not run: there is no second try."""
    canary = tmp_path / "canary"
    torch.save({"module": nn.Linear(4, 3), "bomb": Bomb(canary)}, tmp_path / "m.pt")
    allowed = ("torch.nn.modules.linear.Linear",)
    with pytest.raises(UnsafeArtefact, match=r"posix\.system"):
        convert(tmp_path / "m.pt", tmp_path, allow_globals=allowed)
    assert not canary.exists()


def test_weights_with_other_names_in_them_load_when_these_are_allowed(tmp_path: Path) -> None:
    """A checkpoint with a numpy number beside the weights needs that number's names."""
    weights = {"state_dict": Classifier().state_dict(), "accuracy": np.float64(0.5)}
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(UnsafeArtefact, match="numpy"):
        load_weights(tmp_path / "w.pt")
    needed = torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "w.pt")
    allowed = (*needed, "numpy.dtypes.Float64DType")
    assert set(load_weights(tmp_path / "w.pt", allowed)) == set(Classifier().state_dict())


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        ("m.pt2", b"PK\x03\x04 cut off", ConversionFailed, "cut off"),
        ("m.pt", b"PK\x03\x04 cut off", WeightsError, "not a PyTorch checkpoint"),
        ("m.pth", b"", WeightsError, "not a PyTorch checkpoint"),
    ],
)
def test_files_that_are_cut_off_are_refused(
    tmp_path: Path, name: str, content: bytes, error: type[Exception], says: str
) -> None:
    """What is not there is not guessed."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=says):
        convert(tmp_path / name, tmp_path)


def test_weights_alone_are_no_source(tmp_path: Path) -> None:
    """A state dict as SOURCE is told apart from a module."""
    torch.save(Classifier().state_dict(), tmp_path / "w.pt")
    with pytest.raises(UsageError, match=r"holds a OrderedDict, not a module.*--weights"):
        convert(tmp_path / "w.pt", tmp_path)


def test_a_name_that_does_not_exist_cannot_be_allowed(tmp_path: Path) -> None:
    """A mistyped --allow-global is told."""
    torch.save(nn.Linear(4, 3), tmp_path / "m.pt")
    with pytest.raises(UsageError, match=r"--allow-global numpy\.dtipe"):
        convert(tmp_path / "m.pt", tmp_path, allow_globals=("numpy.dtipe",))


def test_torchscript_has_a_newest_opset(tmp_path: Path) -> None:
    """An opset that cannot be written is told, not lowered."""
    script = torch.jit.script(nn.ReLU())
    with pytest.raises(UsageError, match="opset 21 was asked for"):
        convert(script, tmp_path, examples=torch.rand(2, 4), opset=21)
