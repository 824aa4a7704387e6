"""Pictures of scores, of data and of training, and the tables that they are drawn from. Needs no torch.

Made like those of `plots`: without pyplot, told apart in grey too, with the unit on each axis.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from .arrays import Label, as_label, as_label_set, as_labels
from .checks import check_choice, check_count, check_length, shown
from .measures import (
    check_labels,
    check_prediction,
    labels_of,
    measured,
    predicted_codes,
    true_codes,
    true_values,
    usual_measure,
)
from .plots import (
    FILE_DPI,
    INK,
    OTHER,
    PREDICTED,
    SMALL,
    Positions,
    Scale,
    as_image_rows,
    as_positions,
    check_matplotlib,
    check_picture_path,
    draw_picture,
    shortened,
)
from .prediction import Array, MCPrediction
from .scores import MCScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Path = str | os.PathLike[str]

PALE = "#DCE3EA"  # a band behind another
GRID = "#E0E0E0"
STYLES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 4)), (0, (8, 3)))  # lines told apart without colour
PANEL = (4.2, 3.2)  # width and height in inches
SIDE = 1.1  # of an image of the grid, in inches
N_GRID = 40  # images: rows of eight
SETTLED = 0.05  # coverage from which on the axis has room for the risk: of the first few inputs it may be anything
MOST_LABELS = 60  # that can be read below each other
UNITS = {
    "predictive_entropy": "predictive entropy (nats)",
    "expected_entropy": "expected entropy (nats)",
    "mutual_information": "mutual information (nats)",
    "variation_ratio": "variation ratio (share of the draws)",
    "least_confidence": "1 - confidence (probability)",
    "smallest_margin": "1 - margin (probability)",
    "std": "standard deviation",
    "total_std": "standard deviation with noise",
}
METRICS = {"loss": "loss", "accuracy": "accuracy (share right)", "rmse": "RMSE (unit of y)"}


# Scores ---------------------------------------------------------------------------------------------------


def mc_plot_reliability(scores: MCScores, *, binning: str = "equal_width", path: Path | None = None) -> Figure:
    """Reliability diagram: in each bin of confidence, how many of the predicted labels are right.

    On the diagonal, what is said to be 80 % sure is right in 80 % of the cases; below it the network is too sure. The
    whiskers are exact intervals at `scores.level`; the bars below count the inputs of each bin. binning:
    "equal_width", or "equal_mass" (as many inputs in each bin). `scores.reliability` has the numbers.

    Raises ValueError for scores of values. Reference: Guo et al. (2017), arXiv:1706.04599.
    """
    table = _scores(scores).reliability
    if table is None:
        raise ValueError("`scores` must be of classes to have a reliability diagram; got those of values.")
    bins = table.loc[table["binning"] == check_choice(binning, "binning", ("equal_width", "equal_mass"))]
    figure, (axes, below) = _panels(2, 1, heights=(3, 1), size=(PANEL[0], PANEL[1] + 0.9))
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
    _labelled(axes, "", "accuracy (share right)", (0, 1), (0, 1))
    widths = bins["to"].to_numpy() - bins["from"].to_numpy()
    below.bar(bins["from"], bins["n"], width=widths, align="edge", color=PREDICTED, edgecolor="white", linewidth=0.5)
    _labelled(below, "confidence (mean probability)", "inputs", (0, 1))
    return _finished(figure, path)


def mc_plot_risk_coverage(
    scores: MCScores, *, measures: str | Sequence[str] | None = None, path: Path | None = None
) -> Figure:
    """Risk-coverage curve: the error among the least doubtful inputs, by how many of them are taken.

    The further below the level of all inputs (right end), the better the doubt finds the errors. measures: which ones
    are drawn; by default the predictive entropy and the mutual information, for values all. For values the risk is
    the squared error. `scores.risk_coverage` has the numbers.

    Reference: Geifman and El-Yaniv (2017), arXiv:1705.08500.
    """
    table = _scores(scores).risk_coverage
    known = list(dict.fromkeys(table["measure"]))
    usual = [name for name in ("predictive_entropy", "mutual_information") if name in known] or known
    given = usual if measures is None else [measures] if isinstance(measures, str) else list(measures)
    if not given:
        raise ValueError("`measures` must name at least one measure; got none.")
    figure, (axes,) = _panels(1, 1)
    for place, name in enumerate(given):
        one = table[table["measure"] == check_choice(name, "measures", known)]
        color = PREDICTED if place == 0 else INK
        style = STYLES[place % len(STYLES)]
        axes.plot(
            one["coverage"], one["risk"], color=color, linestyle=style, linewidth=1.4, label=name.replace("_", " ")
        )
    risk = "error rate among them" if scores.task == "classification" else "mean squared error among them"
    top = table.loc[table["measure"].isin(given) & (table["coverage"] >= SETTLED), "risk"].max()
    _labelled(axes, "coverage (share of the inputs, least doubtful first)", risk, (0, 1), (0, 1.05 * top or 1))
    _legend(axes)
    return _finished(figure, path)


# Doubt ----------------------------------------------------------------------------------------------------


def mc_uncertainty_table(
    prediction: MCPrediction,
    y: object = None,
    prediction_out: MCPrediction | None = None,
    *,
    measure: str | None = None,
    n_bins: int = 30,
) -> pd.DataFrame:
    """The numbers of `mc_plot_uncertainty()`: one row per group and bin of the measure.

    Columns: measure, group ("right" and "wrong" with `y`, "in" and "out" with `prediction_out`, else "all"), from,
    to (a bin holds what is above `from` and up to `to`, the first one also its `from`), n, share (of the group).
    """
    prediction = check_prediction(prediction)
    measure = usual_measure(prediction) if measure is None else measure
    n_bins = check_count(n_bins, "n_bins")
    doubt = measured(prediction, measure)
    groups = {"all": doubt}
    if y is not None and prediction_out is not None:
        raise ValueError("`y` and `prediction_out` must not be given both: each alone makes two groups.")
    if y is not None:
        if prediction.task != "classification":
            raise ValueError("`y` must not be given with values, which are not right or wrong.")
        wrong = predicted_codes(prediction) != true_codes(y, prediction)
        groups = {"right": doubt[~wrong], "wrong": doubt[wrong]}
    if prediction_out is not None:
        outside = check_prediction(prediction_out, "prediction_out")
        if prediction.labels is not None:
            check_labels(outside, labels_of(prediction), "`prediction`", "prediction_out")
        groups = {"in": doubt, "out": measured(outside, measure, "prediction_out")}
    joined = np.concatenate(list(groups.values()))
    edges = np.histogram_bin_edges(joined, n_bins, (min(0.0, float(joined.min())), float(joined.max()) or 1.0))
    tables = []
    for name, values in groups.items():
        n = np.bincount(np.searchsorted(edges[1:-1], values, side="left"), minlength=n_bins)
        parts = {
            "measure": measure,
            "group": name,
            "from": edges[:-1],
            "to": edges[1:],
            "n": n,
            "share": n / max(len(values), 1),
        }
        tables.append(pd.DataFrame(parts))
    return pd.concat(tables, ignore_index=True)


def mc_plot_uncertainty(
    prediction: MCPrediction,
    y: object = None,
    prediction_out: MCPrediction | None = None,
    *,
    measure: str | None = None,
    n_bins: int = 30,
    path: Path | None = None,
) -> Figure:
    """Histograms of the doubt: of right and wrong predictions (`y`), or of inputs from inside and outside.

    Each group is drawn as shares of its own inputs, so that a small one can be compared with a large one; the less
    they overlap, the better the doubt tells them apart. measure: by default the predictive entropy, for values the
    standard deviation with the noise where the model tells it. `mc_uncertainty_table()` gives the numbers.
    """
    table = mc_uncertainty_table(prediction, y, prediction_out, measure=measure, n_bins=n_bins)
    figure, (axes,) = _panels(1, 1)
    for place, (name, one) in enumerate(table.groupby("group", sort=False)):
        edges = np.append(one["from"].to_numpy(), one["to"].iloc[-1])
        label = f"{name} ({one['n'].sum():,})"
        if place == 0:
            axes.stairs(one["share"], edges, fill=True, color=OTHER, label=label)
        else:
            axes.stairs(one["share"], edges, color=INK, linewidth=1.6, label=label)
    _labelled(axes, UNITS[str(table["measure"].iloc[0])], "share of the group")
    _legend(axes)
    return _finished(figure, path)


# Values ---------------------------------------------------------------------------------------------------


def mc_band_table(prediction: MCPrediction, x: object, y: object = None) -> pd.DataFrame:
    """The numbers of `mc_plot_band()`: one row per output and input, the inputs in order of x.

    Columns: output (from 1), input (position from 0), x, mean, lower and upper (of the mean), pred_lower and
    pred_upper (of a new observation, where the model tells its noise), y (where it is given).
    """
    prediction = check_prediction(prediction)
    if prediction.task != "regression":
        raise ValueError("`prediction` must be of values to be drawn as a band; got one of classes.")
    where = _one_column(x, "x")
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
    path: Path | None = None,
) -> Figure:
    """Predicted values along one input with their bands, and the data.

    The line is the mean; the dark band the interval of the mean over the draws at `prediction.level`, which widens
    where the network has seen nothing; the pale band that of a new observation, where the model tells its noise.
    x: one number per input. y: what was observed. x_label, y_label: with their units. One panel per output.
    `mc_band_table()` gives the numbers.
    """
    table = mc_band_table(prediction, x, y)
    n_outputs = int(table["output"].max())
    figure, panels = _panels(1, n_outputs, size=(max(5.0 / n_outputs, PANEL[0]) * n_outputs, PANEL[1] + 0.3))
    level = f"{100 * prediction.level:g} %"
    for axes, (number, one) in zip(panels, table.groupby("output"), strict=True):
        if "pred_lower" in one:
            words = f"new observation, {level}"
            axes.fill_between(one["x"], one["pred_lower"], one["pred_upper"], color=PALE, linewidth=0, label=words)
        axes.fill_between(one["x"], one["lower"], one["upper"], color="#8FA9C0", linewidth=0, label=f"mean, {level}")
        axes.plot(one["x"], one["mean"], color=PREDICTED, linewidth=1.6, label="mean")
        if "y" in one:
            axes.plot(one["x"], one["y"], "o", color=INK, markersize=2.5, markeredgewidth=0, label="observed")
        _labelled(axes, x_label, y_label if n_outputs == 1 else f"{y_label}, output {number}")
    _legend(panels[0])
    return _finished(figure, path)


# Data -----------------------------------------------------------------------------------------------------


def mc_balance_table(y: object, labels: Sequence[Label] | None = None) -> pd.DataFrame:
    """How many inputs each label has: columns label, n, share. labels: all there are; by default those of `y`."""
    codes, names = as_labels(y, None if labels is None else as_label_set(labels))
    n = np.bincount(codes, minlength=len(names))
    return pd.DataFrame({"label": [as_label(name) for name in names], "n": n, "share": n / n.sum()})


def mc_plot_balance(y: object, labels: Sequence[Label] | None = None, *, path: Path | None = None) -> Figure:
    """Class balance: how many inputs each label has. `mc_balance_table()` gives the numbers.

    Of more than 60 labels, the most frequent are drawn.
    """
    table = mc_balance_table(y, labels)
    drawn = table if len(table) <= MOST_LABELS else table.nlargest(MOST_LABELS, "n")
    check_matplotlib()
    names = [shortened(name) for name in drawn["label"]]
    figure, (axes,) = _panels(1, 1, size=(PANEL[0] + 0.8, 0.8 + 0.22 * len(drawn)))
    axes.barh(range(len(drawn)), drawn["n"], height=0.75, color=PREDICTED)
    for place, (n, share) in enumerate(zip(drawn["n"], drawn["share"], strict=True)):
        axes.text(n, place, f" {n:,} ({100 * share:.1f} %)", size=SMALL, color=INK, va="center_baseline")
    _labelled(axes, f"inputs, of {table['n'].sum():,}", "", (0, 1.35 * max(int(drawn["n"].max()), 1)))
    axes.set_yticks(range(len(drawn)), names)
    for text in axes.get_yticklabels():
        text.set(parse_math=False)
    axes.set_ylim(len(drawn) - 0.5, -0.5)
    axes.grid(False, axis="y")
    return _finished(figure, path)


def mc_plot_images(
    images: object, titles: object = None, *, inputs: Positions | None = None, path: Path | None = None
) -> Figure:
    """A grid of images, each with its number, and its title where there are any (its label, say).

    images: as for `mc_plot_probabilities()`. titles: one per image. inputs: positions, from 0, of those that are
    drawn; by default the first 40.
    """
    rows = as_image_rows(images)
    n = rows.shape[0]
    chosen = np.arange(min(n, N_GRID)) if inputs is None else as_positions(inputs, n)
    words = None if titles is None else [str(one) for one in np.asarray(titles).ravel().tolist()]
    if words is not None:
        check_length(len(words), "titles", n, "images")
    pixels = rows.take(chosen)
    pictures = Scale(float(pixels.min()), float(pixels.max())).applied(pixels)
    columns = min(8, len(chosen))
    n_rows = math.ceil(len(chosen) / columns)
    figure, panels = _panels(n_rows, columns, size=(columns * SIDE, n_rows * (SIDE + 0.3)))
    for axes in panels:
        axes.set_axis_off()
    for axes, number, picture in zip(panels, chosen, pictures, strict=False):
        draw_picture(axes, picture)
        title = str(number) if words is None else f"{number}: {shortened(words[number], SIDE - 0.2)}"
        axes.set_title(title, size=SMALL, color=INK, pad=2, loc="left", parse_math=False)
    return _finished(figure, path)


# Training -------------------------------------------------------------------------------------------------


def mc_plot_history(model: object, *, path: Path | None = None) -> Figure:
    """Training history: loss and metric, epoch by epoch, of the training inputs and of those kept for validation.

    model: what `mc_fit()` returned, or its `history`, which has the numbers.
    """
    history = model if isinstance(model, pd.DataFrame) else getattr(model, "history", None)
    if not isinstance(history, pd.DataFrame) or "loss" not in history or len(history) == 0:
        raise ValueError(f"`model` must be trained by `mc_fit()`; got {shown(type(model).__name__)} without a history.")
    known = [name for name in METRICS if name in history]
    check_matplotlib()
    from matplotlib.ticker import MaxNLocator

    figure, panels = _panels(1, len(known), size=(PANEL[0] * len(known), PANEL[1]))
    epochs = history["epoch"] if "epoch" in history else pd.Series(range(1, len(history) + 1))
    for axes, name in zip(panels, known, strict=True):
        axes.plot(epochs, history[name], "o-", color=PREDICTED, markersize=3, linewidth=1.3, label="training")
        if f"val_{name}" in history:
            axes.plot(epochs, history[f"val_{name}"], "s--", color=INK, markersize=3, linewidth=1.1, label="validation")
        _labelled(axes, "epoch", METRICS[name])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes)
    return _finished(figure, path)


# How it is drawn ------------------------------------------------------------------------------------------


def _panels(
    rows: int, columns: int, *, heights: Sequence[float] | None = None, size: tuple[float, float] = PANEL
) -> tuple[Figure, list[Axes]]:
    check_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    panels = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    return figure, list(panels.ravel())


def _labelled(
    axes: Axes, x_label: str, y_label: str, x: tuple[float, float] | None = None, y: tuple[float, float] | None = None
) -> None:
    axes.set_facecolor("white")
    axes.set_xlabel(x_label, size=SMALL + 1, color=INK, parse_math=False)
    axes.set_ylabel(y_label, size=SMALL + 1, color=INK, parse_math=False)
    axes.tick_params(labelsize=SMALL, color=INK, labelcolor=INK, length=2, direction="out")
    axes.grid(True, color=GRID, linewidth=0.6, linestyle="-")
    axes.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    if x is not None:
        axes.set_xlim(*x)
    if y is not None:
        axes.set_ylim(*y)


def _legend(axes: Axes) -> None:
    axes.legend(fontsize=SMALL, frameon=False, labelcolor=INK)


def _finished(figure: Figure, path: Path | None) -> Figure:
    if path is not None:
        check_picture_path(path, figure)
        figure.savefig(path, dpi=FILE_DPI)
    return figure


# What comes in --------------------------------------------------------------------------------------------


def _scores(scores: object) -> MCScores:
    if not isinstance(scores, MCScores):
        raise TypeError(f"`scores` must be what `mc_scores()` returns; got {shown(type(scores).__name__)}.")
    return scores


def _one_column(x: object, name: str) -> Array:
    try:
        values = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be one number per input; got {shown(type(x).__name__)}.") from error
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if values.ndim != 1 or not np.isfinite(values).all():
        got = f"shape {values.shape}" if values.ndim != 1 else "NaN or infinity"
        raise ValueError(f"`{name}` must be one finite number per input; got {got}.")
    return cast(Array, values)
