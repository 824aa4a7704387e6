"""Curves over all thresholds of an uncertainty: AUROC, average precision, risk and coverage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..predictions.prediction import Array

N_CURVE_POINTS = 1000  # more could not be told apart in a picture

TPR = 0.95  # the share of the inputs from inside that "FPR at 95 %" lets through


@dataclass(frozen=True)
class UncertaintyCurve:
    """Inputs in order of uncertainty, the least first: one entry for each value of the measure that occurs.

    Inputs that are equally uncertain can only be taken together, so nothing here depends on their order.
    """

    threshold: Array  # the value of the measure: inputs up to it are taken
    n: Array  # how many they are
    loss: Array  # the sum of their losses; for errors, how many

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
    """Chance that of an error and a correct input the error is the more uncertain, ties counting half.

    NaN where there are no errors, or nothing else.
    """
    errors = np.diff(curve.loss, prepend=0)
    others = np.diff(curve.n, prepend=0) - errors
    pairs = errors.sum() * others.sum()
    return float((errors * (np.cumsum(others) - others / 2)).sum() / pairs) if pairs else float("nan")


def average_precision(curve: UncertaintyCurve) -> float:
    """Average precision of finding the errors, the most uncertain inputs first; NaN where there are none."""
    if not curve.loss[-1]:
        return float("nan")
    errors = np.diff(curve.loss, prepend=0)[::-1]
    precision = np.cumsum(errors) / np.cumsum(np.diff(curve.n, prepend=0)[::-1])
    return float((precision * errors).sum() / errors.sum())


def aurc(curve: UncertaintyCurve) -> float:
    """Mean over k of the mean loss of the k least uncertain inputs; within ties, that of a random order."""
    k = np.arange(1, curve.n[-1] + 1)
    return float((np.interp(k, np.append(0, curve.n), np.append(0, curve.loss)) / k).mean())


def best_aurc(loss: Array) -> float:
    """The least AURC that any order of these losses has."""
    return float((np.cumsum(np.sort(loss), dtype=np.float64) / np.arange(1, len(loss) + 1)).mean())


def accuracy_at(curve: UncertaintyCurve, coverage: float) -> tuple[float, float, float]:
    """Least share of the inputs that is at least `coverage`, its accuracy, and the threshold that takes it."""
    # a share such as 0.9 of 10 inputs is 9 of them, whatever the rounding of 0.9 * 10
    place = int(np.searchsorted(curve.n, coverage * curve.n[-1] - 1e-9))
    return float(curve.coverage[place]), float(1 - curve.risk[place]), float(curve.threshold[place])


def coverage_at(curve: UncertaintyCurve, risk: float) -> tuple[float, float]:
    """Largest share of the inputs whose error rate is at most `risk`, and its threshold; 0 and NaN where none is."""
    places = np.flatnonzero(curve.loss <= risk * curve.n + 1e-9)
    return (float(curve.coverage[places[-1]]), float(curve.threshold[places[-1]])) if len(places) else (0.0, np.nan)


def thinned(curve: UncertaintyCurve, measure: str) -> pd.DataFrame:
    """A curve as a table of few points."""
    wanted = np.linspace(1, curve.n[-1], min(N_CURVE_POINTS, int(curve.n[-1])))
    places = np.unique(np.searchsorted(curve.n, wanted - 1e-9))
    return pd.DataFrame(
        {
            "measure": measure,
            "threshold": curve.threshold[places],
            "n": curve.n[places],
            "coverage": curve.coverage[places],
            "risk": curve.risk[places],
        }
    )
