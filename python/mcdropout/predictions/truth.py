"""What scores, calibration and decisions read of a prediction and of true labels or values. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd

from ..checks import check_length, listed, shown
from ..data.labels import Label, as_labels, as_targets, label_array
from .prediction import Array, MCPrediction


def check_prediction(prediction: object, name: str = "prediction") -> MCPrediction:
    """A prediction of at least one input, all of whose means are numbers, without further axes for classes."""
    if not isinstance(prediction, MCPrediction):
        raise TypeError(f"`{name}` must be what `mc_predict()` returns; got {shown(type(prediction).__name__)}.")
    if len(prediction) == 0:
        raise ValueError(f"`{name}` must have at least one input; got none.")
    if prediction.task == "classification" and prediction.mean.ndim > 2:
        raise ValueError(f"`{name}` must have one row of probabilities per input; got shape {prediction.mean.shape}.")
    refuse_not_finite(prediction.mean, name)
    return prediction


def check_classes(prediction: object, instead: str, name: str = "prediction") -> MCPrediction:
    """A prediction of classes; `instead` says what there is for values."""
    found = check_prediction(prediction, name)
    if found.task != "classification":
        raise ValueError(f"`{name}` must be of classes; got one of values{instead}.")
    return found


def check_labels(prediction: MCPrediction, labels: Sequence[Label], of: str, name: str = "prediction") -> None:
    """The same labels in the same order as those of what was fitted, or of another prediction."""
    ours, theirs = ([str(label) for label in some] for some in (labels_of(prediction), labels))
    if ours != theirs:
        raise ValueError(f"`{name}` must have the labels of {of}, {listed(theirs)}; got {listed(ours)}.")


def check_calibration(prediction: MCPrediction, temperature: float | None, of: str, name: str = "prediction") -> None:
    """The same temperature as the prediction that something was learnt on, or as another; older files know of none."""
    ours = prediction.temperature
    if None not in (ours, temperature) and ours != temperature:
        wanted, got = map(_calibrated, (temperature, ours))
        raise ValueError(f"`{name}` must be {wanted}, as {of}; got one that is {got}.")


def _calibrated(temperature: float | None) -> str:
    return "not calibrated" if temperature == 1 else f"calibrated at temperature {temperature:.4g} by `mc_apply()`"


def labels_of(prediction: MCPrediction) -> tuple[Label, ...]:
    """The labels of a prediction of classes."""
    return cast("tuple[Label, ...]", prediction.labels)


def true_codes(y: object, prediction: MCPrediction, name: str = "y", of: str = "prediction") -> Array:
    """Position of each input's true label among those of the prediction, (input,); `of`: what it must be as long as."""
    codes, _ = as_labels(y, labels_of(prediction), name)
    check_length(len(codes), name, len(prediction), of)
    return codes


def codes_to_learn_from(y: object, prediction: MCPrediction) -> Array:
    """The same for inputs that something is learnt on: of one label alone, they would say nothing of the others."""
    codes = true_codes(y, prediction)
    if (codes == codes[0]).all():
        only = shown(labels_of(prediction)[codes[0]])
        raise ValueError(f"`y` must have inputs of at least two labels; got {only} alone.")
    return codes


def true_values(y: object, prediction: MCPrediction, name: str = "y", of: str = "prediction") -> Array:
    """What was observed, of the shape of the prediction's mean; `of`: what it must be as long as."""
    n_outputs = prediction.mean[:1].size
    values = as_targets(_in_columns(y, n_outputs), n_outputs, name)
    check_length(len(values), name, len(prediction), of)
    return values.reshape(prediction.mean.shape)


def predicted_codes(prediction: MCPrediction) -> Array:
    """Position of each input's predicted label among the labels, (input,)."""
    predicted = cast(Array, prediction.predicted)
    names = pd.Index(label_array(labels_of(prediction)))
    return names.get_indexer(pd.Index(predicted.astype(names.to_numpy().dtype, copy=False)))


def _in_columns(y: object, n_outputs: int) -> object:
    """Maps of values, as one row per input."""
    if isinstance(y, np.ndarray) and y.ndim > 2 and y[:1].size == n_outputs:
        return y.reshape(len(y), -1)
    return y


def refuse_not_finite(values: Array, name: str) -> None:
    """Refuse values that are infinite or missing."""
    finite = np.isfinite(values)
    if not finite.all():
        number = int(np.argwhere(~finite)[0][0]) + 1
        raise ValueError(f"`{name}` must hold finite numbers only; got NaN or infinity in input number {number}.")
