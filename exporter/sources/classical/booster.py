"""Boosters of XGBoost and LightGBM without an estimator around them: live, or from their files."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from exporter.errors import ConversionFailed, UsageError
from exporter.sources.base import Opened, Request
from exporter.sources.classical.converters import boosted_to_onnx
from exporter.sources.classical.tabular import Tabular, column
from exporter.sources.classical.tabular import opened as opened_table
from exporter.sources.kinds import require
from service.repository.manifest import sha256_of
from service.tensors import Array

_CLASSES: Final = {0: "label", 1: "probabilities"}


@contextmanager
def opened(request: Request) -> Iterator[Opened]:
    """Open a booster. Raises UsageError, ConversionFailed."""
    booster, provenance = request.source, {}
    if isinstance(booster, str):
        path = Path(booster)
        booster, provenance = load(path), {"file_sha256": sha256_of(path)}
    library = type(booster).__module__.partition(".")[0]
    table = _of_xgboost(booster) if library == "xgboost" else _of_lightgbm(booster)
    provenance["module"] = request.label or f"{library}:Booster"
    with opened_table(table, request, provenance) as source:
        yield source


def load(path: Path) -> Any:
    """Return the booster in a file that XGBoost (.json, .ubj) or LightGBM (.txt) wrote."""
    library = "lightgbm" if path.suffix.lower() in (".txt", ".lgb") else "xgboost"
    require(f"a model of {library}", (library,), "classical")
    try:
        if library == "lightgbm":
            import lightgbm  # noqa: PLC0415 (an extra)

            with path.open("rb") as file:
                if file.read(4) != b"tree":
                    raise ValueError("it does not begin with 'tree'")
            return lightgbm.Booster(model_file=str(path))
        import xgboost  # noqa: PLC0415 (an extra)

        return xgboost.Booster(model_file=str(path))
    except Exception as error:  # whatever these libraries raise at a file of anything
        text = str(error).strip().split("\n", 1)[0][:300]
        raise ConversionFailed(f"{path}: {library} does not read it: {text}") from error


def _of_xgboost(booster: Any) -> Tabular:
    import json  # noqa: PLC0415

    import xgboost  # noqa: PLC0415 (an extra)

    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]

    def scores(rows: Array) -> Array:
        return np.asarray(booster.predict(xgboost.DMatrix(rows), validate_features=False))

    width = booster.num_features()
    return _table(f"XGBoost booster ({objective})", booster, "xgboost", width, objective, scores)


def _of_lightgbm(booster: Any) -> Tabular:
    objective = str(booster.dump_model(num_iteration=1).get("objective", "regression")).split()[0]

    def scores(rows: Array) -> Array:
        return np.asarray(booster.predict(rows))

    width = booster.num_feature()
    return _table(f"LightGBM booster ({objective})", booster, "lightgbm", width, objective, scores)


def _table(
    what: str,
    booster: Any,
    library: str,
    width: int,
    objective: str,
    scores: Callable[[Array], Array],
) -> Tabular:
    is_classifier = objective.startswith(("binary", "multi"))
    if objective in ("multi:softmax", "rank:pairwise", "lambdarank"):
        raise UsageError(
            f"a {what} gives no probabilities: train it with multi:softprob, or export the "
            "estimator that holds it",
        )

    def predict(rows: Array) -> Sequence[Array]:
        found = scores(rows)
        if not is_classifier:
            return [column(found)]
        shares = np.stack([1 - found, found], axis=1) if found.ndim == 1 else found
        return [shares.argmax(axis=1).astype(np.int64), shares.astype(np.float32)]

    kept = _CLASSES if is_classifier else {0: "prediction"}
    return Tabular(what, width, kept, predict, lambda: boosted_to_onnx(booster, library, width))
