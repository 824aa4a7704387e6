"""The picture of a fitted curve with its intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..checks import check_length, check_text
from ..predictions.prediction import MCPrediction
from ..predictions.truth import check_prediction, true_values
from .style import BAND, INK, PANEL, PREDICTED, PicturePath, add_legend, finish, label_axes, make_panels, one_column

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def mc_band_table(prediction: MCPrediction, x: object, y: object = None) -> pd.DataFrame:
    """The numbers of `mc_plot_band()`: one row for each output and input, the inputs in order of `x`.

    Args:
        prediction: A prediction of values.
        x: One number for each input.
        y: The observed values.

    Returns:
        A table with columns output (from 1), input (position, from 0), x, mean, lower and upper (of the mean),
        pred_lower and pred_upper (of a new observation, if the model has noise) and y (if `y` is given).

    Raises:
        ValueError: For a prediction of classes, and for `x` or `y` of another length.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(60, 1))
        >>> net = mcd.mc_mlp(1, task="regression")
        >>> net = mcd.mc_fit(net, x, x[:, 0] ** 2, epochs=2, seed=1, progress=False)
        >>> prediction = mcd.mc_predict(net, x, 20, seed=1, progress=False)
        >>> len(mcd.mc_band_table(prediction, x[:, 0]))
        60
    """
    prediction = check_prediction(prediction)
    if prediction.task != "regression":
        raise ValueError("`prediction` must be of values to be drawn as a band; got one of classes.")
    positions = one_column(x, "x")
    check_length(len(positions), "x", len(prediction), "prediction")
    order = np.argsort(positions, kind="stable")
    columns = {name: getattr(prediction, name) for name in ("mean", "lower", "upper", "pred_lower", "pred_upper")}
    if y is not None:
        columns["y"] = true_values(y, prediction)
    flat = {name: values.reshape(len(positions), -1)[order] for name, values in columns.items() if values is not None}
    n_outputs = flat["mean"].shape[1]
    return pd.DataFrame(
        {
            "output": np.repeat(np.arange(1, n_outputs + 1), len(positions)),
            "input": np.tile(order, n_outputs),
            "x": np.tile(positions[order], n_outputs),
            **{name: values.T.ravel() for name, values in flat.items()},
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
    """Draw predicted values along one input with their bands, and the data.

    The line is the mean. The dark band is the interval of the mean over the draws at `prediction.level`; it is wider
    where there were no training data. The pale band is the interval of a new observation, if the model has noise. Each
    output has one panel. `mc_band_table()` gives the numbers.

    Args:
        prediction: A prediction of values.
        x: One number for each input.
        y: The observed values.
        x_label: The name of the horizontal axis, with its unit.
        y_label: The name of the vertical axis, with its unit.
        path: Also write the picture to this file. The ending decides the format: .png, .pdf or .svg.

    Returns:
        The figure. It is not one of pyplot's: `figure.savefig()` writes it, and a notebook shows it after `%matplotlib
        inline`.

    Raises:
        ValueError: For a prediction of classes, and for `x` or `y` of another length.
        ImportError: Without matplotlib.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(60, 1))
        >>> net = mcd.mc_mlp(1, task="regression")
        >>> net = mcd.mc_fit(net, x, x[:, 0] ** 2, epochs=2, seed=1, progress=False)
        >>> prediction = mcd.mc_predict(net, x, 20, seed=1, progress=False)
        >>> figure = mcd.mc_plot_band(prediction, x[:, 0], x[:, 0] ** 2)
    """
    check_text(x_label, "x_label")
    check_text(y_label, "y_label")
    table = mc_band_table(prediction, x, y)
    n_outputs = int(table["output"].max())
    figure, panels = make_panels(1, n_outputs, size=(max(5.0 / n_outputs, PANEL[0]) * n_outputs, PANEL[1] + 0.3))
    level = f"{100 * prediction.level:g} %"
    for axes, (number, rows) in zip(panels, table.groupby("output"), strict=True):
        if "pred_lower" in rows:
            words = f"new observation, {level}"
            axes.fill_between(rows["x"], rows["pred_lower"], rows["pred_upper"], color=BAND, linewidth=0, label=words)
        axes.fill_between(rows["x"], rows["lower"], rows["upper"], color="#8FA9C0", linewidth=0, label=f"mean, {level}")
        axes.plot(rows["x"], rows["mean"], color=PREDICTED, linewidth=1.6, label="mean")
        if "y" in rows:
            axes.plot(rows["x"], rows["y"], "o", color=INK, markersize=2.5, markeredgewidth=0, label="observed")
        label_axes(axes, x_label, y_label if n_outputs == 1 else f"{y_label}, output {number}")
    add_legend(panels[0])
    return finish(figure, path)
