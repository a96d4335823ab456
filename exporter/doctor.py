"""What is installed, what each extra would add, and what stands in the way."""

import importlib.util
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final

from exporter.errors import table
from service import __version__

# Extra, what it gives, its packages by import name.
EXTRAS: Final = (
    ("export", "PyTorch modules and ONNX files", ("torch", "onnx", "onnx_ir", "onnxscript",
                                                  "safetensors")),
    ("classical", "scikit-learn, XGBoost, LightGBM", ("sklearn", "skl2onnx", "onnxmltools",
                                                      "xgboost", "lightgbm", "skops")),
    ("tensorflow", "TensorFlow and Keras", ("tensorflow", "keras", "tf2onnx")),
    ("hf", "Hugging Face folders", ("transformers",)),
    ("qat", "quantisation-aware training", ("torchao",)),
    ("sign", "signatures: --key, --require-signature", ("cryptography",)),
    ("image", "penstock predict photo.png", ("PIL",)),
)  # fmt: skip
_BASE: Final = ("numpy", "onnxruntime", "google.protobuf", "grpc")
# Names on the index that differ from those of the import.
_DISTRIBUTIONS: Final = {
    "sklearn": ("scikit-learn",), "google.protobuf": ("protobuf",), "grpc": ("grpcio",),
    "xgboost": ("xgboost-cpu", "xgboost"), "PIL": ("pillow",), "onnx_ir": ("onnx-ir",),
    "tensorflow": ("tensorflow-cpu", "tensorflow"),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found.

    packages: version by import name, "" if it is missing. extras: name, what it gives and what is
    missing of it. problems: what would go wrong, and what to do.
    """

    python: str
    machine: str
    penstock: str
    packages: dict[str, str]
    extras: tuple[tuple[str, str, tuple[str, ...]], ...]
    providers: tuple[str, ...]
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "penstock": self.penstock,
            "python": self.python,
            "machine": self.machine,
            "packages": self.packages,
            "extras": {
                name: {"gives": gives, "missing": list(missing), "installed": not missing}
                for name, gives, missing in self.extras
            },
            "providers": list(self.providers),
            "problems": list(self.problems),
        }

    def to_text(self) -> str:
        """Return it for people."""
        rows = [[name, version or "missing"] for name, version in self.packages.items()]
        extras = [
            [f"[{name}]", "yes" if not missing else "no", gives,
             f"lacks {', '.join(missing)}" if missing else ""]
            for name, gives, missing in self.extras
        ]  # fmt: skip
        lines = [
            f"penstock {self.penstock}, Python {self.python}, {self.machine}",
            f"ONNX Runtime runs on {', '.join(self.providers) or 'nothing'}",
            table(("package", "version"), rows),
            table(("extra", "there", "gives", ""), extras),
        ]
        lines += [f"problem: {problem}" for problem in self.problems]
        return "\n".join(lines) if self.problems else "\n".join((*lines, "no problems found"))


def diagnose() -> Diagnosis:
    """Return what is installed. Imports ONNX Runtime, and of the rest nothing."""
    wanted = [*_BASE, *(package for _, _, packages in EXTRAS for package in packages)]
    packages = {name: _version(name) for name in dict.fromkeys(wanted)}
    providers, problem = _providers()
    problems = [problem] if problem else []
    if _version_of("onnxruntime") and _version_of("onnxruntime-gpu"):
        problems.append(
            "onnxruntime and onnxruntime-gpu are both installed, and the one hides the other: "
            "pip uninstall --yes onnxruntime; pip install --force-reinstall onnxruntime-gpu",
        )
    return Diagnosis(
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}, {_cpus()} CPUs",
        penstock=__version__,
        packages=packages,
        extras=tuple(
            (name, gives, tuple(p for p in needed if not packages[p]))
            for name, gives, needed in EXTRAS
        ),
        providers=providers,
        problems=tuple(problems),
    )


def _version(name: str) -> str:
    """Return the version of a package that can be imported, "" if it cannot."""
    try:
        if importlib.util.find_spec(name) is None:
            return ""
    except ModuleNotFoundError:  # the parent of a name with a dot
        return ""
    for distribution in _DISTRIBUTIONS.get(name, (name,)):
        if found := _version_of(distribution):
            return found
    return "unknown"


def _version_of(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _providers() -> tuple[tuple[str, ...], str]:
    try:
        import onnxruntime  # noqa: PLC0415 (a broken one is what is looked for)
    except ImportError as error:
        return (), f"ONNX Runtime cannot be imported: {error}"
    return tuple(onnxruntime.get_available_providers()), ""


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
