"""Scores of class probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ..data.labels import as_label
from ..predictions.prediction import Array, MCPrediction
from ..predictions.truth import labels_of, predicted_codes, true_codes
from ..predictions.uncertainty import measured, measures_of
from .curves import UncertaintyCurve, accuracy_at, aurc, auroc, average_precision, best_aurc, coverage_at, thinned
from .result import MCScores, Numbers, wide


@dataclass(frozen=True)
class ClassCases:
    """A prediction of classes with its true labels, and the settings of the scores."""

    mean: Array  # (input, label)
    predicted: Array  # codes
    true: Array  # codes
    uncertainties: dict[str, Array]
    n_bins: int
    coverages: tuple[float, ...]
    risks: tuple[float, ...]

    @classmethod
    def of(
        cls, prediction: MCPrediction, y: object, n_bins: int, coverages: tuple[float, ...], risks: tuple[float, ...]
    ) -> ClassCases:
        true = true_codes(y, prediction)
        uncertainties = {name: measured(prediction, name) for name in measures_of(prediction)}
        return cls(prediction.mean, predicted_codes(prediction), true, uncertainties, n_bins, coverages, risks)

    @cached_property
    def wrong(self) -> Array:
        return (self.predicted != self.true).astype(np.float64)

    @cached_property
    def confidence(self) -> Array:
        return self.mean[np.arange(len(self.mean)), self.predicted]

    @cached_property
    def curves(self) -> dict[str, UncertaintyCurve]:
        return {name: UncertaintyCurve.of(uncertainty, self.wrong) for name, uncertainty in self.uncertainties.items()}

    def numbers(self, chosen: Array | None = None) -> Numbers:
        """Every score, of all inputs or of the chosen ones."""
        if chosen is not None:
            parts = {name: getattr(self, name)[chosen] for name in ("mean", "predicted", "true")}
            uncertainties = {name: uncertainty[chosen] for name, uncertainty in self.uncertainties.items()}
            return ClassCases(
                **parts, uncertainties=uncertainties, n_bins=self.n_bins, coverages=self.coverages, risks=self.risks
            ).numbers()
        scores = [(name, "", np.nan, value) for name, value in self._plain_scores().items()]
        best = best_aurc(self.wrong)
        for name, curve in self.curves.items():
            area = aurc(curve)
            scores += [
                ("auroc", name, np.nan, auroc(curve)),
                ("aupr", name, np.nan, average_precision(curve)),
                ("aurc", name, np.nan, area),
                ("excess_aurc", name, np.nan, area - best),
                *(("accuracy_at_coverage", name, share, accuracy_at(curve, share)[1]) for share in self.coverages),
                *(("coverage_at_risk", name, risk, coverage_at(curve, risk)[0]) for risk in self.risks),
            ]
        return scores

    def _plain_scores(self) -> dict[str, float]:
        rows = np.arange(len(self.mean))
        of_truth = self.mean[rows, self.true]
        with np.errstate(divide="ignore"):  # a true label of probability 0 has an infinite loss
            log_loss = float(-np.log(of_truth).mean())
        brier = float((np.einsum("ij,ij->i", self.mean, self.mean) - 2 * of_truth + 1).mean())
        right = 1 - self.wrong
        return {
            "accuracy": float(right.mean()),
            "log_loss": log_loss,
            "brier": brier,
            "brier_halved": brier / 2,
            "ece_equal_width": _calibration_error(self.confidence, right, equal_width_edges(self.n_bins)),
            "ece_equal_mass": _calibration_error(
                self.confidence, right, equal_mass_edges(self.confidence, self.n_bins)
            ),
            "classwise_ece": float(self.label_errors.mean()),
        }

    @cached_property
    def label_errors(self) -> Array:
        """Calibration error of each label's probability, (label,), equal width."""
        edges = equal_width_edges(self.n_bins)
        columns = range(self.mean.shape[1])
        return np.array([_calibration_error(self.mean[:, k], (self.true == k) * 1.0, edges) for k in columns])


def equal_width_edges(n_bins: int) -> Array:
    """Inner edges of `n_bins` bins of [0, 1]."""
    return np.arange(1, n_bins) / n_bins


def equal_mass_edges(values: Array, n_bins: int) -> Array:
    """Inner edges of bins with equal numbers of values; equal values stay in one bin, so the numbers can differ."""
    ordered = np.sort(values)
    ends = np.ceil(len(values) * np.arange(1, n_bins) / n_bins - 1e-9).astype(np.int64)
    edges = np.unique(ordered[np.maximum(ends, 1) - 1])
    return edges[edges < ordered[-1]]  # no value lies above the largest one


def _binned(values: Array, outcome: Array, edges: Array) -> tuple[Array, Array, Array]:
    """Number, sum of the values and sum of the outcomes in each bin, (bin,); a bin contains its upper edge."""
    bins = np.searchsorted(edges, values, side="left")
    n = np.bincount(bins, minlength=len(edges) + 1)
    expected, observed = (np.bincount(bins, weights=weights, minlength=len(n)) for weights in (values, outcome))
    return n, expected, observed


def _calibration_error(values: Array, outcome: Array, edges: Array) -> float:
    """Mean over the inputs of the difference, in their bin, between the mean probability and the observed frequency."""
    _, expected, observed = _binned(values, outcome, edges)
    return float(np.abs(expected - observed).sum() / len(values))


def _reliability(cases: ClassCases, level: float) -> pd.DataFrame:
    """The bins of both diagrams; the bounds of the accuracy are exact (Clopper and Pearson)."""
    tables = []
    for binning, edges in (
        ("equal_width", equal_width_edges(cases.n_bins)),
        ("equal_mass", equal_mass_edges(cases.confidence, cases.n_bins)),
    ):
        n, expected, observed = _binned(cases.confidence, 1 - cases.wrong, edges)
        filled = n > 0
        low, high = exact_bounds(observed[filled], n[filled], level)
        columns = {
            "binning": binning,
            "bin": np.flatnonzero(filled) + 1,
            "from": np.append(0, edges)[filled],
            "to": np.append(edges, 1)[filled],
            "n": n[filled],
            "confidence": expected[filled] / n[filled],
            "accuracy": observed[filled] / n[filled],
            "lower": low,
            "upper": high,
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def exact_bounds(count: Array, n: Array, level: float) -> tuple[Array, Array]:
    """Exact two-sided interval of the share count / n: Clopper and Pearson (1934), doi:10.1093/biomet/26.4.404."""
    tail = (1 - level) / 2
    low = np.where(count > 0, stats.beta.ppf(tail, np.maximum(count, 1), n - count + 1), 0.0)
    high = np.where(count < n, stats.beta.ppf(1 - tail, count + 1, np.maximum(n - count, 1)), 1.0)
    return low, high


def _by_label(prediction: MCPrediction, cases: ClassCases) -> pd.DataFrame:
    """The scores of each label."""
    size = len(labels_of(prediction))
    n, n_predicted = (np.bincount(codes, minlength=size) for codes in (cases.true, cases.predicted))
    right = np.bincount(cases.true[cases.wrong == 0], minlength=size)
    with np.errstate(invalid="ignore"):  # a label without inputs gives 0 / 0
        return pd.DataFrame(
            {
                "label": [as_label(label) for label in labels_of(prediction)],
                "n": n,
                "n_predicted": n_predicted,
                "sensitivity": right / n,
                "precision": right / n_predicted,
                "ece": cases.label_errors,
            }
        )


def class_scores(
    prediction: MCPrediction, cases: ClassCases, table: pd.DataFrame, level: float, n_resamples: int, seed: int | None
) -> MCScores:
    """All scores of class probabilities."""
    plain_rows = table[table["of"] == ""]
    plain: dict[str, Any] = dict(zip(plain_rows["score"], plain_rows["value"].tolist(), strict=True))
    curves = cases.curves
    at_coverage = [
        (name, share, *accuracy_at(curve, share)) for name, curve in curves.items() for share in cases.coverages
    ]
    at_risk = [(name, risk, *coverage_at(curve, risk)) for name, curve in curves.items() for risk in cases.risks]
    return MCScores(
        task="classification",
        n_inputs=len(prediction),
        table=table,
        by_measure=wide(table, ("auroc", "aupr", "aurc", "excess_aurc")),
        risk_coverage=pd.concat([thinned(curve, name) for name, curve in curves.items()], ignore_index=True),
        at_coverage=pd.DataFrame(at_coverage, columns=["measure", "wanted", "coverage", "accuracy", "threshold"]),
        at_risk=pd.DataFrame(at_risk, columns=["measure", "risk", "coverage", "threshold"]),
        by_label=_by_label(prediction, cases),
        reliability=_reliability(cases, level),
        level=level,
        n_resamples=n_resamples,
        seed=seed,
        **plain,
    )
