"""Pictures of scores: reliability, and risk by coverage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..checks import as_list, check_choice
from ..evaluation.result import MCScores
from .style import (
    INK,
    OTHER,
    PANEL,
    PREDICTED,
    STYLES,
    PicturePath,
    add_legend,
    check_scores,
    finish,
    label_axes,
    make_panels,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST_COVERAGE = 0.05  # the axis covers the risk from this coverage on: the risk of a few inputs varies at random


def mc_plot_reliability(scores: MCScores, *, binning: str = "equal_width", path: PicturePath | None = None) -> Figure:
    """Draw a reliability diagram: the share of right predicted labels in each bin of confidence.

    On the diagonal, predictions with 80 % confidence are right in 80 % of the cases. Below the diagonal the network is
    overconfident. The whiskers are exact intervals at `scores.level`. The bars below count the inputs of each bin.
    `scores.reliability` has the numbers.

    Args:
        scores: The result of `mc_scores()` for classes.
        binning: "equal_width", or "equal_mass" (the same number of inputs in each bin).
        path: Also write the picture to this file. The ending decides the format: .png, .pdf or .svg.

    Returns:
        The figure. It is not one of pyplot's: `figure.savefig()` writes it, and a notebook shows it after `%matplotlib
        inline`.

    Raises:
        ValueError: For scores of values.
        ImportError: Without matplotlib.

    References:
        Guo et al. (2017), arXiv:1706.04599.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(300, 4))
        >>> y = np.where(x[:, 0] > 0, "yes", "no")
        >>> net = mcd.mc_fit(
        ...     mcd.mc_mlp(4, ["no", "yes"], seed=1), x, y, epochs=5, learning_rate=0.02, seed=1, progress=False
        ... )
        >>> prediction = mcd.mc_predict(net, x, 20, seed=1, progress=False)
        >>> figure = mcd.mc_plot_reliability(mcd.mc_scores(prediction, y))
    """
    table = check_scores(scores).reliability
    if table is None:
        raise ValueError("`scores` must be of classes to have a reliability diagram; got those of values.")
    bins = table.loc[table["binning"] == check_choice(binning, "binning", ("equal_width", "equal_mass"))]
    figure, (axes, below) = make_panels(2, 1, heights=(3, 1), size=(PANEL[0], PANEL[1] + 0.9))
    axes.plot([0, 1], [0, 1], "--", color=OTHER, linewidth=1, zorder=1)
    axes.vlines(bins["confidence"], bins["lower"], bins["upper"], color=INK, linewidth=1, zorder=2)
    axes.plot(
        bins["confidence"],
        bins["accuracy"],
        "o-",
        color=PREDICTED,
        markersize=4,
        linewidth=1.2,
        zorder=3,
        clip_on=False,
    )
    label_axes(axes, "", "accuracy (share right)", (0, 1), (0, 1))
    widths = bins["to"].to_numpy() - bins["from"].to_numpy()
    below.bar(bins["from"], bins["n"], width=widths, align="edge", color=PREDICTED, edgecolor="white", linewidth=0.5)
    label_axes(below, "confidence (mean probability)", "inputs", (0, 1))
    return finish(figure, path)


def mc_plot_risk_coverage(
    scores: MCScores, *, measures: str | Sequence[str] | None = None, path: PicturePath | None = None
) -> Figure:
    """Draw a risk-coverage curve: the error among the least uncertain inputs, against their share of all inputs.

    The risk of all inputs is at the right end. The further the curve is below that risk, the better the uncertainty
    finds the errors. For values the risk is the squared error. `scores.risk_coverage` has the numbers.

    Args:
        scores: The result of `mc_scores()`.
        measures: The measures that are drawn. By default the predictive entropy and the mutual information; for values
            all measures.
        path: Also write the picture to this file. The ending decides the format: .png, .pdf or .svg.

    Returns:
        The figure. It is not one of pyplot's: `figure.savefig()` writes it, and a notebook shows it after `%matplotlib
        inline`.

    Raises:
        ValueError: For measures that the scores do not have.
        ImportError: Without matplotlib.

    References:
        Geifman and El-Yaniv (2017), arXiv:1705.08500.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(300, 4))
        >>> y = np.where(x[:, 0] > 0, "yes", "no")
        >>> net = mcd.mc_fit(
        ...     mcd.mc_mlp(4, ["no", "yes"], seed=1), x, y, epochs=5, learning_rate=0.02, seed=1, progress=False
        ... )
        >>> prediction = mcd.mc_predict(net, x, 20, seed=1, progress=False)
        >>> figure = mcd.mc_plot_risk_coverage(mcd.mc_scores(prediction, y))
    """
    table = check_scores(scores).risk_coverage
    known = list(dict.fromkeys(table["measure"]))
    usual = [name for name in ("predictive_entropy", "mutual_information") if name in known] or known
    names = usual if measures is None else as_list(measures)
    if not names:
        raise ValueError("`measures` must name at least one measure; got none.")
    figure, (axes,) = make_panels(1, 1)
    for place, name in enumerate(names):
        curve = table[table["measure"] == check_choice(name, "measures", known)]
        color = PREDICTED if place == 0 else INK
        style = STYLES[place % len(STYLES)]
        label = name.replace("_", " ")
        axes.plot(curve["coverage"], curve["risk"], color=color, linestyle=style, linewidth=1.4, label=label)
    risk = "error rate among them" if scores.task == "classification" else "mean squared error among them"
    top = table.loc[table["measure"].isin(names) & (table["coverage"] >= LEAST_COVERAGE), "risk"].max()
    label_axes(axes, "coverage (share of the inputs, least uncertain first)", risk, (0, 1), (0, 1.05 * top or 1))
    add_legend(axes)
    return finish(figure, path)
