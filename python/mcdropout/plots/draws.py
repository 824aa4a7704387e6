"""The picture of the draws of single inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from ..predictions.prediction import Array, MCPrediction
from ..predictions.truth import check_prediction, labels_of
from ..predictions.uncertainty import measured
from .images import N_INPUTS, Positions, as_positions
from .names import distinct_names, input_names
from .style import GOLDEN, INK, OTHER, PANEL, PREDICTED, SMALL, PicturePath, finish, label_axes, make_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ROWS = 3  # labels of an input whose draws are shown


def mc_draws_table(prediction: MCPrediction, inputs: Positions | None = None) -> pd.DataFrame:
    """The draws that `mc_plot_draws()` shows: one row for each chosen input, label or output, and draw.

    Args:
        prediction: A prediction that holds its draws.
        inputs: Positions of the inputs that are drawn, from 0. By default the 12 most uncertain by predictive entropy,
            or by standard deviation for a prediction of values.

    Returns:
        A table with columns input (position, from 0), id (if the prediction has ids), label (of classes) or output
        (from 1), draw (from 1) and value (the label's probability, or the output in the unit of the values). Draws that
        were skipped because of `tolerance` are left out.

    Raises:
        ValueError: For a prediction without its draws.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(300, 4))
        >>> y = np.where(x[:, 0] > 0, "yes", "no")
        >>> net = mcd.mc_fit(
        ...     mcd.mc_mlp(4, ["no", "yes"], seed=1), x, y, epochs=5, learning_rate=0.02, seed=1, progress=False
        ... )
        >>> prediction = mcd.mc_predict(net, x, 20, seed=1, progress=False)
        >>> len(mcd.mc_draws_table(prediction, inputs=[0]))
        40
    """
    prediction = check_prediction(prediction)
    if prediction.samples is None:
        raise ValueError("`prediction` must hold its draws; predict with `keep_samples` set to true.")
    chosen = most_uncertain(prediction) if inputs is None else as_positions(inputs, len(prediction))
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


def mc_plot_draws(
    prediction: MCPrediction, *, inputs: Positions | None = None, path: PicturePath | None = None
) -> Figure:
    """Draw the posterior spread: what each draw of the network predicts for chosen inputs.

    Each dot is one draw; the line is the interval of the draws at `prediction.level`, the diamond their mean. Draws can
    form two separate groups, which a mean and an interval do not show. Classes have one panel for each input, with its
    three most probable labels. Values have one panel for each output. `mc_draws_table()` gives the numbers.

    Args:
        prediction: A prediction that holds its draws.
        inputs: Positions of the inputs that are drawn, from 0. By default the 12 most uncertain.
        path: Also write the picture to this file. The ending decides the format: .png, .pdf or .svg.

    Returns:
        The figure. It is not one of pyplot's: `figure.savefig()` writes it, and a notebook shows it after `%matplotlib
        inline`.

    Raises:
        ValueError: For a prediction without its draws, and for positions that do not exist.
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
        >>> figure = mcd.mc_plot_draws(prediction, inputs=[0, 1])
    """
    table = mc_draws_table(prediction, inputs).drop_duplicates()  # an input that is named twice is shown once
    chosen = table["input"].drop_duplicates().to_numpy()
    if prediction.task == "classification":
        return finish(_draws_of_classes(prediction, table, chosen), path)
    return finish(_draws_of_values(prediction, table, chosen), path)


def _draws_of_classes(prediction: MCPrediction, table: pd.DataFrame, chosen: Array) -> Figure:
    labels = np.array([str(label) for label in labels_of(prediction)], dtype=object)
    n_shown = min(MOST_ROWS, len(labels))
    columns = min(3, len(chosen))
    n_rows = math.ceil(len(chosen) / columns)
    height = (0.75 + 0.3 * n_shown) * n_rows + 0.3
    figure, panels = make_panels(n_rows, columns, size=(max(3.0, 2.8 * columns), height))
    for axes in panels[len(chosen) :]:
        axes.set_axis_off()
    by_input = dict(iter(table.groupby("input")))
    short = distinct_names(labels, 1.0)
    for axes, i, name in zip(panels, chosen, input_names(prediction, chosen, 1.0), strict=False):
        input_rows = by_input[i]
        top = np.argsort(-prediction.mean[i], kind="stable")[:n_shown]
        for row, k in enumerate(top):
            draws = input_rows.loc[input_rows["label"].astype(str) == labels[k], "value"].to_numpy()
            _draw_row(axes, row, draws, *(float(part[i, k]) for part in _means_and_bounds(prediction)))
        label_axes(axes, "", "", (-0.02, 1.02), (n_shown - 0.4, -0.6))
        row_names(axes, [short[k] for k in top])
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
    figure, panels = make_panels(1, n_outputs, size=(PANEL[0] * n_outputs, 1.0 + 0.3 * len(chosen)))
    parts = [part.reshape(len(prediction), -1) for part in _means_and_bounds(prediction)]
    names = input_names(prediction, chosen, 0.85)
    for number, axes in enumerate(panels):
        output_rows = table[table["output"] == number + 1]
        for row, i in enumerate(chosen):
            draws = output_rows.loc[output_rows["input"] == i, "value"].to_numpy()
            _draw_row(axes, row, draws, *(float(part[i, number]) for part in parts))
        words = "value" if n_outputs == 1 else f"value of output {number + 1}"
        label_axes(axes, f"{words} in each draw", "", None, (len(chosen) - 0.4, -0.6))
        row_names(axes, names)
    return figure


def _draw_row(axes: Axes, row: int, draws: Array, mean: float, lower: float, upper: float) -> None:
    """Draw the draws of one quantity as dots over their interval. Vertical offsets keep the dots apart."""
    offsets = (np.arange(len(draws)) * GOLDEN % 1 - 0.5) * 0.5
    size = 2.4 if len(draws) <= 100 else 1.4
    axes.plot([lower, upper], [row, row], "-", color=OTHER, linewidth=5, solid_capstyle="butt", zorder=1)
    axes.plot(draws, row + offsets, "o", color=PREDICTED, markersize=size, markeredgewidth=0, alpha=0.75, zorder=2)
    axes.plot([mean], [row], "D", color="white", markeredgecolor=INK, markersize=5, zorder=3, clip_on=False)


def row_names(axes: Axes, names: Sequence[str]) -> None:
    """Write the names of rows at the left axis."""
    axes.set_yticks(range(len(names)), names)
    for text in axes.get_yticklabels():
        text.set(parse_math=False)
    axes.grid(False, axis="y")


def _means_and_bounds(prediction: MCPrediction) -> tuple[Array, Array, Array]:
    return prediction.mean, prediction.lower, prediction.upper


def most_uncertain(prediction: MCPrediction) -> Array:
    """Positions of the most uncertain inputs, the most uncertain first, by entropy or standard deviation."""
    uncertainty = measured(prediction, "predictive_entropy" if prediction.task == "classification" else "std")
    return np.argsort(-uncertainty, kind="stable")[:N_INPUTS]
