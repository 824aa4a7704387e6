"""`mc_apply()`: apply what was learnt to a new prediction."""

from __future__ import annotations

import pandas as pd

from ..predictions.prediction import MCPrediction
from .calibration import MCCalibration
from .conformal import MCConformal


def mc_apply(learnt: MCCalibration | MCConformal, prediction: MCPrediction) -> MCPrediction | pd.DataFrame:
    """Apply what was learnt on labelled inputs to a prediction of the same network.

    Of `mc_calibrate()`: the calibrated prediction. Of `mc_conformal()`: a table of sets or intervals, one row per
    input.

    Raises ValueError for a prediction of other labels, for one to be calibrated that is so already, and for sets learnt
    on a prediction at another temperature. Raises TypeError for anything else.
    """
    if not isinstance(learnt, (MCCalibration, MCConformal)):
        raise TypeError(
            f'`learnt` must be what `mc_calibrate()` or `mc_conformal()` returns; got "{type(learnt).__name__}".'
        )
    return learnt.apply(prediction)
