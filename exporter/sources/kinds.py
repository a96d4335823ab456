"""The kinds of sources: what each is called, what it needs, and which module knows it.

The module of a kind has `opened(request) -> Opened`, a context manager that loads the source and
gives it back as it was. It imports its framework; this table imports nothing, so that a command
that only hands work to a child loads no framework, and one that is missing can be said in words.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, TypeAlias

from exporter.errors import UsageError
from exporter.sources.base import Opened, Request

Environments: TypeAlias = Sequence[Mapping[str, str]]


def _as_it_is() -> Environments:
    return [{}]


def _without_hub() -> Environments:
    """Keep transformers from the network, and quiet."""
    return [
        {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRANSFORMERS_VERBOSITY": "error"}
    ]


def _backends() -> Environments:
    """Return each backend of Keras that is installed; KERAS_BACKEND is the user's own choice."""
    if "KERAS_BACKEND" in os.environ:
        return [{}]
    found = [
        {"KERAS_BACKEND": backend}
        for backend, packages in (
            ("torch", ("torch", "onnxscript")),
            ("tensorflow", ("tensorflow", "tf2onnx")),
        )
        if all(importlib.util.find_spec(package) for package in packages)
    ]
    return found or [{}]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of source.

    module: below exporter.sources. extra, packages: what installs it, and what it imports.
    has_network: it is the user's own code, which may fetch what it needs.
    environments: variables of the child that converts it, to be tried in turn.
    """

    name: str
    module: str
    extra: str = "export"
    packages: tuple[str, ...] = ()
    takes_weights: bool = False
    has_network: bool = False
    environments: Callable[[], Environments] = _as_it_is

    def opened(self, request: Request) -> AbstractContextManager[Opened]:
        """Import what knows this kind and open the source. Raises UsageError if that is missing."""
        self.check(request)
        module = importlib.import_module(f"exporter.sources.{self.module}")
        source: AbstractContextManager[Opened] = module.opened(request)
        return source

    def check(self, request: Request) -> None:
        """Raise UsageError if its extra is not installed, or weights are given that it has."""
        require(f"a {self.name}", self.packages, self.extra)
        if request.weights is not None and not self.takes_weights:
            raise UsageError(
                f"--weights {request.weights}: a {self.name} has its own; weights go with SOURCE "
                "that builds a PyTorch module or a Keras model: FILE.py:BUILDER",
            )


def require(what: str, packages: Sequence[str], extra: str) -> None:
    """Raise UsageError if a package of an extra is missing: the server is installed without."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{', '.join(missing)} is not installed; {what} needs: pip install 'penstock[{extra}]'",
        )


_TORCH: Final = ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors")
_CONVERTERS: Final = ("skl2onnx", "onnxmltools")

PYTHON: Final = Kind("model in Python", "python", takes_weights=True, has_network=True)
TORCH_MODULE: Final = Kind("PyTorch module", "pytorch.module", "export", _TORCH, takes_weights=True)
TORCH_PROGRAM: Final = Kind("torch.export program", "pytorch.program", "export", _TORCH)
TORCH_SCRIPT: Final = Kind("TorchScript program", "pytorch.script", "export", _TORCH)
TORCH_FILE: Final = Kind("PyTorch file", "pytorch.checkpoint", "export", _TORCH)
ONNX_FILE: Final = Kind("file in ONNX", "onnx_file", "export", ("onnx", "onnx_ir"))
TRANSFORMERS: Final = Kind(
    "transformers model", "huggingface", "hf", (*_TORCH, "transformers"), environments=_without_hub
)
KERAS_MODEL: Final = Kind(
    "Keras model", "keras.model", "tensorflow", ("keras",), takes_weights=True
)
KERAS_FILE: Final = Kind(
    "Keras file", "keras.file", "tensorflow", ("keras",), environments=_backends
)
SAVED_MODEL: Final = Kind(
    "SavedModel", "keras.saved_model", "tensorflow", ("tensorflow", "tf2onnx")
)
ESTIMATOR: Final = Kind(
    "fitted estimator", "classical.estimator", "classical", ("sklearn", *_CONVERTERS)
)
BOOSTER: Final = Kind("booster", "classical.booster", "classical", _CONVERTERS)
ESTIMATOR_FILE: Final = Kind("file of an estimator", "classical.files", "classical", ("sklearn",))
