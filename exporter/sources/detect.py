"""Which kind of source something is: by the form of its text, its files, or its class.

Nothing is loaded, unpickled or imported to find out.
"""

import inspect
import re
from pathlib import Path
from typing import Any, Final

from exporter.errors import UsageError
from exporter.sources import kinds
from exporter.sources.kinds import Kind

# By class, the most special first: a Keras model may be a torch module as well.
_BY_CLASS: Final = (
    ("torch.export.exported_program.ExportedProgram", kinds.TORCH_PROGRAM),
    ("torch.jit._script.ScriptModule", kinds.TORCH_SCRIPT),
    ("keras.src.models.model.Model", kinds.KERAS_MODEL),
    ("transformers.modeling_utils.PreTrainedModel", kinds.TRANSFORMERS),
    ("torch.nn.modules.module.Module", kinds.TORCH_MODULE),
    ("xgboost.core.Booster", kinds.BOOSTER),
    ("lightgbm.basic.Booster", kinds.BOOSTER),
    ("sklearn.base.BaseEstimator", kinds.ESTIMATOR),
)
_BY_SUFFIX: Final = {
    ".onnx": kinds.ONNX_FILE,
    ".pt2": kinds.TORCH_PROGRAM,
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin"), kinds.TORCH_FILE),
    ".keras": kinds.KERAS_FILE,
    **dict.fromkeys((".skops", ".joblib", ".pkl", ".pickle"), kinds.ESTIMATOR_FILE),
    **dict.fromkeys((".json", ".ubj", ".txt", ".lgb"), kinds.BOOSTER),
}
# A directory is known by a file in it.
_BY_MEMBER: Final = {"saved_model.pb": kinds.SAVED_MODEL, "config.json": kinds.TRANSFORMERS}
_KNOWN: Final = (
    "a torch.nn.Module, a torch.export program, TorchScript, a model of transformers or Keras, a "
    "fitted estimator of scikit-learn, XGBoost or LightGBM"
)
_NOT_SOURCES: Final = {
    ".safetensors": "it holds weights alone: say SOURCE that builds the module, and "
    "--weights with this file",
    ".npz": "it holds arrays: say SOURCE that builds the model, and --sample with this file",
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".7z"), "unpack it first"),
}
_PYTHON_SOURCE: Final = re.compile(
    r"(?P<place>.+?\.py|[\w.]+):(?P<name>[^\W\d][\w.]*)(?:\((?P<arguments>.*)\))?", re.DOTALL
)
PYTHON_FORMS: Final = "expected PACKAGE.MODULE:BUILDER or FILE.py:BUILDER"


def kind_of_text(source: str) -> Kind:
    """Return the kind of this SOURCE. Raises UsageError for what is of none."""
    path = Path(source)
    if source and path.exists():
        return _kind_of_path(path)
    if "://" in source or source.startswith(("hf:", "hub:")):
        raise UsageError(
            f"SOURCE {source!r}: the exporter downloads nothing; download it, and say the path",
        )
    if _PYTHON_SOURCE.fullmatch(source):
        return kinds.PYTHON
    if path.suffix.lower() in {*_BY_SUFFIX, *_NOT_SOURCES} or ("/" in source and ":" not in source):
        raise UsageError(f"SOURCE: {path}: no such file or directory")
    raise UsageError(
        f"SOURCE {source!r}: {PYTHON_FORMS}, such as examples.digits.model:build_model, or the "
        f"path of a model: {', '.join(_BY_SUFFIX)}",
    )


def split_python(source: str) -> tuple[str, str, str | None]:
    """Return module or file, name, and the text between its brackets (None without brackets)."""
    match = _PYTHON_SOURCE.fullmatch(source)
    if match is None:
        raise UsageError(f"SOURCE {source!r}: {PYTHON_FORMS}")
    return match["place"], match["name"], match["arguments"]


def kind_of_object(value: Any, source: str = "") -> Kind:
    """Return the kind of objects of this class. Raises UsageError if they are of none.

    source: SOURCE that built the object, for the message.
    """
    ancestry = [f"{c.__module__}.{c.__qualname__}" for c in type(value).__mro__]
    for name, kind in _BY_CLASS:
        if name in ancestry:
            return kind
    what = f"SOURCE {source!r} gives" if source else "expected a model, got"
    if inspect.isroutine(value):
        raise UsageError(f"{what} a function; wrap it in a torch.nn.Module whose forward calls it")
    raise UsageError(
        f"{what} a {type(value).__module__}.{type(value).__qualname__}, which is no model that "
        f"the exporter knows: {_KNOWN}",
    )


def label_of(source: str) -> str:
    """Return SOURCE without directories of this machine."""
    match = _PYTHON_SOURCE.fullmatch(source)
    if match is None or Path(source).exists():
        return Path(source).name
    place = match["place"]
    return Path(place).name + source[len(place) :] if place.endswith(".py") else source


def _kind_of_path(path: Path) -> Kind:
    suffix = path.suffix.lower()
    for file, kind in _BY_MEMBER.items():
        if (path / file).is_file():
            return kind
    if path.is_file() and suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    reason = _NOT_SOURCES.get(suffix, f"expected {', '.join(_BY_SUFFIX)}")
    raise UsageError(f"SOURCE: {path} is not a model: {reason}; or {PYTHON_FORMS}")
