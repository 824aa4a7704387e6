"""The measures of uncertainty; each is larger for a more uncertain input. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np

from ..checks import as_list, check_choice, shown
from .prediction import Array, MCPrediction
from .truth import predicted_codes, refuse_not_finite


def _std_of_predicted(prediction: MCPrediction) -> Array:
    """Standard deviation over the draws of the probability of the predicted label."""
    return prediction.std[np.arange(len(prediction)), predicted_codes(prediction)]


def _root_of_mean(variance: Array | None) -> Array:
    """One number per input, in the unit of the values: the root of the mean variance over the outputs."""
    assert variance is not None
    return np.sqrt(variance.reshape(len(variance), -1).mean(axis=1))


CLASS_MEASURES: dict[str, Callable[[MCPrediction], Array | None]] = {
    "predictive_entropy": lambda prediction: prediction.predictive_entropy,
    "expected_entropy": lambda prediction: prediction.expected_entropy,
    "mutual_information": lambda prediction: prediction.mutual_information,
    "variation_ratio": lambda prediction: prediction.variation_ratio,
    "least_confidence": lambda prediction: 1 - cast(Array, prediction.confidence),
    "smallest_margin": lambda prediction: 1 - cast(Array, prediction.margin),
    "std": _std_of_predicted,
}

VALUE_MEASURES: dict[str, Callable[[MCPrediction], Array | None]] = {
    "std": lambda prediction: _root_of_mean(prediction.variance),
    "total_std": lambda prediction: _root_of_mean(prediction.total_variance),
}


ENTROPIES = ("predictive_entropy", "expected_entropy", "mutual_information")

# The name of each measure in pictures, reports and R, and its unit; None is the unit of the predictions. R draws
# without Python and has the same table in R/plots-style.R; a bridge test compares the two.
WORDS: dict[str, tuple[str, str | None]] = {
    "predictive_entropy": ("predictive entropy", "nats"),
    "expected_entropy": ("expected entropy", "nats"),
    "mutual_information": ("mutual information", "nats"),
    "variation_ratio": ("variation ratio", "share of the draws"),
    "least_confidence": ("1 - confidence", "probability"),
    "smallest_margin": ("1 - margin", "probability"),
    "std": ("standard deviation", None),
    "total_std": ("standard deviation with noise", None),
}


def unit_of(measure: str, classes: bool) -> str:
    """The unit of a measure, or of a mean."""
    _, unit = WORDS.get(measure, ("", None))
    return unit or ("probability" if classes else "units of the values")


def label_of(measure: str) -> str:
    """A measure in words, with its unit if that is always the same."""
    words, unit = WORDS[measure]
    return f"{words} ({unit})" if unit else words


def measures_of(prediction: MCPrediction) -> tuple[str, ...]:
    """The measures of uncertainty that this prediction has."""
    if prediction.task == "classification":
        return tuple(CLASS_MEASURES)
    return ("std",) if prediction.total_variance is None else tuple(VALUE_MEASURES)


def usual_measure(prediction: MCPrediction) -> str:
    """The default measure: the predictive entropy; for values the deviation, with the noise if it is known."""
    measures = measures_of(prediction)
    return measures[0] if prediction.task == "classification" else measures[-1]


def measured(prediction: MCPrediction, measure: str, whose: str = "prediction") -> Array:
    """The uncertainty of each input by a measure, (input,); `whose` is the name of the argument in messages.

    For classes: `predictive_entropy`, `expected_entropy`, `mutual_information` (nats), `variation_ratio`,
    `least_confidence` (1 - confidence), `smallest_margin` (1 - margin), `std` (of the predicted label's
    probability). For values: `std` (of the draws), `total_std` (with the noise), in the unit of the values.
    """
    check_choice(measure, "measure", measures_of(prediction))
    measures = CLASS_MEASURES if prediction.task == "classification" else VALUE_MEASURES
    values = measures[measure](prediction)
    if values is None:
        raise ValueError(f"`{whose}` must hold its {measure}; got none.")
    refuse_not_finite(values, whose)
    return np.asarray(values, dtype=np.float64)


def check_measures(measure: object, prediction: MCPrediction, name: str = "measure") -> tuple[str, ...]:
    """The names of one or several measures that this prediction has, all different."""
    measures = as_list(measure)
    if not measures:
        raise ValueError(f"`{name}` must name at least one measure; got none.")
    names = tuple(check_choice(each, name, measures_of(prediction)) for each in measures)
    if len(set(names)) < len(names):
        raise ValueError(f"`{name}` must all be different; got {shown(list(names))}.")
    return names
