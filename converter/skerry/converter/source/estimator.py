"""Fitted scikit-learn estimators and pipelines, as a module that answers and an ONNX graph.

A pickled estimator is code, so none is read: a factory in the user's file gives the fitted one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from skerry.devices.errors import InputError, MissingExtraError, UnsupportedError

__all__ = ["Estimator", "is_estimator"]

_OPSETS = {"": 21, "ai.onnx.ml": 3}


def is_estimator(found: object) -> bool:
    """Whether `found` is an estimator, told without importing scikit-learn."""
    return all(callable(getattr(found, name, None)) for name in ("fit", "predict", "get_params"))


class Estimator(nn.Module):
    """A fitted classifier or regressor: float32 rows [N, features] → its answers.

    A classifier gives the probability of every class, [N, classes]; a regressor what it predicts,
    [N, targets].

    Args:
        fitted: the estimator or pipeline.
        where: what to call it in messages.

    Attributes:
        graph: its ONNX file, uint8 [bytes]: all there is to keep of it.

    Raises:
        MissingExtraError: skl2onnx is not installed.
        InputError: it is not fitted, or does not say what it takes.
        UnsupportedError: it is of another kind, or a step of it has no ONNX operator.
    """

    graph: Tensor

    def __init__(self, fitted: Any, where: object) -> None:
        super().__init__()
        self._fitted = fitted
        if not hasattr(fitted, "n_features_in_"):
            raise InputError(
                "the estimator does not say how many features it takes, or is not fitted",
                where=where,
                remedy="fit it; a first step of your own must set n_features_in_",
            )
        self._classifies = _classifies(fitted, where)
        content = _converted(fitted, where, self._classifies).SerializeToString(deterministic=True)
        self.register_buffer("graph", torch.frombuffer(bytearray(content), dtype=torch.uint8))
        self.training = False

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by number; empty of a regressor."""
        return tuple(str(one) for one in self._fitted.classes_) if self._classifies else ()

    @property
    def features(self) -> int:
        """How many numbers a row has."""
        return int(self._fitted.n_features_in_)

    def forward(self, x: Tensor) -> Tensor:
        """What scikit-learn itself answers, as float32."""
        rows = x.numpy()
        found = self._fitted.predict_proba(rows) if self._classifies else self._fitted.predict(rows)
        answers = np.asarray(found, np.float32).reshape(len(rows), -1)
        return torch.from_numpy(np.ascontiguousarray(answers))


def _classifies(fitted: Any, where: object) -> bool:
    """Whether it is a classifier; a regressor otherwise."""
    from sklearn.base import is_classifier, is_regressor
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(fitted)
    except NotFittedError as error:
        raise InputError(
            "the estimator is not fitted", where=where, remedy="fit it before it is returned"
        ) from error
    if is_regressor(fitted):
        return False
    if not is_classifier(fitted):
        raise UnsupportedError(
            f"{type(fitted).__name__} is neither a classifier nor a regressor",
            where=where,
            remedy="return a pipeline that ends in one",
        )
    if not hasattr(fitted, "predict_proba"):
        raise UnsupportedError(
            f"{type(fitted).__name__} gives no probabilities",
            where=where,
            remedy="wrap it in sklearn.calibration.CalibratedClassifierCV",
        )
    return True


def _converted(fitted: Any, where: object, classifies: bool) -> onnx.ModelProto:
    try:
        import skl2onnx
        from skl2onnx.common.data_types import FloatTensorType
        from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "sklearn", missing=error.name or "skl2onnx", needed_by=str(where)
        ) from error
    rows = [("x", FloatTensorType([None, fitted.n_features_in_]))]
    options = {id(fitted): {"zipmap": False}} if classifies else None
    try:
        made: onnx.ModelProto = skl2onnx.to_onnx(
            fitted, initial_types=rows, options=options, target_opset=_OPSETS
        )
    except (MissingConverter, MissingShapeCalculator, RuntimeError, NotImplementedError) as error:
        reason = next(line for line in str(error).splitlines() if line.strip())
        raise UnsupportedError(
            f"skl2onnx cannot convert a step: {reason}",
            where=where,
            remedy="replace the step that it names",
        ) from error
    return made
