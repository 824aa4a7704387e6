"""`mc_apply()`: apply a calibration or conformal limits to a prediction."""

from __future__ import annotations

from typing import overload

import pandas as pd

from ..predictions.prediction import MCPrediction
from .calibration import MCCalibration
from .conformal import MCConformal


@overload
def mc_apply(learnt: MCCalibration, prediction: MCPrediction) -> MCPrediction: ...


@overload
def mc_apply(learnt: MCConformal, prediction: MCPrediction) -> pd.DataFrame: ...


def mc_apply(learnt: MCCalibration | MCConformal, prediction: MCPrediction) -> MCPrediction | pd.DataFrame:
    """Apply what was learnt on labelled inputs to a prediction of the same network.

    Args:
        learnt: A result of `mc_calibrate()` or `mc_conformal()`.
        prediction: The prediction of new inputs.

    Returns:
        For a result of `mc_calibrate()`, the calibrated prediction. For a result of `mc_conformal()`, a table of sets
        or intervals with one row for each input.

    Raises:
        ValueError: If the prediction has other labels, if it is already calibrated and would be calibrated again, or if
            the sets were learnt at another temperature.
        TypeError: If `learnt` is anything else.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(300, 4))
        >>> y = np.where(x[:, 0] > 0, "yes", "no")
        >>> net = mcd.mc_fit(
        ...     mcd.mc_mlp(4, ["no", "yes"], seed=1), x, y, epochs=5, learning_rate=0.02, seed=1, progress=False
        ... )
        >>> prediction = mcd.mc_predict(net, x, 20, seed=1, progress=False)
        >>> mcd.mc_apply(mcd.mc_conformal(prediction, y), prediction).columns.tolist()[:2]
        ['size', 'in_no']
    """
    if not isinstance(learnt, (MCCalibration, MCConformal)):
        raise TypeError(
            f'`learnt` must be what `mc_calibrate()` or `mc_conformal()` returns; got "{type(learnt).__name__}".'
        )
    return learnt.apply(prediction)
