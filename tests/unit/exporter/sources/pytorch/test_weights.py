"""Weights from files: what is read, what is refused, and what does not fit."""

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from exporter.errors import UnsafeArtefact, WeightsError
from exporter.sources.pytorch.weights import digest, fit, load_weights, refuse_nan
from tests.unit.exporter.modules import Classifier


class Tied(nn.Module):
    """An embedding whose table is the output layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 2)
        self.head = nn.Linear(2, 4, bias=False)
        self.head.weight = self.table.weight


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.path,))


def test_safetensors_are_read_into_the_module(tmp_path: Path) -> None:
    """What was saved of one module is what the other one has afterwards."""
    trained, fresh = Classifier(seed=1), Classifier(seed=2)
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    fit(fresh, load_weights(tmp_path / "w.safetensors"))
    assert digest(fresh) == digest(trained)


@pytest.mark.parametrize("key", ["", "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_state_dicts_are_found_where_trainers_put_them(
    tmp_path: Path, key: str, prefix: str
) -> None:
    """At the top or in a checkpoint, with the prefixes of DataParallel and torch.compile."""
    trained, fresh = Classifier(seed=1), Classifier(seed=2)
    state = {prefix + name: value for name, value in trained.state_dict().items()}
    torch.save({key: state, "epoch": 3} if key else state, tmp_path / "w.pt")
    fit(fresh, load_weights(tmp_path / "w.pt"))
    assert digest(fresh) == digest(trained)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_crafted_pickle_is_refused_and_not_run(tmp_path: Path, form: str) -> None:
    """A file that would run code is refused with the name of what it would call."""
    path, mark = tmp_path / "w.pt", tmp_path / "executed"
    bomb = {"weight": Bomb(mark)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    else:
        torch.save(bomb, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UnsafeArtefact, match="was not loaded"):
        load_weights(path)
    assert not mark.exists()


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    """A module saved as an object needs code to be loaded: only its weights are taken."""
    torch.save(Classifier(), tmp_path / "w.pt")
    with pytest.raises(UnsafeArtefact, match=r"Classifier.*state_dict"):
        load_weights(tmp_path / "w.pt")


def test_program_archives_are_refused(tmp_path: Path) -> None:
    """TorchScript and .pt2 archives are programs, not weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, its files are still around
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
    torch.export.save(
        torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), tmp_path / "program.pt2"
    )
    for name in ("script.pt", "program.pt2"):
        with pytest.raises(UnsafeArtefact, match=name):
            load_weights(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [("w.pt", b"neither zip nor pickle"), ("w.pt", b""), ("w.safetensors", b"12345678{}"),
     ("w.safetensors", b""), ("w.pt", b"PK\x05\x06" + bytes(18))],
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    """Garbage is named as such, with the path."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        load_weights(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The path that was given is in the message."""
    with pytest.raises(WeightsError, match=r"absent\.pt: no such file"):
        load_weights(tmp_path / "absent.pt")


def test_a_checkpoint_without_a_state_dict_says_what_it_holds(tmp_path: Path) -> None:
    """The keys of the checkpoint are listed."""
    torch.save({"epoch": 3, "weights": 4}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="'epoch','weights'"):
        load_weights(tmp_path / "w.pt")


def test_what_does_not_fit_is_a_table() -> None:
    """Missing, unexpected and mis-shaped names are listed with both shapes."""
    state = Classifier().state_dict()
    state["hidden.weight"] = torch.zeros(5, 7)
    state["extra"] = state.pop("scores.bias")
    with pytest.raises(WeightsError) as caught:
        fit(Classifier(), state)
    lines = [line.split() for line in str(caught.value).splitlines()]
    assert ["missing", "scores.bias", "-", "[3]"] in lines
    assert ["unexpected", "extra", "[3]", "-"] in lines
    assert ["other", "shape", "hidden.weight", "[5,7]", "[5,6]"] in lines


def test_weights_that_do_not_fit_change_nothing() -> None:
    """A refused state dict leaves the module as it was."""
    module = Classifier(seed=1)
    before = digest(module)
    with pytest.raises(WeightsError):
        fit(module, {**Classifier(seed=2).state_dict(), "extra": torch.zeros(1)})
    assert digest(module) == before


def test_tied_weights_may_be_stored_once(tmp_path: Path) -> None:
    """Safetensors drops the second name of a tied weight; it is not missing."""
    trained, fresh = Tied(), Tied()
    save_model(trained, str(tmp_path / "w.safetensors"))
    fit(fresh, load_weights(tmp_path / "w.safetensors"))
    assert torch.equal(fresh.head.weight, trained.table.weight)


def test_nan_weights_are_refused() -> None:
    """A training that diverged is not exported; infinity is what masks are made of."""
    with pytest.raises(WeightsError, match=r"'b \(1 of 2\)'"):
        refuse_nan({"a": torch.zeros(2), "b": torch.tensor([1.0, float("nan")])})
    refuse_nan({"mask": torch.tensor([0.0, float("-inf")]), "steps": torch.tensor(3)})


def test_the_digest_depends_on_every_weight() -> None:
    """Equal weights have equal digests; one changed element changes it."""
    changed = Classifier()
    with torch.no_grad():
        changed.scores.bias[0] += 1e-6
    assert digest(Classifier()) == digest(Classifier())
    assert digest(Classifier()) != digest(changed)


def test_sparse_weights_are_refused(tmp_path: Path) -> None:
    """A sparse tensor, also one whose indices point outside of it, goes into no module."""
    for index in (1, 99):
        sparse = torch.sparse_coo_tensor(
            torch.tensor([[0], [index]]), torch.ones(1), (2, 3), check_invariants=False
        )
        weights = {**nn.Linear(3, 2).state_dict(), "weight": sparse}
        torch.save(weights, tmp_path / "w.pt")
        with pytest.raises(WeightsError, match=r"sparse|not a PyTorch checkpoint"):
            fit(nn.Linear(3, 2), load_weights(tmp_path / "w.pt"))
