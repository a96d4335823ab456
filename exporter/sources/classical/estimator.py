"""Fitted estimators with scikit-learn's interface: its own, and those of XGBoost and LightGBM."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

from exporter.errors import UsageError
from exporter.sources.base import Opened, Request
from exporter.sources.classical.converters import to_onnx
from exporter.sources.classical.tabular import Tabular, class_labels, column
from exporter.sources.classical.tabular import opened as opened_table
from service.tensors import Array

_Outputs: TypeAlias = tuple[dict[int, str], Callable[[Array], Sequence[Array]], tuple[str, ...]]


@contextmanager
def opened(request: Request) -> Iterator[Opened]:
    """Open a fitted estimator. Raises UsageError if it is not fitted, ConversionFailed."""
    estimator = request.source
    name = type(estimator).__name__
    width = getattr(estimator, "n_features_in_", None)
    if width is None:
        raise UsageError(
            f"this {name} is not fitted, or to no table of numbers: fit it before the export",
        )
    kept, predict, labels = _outputs(estimator)
    table = Tabular(
        name,
        int(width),
        kept,
        _quietly(predict),
        lambda: to_onnx(estimator, width, request.opset),
        labels,
    )
    label = request.label or f"{type(estimator).__module__}:{name}"
    provenance = {"module": label, "library": _version(estimator)}
    with opened_table(table, request, provenance) as source:
        yield source


def _outputs(estimator: Any) -> _Outputs:
    """Return which outputs of the graph are served, what computes them, and names of classes."""
    if hasattr(estimator, "classes_"):
        return _classes(estimator)
    if _is_regressor(estimator):
        return {0: "prediction"}, lambda rows: [column(estimator.predict(rows))], ()
    if hasattr(estimator, "predict"):
        # The marks of outliers, 1 and -1, have a second axis in the graph; clusters have none.
        shape = (-1, 1) if _is_outlier_detector(estimator) else (-1,)
        return (
            {0: "label"},
            lambda rows: [np.asarray(estimator.predict(rows)).astype(np.int64).reshape(shape)],
            (),
        )
    if hasattr(estimator, "transform"):
        return {0: "transformed"}, lambda rows: [column(estimator.transform(rows))], ()
    raise UsageError(f"{type(estimator).__name__} neither predicts nor transforms")


def _classes(estimator: Any) -> _Outputs:
    """Return label and probabilities, as far as the estimator has them and they are numbers."""
    labels = class_labels(estimator.classes_)
    names: dict[int, str] = {}
    parts: list[Callable[[Array], Array]] = []
    if np.issubdtype(np.asarray(estimator.classes_).dtype, np.integer):
        names[0] = "label"
        parts.append(lambda rows: estimator.predict(rows).astype(np.int64))
    if hasattr(estimator, "predict_proba"):
        names[1] = "probabilities"
        parts.append(lambda rows: column(estimator.predict_proba(rows)))
    if not names:
        raise UsageError(
            f"{type(estimator).__name__} gives names of classes and no probabilities, and names "
            "cannot be served: fit it to numbers 0, 1, 2 and so on",
        )
    return names, lambda rows: [part(rows) for part in parts], labels


def _is_regressor(estimator: Any) -> bool:
    from sklearn.base import is_regressor  # noqa: PLC0415 (an extra)

    return bool(is_regressor(estimator))


def _is_outlier_detector(estimator: Any) -> bool:
    from sklearn.base import is_outlier_detector  # noqa: PLC0415 (an extra)

    return bool(is_outlier_detector(estimator))


def _quietly(predict: Callable[[Array], Sequence[Array]]) -> Callable[[Array], Sequence[Array]]:
    def run(rows: Array) -> Sequence[Array]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fitted to a table with names, asked without
            return predict(rows)

    return run


def _version(estimator: Any) -> str:
    from importlib import metadata  # noqa: PLC0415

    names = {"sklearn": "scikit-learn", "xgboost": "xgboost-cpu"}
    library = type(estimator).__module__.partition(".")[0]
    for name in (names.get(library, library), library):
        try:
            return f"{library} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return library
