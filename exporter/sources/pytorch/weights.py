"""Weights from a file into a module, without running anything that the file may contain.

.safetensors, or a state dict in PyTorch's zip format read with `weights_only=True`. There is no
fall-back to an unsafe load.
"""

import hashlib
import importlib
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import safetensors
import safetensors.torch
import torch

from exporter.errors import UnsafeArtefact, UsageError, WeightsError, table
from service.errors import dims, listed

_CONTAINERS: Final = ("state_dict", "model_state_dict", "model")  # where trainers keep it
_PREFIXES: Final = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
_PICKLE: Final = b"\x80"  # first byte of every pickle since protocol 2
_MAX_ROWS: Final = 12  # of the table of what does not fit

StateDict = dict[str, torch.Tensor]


def load_weights(path: Path, allow_globals: tuple[str, ...] = ()) -> StateDict:
    """Return the tensors of a file by name, without the prefixes that trainers put before them.

    allow_globals: names that its pickle may hold besides tensors, as "package.Name".
    Raises UnsafeArtefact if loading could run code, WeightsError if there is no state dict.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; expected .safetensors or a PyTorch state dict")
    if path.suffix == ".safetensors":
        content = _read_safetensors(path)
    else:
        if zipfile.is_zipfile(path):
            _refuse_programs(path)
        content = read_torch(path, allow_globals)
    return _without_prefixes(_state_dict(path, content))


def fit(module: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy weights into the module.

    A name may be missing if the module ties it to one that is there.
    Raises WeightsError with a table if names or shapes differ, or if a weight is NaN.
    """
    own = module.state_dict()
    for prefix in _PREFIXES:  # a part of the module may really be called so
        if own and all(name.startswith(prefix) for name in own):
            weights = {prefix + name.removeprefix(prefix): value for name, value in weights.items()}
    rows = [*_missing(own, weights), *_unexpected(own, weights), *_misshaped(own, weights)]
    if rows:
        more = f"\n  and {len(rows) - _MAX_ROWS} more" if len(rows) > _MAX_ROWS else ""
        raise WeightsError(
            "the weights do not fit the module:\n"
            + table(("", "name", "in the file", "in the module"), rows[:_MAX_ROWS])
            + more
            + "\n  Are the weights of this module, built with the same arguments?",
        )
    _refuse_layouts(weights)
    refuse_nan(weights)
    module.load_state_dict(dict(weights), strict=False)


def refuse_nan(weights: Mapping[str, Any]) -> None:
    """Raise WeightsError if a tensor holds NaN: a training that diverged is not to be served."""
    bad = [
        f"{name} ({int(value.isnan().sum())} of {value.numel()})"
        for name, value in weights.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.isnan().any()
    ]
    if bad:
        raise WeightsError(
            f"weights are NaN: {listed(bad)}; the training diverged: take an earlier checkpoint",
        )


def _refuse_layouts(weights: Mapping[str, torch.Tensor]) -> None:
    """Raise WeightsError for sparse tensors, whose indices a crafted file may point anywhere."""
    bad = [name for name, value in weights.items() if value.layout is not torch.strided]
    if bad:
        raise WeightsError(
            f"weights are sparse: {listed(bad)}; save them dense, with tensor.to_dense()",
        )


def digest(module: torch.nn.Module) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of all weights and buffers."""
    total = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, torch.Tensor):
            total.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            total.update(flat.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def read_torch(path: Path, allow_globals: tuple[str, ...] = ()) -> Any:
    """Return what a file of torch.save holds. Raises UnsafeArtefact if that could run code."""
    is_zip = zipfile.is_zipfile(path)
    allowed = [_global(name) for name in allow_globals]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
            warnings.simplefilter("ignore")  # on protocols that it then refuses in its own words
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise _refusal(path, is_zip=is_zip) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path}: not a PyTorch checkpoint: {_first_line(error)}") from error


def members_of(path: Path) -> list[str]:
    """Return the names in an archive, without the folder that torch puts around them."""
    with zipfile.ZipFile(path) as archive:
        members = [name.partition("/")[2] for name in archive.namelist()]
    if not members:
        raise WeightsError(f"{path}: not a PyTorch checkpoint: an archive with nothing in it")
    return members


def _global(name: str) -> Any:
    """Return what a name such as "numpy.dtype" means; its module is imported: the user named it."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"--allow-global {name}: {error}; expected PACKAGE.MODULE.NAME, as the refusal of the "
            "file lists them",
        ) from None


def _read_safetensors(path: Path) -> Any:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file: {error}") from error


def _refuse_programs(path: Path) -> None:
    """Refuse TorchScript and torch.export archives: loading either can run what is in it."""
    members = members_of(path)
    if any(name.startswith("code/") for name in members):
        raise UnsafeArtefact(
            f"{path}: a TorchScript program, not a state dict; save the weights with "
            "safetensors.torch.save_model(module, FILE)",
        )
    if any(name.startswith(("models/", "sample_inputs/")) for name in members):
        raise UnsafeArtefact(
            f"{path}: a torch.export program (.pt2), which torch unpickles unsafely; save the "
            "weights with safetensors.torch.save_model(module, FILE)",
        )


def _refusal(path: Path, *, is_zip: bool) -> UnsafeArtefact | WeightsError:
    with path.open("rb") as file:
        is_pickle = is_zip or file.read(1) == _PICKLE
    if not is_pickle:
        return WeightsError(f"{path}: not a PyTorch checkpoint, and its name not .safetensors")
    return UnsafeArtefact(
        f"{path}: refused: it holds more than tensors{_what_else(path)}, and loading that can run "
        "any code. It was not loaded. Save the weights alone: "
        "safetensors.torch.save_model(module, FILE) or torch.save(module.state_dict(), FILE); or "
        "allow these names one by one with --allow-global NAME (allow_globals=)",
    )


def _what_else(path: Path) -> str:
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001 (it reads a file that may be crafted; this only adds a hint)
        return ""
    return f" ({listed(sorted(found))})" if found else ""


def _state_dict(path: Path, content: Any) -> StateDict:
    for key in ("", *_CONTAINERS):
        held = content.get(key) if key and isinstance(content, Mapping) else content
        if isinstance(held, Mapping) and held and _are_tensors(held):
            return {str(name): value for name, value in held.items() if not _is_extra(name)}
    keys = f" with {listed([str(k) for k in content])}" if isinstance(content, Mapping) else ""
    raise WeightsError(
        f"{path}: holds a {type(content).__name__}{keys}, not a state dict; expected tensors by "
        f"name, at the top or under {listed(_CONTAINERS)}",
    )


def _are_tensors(held: Mapping[Any, Any]) -> bool:
    return all(isinstance(v, torch.Tensor) or _is_extra(k) for k, v in held.items())


def _is_extra(name: Any) -> bool:
    return str(name).endswith("_extra_state")


def _without_prefixes(weights: StateDict) -> StateDict:
    for prefix in _PREFIXES * 2:  # in either order: DataParallel of compiled, compiled of parallel
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _missing(own: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> list[list[str]]:
    loaded = {own[name].data_ptr() for name in weights if name in own}
    return [
        ["missing", name, "-", dims(value.shape)]
        for name, value in own.items()
        if name not in weights
        and isinstance(value, torch.Tensor)
        and value.data_ptr() not in loaded
    ]


def _unexpected(own: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> list[list[str]]:
    return [
        ["unexpected", name, dims(value.shape), "-"]
        for name, value in weights.items()
        if name not in own
    ]


def _misshaped(own: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> list[list[str]]:
    return [
        ["other shape", name, dims(value.shape), dims(own[name].shape)]
        for name, value in weights.items()
        if name in own and own[name].shape != value.shape
    ]


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
