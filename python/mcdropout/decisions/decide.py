"""`mc_decide()`: apply a policy to a prediction."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..predictions.prediction import MCPrediction, index_of
from ..predictions.truth import check_calibration, check_classes, check_labels
from ..predictions.uncertainty import measured
from .cases import tiers_of
from .policy import MCPolicy, reasons


def mc_decide(policy: MCPolicy, prediction: MCPrediction) -> pd.DataFrame:
    """Decide on each input by a policy, and say why.

    Args:
        policy: A result of `mc_triage()`.
        prediction: The prediction of new inputs.

    Returns:
        One row for each input: the predicted label, the tier, the reason in words, and the uncertainty by each measure.

    Raises:
        ValueError: If the prediction is of values, has other labels or another temperature than the one that the policy
            was learnt on, or contains NaN.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(300, 4))
        >>> y = np.where(x[:, 0] > 0, "yes", "no")
        >>> net = mcd.mc_fit(
        ...     mcd.mc_mlp(4, ["no", "yes"], seed=1), x, y, epochs=5, learning_rate=0.02, seed=1, progress=False
        ... )
        >>> prediction = mcd.mc_predict(net, x, 20, seed=1, progress=False)
        >>> policy = mcd.mc_triage(prediction, y, budget=0.2)
        >>> mcd.mc_decide(policy, prediction).columns.tolist()[:3]
        ['predicted', 'tier', 'reason']
    """
    if not isinstance(policy, MCPolicy):
        raise TypeError(f'`policy` must be what `mc_triage()` returns; got "{type(policy).__name__}".')
    prediction = check_classes(prediction, "")
    check_labels(prediction, policy.labels, "the policy")
    check_calibration(prediction, policy.temperature, "the one that the policy was learnt on")
    uncertainties = np.stack([measured(prediction, measure) for measure in policy.measures], axis=1)  # (input, measure)
    places = tiers_of(uncertainties, policy.thresholds)
    columns = {
        "predicted": prediction.predicted,
        "tier": np.array(policy.tiers, dtype=object)[places],
        "reason": reasons(policy, uncertainties, places),
        **dict(zip(policy.measures, uncertainties.T, strict=True)),
    }
    return pd.DataFrame(columns, index=index_of(prediction))
