"""The picture of posteriors of weights beside their priors."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from .draws import row_names
from .names import distinct_names
from .style import INK, OTHER, PREDICTED, SMALL, PicturePath, check_matplotlib, finish, label_axes, make_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch.nn import Module


def mc_plot_posterior(
    model: object, *, n_weights: int = 8, level: float = 0.95, path: PicturePath | None = None
) -> Figure:
    """Draw the posterior spread of the weights of a Bayesian network.

    The left panel shows the posterior standard deviations of the weights of each Bayesian layer, on a logarithmic
    scale. The dot is the median; the thick line contains the middle half of the weights, the thin line 90 % of them.
    The vertical stroke is the standard deviation of the prior, which weights keep that the data do not determine. The
    right panel shows the `n_weights` weights of each layer that are most certainly not zero: the dot is the mean, the
    line the middle `level` of the posterior. `mc_posterior_table()` and `mc_weights_table()` give the numbers.

    Args:
        model: A network with Bayesian layers.
        n_weights: The number of weights of each layer in the right panel.
        level: The level of the intervals of the weights, in (0, 1).
        path: Also write the picture to this file. The ending decides the format: .png, .pdf or .svg.

    Returns:
        The figure. It is not one of pyplot's: `figure.savefig()` writes it, and a notebook shows it after `%matplotlib
        inline`.

    Raises:
        ValueError: For a network without Bayesian layers.
        ImportError: Without matplotlib.

    Examples:
        >>> import mcdropout as mcd
        >>> net = mcd.mc_bayes_mlp(3, ["no", "yes"], hidden=(4,))
        >>> figure = mcd.mc_plot_posterior(net)
    """
    from ..networks.weights import mc_posterior_table, mc_weights_table

    layers = mc_posterior_table(cast("Module", model))
    weights = mc_weights_table(cast("Module", model), n_weights=n_weights, level=level)
    n_rows = len(weights) + len(layers)  # an empty row between layers
    check_matplotlib()
    figure, (left, right) = make_panels(1, 2, size=(8.6, max(2.6, 0.9 + 0.16 * n_rows)))
    rows = np.arange(len(layers))
    for width, low, high in ((1.2, "std_5", "std_95"), (5.0, "std_25", "std_75")):
        left.hlines(rows, layers[low], layers[high], color=PREDICTED, linewidth=width, zorder=2)
    left.plot(layers["std_50"], rows, "o", color="white", markeredgecolor=INK, markersize=5, zorder=3)
    left.plot(layers["prior_std"].where(np.isfinite(layers["prior_std"])), rows, "|", color=INK, markersize=14)
    left.set_xscale("log")
    label = "posterior standard deviation of the weights\n(stroke: of the prior)"
    label_axes(left, label, "", None, (len(layers) - 0.5, -0.5))
    _plain_decades(left)
    row_names(left, distinct_names(layers["layer"], 1.4))
    places = np.arange(len(weights)) + pd.factorize(weights["layer"])[0]
    right.axvline(0, color=OTHER, linewidth=1, zorder=1)
    right.hlines(places, weights["lower"], weights["upper"], color=PREDICTED, linewidth=1.4, zorder=2)
    right.plot(weights["mean"], places, "o", color=INK, markersize=3, zorder=3)
    label_axes(right, f"weight: mean and {100 * level:g} % of its posterior", "", None, (n_rows - 1.5, -0.8))
    short = dict(zip(layers["layer"], distinct_names(layers["layer"], 1.0), strict=True))
    names = [f"{short[layer]} {name}" for layer, name in zip(weights["layer"], weights["weight"], strict=True)]
    right.set_yticks(places, names)
    right.tick_params(axis="y", labelsize=SMALL - 2)
    right.grid(False, axis="y")
    return finish(figure, path)


def _plain_decades(axes: Axes) -> None:
    """Write plain numbers on a logarithmic axis, which may span less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
