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
    check_calibration,
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
    N_INPUTS,
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
    input_names,
    told_apart,
)
from .prediction import Array, MCPrediction
from .scores import MCScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch.nn import Module

Path = str | os.PathLike[str]

PALE = "#DCE3EA"  # a band behind another
GRID = "#E0E0E0"
STYLES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 4)), (0, (8, 3)))  # lines told apart without colour
PANEL = (4.2, 3.2)  # width and height in inches
SIDE = 1.1  # of an image of the grid, in inches
N_GRID = 40  # images: rows of eight
SETTLED = 0.05  # coverage from which on the axis has room for the risk: of the first few inputs it may be anything
MOST_ROWS = 3  # labels of an input whose draws are shown
GOLDEN = 0.618034  # its multiples lie far from each other on (0, 1)
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
            check_calibration(outside, prediction.temperature, "`prediction`", "prediction_out")
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


# Posterior ------------------------------------------------------------------------------------------------


def mc_draws_table(prediction: MCPrediction, inputs: Positions | None = None) -> pd.DataFrame:
    """The draws that `mc_plot_draws()` shows: one row per chosen input, label or output, and draw.

    Columns: input (position from 0), id (where the prediction has ids), label (of classes) or output (from 1), draw
    (from 1), value (the label's probability, or the output in the unit of the values). inputs: positions; by default
    the 12 most doubtful, by predictive entropy or standard deviation. Draws that `tolerance` has saved are left out.
    Raises ValueError for a prediction that does not hold its draws.
    """
    prediction = check_prediction(prediction)
    if prediction.samples is None:
        raise ValueError("`prediction` must hold its draws; predict with `keep_samples` set to true.")
    chosen = _most_doubtful(prediction) if inputs is None else as_positions(inputs, len(prediction))
    values = prediction.samples[:, chosen].reshape(len(prediction.samples), len(chosen), -1)
    values = values.transpose(1, 2, 0).astype(np.float64)  # (input, output, draw)
    n, n_outputs, n_draws = values.shape
    columns: dict[str, object] = {"input": np.repeat(chosen, n_outputs * n_draws)}
    if prediction.ids is not None:
        columns["id"] = np.repeat(prediction.ids[chosen], n_outputs * n_draws)
    if prediction.task == "classification":
        columns["label"] = [label for label in labels_of(prediction) for _ in range(n_draws)] * n
    else:
        columns["output"] = np.tile(np.repeat(np.arange(1, n_outputs + 1), n_draws), n)
    columns |= {"draw": np.tile(np.arange(1, n_draws + 1), n * n_outputs), "value": values.ravel()}
    table = pd.DataFrame(columns)
    return table.dropna(subset=["value"]).reset_index(drop=True)


def mc_plot_draws(prediction: MCPrediction, *, inputs: Positions | None = None, path: Path | None = None) -> Figure:
    """Posterior spread: what each draw of the network predicts for chosen inputs.

    Each dot is one draw; the line is their interval at `prediction.level`, the diamond their mean. Draws in two clumps
    are two opinions that a mean and an interval would hide. For classes one panel per input, with its three most
    probable labels; for values one panel per output. inputs: positions, from 0; by default the 12 most doubtful.
    `mc_draws_table()` gives the numbers.
    """
    table = mc_draws_table(prediction, inputs).drop_duplicates()  # an input asked for twice is shown once
    chosen = table["input"].drop_duplicates().to_numpy()
    if prediction.task == "classification":
        return _finished(_draws_of_classes(prediction, table, chosen), path)
    return _finished(_draws_of_values(prediction, table, chosen), path)


def _draws_of_classes(prediction: MCPrediction, table: pd.DataFrame, chosen: Array) -> Figure:
    labels = np.array([str(label) for label in labels_of(prediction)], dtype=object)
    n_shown = min(MOST_ROWS, len(labels))
    columns = min(3, len(chosen))
    n_rows = math.ceil(len(chosen) / columns)
    height = (0.75 + 0.3 * n_shown) * n_rows + 0.3
    figure, panels = _panels(n_rows, columns, size=(max(3.0, 2.8 * columns), height))
    for axes in panels[len(chosen) :]:
        axes.set_axis_off()
    by_input = dict(iter(table.groupby("input")))
    short = told_apart(labels, 1.0)
    for axes, i, name in zip(panels, chosen, input_names(prediction, chosen, 1.0), strict=False):
        one = by_input[i]
        top = np.argsort(-prediction.mean[i], kind="stable")[:n_shown]
        for row, k in enumerate(top):
            draws = one.loc[one["label"].astype(str) == labels[k], "value"].to_numpy()
            _draw_row(axes, row, draws, *(float(part[i, k]) for part in _means_and_bounds(prediction)))
        _labelled(axes, "", "", (-0.02, 1.02), (n_shown - 0.4, -0.6))
        _row_names(axes, [short[k] for k in top])
        entropy, mutual = (
            float(cast(Array, part)[i]) for part in (prediction.predictive_entropy, prediction.mutual_information)
        )
        title = f"{name}: entropy {entropy:.2f} nats,\n{mutual:.2f} of it epistemic"
        axes.set_title(title, size=SMALL, color=INK, loc="left", parse_math=False)
    words = f"probability in each draw (dots), their mean (diamond) and {100 * prediction.level:g} % interval (line)"
    figure.supxlabel(words, size=SMALL + 1, color=INK)
    return figure


def _draws_of_values(prediction: MCPrediction, table: pd.DataFrame, chosen: Array) -> Figure:
    n_outputs = int(table["output"].max())
    figure, panels = _panels(1, n_outputs, size=(PANEL[0] * n_outputs, 1.0 + 0.3 * len(chosen)))
    parts = [part.reshape(len(prediction), -1) for part in _means_and_bounds(prediction)]
    names = input_names(prediction, chosen, 0.85)
    for number, axes in enumerate(panels):
        own = table[table["output"] == number + 1]
        for row, i in enumerate(chosen):
            draws = own.loc[own["input"] == i, "value"].to_numpy()
            _draw_row(axes, row, draws, *(float(part[i, number]) for part in parts))
        words = "value" if n_outputs == 1 else f"value of output {number + 1}"
        _labelled(axes, f"{words} in each draw", "", None, (len(chosen) - 0.4, -0.6))
        _row_names(axes, names)
    return figure


def _draw_row(axes: Axes, row: int, draws: Array, mean: float, lower: float, upper: float) -> None:
    """The draws of one quantity as dots, beside each other so that few hide another, over their interval."""
    asides = (np.arange(len(draws)) * GOLDEN % 1 - 0.5) * 0.5
    size = 2.4 if len(draws) <= 100 else 1.4
    axes.plot([lower, upper], [row, row], "-", color=OTHER, linewidth=5, solid_capstyle="butt", zorder=1)
    axes.plot(draws, row + asides, "o", color=PREDICTED, markersize=size, markeredgewidth=0, alpha=0.75, zorder=2)
    axes.plot([mean], [row], "D", color="white", markeredgecolor=INK, markersize=5, zorder=3, clip_on=False)


def _row_names(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    for text in axes.get_yticklabels():
        text.set(parse_math=False)
    axes.grid(False, axis="y")


def _means_and_bounds(prediction: MCPrediction) -> tuple[Array, Array, Array]:
    return prediction.mean, prediction.lower, prediction.upper


def _most_doubtful(prediction: MCPrediction) -> Array:
    """Positions of the inputs of the highest entropy or deviation over the draws, that first."""
    doubt = measured(prediction, "predictive_entropy" if prediction.task == "classification" else "std")
    return np.argsort(-doubt, kind="stable")[:N_INPUTS]


def mc_plot_posterior(model: object, *, n_weights: int = 8, level: float = 0.95, path: Path | None = None) -> Figure:
    """Posterior spread of the weights of a Bayesian network.

    On the left, for each variational layer, how large the posterior standard deviations of its weights are: the dot is
    the median, the thick line holds the middle half of the weights, the thin one 90 % of them, and the upright stroke
    is the standard deviation of the prior, where the data have taught nothing; on a logarithmic scale. On the right
    the `n_weights` weights of each layer that are most surely not zero: the dot is the mean, the line the middle
    `level` of the posterior. `mc_posterior_table()` and `mc_weights_table()` give the numbers.
    Raises ValueError for a network without variational layers.
    """
    from .bayes_models import mc_posterior_table, mc_weights_table

    layers = mc_posterior_table(cast("Module", model))
    weights = mc_weights_table(cast("Module", model), n_weights=n_weights, level=level)
    n_rows = len(weights) + len(layers)  # a line between the layers
    check_matplotlib()
    figure, (left, right) = _panels(1, 2, size=(8.6, max(2.6, 0.9 + 0.16 * n_rows)))
    rows = np.arange(len(layers))
    for width, low, high in ((1.2, "std_5", "std_95"), (5.0, "std_25", "std_75")):
        left.hlines(rows, layers[low], layers[high], color=PREDICTED, linewidth=width, zorder=2)
    left.plot(layers["std_50"], rows, "o", color="white", markeredgecolor=INK, markersize=5, zorder=3)
    left.plot(layers["prior_std"].where(np.isfinite(layers["prior_std"])), rows, "|", color=INK, markersize=14)
    left.set_xscale("log")
    label = "posterior standard deviation of the weights\n(stroke: of the prior)"
    _labelled(left, label, "", None, (len(layers) - 0.5, -0.5))
    _plain_decades(left)
    _row_names(left, told_apart(layers["layer"], 1.4))
    places = np.arange(len(weights)) + pd.factorize(weights["layer"])[0]
    right.axvline(0, color=OTHER, linewidth=1, zorder=1)
    right.hlines(places, weights["lower"], weights["upper"], color=PREDICTED, linewidth=1.4, zorder=2)
    right.plot(weights["mean"], places, "o", color=INK, markersize=3, zorder=3)
    _labelled(right, f"weight: mean and {100 * level:g} % of its posterior", "", None, (n_rows - 1.5, -0.8))
    short = dict(zip(layers["layer"], told_apart(layers["layer"], 1.0), strict=True))
    names = [f"{short[layer]} {name}" for layer, name in zip(weights["layer"], weights["weight"], strict=True)]
    right.set_yticks(places, names)
    right.tick_params(axis="y", labelsize=SMALL - 2)
    right.grid(False, axis="y")
    return _finished(figure, path)


def _plain_decades(axes: Axes) -> None:
    """Numbers as they are written, on a logarithmic axis that may span less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


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
    names = told_apart(drawn["label"])
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
    short: dict[str, str] = {}
    if words is not None:
        check_length(len(words), "titles", n, "images")
        titled = dict.fromkeys(words[i] for i in chosen)
        short = dict(zip(titled, told_apart(titled, SIDE - 0.2), strict=True))
    pixels = rows.take(chosen)
    pictures = Scale(float(pixels.min()), float(pixels.max())).applied(pixels)
    columns = min(8, len(chosen))
    n_rows = math.ceil(len(chosen) / columns)
    figure, panels = _panels(n_rows, columns, size=(columns * SIDE, n_rows * (SIDE + 0.3)))
    for axes in panels:
        axes.set_axis_off()
    for axes, number, picture in zip(panels, chosen, pictures, strict=False):
        draw_picture(axes, picture)
        title = str(number) if words is None else f"{number}: {short[words[number]]}"
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
