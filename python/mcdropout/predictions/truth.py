"""Predictions and true labels or values, checked for scores, calibration and decisions. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from ..checks import check_length, listed, shown
from ..data.labels import Label, as_labels, as_targets
from .parts import codes_of
from .prediction import Array, MCPrediction


def check_prediction(prediction: object, name: str = "prediction") -> MCPrediction:
    """A prediction of at least one input, with finite means and, for classes, one row of probabilities per input."""
    if not isinstance(prediction, MCPrediction):
        raise TypeError(f"`{name}` must be what `mc_predict()` returns; got {shown(type(prediction).__name__)}.")
    if len(prediction) == 0:
        raise ValueError(f"`{name}` must have at least one input; got none.")
    if prediction.task == "classification" and prediction.mean.ndim > 2:
        raise ValueError(f"`{name}` must have one row of probabilities per input; got shape {prediction.mean.shape}.")
    refuse_not_finite(prediction.mean, name)
    return prediction


def check_classes(prediction: object, instead: str, name: str = "prediction") -> MCPrediction:
    """A prediction of classes; `instead` ends the message with what to use for values."""
    checked = check_prediction(prediction, name)
    if checked.task != "classification":
        raise ValueError(f"`{name}` must be of classes; got one of values{instead}.")
    return checked


def check_labels(prediction: MCPrediction, labels: Sequence[Label], of: str, name: str = "prediction") -> None:
    """Check that a prediction has these labels in this order; `of` names the object that they belong to."""
    got, wanted = ([str(label) for label in some_labels] for some_labels in (labels_of(prediction), labels))
    if got != wanted:
        raise ValueError(f"`{name}` must have the labels of {of}, {listed(wanted)}; got {listed(got)}.")


def check_calibration(prediction: MCPrediction, temperature: float | None, of: str, name: str = "prediction") -> None:
    """Check that a prediction has this temperature; `of` names the object that it belongs to. Older files have none."""
    if None not in (prediction.temperature, temperature) and prediction.temperature != temperature:
        wanted, got = map(_calibrated, (temperature, prediction.temperature))
        raise ValueError(f"`{name}` must be {wanted}, as {of}; got one that is {got}.")


def _calibrated(temperature: float | None) -> str:
    return "not calibrated" if temperature == 1 else f"calibrated at temperature {temperature:.4g} by `mc_apply()`"


def labels_of(prediction: MCPrediction) -> tuple[Label, ...]:
    """The labels of a prediction of classes."""
    return cast("tuple[Label, ...]", prediction.labels)


def true_codes(y: object, prediction: MCPrediction, name: str = "y", of: str = "prediction") -> Array:
    """The position of each true label among the labels, (input,); `of` names the argument that `y` must match."""
    codes, _ = as_labels(y, labels_of(prediction), name)
    check_length(len(codes), name, len(prediction), of)
    return codes


def codes_to_learn_from(y: object, prediction: MCPrediction) -> Array:
    """As `true_codes()`, for inputs to learn from: refuses inputs of a single label."""
    codes = true_codes(y, prediction)
    if (codes == codes[0]).all():
        only = shown(labels_of(prediction)[codes[0]])
        raise ValueError(f"`y` must have inputs of at least two labels; got {only} alone.")
    return codes


def true_values(y: object, prediction: MCPrediction, name: str = "y", of: str = "prediction") -> Array:
    """The observed values in the shape of the prediction's mean; `of` names the argument that `y` must match."""
    n_outputs = prediction.mean[:1].size
    values = as_targets(_in_columns(y, n_outputs), n_outputs, name)
    check_length(len(values), name, len(prediction), of)
    return values.reshape(prediction.mean.shape)


def predicted_codes(prediction: MCPrediction) -> Array:
    """Position of each input's predicted label among the labels, (input,)."""
    return codes_of(cast(Array, prediction.predicted), labels_of(prediction), "predicted")


def _in_columns(y: object, n_outputs: int) -> object:
    """Maps of values as one row per input; anything else unchanged."""
    if isinstance(y, np.ndarray) and y.ndim > 2 and y[:1].size == n_outputs:
        return y.reshape(len(y), -1)
    return y


def refuse_not_finite(values: Array, name: str) -> None:
    """Refuse values that are infinite or missing."""
    finite = np.isfinite(values)
    if not finite.all():
        number = int(np.argwhere(~finite)[0][0]) + 1
        raise ValueError(f"`{name}` must hold finite numbers only; got NaN or infinity in input number {number}.")
