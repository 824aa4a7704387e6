"""Scores of predicted values and their intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr

from ..predictions.prediction import Array, MCPrediction
from ..predictions.uncertainty import measured, measures_of
from .curves import UncertaintyCurve, aurc, best_aurc, thinned
from .result import MCScores, Numbers, wide

PIECE = 1 << 18  # numbers of the draws per piece


@dataclass(frozen=True)
class ValueCases:
    """The terms of the scores of a prediction of values, and the uncertainties of its inputs."""

    terms: dict[str, Array]  # by score, (input, output)
    intervals: dict[str, dict[str, Array]]  # by interval and score, (input, output)
    uncertainties: dict[str, Array]  # by measure, (input,)
    level: float
    pit: Array | None  # of the shape of the mean
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, prediction: MCPrediction, y: Array) -> ValueCases:
        error = (y - prediction.mean).reshape(len(y), -1)
        terms = {"rmse": error**2, "mae": np.abs(error)}
        pit, notes = None, []
        if prediction.samples is None:
            notes.append("Log density, CRPS and PIT need the draws: predict with `keep_samples` set to true.")
        else:
            parts = [_from_draws(piece, truth) for piece, truth in _pieces(prediction, y)]
            joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            pit = joined.pop("pit").reshape(y.shape)
            terms |= {name: value.reshape(len(y), -1) for name, value in joined.items()}
            if prediction.noise_variances is None:
                notes.append("The log density needs a network that estimates its noise.")
        bounds = {"conf_int": prediction.conf_int, "pred_int": prediction.pred_int}
        intervals = {
            name: _interval_terms(pair.reshape(len(y), -1, 2), y.reshape(len(y), -1), prediction.level)
            for name, pair in bounds.items()
            if pair is not None
        }
        uncertainties = {name: measured(prediction, name) for name in measures_of(prediction)}
        return cls(terms, intervals, uncertainties, prediction.level, pit, tuple(notes))

    def curves(self, chosen: Array | slice = slice(None)) -> dict[str, UncertaintyCurve]:
        loss = self.terms["rmse"][chosen].mean(axis=1)
        return {
            name: UncertaintyCurve.of(uncertainty[chosen], loss) for name, uncertainty in self.uncertainties.items()
        }

    def numbers(self, chosen: Array | None = None) -> Numbers:
        """Every score, of all inputs or of the chosen ones."""
        where = slice(None) if chosen is None else chosen
        scores: Numbers = []
        for name, term in self.terms.items():
            means = term[where].mean(axis=0)
            means = np.sqrt(means) if name == "rmse" else means
            scores += [(name, str(place), np.nan, float(value)) for place, value in enumerate(means, start=1)]
        for kind, parts in self.intervals.items():
            for name, term in parts.items():
                means = term[where].mean(axis=0)
                score = f"{kind}_{name}"
                scores += [(score, str(place), self.level, float(value)) for place, value in enumerate(means, start=1)]
        best = best_aurc(self.terms["rmse"][where].mean(axis=1))
        for name, curve in self.curves(where).items():
            area = aurc(curve)
            scores += [("aurc", name, np.nan, area), ("excess_aurc", name, np.nan, area - best)]
        return scores


def _pieces(prediction: MCPrediction, y: Array) -> Iterator[tuple[MCPrediction, Array]]:
    """The prediction and the observed values, piece by piece."""
    assert prediction.samples is not None
    step = max(PIECE // prediction.samples[:, :1].size, 1)
    for start in range(0, len(y), step):
        yield prediction[start : start + step], y[start : start + step]


def _from_draws(prediction: MCPrediction, y: Array) -> dict[str, Array]:
    """The terms that need all draws, of the shape of y."""
    assert prediction.samples is not None
    draws = prediction.samples.astype(np.float64)
    counts = (~np.isnan(draws)).sum(axis=0)  # with `tolerance`, the number of draws differs between inputs
    if prediction.noise_variances is None:
        below = np.nansum((draws < y) + (draws == y) / 2, axis=0)
        return {"crps": _crps_of_draws(draws, y, counts), "pit": below / counts}
    scales = np.sqrt(prediction.noise_variances.astype(np.float64))
    return {
        "log_density": prediction.log_density(y),
        "crps": _crps_of_mixture(draws, scales, y, counts),
        "pit": np.nansum(ndtr((y - draws) / scales), axis=0) / counts,
    }


def _crps_of_draws(draws: Array, y: Array, counts: Array) -> Array:
    """CRPS of the draws: E|x - y| - E|x - x'| / 2, where the second term follows from order statistics."""
    ordered = np.sort(draws, axis=0)  # NaN at the end
    place = np.arange(1, len(draws) + 1).reshape(-1, *(1,) * y.ndim)
    between = np.nansum((2 * place - counts - 1) * ordered, axis=0) / counts**2
    return np.nansum(np.abs(draws - y), axis=0) / counts - between


def _crps_of_mixture(means: Array, scales: Array, y: Array, counts: Array) -> Array:
    """CRPS of an equal mixture of normal distributions, in closed form."""
    to_observed = np.nansum(_mean_distance(y - means, scales), axis=0) / counts
    between = np.nansum(_mean_distance(0 * means, np.sqrt(2) * scales), axis=0)  # each component with itself
    for draw in range(len(means) - 1):
        scale = np.sqrt(scales[draw] ** 2 + scales[draw + 1 :] ** 2)
        between += 2 * np.nansum(_mean_distance(means[draw] - means[draw + 1 :], scale), axis=0)
    return to_observed - between / (2 * counts**2)


def _mean_distance(mean: Array, scale: Array) -> Array:
    """E|z| for a normal z with this mean and scale."""
    ratio = mean / scale
    return mean * (2 * ndtr(ratio) - 1) + scale * np.sqrt(2 / np.pi) * np.exp(-0.5 * ratio**2)


def _interval_terms(bounds: Array, y: Array, level: float) -> dict[str, Array]:
    """Coverage, width and interval score of each interval, (input, output)."""
    lower, upper = bounds[..., 0], bounds[..., 1]
    outside = np.maximum(lower - y, 0) + np.maximum(y - upper, 0)
    return {
        "coverage": ((lower <= y) & (y <= upper)).astype(np.float64),
        "width": upper - lower,
        "interval_score": upper - lower + 2 / (1 - level) * outside,
    }


def value_scores(
    prediction: MCPrediction, values: ValueCases, table: pd.DataFrame, level: float, n_resamples: int, seed: int | None
) -> MCScores:
    """All scores of predicted values."""
    outputs: dict[str, Any] = {name: table.loc[table["score"] == name, "value"].to_numpy() for name in values.terms}
    rows = []
    for kind, parts in values.intervals.items():
        means = {name: term.mean(axis=0) for name, term in parts.items()}
        n_outputs = len(means["width"])
        rows.append(pd.DataFrame({"interval": kind, "output": range(1, n_outputs + 1), "level": values.level, **means}))
    return MCScores(
        task="regression",
        n_inputs=len(prediction),
        table=table,
        by_measure=wide(table, ("aurc", "excess_aurc")),
        risk_coverage=pd.concat([thinned(curve, name) for name, curve in values.curves().items()], ignore_index=True),
        by_interval=pd.concat(rows, ignore_index=True),
        pit=values.pit,
        notes=values.notes,
        level=level,
        n_resamples=n_resamples,
        seed=seed,
        **outputs,
    )
