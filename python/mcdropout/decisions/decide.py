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
    """One row per input: the label predicted, the tier, the reason in words, and the uncertainty by each measure.

    Raises ValueError for a prediction of other labels than those of the policy, at another temperature than the one it
    was learnt on, of values, or with NaN.
    """
    if not isinstance(policy, MCPolicy):
        raise TypeError(f'`policy` must be what `mc_triage()` returns; got "{type(policy).__name__}".')
    prediction = check_classes(prediction, "")
    check_labels(prediction, policy.labels, "the policy")
    check_calibration(prediction, policy.temperature, "the one that the policy was learnt on")
    uncertainties = np.stack([measured(prediction, one) for one in policy.measures], axis=1)  # (input, measure)
    places = tiers_of(uncertainties, policy.thresholds)
    columns = {
        "predicted": prediction.predicted,
        "tier": np.array(policy.tiers, dtype=object)[places],
        "reason": reasons(policy, uncertainties, places),
        **dict(zip(policy.measures, uncertainties.T, strict=True)),
    }
    return pd.DataFrame(columns, index=index_of(prediction))
