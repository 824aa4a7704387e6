"""Curves over all thresholds of an uncertainty: AUROC, average precision, risk and coverage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..predictions.prediction import Array

N_CURVE_POINTS = 1000  # more points would not be visible in a picture

TPR = 0.95  # share of the inputs from inside that pass the threshold of "FPR at 95 %"


@dataclass(frozen=True)
class UncertaintyCurve:
    """Inputs in order of uncertainty, the least uncertain first, with one entry for each value of the measure.

    Equally uncertain inputs are treated as a group, so the order of the inputs does not matter.
    """

    threshold: Array  # a value of the measure
    n: Array  # number of inputs up to the threshold
    loss: Array  # sum of their losses; for errors, their number

    @classmethod
    def of(cls, uncertainty: Array, loss: Array) -> UncertaintyCurve:
        order = np.argsort(uncertainty)
        ordered = uncertainty[order]
        ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
        return cls(ordered[ends], ends + 1, np.cumsum(loss[order], dtype=np.float64)[ends])

    @property
    def coverage(self) -> Array:
        return self.n / self.n[-1]

    @property
    def risk(self) -> Array:
        return self.loss / self.n


def auroc(curve: UncertaintyCurve) -> float:
    """Probability that an error is more uncertain than a correct input; ties count half.

    NaN if there are no errors or no correct inputs.
    """
    errors = np.diff(curve.loss, prepend=0)
    correct = np.diff(curve.n, prepend=0) - errors
    pairs = errors.sum() * correct.sum()
    return float((errors * (np.cumsum(correct) - correct / 2)).sum() / pairs) if pairs else float("nan")


def average_precision(curve: UncertaintyCurve) -> float:
    """Average precision of finding the errors, the most uncertain inputs first; NaN if there are no errors."""
    if not curve.loss[-1]:
        return float("nan")
    errors = np.diff(curve.loss, prepend=0)[::-1]
    precision = np.cumsum(errors) / np.cumsum(np.diff(curve.n, prepend=0)[::-1])
    return float((precision * errors).sum() / errors.sum())


def aurc(curve: UncertaintyCurve) -> float:
    """Mean over k of the mean loss of the k least uncertain inputs; ties count as in a random order, on average."""
    k = np.arange(1, curve.n[-1] + 1)
    return float((np.interp(k, np.append(0, curve.n), np.append(0, curve.loss)) / k).mean())


def best_aurc(loss: Array) -> float:
    """The lowest AURC of any order of these losses."""
    return float((np.cumsum(np.sort(loss), dtype=np.float64) / np.arange(1, len(loss) + 1)).mean())


def accuracy_at(curve: UncertaintyCurve, coverage: float) -> tuple[float, float, float]:
    """Smallest possible share of the inputs of at least `coverage`, its accuracy, and its threshold."""
    # 1e-9: 0.9 of 10 inputs must be 9 inputs despite rounding
    place = int(np.searchsorted(curve.n, coverage * curve.n[-1] - 1e-9))
    return float(curve.coverage[place]), float(1 - curve.risk[place]), float(curve.threshold[place])


def coverage_at(curve: UncertaintyCurve, risk: float) -> tuple[float, float]:
    """Largest share of the inputs whose error rate is at most `risk`, and its threshold; 0 and NaN if there is none."""
    places = np.flatnonzero(curve.loss <= risk * curve.n + 1e-9)
    return (float(curve.coverage[places[-1]]), float(curve.threshold[places[-1]])) if len(places) else (0.0, np.nan)


def thinned(curve: UncertaintyCurve, measure: str) -> pd.DataFrame:
    """A curve as a table of at most `N_CURVE_POINTS` points."""
    counts = np.linspace(1, curve.n[-1], min(N_CURVE_POINTS, int(curve.n[-1])))
    places = np.unique(np.searchsorted(curve.n, counts - 1e-9))
    return pd.DataFrame(
        {
            "measure": measure,
            "threshold": curve.threshold[places],
            "n": curve.n[places],
            "coverage": curve.coverage[places],
            "risk": curve.risk[places],
        }
    )
