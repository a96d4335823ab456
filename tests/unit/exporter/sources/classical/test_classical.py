"""Models of tables: scikit-learn, XGBoost, LightGBM, live and from their files."""

import os
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from exporter.errors import ConversionFailed, UnsafeArtefact, UsageError
from service.tensors import Array
from tests.support.sources import convert, proved

# The converters and these libraries use what others call deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
_RANDOM = np.random.default_rng(0)
_ROWS = (_RANDOM.normal(size=(90, 4)) * [1, 2, 30, 0.1] + [0, 5, 100, 0]).astype(np.float32)
_CLASSES = (_ROWS[:, 1] > 5).astype(int) + (_ROWS[:, 2] > 100)
_NUMBERS = _ROWS @ [1.0, -2.0, 0.1, 3.0]
_NAMES = np.array(["cat", "dog", "emu"])[_CLASSES]


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), LogisticRegression()),
        RandomForestClassifier(n_estimators=7, random_state=0),
        GradientBoostingClassifier(n_estimators=5, random_state=0),
        KNeighborsClassifier(3),
        make_pipeline(SimpleImputer(), StandardScaler(), SVC(probability=True, random_state=0)),
        make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=50, random_state=0)),
    ],
    ids=lambda e: type(e[-1] if hasattr(e, "steps") else e).__name__,
)
def test_classifiers_give_label_and_probabilities(estimator: Any, tmp_path: Path) -> None:
    """Tensors, not maps: a label and a probability for each class, as scikit-learn has them."""
    converted, proven = proved(estimator.fit(_ROWS, _CLASSES), tmp_path, examples=_ROWS)
    assert [(s.name, s.datatype.wire, s.shape) for s in (*proven.inputs, *proven.outputs)] == [
        ("features", "FP32", (-1, 4)),
        ("label", "INT64", (-1,)),
        ("probabilities", "FP32", (-1, 3)),
    ]
    case = converted.cases[-1]
    np.testing.assert_array_equal(case.outputs["label"], estimator.predict(case.inputs["features"]))
    assert len(set(case.outputs["label"])) == 3


@pytest.mark.parametrize(
    ("estimator", "name", "width"),
    [
        (LinearRegression(), "prediction", 1),
        (RandomForestRegressor(n_estimators=3, random_state=0), "prediction", 1),
        (make_pipeline(StandardScaler(), PCA(2)), "transformed", 2),
    ],
)
def test_regressors_and_transformers_have_one_output(
    estimator: Any, name: str, width: int, tmp_path: Path
) -> None:
    """What is predicted has a batch axis and one more."""
    _, proven = proved(estimator.fit(_ROWS, _NUMBERS), tmp_path, examples=_ROWS)
    assert [(s.name, s.shape) for s in proven.outputs] == [(name, (-1, width))]


@pytest.mark.parametrize(
    "estimator",
    [
        KMeans(3, n_init=1, random_state=0),
        IsolationForest(n_estimators=10, random_state=0),
        RidgeClassifier(),
    ],
)
def test_what_only_labels_gives_labels(estimator: Any, tmp_path: Path) -> None:
    """Clusters, outliers and classifiers without probabilities: the label alone."""
    estimator.fit(_ROWS, _CLASSES)
    for first in range(6):  # whatever label the row that is alone has
        _, proven = proved(estimator, tmp_path, examples=_ROWS[first:])
        assert [(s.name, s.datatype.wire) for s in proven.outputs] == [("label", "INT64")]


def test_names_of_classes_become_labels(tmp_path: Path) -> None:
    """Strings cannot be served: the probabilities are, and the names go into the version."""
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(_ROWS, _NAMES)
    converted, proven = proved(estimator, tmp_path, examples=_ROWS)
    assert converted.labels == ("cat", "dog", "emu")
    assert [s.name for s in proven.outputs] == ["probabilities"]


def test_rows_are_made_up_where_the_model_decides(tmp_path: Path) -> None:
    """Without a sample, rows lie around the thresholds and means of the model itself."""
    for estimator in (
        RandomForestClassifier(n_estimators=7, random_state=0),
        make_pipeline(StandardScaler(), LogisticRegression()),
    ):
        converted, _ = proved(estimator.fit(_ROWS, _CLASSES), tmp_path)
        assert len(set(converted.cases[-1].outputs["label"])) == 3


def _boosted(name: str) -> Any:
    import lightgbm
    import xgboost

    few: dict[str, Any] = {"n_estimators": 5}
    if name.startswith("LGBM"):
        few["verbose"] = -1
    target = _NUMBERS if "Regressor" in name else _CLASSES > 0 if "two" in name else _CLASSES
    kind = getattr(lightgbm if name.startswith("LGBM") else xgboost, name.split(maxsplit=1)[0])
    estimator = kind(**few)
    if "pipeline" in name:
        estimator = make_pipeline(StandardScaler(), estimator)
    return estimator.fit(_ROWS, target)


@pytest.mark.parametrize(
    "name",
    ["XGBClassifier", "XGBRegressor", "LGBMClassifier", "LGBMRegressor",
     "XGBClassifier of two classes", "LGBMClassifier in a pipeline",
     "XGBRegressor in a pipeline"],
)  # fmt: skip
def test_boosted_trees_are_proved(name: str, tmp_path: Path) -> None:
    """Estimators of XGBoost and LightGBM compute the same in ONNX, with shapes that are true."""
    _, proven = proved(_boosted(name), tmp_path)
    wanted = ["prediction"] if "Regressor" in name else ["label", "probabilities"]
    assert [s.name for s in proven.outputs] == wanted
    assert all(s.shape[0] == -1 for s in proven.outputs)


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    """The random names that a converter gives its nodes are not kept."""
    model = _boosted("LGBMClassifier")
    contents = {convert(model, tmp_path).model.read_bytes() for _ in range(2)}
    assert len(contents) == 1


@pytest.mark.parametrize("name", ["x.json", "x.ubj", "two.json", "r.json", "l.txt", "l2.txt"])
def test_files_of_boosters_are_proved(name: str, tmp_path: Path) -> None:
    """What XGBoost and LightGBM write themselves holds no code and is read as it is."""
    import lightgbm
    import xgboost

    target = {"two.json": _CLASSES > 0, "r.json": _NUMBERS, "l2.txt": _NUMBERS}.get(name, _CLASSES)
    is_regression = target is _NUMBERS
    if name.endswith(".txt"):
        kind = lightgbm.LGBMRegressor if is_regression else lightgbm.LGBMClassifier
        kind(n_estimators=5, verbose=-1).fit(_ROWS, target).booster_.save_model(tmp_path / name)
    else:
        kind = xgboost.XGBRegressor if is_regression else xgboost.XGBClassifier
        kind(n_estimators=5).fit(_ROWS, target).save_model(tmp_path / name)
    converted, proven = proved(tmp_path / name, tmp_path)
    names = ["prediction"] if is_regression else ["label", "probabilities"]
    assert [s.name for s in proven.outputs] == names
    assert set(converted.provenance) == {"module", "file_sha256"}


def test_skops_files_are_proved(tmp_path: Path) -> None:
    """A file that says what it holds needs no trust."""
    from skops import io

    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(_ROWS, _CLASSES)
    io.dump(estimator, tmp_path / "m.skops")
    assert proved(tmp_path / "m.skops", tmp_path)[1].inputs[0].shape == (-1, 4)


def test_skops_files_with_unknown_types_are_refused(tmp_path: Path) -> None:
    """Types that skops does not know are listed; allowing them one by one loads the file."""
    from skops import io

    estimator = make_pipeline(StandardScaler(), _Scaled()).fit(_ROWS, _CLASSES)
    io.dump(estimator, tmp_path / "m.skops")
    with pytest.raises(UnsafeArtefact, match=r"_Scaled.*--allow-global"):
        convert(tmp_path / "m.skops", tmp_path)


class _Scaled(LogisticRegression):
    """An estimator that skops has never seen."""


class _Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        """Have a file made by whoever loads this."""
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("suffix", [".pkl", ".joblib", ".pickle"])
def test_pickles_are_refused_unless_trusted(suffix: str, tmp_path: Path) -> None:
    """A pickle is not looked into: it is refused, and says what to save instead."""
    canary, path = tmp_path / "canary", tmp_path / f"m{suffix}"
    joblib.dump(_Bomb(canary), path)
    with pytest.raises(UnsafeArtefact, match=r"can run any code.*skops\.io\.dump"):
        convert(path, tmp_path)
    assert not canary.exists()
    joblib.dump(LinearRegression().fit(_ROWS, _NUMBERS), path)
    assert proved(path, tmp_path, trust_pickle=True)[1].outputs[0].name == "prediction"


@pytest.mark.parametrize(
    ("source", "options", "error", "says"),
    [
        (LogisticRegression(), {}, UsageError, "not fitted"),
        (LinearRegression().fit(_ROWS, _NUMBERS), {"batch": False}, UsageError, "no fixed shape"),
        (LinearRegression().fit(_ROWS, _NUMBERS), {"examples": np.zeros((2, 5), np.float32)},
         UsageError, r"shape \[2,5\].*fitted to 4 columns"),
        (LinearRegression().fit(_ROWS, _NUMBERS), {"input_names": ("a", "b")}, UsageError,
         "the model has one"),
        (RidgeClassifier().fit(_ROWS, _NAMES), {}, UsageError, "names cannot be served"),
        (HistGradientBoostingClassifier(max_iter=3).fit(_ROWS, _CLASSES), {}, ConversionFailed,
         "no converter for this HistGradientBoostingClassifier"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_is_told(
    source: Any, options: dict[str, Any], error: type[Exception], says: str, tmp_path: Path
) -> None:
    """The estimator, what is wrong with it or the request, and a way out are said."""
    with pytest.raises(error, match=says):
        convert(source, tmp_path, **options)


@pytest.mark.parametrize(
    ("name", "content"),
    [("m.json", b"{}"), ("m.ubj", b"no"), ("m.txt", b"hello"), ("m.skops", b"PK"), ("m.json", b"")],
)
def test_broken_files_are_told(name: str, content: bytes, tmp_path: Path) -> None:
    """A file of something else is named, with the library that does not read it."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConversionFailed, match=rf"{name}: \w+ does not"):
        convert(tmp_path / name, tmp_path)


def test_data_of_the_command_line_takes_its_name(tmp_path: Path) -> None:
    """--input NAME renames the one input."""
    from exporter.specs import parse_specs

    model = LinearRegression().fit(_ROWS, _NUMBERS)
    converted, _ = proved(model, tmp_path, specs=parse_specs(["flower:float32[batch,4]"]))
    assert [i.name for i in converted.inputs] == ["flower"]
    rows: Array = converted.inputs[0].example
    assert rows.shape == (64, 4)
