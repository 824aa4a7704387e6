"""The picture of class probabilities, one panel for each input."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from ..checks import check_length, shown
from ..data.labels import Label, as_labels
from ..predictions.prediction import MCPrediction
from ..predictions.truth import check_prediction
from .images import N_INPUTS, Positions, as_pictures, as_positions, draw_picture
from .names import ID_WIDTH, distinct_names, input_names, text_width
from .style import BIG, INK, LETTERS, OTHER, PREDICTED, SMALL, PicturePath, check_matplotlib, finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BARS = 10  # a reader cannot compare more labels at a glance

LEAST_SECOND = 0.05  # the headline names the second label from this probability on

# In inches.
PANEL_WIDTH, PANEL_GAP = 3.6, 0.22

LINE = 0.155  # height of a line of text

TITLE = 3 * LINE + 0.1

PICTURE = 1.25  # side of the square that holds an image

BAR, HIGHEST_BAR = 0.15, 0.25  # least and greatest distance from one bar to the next

GAP = 0.08

TICKS = 0.3

DIAMOND = 1.06  # position of the mark of the true label on the axis of probability, to the right of 1


def mc_probabilities_table(prediction: MCPrediction, inputs: Positions | None = None) -> pd.DataFrame:
    """The numbers of `mc_plot_probabilities()`: one row for each chosen input and label.

    Args:
        prediction: A prediction of classes.
        inputs: Positions of the inputs that are drawn, from 0. By default the 12 with the highest predictive entropy,
            the highest first.

    Returns:
        A table with columns input (position in the prediction, from 0), id (if the prediction has ids), label, mean,
        lower and upper (of the class probability, over the draws at `prediction.level`).

    Raises:
        ValueError: For a prediction of values, and for positions that do not exist.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(300, 4))
        >>> y = np.where(x[:, 0] > 0, "yes", "no")
        >>> net = mcd.mc_fit(
        ...     mcd.mc_mlp(4, ["no", "yes"], seed=1), x, y, epochs=5, learning_rate=0.02, seed=1, progress=False
        ... )
        >>> prediction = mcd.mc_predict(net, x, 20, seed=1, progress=False)
        >>> len(mcd.mc_probabilities_table(prediction, inputs=[0, 1]))
        4
    """
    prediction = _checked(prediction)
    chosen = _most_uncertain(prediction) if inputs is None else as_positions(inputs, len(prediction))
    labels = _labels(prediction)
    columns: dict[str, Any] = {"input": np.repeat(chosen, len(labels))}
    if prediction.ids is not None:
        columns["id"] = np.repeat(prediction.ids[chosen], len(labels))
    columns["label"] = list(labels) * len(chosen)
    for name in ("mean", "lower", "upper"):
        columns[name] = getattr(prediction, name)[chosen].ravel()
    return pd.DataFrame(columns)


def mc_plot_probabilities(
    prediction: MCPrediction,
    images: object = None,
    *,
    inputs: Positions | None = None,
    truth: object = None,
    path: PicturePath | None = None,
) -> Figure:
    """Draw class probabilities as bars with their intervals, beside the images.

    Each input has one panel. A bar is the mean probability of a label, its whiskers are the interval of the draws. The
    lines above the bars give the predicted label, and the entropy with its aleatoric and epistemic part, in nats. Of
    more than ten labels, the ten most probable are drawn. `mc_probabilities_table()` gives the numbers.

    Args:
        prediction: A prediction of classes.
        images: All images that were predicted: (input, height, width) or (input, height, width, channel), grey, RGB or
            RGBA; or image files. Pixels outside [0, 1] are scaled to it.
        inputs: Positions of the inputs that are drawn, from 0. By default the 12 with the highest predictive entropy,
            the highest first.
        truth: The true label of every input, marked by a diamond.
        path: Also write the picture to this file. The ending decides the format: .png, .pdf or .svg.

    Returns:
        The figure. It is not one of pyplot's: `figure.savefig()` writes it, and a notebook shows it after `%matplotlib
        inline`.

    Raises:
        ValueError: For a prediction of values, for images or truth of another length, and for positions that do not
            exist.
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
        >>> figure = mcd.mc_plot_probabilities(prediction, inputs=[0, 1], truth=y, path="bars.png")
    """
    table = mc_probabilities_table(prediction, inputs)
    n_labels = len(_labels(prediction))
    numbers = [table.iloc[start : start + n_labels] for start in range(0, len(table), n_labels)]
    chosen = table["input"].to_numpy()[::n_labels]
    true = None if truth is None else _true_codes(truth, prediction)[chosen]
    pictures = None if images is None else as_pictures(images, chosen, len(prediction))
    check_matplotlib()
    names = input_names(prediction, chosen, ID_WIDTH)
    short = distinct_names(_labels(prediction))
    panels = [
        _Panel.of(prediction, rows.assign(label=short), names[i], None if true is None else int(true[i]))
        for i, rows in enumerate(numbers)
    ]
    page = _Page(panels, pictures is not None, _caption(prediction, true is not None))
    for place, panel in enumerate(panels):
        page.draw(place, panel, None if pictures is None else pictures[place])
    return finish(page.figure, path)


@dataclass(frozen=True)
class _Panel:
    """The text and the bars of one input, from top to bottom."""

    headline: str
    lines: tuple[str, str]
    bars: pd.DataFrame  # label (as shown), mean, lower, upper, predicted, true
    n_left_out: int
    left_out: float  # the total probability of the labels that are left out

    @classmethod
    def of(cls, prediction: MCPrediction, numbers: pd.DataFrame, name: str, true: int | None) -> _Panel:
        number = int(numbers["input"].iloc[0])
        single = prediction[[number]]
        codes = {str(label): code for code, label in enumerate(_labels(prediction))}
        predicted, second = (codes[str(_only(label))] for label in (single.predicted, single.second))
        rows = numbers.reset_index(drop=True)
        rows = rows.assign(predicted=rows.index == predicted, true=rows.index == true)
        if true is not None:
            name += f", true label {rows.loc[true, 'label']}"
        bars = rows if len(rows) <= MOST_BARS else rows.sort_values("mean", ascending=False, kind="stable")
        return cls(
            headline=_headline(rows.loc[predicted], rows.loc[second]),
            lines=(name, _uncertainty(single)),
            bars=cast(pd.DataFrame, bars[:MOST_BARS]),
            n_left_out=len(bars[MOST_BARS:]),
            left_out=float(bars["mean"][MOST_BARS:].sum()),
        )

    @property
    def axis_labels(self) -> list[str]:
        """The labels beside the bars, from top to bottom."""
        others = [f"{self.n_left_out} others"] if self.n_left_out else []
        return [*self.bars["label"], *others]


def _headline(first: pd.Series, second: pd.Series) -> str:
    words = f"{first['label']} ({first['mean']:.2f})"
    return f"{words}, second {second['label']}" if second["mean"] >= LEAST_SECOND else words


def _uncertainty(single: MCPrediction) -> str:
    """The entropy of a single input. It is not written as a sum, since rounded parts may not add up to the total."""
    total, aleatoric, epistemic = (
        _only(part) for part in (single.predictive_entropy, single.expected_entropy, single.mutual_information)
    )
    return f"entropy {total:.2f} nats: {aleatoric:.2f} aleatoric, {epistemic:.2f} epistemic"


def _caption(prediction: MCPrediction, with_truth: bool) -> str:
    words = (
        f"Bars: mean probability of each label over {prediction.draws_in_words()}; whiskers: their "
        f"{100 * prediction.level:g} % interval. Dark: predicted."
    )
    return f"{words} Bold, with a diamond: the true label." if with_truth else words


def _only(values: np.ndarray | None) -> Any:
    """The value of a prediction of a single input."""
    return cast(np.ndarray, values)[0]


class _Page:
    """A figure with panels in rows of three and a caption below. Positions are in inches from the top left corner."""

    def __init__(self, panels: list[_Panel], with_pictures: bool, caption: str) -> None:
        from matplotlib.figure import Figure

        self.n_panels = len(panels)
        self.columns = min(len(panels), 3)
        n_bars = max(len(panel.axis_labels) for panel in panels)
        self.bar = min(max(PICTURE / n_bars, BAR), HIGHEST_BAR)
        self.step = TITLE + max(n_bars * self.bar, PICTURE if with_pictures else 0) + TICKS + PANEL_GAP
        self.label_width = max(text_width(label) for panel in panels for label in panel.axis_labels)
        self.picture_width = PICTURE + GAP if with_pictures else 0
        self.width = PANEL_GAP + self.columns * (PANEL_WIDTH + PANEL_GAP)
        lines = textwrap.wrap(caption, width=int(LETTERS * (self.width - 2 * PANEL_GAP)))
        below = PANEL_GAP + math.ceil(len(panels) / self.columns) * self.step
        self.height = below + LINE * len(lines) + PANEL_GAP
        self.figure = Figure(figsize=(self.width, self.height), facecolor="white")
        for number, line in enumerate(lines):
            self.text(PANEL_GAP, below + LINE * number, line)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Add axes whose upper left corner is at this position."""
        low = 1 - (top + height) / self.height
        rectangle = (left / self.width, low, width / self.width, height / self.height)
        return self.figure.add_axes(rectangle, facecolor="white")

    def text(self, left: float, top: float, words: str, size: float = SMALL, weight: str = "normal") -> None:
        """Write one line of text whose upper left corner is at this position."""
        self.figure.text(
            left / self.width, 1 - top / self.height, words, size=size, weight=weight, color=INK, va="top",
            parse_math=False,  # a label may contain a dollar sign
        )  # fmt: skip

    def draw(self, place: int, panel: _Panel, picture: np.ndarray | None) -> None:
        """Draw one panel: three lines of text, the picture and the bars."""
        row, column = divmod(place, self.columns)
        left, top = PANEL_GAP + column * (PANEL_WIDTH + PANEL_GAP), PANEL_GAP + row * self.step
        self.text(left, top, panel.headline, BIG, "bold")
        for number, line in enumerate(panel.lines, start=1):
            self.text(left, top + number * LINE, line)
        if picture is not None:
            draw_picture(self.axes(left, top + TITLE, PICTURE, PICTURE), picture)
        indent = self.picture_width + self.label_width + GAP
        n_bars = len(panel.axis_labels)
        axes = self.axes(left + indent, top + TITLE, PANEL_WIDTH - indent, n_bars * self.bar)
        _draw_bars(axes, panel)
        if place + self.columns >= self.n_panels:  # the last panel of its column
            axes.set_xlabel("probability", size=SMALL, color=INK, labelpad=1)


def _draw_bars(axes: Axes, panel: _Panel) -> None:
    from matplotlib.patheffects import withStroke

    bars, rows = panel.bars, np.arange(len(panel.bars))
    colors = np.where(bars["predicted"], PREDICTED, OTHER)
    axes.barh(rows, bars["mean"], height=0.75, color=colors.tolist(), edgecolor="none", zorder=2)
    halo = [withStroke(linewidth=2.6, foreground="white")]  # makes a whisker visible on a dark bar
    axes.hlines(rows, bars["lower"], bars["upper"], colors=INK, linewidth=1.1, path_effects=halo, zorder=3)
    for end in ("lower", "upper"):
        axes.plot(bars[end], rows, "|", color=INK, markersize=5, markeredgewidth=1.1, clip_on=False, zorder=4)
    axes.plot(np.full(bars["true"].sum(), DIAMOND), rows[bars["true"]], "D", color=INK, markersize=4, zorder=4)
    if panel.n_left_out:
        axes.text(0.02, len(rows), f"{panel.left_out:.2f} together", size=SMALL, color=INK, va="center_baseline")
    _label_bars(axes, panel)


def _label_bars(axes: Axes, panel: _Panel) -> None:
    labels = panel.axis_labels
    axes.set_ylim(len(labels) - 0.5, -0.5)  # the first label is on top
    axes.set_yticks(range(len(labels)), labels)
    for text, true in zip(axes.get_yticklabels(), panel.bars["true"], strict=False):
        text.set(parse_math=False, weight="bold" if true else "normal")
    axes.set_xlim(0, 1 + 2 * (DIAMOND - 1))
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.tick_params(axis="y", length=0, pad=3, labelsize=SMALL, labelcolor=INK)
    axes.tick_params(axis="x", length=2, pad=2, labelsize=SMALL, color=INK, labelcolor=INK, direction="out")
    axes.grid(False)
    axes.grid(True, axis="x", color="#E0E0E0", linewidth=0.6, linestyle="-")
    axes.set_axisbelow(True)
    for side in ("top", "left", "right", "bottom"):
        axes.spines[side].set_visible(False)


def _checked(prediction: object) -> MCPrediction:
    if not isinstance(prediction, MCPrediction):
        raise TypeError(f"`prediction` must be what `mc_predict()` returns; got {shown(type(prediction).__name__)}.")
    if prediction.task != "classification":
        raise ValueError("`prediction` must be of classes to have class probabilities; got one of values.")
    if len(prediction) == 0:
        raise ValueError("`prediction` must have at least one input; got none.")
    return check_prediction(prediction)


def _labels(prediction: MCPrediction) -> tuple[Label, ...]:
    return cast("tuple[Label, ...]", prediction.labels)


def _most_uncertain(prediction: MCPrediction) -> np.ndarray:
    """Positions of the inputs with the highest entropy. Inputs with equal entropy stay in their order."""
    return np.argsort(-cast(np.ndarray, prediction.predictive_entropy), kind="stable")[:N_INPUTS]


def _true_codes(truth: object, prediction: MCPrediction) -> np.ndarray:
    codes, _ = as_labels(truth, _labels(prediction), "truth")
    check_length(len(codes), "truth", len(prediction), "prediction")
    return codes
