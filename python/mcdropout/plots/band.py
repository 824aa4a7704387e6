"""The picture of a fitted curve with its intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..checks import check_length
from ..predictions.prediction import MCPrediction
from ..predictions.truth import check_prediction, true_values
from .style import BAND, INK, PANEL, PREDICTED, PicturePath, add_legend, finish, label_axes, make_panels, one_column

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def mc_band_table(prediction: MCPrediction, x: object, y: object = None) -> pd.DataFrame:
    """The numbers of `mc_plot_band()`: one row per output and input, the inputs in order of x.

    Columns: output (from 1), input (position from 0), x, mean, lower and upper (of the mean), pred_lower and
    pred_upper (of a new observation, where the model tells its noise), y (where it is given).
    """
    prediction = check_prediction(prediction)
    if prediction.task != "regression":
        raise ValueError("`prediction` must be of values to be drawn as a band; got one of classes.")
    where = one_column(x, "x")
    check_length(len(where), "x", len(prediction), "prediction")
    order = np.argsort(where, kind="stable")
    columns = {name: getattr(prediction, name) for name in ("mean", "lower", "upper", "pred_lower", "pred_upper")}
    if y is not None:
        columns["y"] = true_values(y, prediction)
    flat = {name: part.reshape(len(where), -1)[order] for name, part in columns.items() if part is not None}
    n_outputs = flat["mean"].shape[1]
    return pd.DataFrame(
        {
            "output": np.repeat(np.arange(1, n_outputs + 1), len(where)),
            "input": np.tile(order, n_outputs),
            "x": np.tile(where[order], n_outputs),
            **{name: part.T.ravel() for name, part in flat.items()},
        }
    )


def mc_plot_band(
    prediction: MCPrediction,
    x: object,
    y: object = None,
    *,
    x_label: str = "x",
    y_label: str = "value",
    path: PicturePath | None = None,
) -> Figure:
    """Predicted values along one input with their bands, and the data.

    The line is the mean; the dark band the interval of the mean over the draws at `prediction.level`, which widens
    where the network has seen nothing; the pale band that of a new observation, where the model tells its noise.
    x: one number per input. y: what was observed. x_label, y_label: with their units. One panel per output.
    `mc_band_table()` gives the numbers.
    """
    table = mc_band_table(prediction, x, y)
    n_outputs = int(table["output"].max())
    figure, panels = make_panels(1, n_outputs, size=(max(5.0 / n_outputs, PANEL[0]) * n_outputs, PANEL[1] + 0.3))
    level = f"{100 * prediction.level:g} %"
    for axes, (number, one) in zip(panels, table.groupby("output"), strict=True):
        if "pred_lower" in one:
            words = f"new observation, {level}"
            axes.fill_between(one["x"], one["pred_lower"], one["pred_upper"], color=BAND, linewidth=0, label=words)
        axes.fill_between(one["x"], one["lower"], one["upper"], color="#8FA9C0", linewidth=0, label=f"mean, {level}")
        axes.plot(one["x"], one["mean"], color=PREDICTED, linewidth=1.6, label="mean")
        if "y" in one:
            axes.plot(one["x"], one["y"], "o", color=INK, markersize=2.5, markeredgewidth=0, label="observed")
        label_axes(axes, x_label, y_label if n_outputs == 1 else f"{y_label}, output {number}")
    add_legend(panels[0])
    return finish(figure, path)
