"""`mc_scores()`: compare a prediction with the truth. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..checks import as_list, check_count, check_number, check_seed
from ..predictions.prediction import Array, MCPrediction
from ..predictions.truth import check_prediction, true_values
from .classes import ClassCases, class_scores
from .result import MCScores, Numbers
from .values import ValueCases, value_scores


def mc_scores(
    prediction: MCPrediction,
    y: object,
    *,
    n_bins: int = 15,
    coverages: float | Sequence[float] = (0.8, 0.9, 0.95),
    risks: float | Sequence[float] = (0.01, 0.05),
    n_resamples: int = 0,
    level: float = 0.95,
    seed: int | None = None,
) -> MCScores:
    """Score a prediction: its accuracy, its calibration, and how well its uncertainty finds its errors.

    `aurc` is the mean over k of the error rate among the k least uncertain inputs; for ties it is the mean over their
    orders. `excess_aurc` is the excess of `aurc` over the value of a measure that puts all errors last. For values the
    risk is the squared error (mean over the outputs). The log density and CRPS are of the mixture of all draws, so they
    need the draws.

    Args:
        prediction: A result of `mc_predict()`.
        y: The true label of each input, or the observed values.
        n_bins: Number of bins of the reliability diagrams. A bin contains values above its lower edge and up to its
            upper edge, so inputs with equal confidence are in the same bin.
        coverages: One share of the inputs or several, the least uncertain inputs first, for each of which the accuracy
            is computed. Equally uncertain inputs are treated as a group, so the accuracy is that of the smallest
            possible share of at least this size.
        risks: One error rate or several, for each of which the largest coverage is computed.
        n_resamples: Number of bootstrap resamples of the inputs; 0 gives no intervals.
        level: The level of the intervals, in (0, 1).
        seed: Seed of the bootstrap.

    Returns:
        The scores and their tables.

    Raises:
        ValueError: If `y` has another length or unknown labels, or if the prediction contains NaN.

    References:
        Guo et al. (2017), arXiv:1706.04599. Nixon et al. (2019), arXiv:1904.01685 (equal mass, classwise). Geifman,
        Uziel and El-Yaniv (2019), arXiv:1805.08206 (AURC). Gneiting and Raftery (2007), doi:10.1198/016214506000001437
        (CRPS, interval score). Grimit et al. (2006), doi:10.1256/qj.05.235 (CRPS of a mixture).

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(300, 4))
        >>> y = np.where(x[:, 0] > 0, "yes", "no")
        >>> net = mcd.mc_fit(
        ...     mcd.mc_mlp(4, ["no", "yes"], seed=1), x, y, epochs=5, learning_rate=0.02, seed=1, progress=False
        ... )
        >>> prediction = mcd.mc_predict(net, x, 20, seed=1, progress=False)
        >>> scores = mcd.mc_scores(prediction, y)
        >>> bool(scores.accuracy > 0.7)
        True
    """
    prediction = check_prediction(prediction)
    n_bins = check_count(n_bins, "n_bins")
    n_resamples = check_count(n_resamples, "n_resamples", at_least=0)
    level = check_number(level, "level", above=0, below=1)
    seed = check_seed(seed) if n_resamples or seed is not None else None
    shares = _shares(coverages, "coverages", above_zero=True)
    rates = _shares(risks, "risks")
    if prediction.task == "classification":
        cases = ClassCases.of(prediction, y, n_bins, shares, rates)
        table = _with_intervals(cases.numbers, len(prediction), n_resamples, level, seed)
        return class_scores(prediction, cases, table, level, n_resamples, seed)
    values = ValueCases.of(prediction, true_values(y, prediction))
    table = _with_intervals(values.numbers, len(prediction), n_resamples, level, seed)
    return value_scores(prediction, values, table, level, n_resamples, seed)


def _shares(values: Any, name: str, above_zero: bool = False) -> tuple[float, ...]:
    bounds: dict[str, Any] = {"at_most": 1} | ({"above": 0} if above_zero else {"at_least": 0})
    return tuple(check_number(share, name, **bounds) for share in as_list(values))


def _with_intervals(
    numbers: Callable[[Array | None], Numbers], n_inputs: int, n_resamples: int, level: float, seed: int | None
) -> pd.DataFrame:
    """All numbers as a table; with `n_resamples` also the percentile intervals of the bootstrap."""
    table = pd.DataFrame(numbers(None), columns=["score", "of", "at", "value"])
    if n_resamples == 0:
        return table
    rng = np.random.default_rng(seed)
    resampled = [[value for *_, value in numbers(rng.integers(0, n_inputs, n_inputs))] for _ in range(n_resamples)]
    table["lower"], table["upper"] = percentiles(np.array(resampled), level)
    return table


def percentiles(values: Array, level: float) -> Array:
    """Lower and upper percentile along the first axis, without NaN: resamples without errors have no AUROC."""
    is_missing = np.isnan(values).all(axis=0)
    filled = np.where(is_missing, 0, values)
    bounds = np.nanquantile(filled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.where(is_missing, np.nan, bounds)
