"""`mc_ood_scores()`: how well uncertainty separates inputs like the training inputs from other inputs."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..checks import check_count, check_number, check_seed
from ..predictions.prediction import Array, MCPrediction
from ..predictions.truth import check_calibration, check_labels, check_prediction, labels_of
from ..predictions.uncertainty import measured, measures_of
from .curves import TPR, UncertaintyCurve, auroc, average_precision
from .scores import percentiles


def mc_ood_scores(
    prediction_in: MCPrediction,
    prediction_out: MCPrediction,
    *,
    n_resamples: int = 0,
    level: float = 0.95,
    seed: int | None = None,
) -> pd.DataFrame:
    """Score how well each measure of uncertainty separates inputs like the training inputs (in) from others (out).

    Args:
        prediction_in: The prediction of inputs like the training inputs.
        prediction_out: The prediction of other inputs, by the same network.
        n_resamples: Number of bootstrap resamples of the inputs; 0 gives no intervals.
        level: The level of the intervals, in (0, 1).
        seed: Seed of the bootstrap.

    Returns:
        A table with one row for each measure. `auroc` is the probability that an input from outside is more uncertain
        than one from inside. `aupr_in` and `aupr_out` are the average precisions of finding the inputs from inside or
        from outside. `fpr_at_95` is the share of the inputs from outside that pass a threshold which 95 % of the inputs
        from inside pass; smaller is better. With `n_resamples` each score has its `_lower` and `_upper`.

    Raises:
        ValueError: If the predictions have different labels.

    References:
        Hendrycks and Gimpel (2017), arXiv:1610.02136. Liang, Li and Srikant (2018), arXiv:1706.02690 (FPR).

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(300, 4))
        >>> y = np.where(x[:, 0] > 0, "yes", "no")
        >>> net = mcd.mc_fit(
        ...     mcd.mc_mlp(4, ["no", "yes"], seed=1), x, y, epochs=5, learning_rate=0.02, seed=1, progress=False
        ... )
        >>> prediction = mcd.mc_predict(net, x, 20, seed=1, progress=False)
        >>> strange = mcd.mc_predict(net, 0 * x, 20, seed=1, progress=False)
        >>> "auroc" in mcd.mc_ood_scores(prediction, strange)
        True
    """
    inside, outside = (
        check_prediction(prediction_in, "prediction_in"),
        check_prediction(prediction_out, "prediction_out"),
    )
    if inside.task != outside.task:
        raise ValueError(
            "`prediction_out` must be of the same network as `prediction_in`; got one of classes and one of values."
        )
    if inside.labels is not None:
        check_labels(outside, labels_of(inside), "`prediction_in`", "prediction_out")
        check_calibration(outside, inside.temperature, "`prediction_in`", "prediction_out")
    n_resamples = check_count(n_resamples, "n_resamples", at_least=0)
    level = check_number(level, "level", above=0, below=1)
    rng = np.random.default_rng(check_seed(seed))
    rows = []
    for measure in (name for name in measures_of(inside) if name in measures_of(outside)):
        known = measured(inside, measure, "prediction_in")
        strange = measured(outside, measure, "prediction_out")
        row = {"measure": measure, **_ood_numbers(known, strange)}
        resampled = [
            _ood_numbers(rng.choice(known, len(known)), rng.choice(strange, len(strange))) for _ in range(n_resamples)
        ]
        for name in ("auroc", "aupr_in", "aupr_out", "fpr_at_95") if resampled else ():
            low, high = percentiles(np.array([numbers[name] for numbers in resampled]), level)
            row |= {f"{name}_lower": float(low), f"{name}_upper": float(high)}
        rows.append(row)
    return pd.DataFrame(rows)


def _ood_numbers(known: Array, strange: Array) -> dict[str, float]:
    """The scores of one measure, from its values inside and outside."""
    uncertainty = np.concatenate([known, strange])
    is_strange = np.repeat([0.0, 1.0], [len(known), len(strange)])
    curve = UncertaintyCurve.of(uncertainty, is_strange)
    reversed_curve = UncertaintyCurve.of(-uncertainty, 1 - is_strange)
    ordered = np.sort(known)
    threshold = ordered[int(np.ceil(TPR * len(known) - 1e-9)) - 1]
    return {
        "auroc": auroc(curve),
        "aupr_in": average_precision(reversed_curve),
        "aupr_out": average_precision(curve),
        "fpr_at_95": float((strange <= threshold).mean()),
    }
