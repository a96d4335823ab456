"""The converters of others: skl2onnx for scikit-learn, onnxmltools for XGBoost and LightGBM."""

import sys
from typing import Any, Final

import onnx
import onnxmltools
import skl2onnx
from onnxmltools.convert.common.data_types import FloatTensorType as BoostTensor
from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
from skl2onnx.common import shape_calculator as shapes
from skl2onnx.common.data_types import FloatTensorType

from exporter.sources.classical.tabular import FEATURES, ML_OPSET

_BOOST_OPSET: Final = 15  # the newest that onnxmltools writes


def to_onnx(estimator: Any, width: int, opset: int) -> onnx.ModelProto:
    """Return the estimator in ONNX at this opset or below; tensors only, no maps."""
    library = type(estimator).__module__.partition(".")[0]
    if library in ("xgboost", "lightgbm"):
        return boosted_to_onnx(estimator, library, width)
    _register_boosters()
    opset = min(opset, skl2onnx.__max_supported_opset__)
    return skl2onnx.to_onnx(
        estimator,
        initial_types=[(FEATURES, FloatTensorType([None, width]))],
        options={"zipmap": False} if hasattr(estimator, "classes_") else None,
        target_opset={"": opset, "ai.onnx.ml": ML_OPSET},
    )


def boosted_to_onnx(model: Any, library: str, width: int) -> onnx.ModelProto:
    """Return a model of XGBoost or LightGBM, estimator or booster, in ONNX."""
    types = [(FEATURES, BoostTensor([None, width]))]
    if library == "xgboost":
        return onnxmltools.convert_xgboost(model, initial_types=types, target_opset=_BOOST_OPSET)
    return onnxmltools.convert_lightgbm(
        model, initial_types=types, target_opset=_BOOST_OPSET, zipmap=False
    )


def _register_boosters() -> None:
    """Let pipelines of scikit-learn hold estimators of XGBoost and LightGBM.

    Nothing is imported for it: whoever has such an estimator has its library.
    """
    if xgboost := sys.modules.get("xgboost"):
        _register(xgboost.XGBClassifier, convert_xgboost, classifies=True)
        _register(xgboost.XGBRegressor, convert_xgboost, classifies=False)
    if lightgbm := sys.modules.get("lightgbm"):
        _register(lightgbm.LGBMClassifier, convert_lightgbm, classifies=True)
        _register(lightgbm.LGBMRegressor, convert_lightgbm, classifies=False)


def _register(kind: type, converter: Any, *, classifies: bool) -> None:
    calculator = (
        shapes.calculate_linear_classifier_output_shapes
        if classifies
        else shapes.calculate_linear_regressor_output_shapes
    )
    options = {"zipmap": [True, False, "columns"], "nocl": [True, False]} if classifies else None
    skl2onnx.update_registered_converter(
        kind, kind.__name__, calculator, converter, options=options, overwrite=True
    )
