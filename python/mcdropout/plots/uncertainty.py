"""Histograms of the uncertainty of groups of inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..checks import check_count
from ..predictions.prediction import MCPrediction
from ..predictions.truth import (
    check_calibration,
    check_labels,
    check_prediction,
    labels_of,
    predicted_codes,
    true_codes,
)
from ..predictions.uncertainty import label_of, measured, usual_measure
from .style import INK, OTHER, PicturePath, add_legend, finish, label_axes, make_panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def mc_uncertainty_table(
    prediction: MCPrediction,
    y: object = None,
    prediction_out: MCPrediction | None = None,
    *,
    measure: str | None = None,
    n_bins: int = 30,
) -> pd.DataFrame:
    """The numbers of `mc_plot_uncertainty()`: one row for each group and bin of the measure.

    Args:
        prediction: The result of `mc_predict()`.
        y: The true label of each input: the groups are right and wrong predictions.
        prediction_out: The prediction of other inputs: the groups are inputs inside and outside the training
            distribution.
        measure: A measure of uncertainty of `mc_scores()`. By default the predictive entropy; for values the standard
            deviation, with the noise if the model has it.
        n_bins: The number of bins of the histogram.

    Returns:
        A table with columns measure, group ("right" and "wrong" with `y`, "in" and "out" with `prediction_out`, else
        "all"), from, to, n and share (of the group). A bin counts values above `from` and up to `to`; the first bin
        also counts its `from`.

    Raises:
        ValueError: For both `y` and `prediction_out`, and for a measure that the prediction does not have.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(300, 4))
        >>> y = np.where(x[:, 0] > 0, "yes", "no")
        >>> net = mcd.mc_fit(
        ...     mcd.mc_mlp(4, ["no", "yes"], seed=1), x, y, epochs=5, learning_rate=0.02, seed=1, progress=False
        ... )
        >>> prediction = mcd.mc_predict(net, x, 20, seed=1, progress=False)
        >>> int(mcd.mc_uncertainty_table(prediction).n.sum())
        300
    """
    prediction = check_prediction(prediction)
    measure = usual_measure(prediction) if measure is None else measure
    n_bins = check_count(n_bins, "n_bins")
    uncertainty = measured(prediction, measure)
    groups = {"all": uncertainty}
    if y is not None and prediction_out is not None:
        raise ValueError("`y` and `prediction_out` must not both be given: each of them defines two groups.")
    if y is not None:
        if prediction.task != "classification":
            raise ValueError("`y` must not be given with values, which are not right or wrong.")
        wrong = predicted_codes(prediction) != true_codes(y, prediction)
        groups = {"right": uncertainty[~wrong], "wrong": uncertainty[wrong]}
    if prediction_out is not None:
        outside = check_prediction(prediction_out, "prediction_out")
        if prediction.labels is not None:
            check_labels(outside, labels_of(prediction), "`prediction`", "prediction_out")
            check_calibration(outside, prediction.temperature, "`prediction`", "prediction_out")
        groups = {"in": uncertainty, "out": measured(outside, measure, "prediction_out")}
    joined = np.concatenate(list(groups.values()))
    edges = np.histogram_bin_edges(joined, n_bins, (min(0.0, float(joined.min())), float(joined.max()) or 1.0))
    tables = []
    for name, values in groups.items():
        n = np.bincount(np.searchsorted(edges[1:-1], values, side="left"), minlength=n_bins)
        bins = {"from": edges[:-1], "to": edges[1:], "n": n, "share": n / max(len(values), 1)}
        tables.append(pd.DataFrame({"measure": measure, "group": name, **bins}))
    return pd.concat(tables, ignore_index=True)


def mc_plot_uncertainty(
    prediction: MCPrediction,
    y: object = None,
    prediction_out: MCPrediction | None = None,
    *,
    measure: str | None = None,
    n_bins: int = 30,
    path: PicturePath | None = None,
) -> Figure:
    """Draw histograms of the uncertainty: of right and wrong predictions, or of inputs inside and outside.

    The bars are shares of the inputs of a group, so groups of different size can be compared. The less the groups
    overlap, the better the uncertainty separates them. `mc_uncertainty_table()` gives the numbers.

    Args:
        prediction: The result of `mc_predict()`.
        y: The true label of each input: the groups are right and wrong predictions.
        prediction_out: The prediction of other inputs: the groups are inputs inside and outside the training
            distribution.
        measure: A measure of uncertainty of `mc_scores()`. By default the predictive entropy; for values the standard
            deviation, with the noise if the model has it.
        n_bins: The number of bins of the histogram.
        path: Also write the picture to this file. The ending decides the format: .png, .pdf or .svg.

    Returns:
        The figure. It is not one of pyplot's: `figure.savefig()` writes it, and a notebook shows it after `%matplotlib
        inline`.

    Raises:
        ValueError: For both `y` and `prediction_out`, and for a measure that the prediction does not have.
        ImportError: Without matplotlib.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(300, 4))
        >>> y = np.where(x[:, 0] > 0, "yes", "no")
        >>> net = mcd.mc_fit(
        ...     mcd.mc_mlp(4, ["no", "yes"], seed=1), x, y, epochs=5, learning_rate=0.02, seed=1, progress=False
        ... )
        >>> prediction = mcd.mc_predict(net, x, 20, seed=1, progress=False)
        >>> figure = mcd.mc_plot_uncertainty(prediction, y)
    """
    table = mc_uncertainty_table(prediction, y, prediction_out, measure=measure, n_bins=n_bins)
    figure, (axes,) = make_panels(1, 1)
    styles = {"fill": True, "color": OTHER}, {"color": INK, "linewidth": 1.6}
    for style, (name, group) in zip(styles, table.groupby("group", sort=False), strict=False):
        edges = np.append(group["from"].to_numpy(), group["to"].iloc[-1])
        axes.stairs(group["share"], edges, label=f"{name} ({group['n'].sum():,})", **style)
    label_axes(axes, label_of(str(table["measure"].iloc[0])), "share of the group")
    add_legend(axes)
    return finish(figure, path)
