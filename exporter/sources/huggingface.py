"""Hugging Face transformers: a folder of `save_pretrained`, or a live model.

The model is captured by our own route, with named axes, in a wrapper that takes tensors alone and
gives them by name; caches are off, in the configuration, because a served model keeps no state.
Nothing is downloaded and no code of the folder is run.
"""

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from exporter.errors import (
    ConversionFailed,
    UnsafeArtefact,
    UsageError,
    WeightsError,
    in_one_line,
    table,
)
from exporter.inputs import BATCH
from exporter.sources.base import Opened, Request
from exporter.sources.pytorch import module as pytorch_module
from service.errors import listed
from service.tensors import Array

CONFIG_FILE: Final = "config.json"
_LENGTH: Final = 6  # tokens of the example: sizes to be proved are multiples of it
_TOKENS: Final = {"input_ids": "length", "attention_mask": "length",
                  "decoder_input_ids": "decoder_length"}  # fmt: skip
_MAX_ROWS: Final = 12  # of the table of weights that are not there


@contextmanager
def opened(request: Request) -> Iterator[Opened]:
    """Load the model, if it is in a folder, and capture it.

    Raises UnsafeArtefact for a folder that wants to run its own code, WeightsError for weights
    that are not there, UsageError and ConversionFailed.
    """
    model, label = request.source, request.label
    if isinstance(model, str):
        model = load(Path(model), is_trusted=request.trust_pickle)
        label = f"{label}:{type(model).__name__}"
    config = model.config
    inputs = _inputs(model, request)
    names = dict(zip(inputs, request.input_names or inputs, strict=False))
    had_cache = getattr(config, "use_cache", None)
    if had_cache:
        config.use_cache = False
    try:
        wrapped = replace(
            request,
            source=_wrapped(model, list(inputs)),
            label=label or f"{type(model).__module__}:{type(model).__name__}",
            examples=list(inputs.values()),
            input_names=tuple(names.values()),
            dynamic_axes={names.get(name, name): a for name, a in _axes(inputs, request).items()},
            ranges={names[n]: r for n, r in _ranges(config, inputs).items()} | dict(request.ranges),
        )
        with pytorch_module.opened(wrapped) as source:
            yield replace(source, labels=_labels(config))
    finally:
        if had_cache:
            config.use_cache = had_cache


def load(path: Path, *, is_trusted: bool) -> Any:
    """Return the model of a folder, of the class that its configuration names."""
    import transformers  # noqa: PLC0415 (an extra, and slow to import)

    try:
        content = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
        names = content.get("architectures") or []
        wants_code = "auto_map" in content
    except (OSError, ValueError, AttributeError) as error:
        raise ConversionFailed(f"{path / CONFIG_FILE}: not a configuration: {error}") from error
    if wants_code and not is_trusted:
        raise UnsafeArtefact(
            f"{path}: refused: its {CONFIG_FILE} (auto_map) has transformers run Python files of "
            "the folder. It was not loaded. If you trust them, say --trust-pickle "
            "(trust_pickle=True)",
        )
    kind = getattr(transformers, str(names[0]), None) if names else None
    try:
        model, info = (kind or transformers.AutoModel).from_pretrained(
            path, local_files_only=True, trust_remote_code=is_trusted, output_loading_info=True
        )
    except Exception as error:  # transformers raises errors of every kind
        raise ConversionFailed(
            f"{path}: transformers does not load it: {in_one_line(error)}"
        ) from error
    _refuse_gaps(path, info)
    return model.float().eval()


def _refuse_gaps(path: Path, info: Mapping[str, Any]) -> None:
    """Raise WeightsError for weights that transformers would make up at random."""
    rows = [["missing", str(name)] for name in sorted(info.get("missing_keys", ()))]
    rows += [["other shape", str(entry)] for entry in sorted(info.get("mismatched_keys", ()))]
    if rows:
        more = f"\n  and {len(rows) - _MAX_ROWS} more" if len(rows) > _MAX_ROWS else ""
        raise WeightsError(
            f"{path}: weights of the model are not in the folder, and would be made up at "
            f"random:\n{table(('', 'name'), rows[:_MAX_ROWS])}{more}\n"
            f"  Was the model trained and saved as what {CONFIG_FILE} calls it?",
        )


def _inputs(model: Any, request: Request) -> dict[str, Array]:
    """Return example inputs by argument of forward: given ones, else those that models take."""
    if isinstance(request.examples, Mapping):
        return {str(name): np.asarray(value) for name, value in request.examples.items()}
    if request.examples is not None:
        raise UsageError(
            "example inputs of a transformers model go by name: {'input_ids': ...}",
        )
    config, main = model.config, str(model.main_input_name)
    parameters = inspect.signature(model.forward).parameters
    random = np.random.default_rng(request.seed)
    if main == "pixel_values":
        side = getattr(config, "image_size", 224)
        height, width = (side, side) if isinstance(side, int) else side
        shape = (2, getattr(config, "num_channels", 3), height, width)
        return {main: random.uniform(-1, 1, shape).astype(np.float32)}
    if main != "input_ids":
        raise UsageError(
            f"{type(model).__name__} takes '{main}': say its shape, as in "
            f"--input '{main}:float32[batch,1600]'",
        )
    names = [name for name in ("input_ids", "attention_mask") if name in parameters]
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in parameters:
        names.append("decoder_input_ids")
    tokens = {name: random.integers(0, _vocabulary(config), (2, _LENGTH)) for name in names}
    if "attention_mask" in tokens:
        tokens["attention_mask"] = np.ones((2, _LENGTH), np.int64)
    return tokens


def _axes(inputs: Mapping[str, Array], request: Request) -> dict[str, dict[int, str]]:
    """Return the free axes besides the batch: the user's, else the lengths of the sequences."""
    if request.dynamic_axes:
        return {name: dict(axes) for name, axes in request.dynamic_axes.items()}
    if request.examples is not None or not request.batch:
        return {}
    return {name: {1: _TOKENS[name]} for name in inputs if name in _TOKENS}


def _ranges(config: Any, inputs: Sequence[str] | Mapping[str, Array]) -> dict[str, Any]:
    ends = (0, _vocabulary(config) - 1)
    return {name: ends for name in inputs if name.endswith("input_ids")}


def _vocabulary(config: Any) -> int:
    return int(getattr(config, "vocab_size", None) or 2)


def _labels(config: Any) -> tuple[str, ...]:
    """Return the names of classes, () if nobody gave any."""
    names = getattr(config, "id2label", None) or {}
    labels = [str(names[key]) for key in sorted(names, key=int)]
    is_default = labels == [f"LABEL_{i}" for i in range(len(labels))]
    return () if is_default else tuple(labels)


def _wrapped(model: Any, names: Sequence[str]) -> torch.nn.Module:
    unknown = sorted(set(names) - set(inspect.signature(model.forward).parameters))
    if unknown:
        raise UsageError(
            f"{type(model).__name__} takes no {listed(unknown)}; axis 0 is the '{BATCH}', and "
            "inputs have the names of its forward's arguments",
        )

    class Wrapped(torch.nn.Module):
        """Calls the model with tensors by name, and gives the tensors of what it returns."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
            """Return the tensors among the outputs, by the names of transformers."""
            found = self.model(**dict(zip(names, inputs, strict=True)), return_dict=True)
            return {key: value for key, value in found.items() if isinstance(value, torch.Tensor)}

    return Wrapped()
