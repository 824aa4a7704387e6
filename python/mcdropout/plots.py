"""Pictures of a prediction, and the tables that they are drawn from. Needs no torch, and matplotlib only to draw.

Figures are made without pyplot, so matplotlib's settings, its backend and the list of open figures stay as found.
"""

from __future__ import annotations

import itertools
import math
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from .arrays import ArrayRows, Label, Rows, as_labels, as_rows, check_finite
from .checks import check_length, shown, whole
from .measures import check_prediction
from .monitoring import MCMonitor
from .prediction import MCPrediction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .convergence import MCConvergence

Positions = Sequence[int] | np.ndarray

N_INPUTS = 12  # in rows of three they fill a page or a screen
MOST_BARS = 10  # more labels than that are hard to tell apart at a glance
WORTH_NAMING = 0.05  # "perhaps Coat": from one chance in twenty on

# As in R's picture. In grey they are 0.36 and 0.75 of white, far enough apart for print and for every eye.
PREDICTED, OTHER = "#36648B", "#BFBFBF"
INK = "black"

# In inches.
PANEL_WIDTH, PANEL_GAP = 3.6, 0.22
LINE = 0.155  # of text
TITLE = 3 * LINE + 0.1
PICTURE = 1.25  # side of the square that an image is fitted into
BAR, HIGHEST_BAR = 0.15, 0.25  # from one bar to the next
LABEL_WIDTH, ID_WIDTH = 1.15, 1.6  # longer ones are shortened
GAP = 0.08
TICKS = 0.3

# In points.
BIG, SMALL = 9.0, 8.0
LETTERS = 16  # of the smaller size in an inch, on average
FILE_DPI = 150

DIAMOND = 1.06  # where the mark of the true label stands, behind probability 1


def mc_probabilities_table(prediction: MCPrediction, inputs: Positions | None = None) -> pd.DataFrame:
    """The numbers that `mc_plot_probabilities()` draws: one row per chosen input and label.

    Columns: input (position in the prediction, from 0), id (where the prediction has ids), label, mean, lower, upper
    (of the class probability; the interval is that of the draws at `prediction.level`). Inputs are in the order
    chosen, labels in that of the model. inputs: positions; by default the 12 of the highest predictive entropy, that
    first.
    """
    prediction = _checked(prediction)
    chosen = _least_sure(prediction) if inputs is None else as_positions(inputs, len(prediction))
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
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Class probabilities as bars with their intervals, beside the images.

    For each chosen input: the mean probability of each label as a bar, the interval of the draws as whiskers, and
    above them what is predicted and the entropy with its aleatoric and epistemic part, in nats. Of more than ten
    labels, the ten most probable are drawn.

    images: all that were predicted, (input, height, width) or (input, height, width, channel), grey, RGB or RGBA, in
    [0, 1] or else scaled to it; or image files. inputs: positions, from 0; by default the 12 of the highest
    predictive entropy, that first. truth: the true label of every input, marked by a diamond. path: also writes the
    picture there, its format by the ending (.png, .pdf, .svg). The figure is not one of pyplot's:
    `figure.savefig()` writes it, and a notebook shows it after `%matplotlib inline`.

    Raises ValueError for a prediction of values, for images or truth of another length, and for positions that are
    not there; ImportError without matplotlib. `mc_probabilities_table()` gives the numbers.
    """
    table = mc_probabilities_table(prediction, inputs)
    n_labels = len(_labels(prediction))
    numbers = [table.iloc[start : start + n_labels] for start in range(0, len(table), n_labels)]
    chosen = table["input"].to_numpy()[::n_labels]
    true = None if truth is None else _true_codes(truth, prediction)[chosen]
    pictures = None if images is None else _as_pictures(images, chosen, len(prediction))
    check_matplotlib()
    names = input_names(prediction, chosen, ID_WIDTH)
    short = told_apart(_labels(prediction))
    panels = [
        _Panel.of(prediction, one.assign(label=short), names[i], None if true is None else int(true[i]))
        for i, one in enumerate(numbers)
    ]
    page = _Page(panels, pictures is not None, _caption(prediction, true is not None))
    if path is not None:
        check_picture_path(path, page.figure)
    for place, panel in enumerate(panels):
        page.draw(place, panel, None if pictures is None else pictures[place])
    if path is not None:
        page.figure.savefig(path, dpi=FILE_DPI)
    return page.figure


# What is drawn --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Panel:
    """One input: its words and its bars, from top to bottom."""

    headline: str
    lines: tuple[str, str]
    bars: pd.DataFrame  # label (as shown), mean, lower, upper, predicted, true
    n_left_out: int
    left_out: float  # the probability of those together

    @classmethod
    def of(cls, prediction: MCPrediction, numbers: pd.DataFrame, name: str, true: int | None) -> _Panel:
        number = int(numbers["input"].iloc[0])
        one = prediction[[number]]
        codes = {str(label): code for code, label in enumerate(_labels(prediction))}
        predicted, second = (codes[str(_only(which))] for which in (one.predicted, one.second))
        rows = numbers.reset_index(drop=True)
        rows = rows.assign(predicted=rows.index == predicted, true=rows.index == true)
        if true is not None:
            name += f", in truth {rows.loc[true, 'label']}"
        bars = rows if len(rows) <= MOST_BARS else rows.sort_values("mean", ascending=False, kind="stable")
        return cls(
            headline=_headline(rows.loc[predicted], rows.loc[second]),
            lines=(name, _uncertainty(one)),
            bars=cast(pd.DataFrame, bars[:MOST_BARS]),
            n_left_out=len(bars[MOST_BARS:]),
            left_out=float(bars["mean"][MOST_BARS:].sum()),
        )

    @property
    def axis_labels(self) -> list[str]:
        """What stands beside the bars, from top to bottom."""
        others = [f"{self.n_left_out} others"] if self.n_left_out else []
        return [*self.bars["label"], *others]


def _headline(first: pd.Series, second: pd.Series) -> str:
    words = f"{first['label']} ({first['mean']:.2f})"
    return f"{words}, perhaps {second['label']}" if second["mean"] >= WORTH_NAMING else words


def _uncertainty(one: MCPrediction) -> str:
    """Not as a sum: rounded parts need not add up to the rounded total."""
    total, aleatoric, epistemic = (
        _only(part) for part in (one.predictive_entropy, one.expected_entropy, one.mutual_information)
    )
    return f"entropy {total:.2f} nats: {aleatoric:.2f} aleatoric, {epistemic:.2f} epistemic"


def _caption(prediction: MCPrediction, with_truth: bool) -> str:
    words = (
        f"Bars: mean probability of each label over {prediction.draws_in_words()}; whiskers: their "
        f"{100 * prediction.level:g} % interval. Dark: predicted."
    )
    return f"{words} Bold, with a diamond: in truth." if with_truth else words


def shortened(label: object, room: float = LABEL_WIDTH) -> str:
    """The label in one line, its middle cut out where it is wider than `room`: what tells labels apart may end them."""
    text = " ".join(str(label).split())
    kept, shorter = len(text), text
    while _width(shorter) > room and kept > 0:
        kept -= 1
        shorter = f"{text[: (kept + 1) // 2].rstrip()}…{text[len(text) - kept // 2 :].lstrip()}"
    return shorter


def told_apart(labels: Iterable[object], room: float = LABEL_WIDTH) -> list[str]:
    """All the labels there are, shortened where they are wider than `room`, different ones never to the same words."""
    texts = [" ".join(str(label).split()) for label in labels]
    short = {text: shortened(text, room) for text in texts}
    for by_word in (True, False):
        for alike in _alike(short):
            differing = _what_differs(alike, by_word)
            short |= {text: shortened(part, room) for text, part in zip(alike, differing, strict=True)}
    numbers = {text: f" #{number}" for number, text in enumerate(short, start=1)}
    for text in [one for alike in _alike(short) for one in alike]:
        short[text] = shortened(text, room - _width(numbers[text])) + numbers[text]
    return [short[text] for text in texts]


def _alike(short: Mapping[str, str]) -> list[list[str]]:
    """Those texts that have become the same, together."""
    groups: dict[str, list[str]] = {}
    for text, shorter in short.items():
        groups.setdefault(shorter, []).append(text)
    return [texts for texts in groups.values() if len(texts) > 1]


def _what_differs(texts: list[str], by_word: bool) -> list[str]:
    """Texts without what all of them begin and end with; by whole words, or to the letter."""

    def shared(texts: list[str]) -> int:
        letters = zip(*texts, strict=False)
        same = "".join(one[0] for one in itertools.takewhile(lambda one: len(set(one)) == 1, letters))
        return same.rfind(" ") + 1 if by_word else len(same)

    start = shared(texts)
    end = min(shared([text[::-1] for text in texts]), min(map(len, texts)) - start)
    before, behind = "…" if start else "", "…" if end else ""
    return [f"{before}{text[start : len(text) - end]}{behind}" for text in texts]


def input_names(prediction: MCPrediction, chosen: np.ndarray, room: float) -> list[str]:
    """What pictures call the chosen inputs."""
    if prediction.ids is None:
        return [f"input {i}" for i in chosen]
    return [f"id {name}" for name in told_apart(prediction.ids[chosen], room)]


def _width(text: str) -> float:
    """In inches, set as large and as bold as labels ever are."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=BIG, weight="bold")
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72


def _only(one_input: np.ndarray | None) -> Any:
    return cast(np.ndarray, one_input)[0]


# Where it is drawn ----------------------------------------------------------------------------------------


class _Page:
    """A figure with panels in rows of three, and a caption below; places are in inches from its top left."""

    def __init__(self, panels: list[_Panel], with_pictures: bool, caption: str) -> None:
        from matplotlib.figure import Figure

        self.n_panels = len(panels)
        self.columns = min(len(panels), 3)
        n_bars = max(len(panel.axis_labels) for panel in panels)
        self.bar = min(max(PICTURE / n_bars, BAR), HIGHEST_BAR)
        self.step = TITLE + max(n_bars * self.bar, PICTURE if with_pictures else 0) + TICKS + PANEL_GAP
        self.label_width = max(_width(label) for panel in panels for label in panel.axis_labels)
        self.picture_width = PICTURE + GAP if with_pictures else 0
        self.width = PANEL_GAP + self.columns * (PANEL_WIDTH + PANEL_GAP)
        lines = textwrap.wrap(caption, width=int(LETTERS * (self.width - 2 * PANEL_GAP)))
        below = PANEL_GAP + math.ceil(len(panels) / self.columns) * self.step
        self.height = below + LINE * len(lines) + PANEL_GAP
        self.figure = Figure(figsize=(self.width, self.height), facecolor="white")
        for number, line in enumerate(lines):
            self.text(PANEL_GAP, below + LINE * number, line)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes at that place."""
        low = 1 - (top + height) / self.height
        shares = (left / self.width, low, width / self.width, height / self.height)
        return self.figure.add_axes(shares, facecolor="white")

    def text(self, left: float, top: float, words: str, size: float = SMALL, weight: str = "normal") -> None:
        """One line of text, its upper left corner at that place."""
        self.figure.text(
            left / self.width, 1 - top / self.height, words, size=size, weight=weight, color=INK, va="top",
            parse_math=False,  # a label may hold a dollar sign
        )  # fmt: skip

    def draw(self, place: int, panel: _Panel, picture: np.ndarray | None) -> None:
        """One panel: three lines of text, the picture, the bars."""
        row, column = divmod(place, self.columns)
        left, top = PANEL_GAP + column * (PANEL_WIDTH + PANEL_GAP), PANEL_GAP + row * self.step
        self.text(left, top, panel.headline, BIG, "bold")
        for number, line in enumerate(panel.lines, start=1):
            self.text(left, top + number * LINE, line)
        if picture is not None:
            draw_picture(self.axes(left, top + TITLE, PICTURE, PICTURE), picture)
        before = self.picture_width + self.label_width + GAP
        n_bars = len(panel.axis_labels)
        axes = self.axes(left + before, top + TITLE, PANEL_WIDTH - before, n_bars * self.bar)
        _draw_bars(axes, panel)
        if place + self.columns >= self.n_panels:  # the lowest of its column
            axes.set_xlabel("probability", size=SMALL, color=INK, labelpad=1)


def draw_picture(axes: Axes, picture: np.ndarray) -> None:
    """An image in [0, 1], its pixels square, in the upper left of its room."""
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="antialiased", origin="upper", aspect="equal")
    axes.set_anchor("NW")
    axes.set_axis_off()


def _draw_bars(axes: Axes, panel: _Panel) -> None:
    from matplotlib.patheffects import withStroke

    bars, rows = panel.bars, np.arange(len(panel.bars))
    colors = np.where(bars["predicted"], PREDICTED, OTHER)
    axes.barh(rows, bars["mean"], height=0.75, color=colors.tolist(), edgecolor="none", zorder=2)
    halo = [withStroke(linewidth=2.6, foreground="white")]  # so that a whisker shows on a dark bar
    axes.hlines(rows, bars["lower"], bars["upper"], colors=INK, linewidth=1.1, path_effects=halo, zorder=3)
    for end in ("lower", "upper"):
        axes.plot(bars[end], rows, "|", color=INK, markersize=5, markeredgewidth=1.1, clip_on=False, zorder=4)
    axes.plot(np.full(bars["true"].sum(), DIAMOND), rows[bars["true"]], "D", color=INK, markersize=4, zorder=4)
    if panel.n_left_out:
        axes.text(0.02, len(rows), f"{panel.left_out:.2f} together", size=SMALL, color=INK, va="center_baseline")
    _label_bars(axes, panel)


def _label_bars(axes: Axes, panel: _Panel) -> None:
    labels = panel.axis_labels
    axes.set_ylim(len(labels) - 0.5, -0.5)  # the first on top
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


# What comes in --------------------------------------------------------------------------------------------


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


def _least_sure(prediction: MCPrediction) -> np.ndarray:
    """Positions of the inputs of the highest entropy; of equal ones, the first input comes first."""
    return np.argsort(-cast(np.ndarray, prediction.predictive_entropy), kind="stable")[:N_INPUTS]


def as_positions(inputs: Positions, n_inputs: int) -> np.ndarray:
    """Positions of the chosen ones of `n_inputs` inputs."""
    given = np.atleast_1d(np.asarray(inputs, dtype=object)).ravel()
    if len(given) == 0:
        raise ValueError("`inputs` must name at least one input; got none.")
    for one in given:
        number = whole(one)
        if number is None or not 0 <= number < n_inputs:
            raise ValueError(f"`inputs` must be positions from 0 to {n_inputs - 1}; got {shown(one)}.")
    return given.astype(np.int64)


def _true_codes(truth: object, prediction: MCPrediction) -> np.ndarray:
    codes, _ = as_labels(truth, _labels(prediction), "truth")
    check_length(len(codes), "truth", len(prediction), "prediction")
    return codes


def _as_pictures(images: object, chosen: np.ndarray, n_inputs: int) -> np.ndarray:
    """The chosen images, (input, height, width) or (input, height, width, channel), in [0, 1]."""
    rows = as_image_rows(images, n_inputs)
    pixels = rows.take(chosen)
    return Scale(float(pixels.min()), float(pixels.max())).applied(pixels)


def as_image_rows(images: object, n_inputs: int | None = None) -> Rows:
    """Images that can be taken a batch at a time, one for each of the inputs of a prediction, if there is one."""
    rows = as_rows(images, "images")
    if n_inputs is not None:
        check_length(rows.shape[0], "images", n_inputs, "prediction")
    if len(rows.shape) not in (3, 4) or (len(rows.shape) == 4 and rows.shape[3] not in (1, 3, 4)):
        raise ValueError(
            "`images` must have shape (input, height, width) or (input, height, width, channel) with 1, 3 or 4 "
            f"channels; got {tuple(rows.shape)}."
        )
    check_finite(rows, "images")
    return rows


@dataclass(frozen=True)
class Scale:
    """From the least and the greatest of some pixels to [0, 1], if they are not within it already."""

    low: float
    high: float

    @classmethod
    def of(cls, rows: Rows) -> Scale:
        """That of all images; what is read from files is in [0, 1]."""
        if not isinstance(rows, ArrayRows):
            return cls(0, 1)
        return cls(float(rows.values.min()), float(rows.values.max()))

    def applied(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels in [0, 1], grey ones without an axis of channels."""
        if self.low < 0 or self.high > 1:
            pixels = (pixels - self.low) / max(self.high - self.low, np.finfo(np.float32).tiny)
        return pixels[..., 0] if pixels.shape[-1] == 1 and pixels.ndim == 4 else pixels


def check_matplotlib() -> None:
    """It is an extra, and asked for only where something is drawn."""
    try:
        import matplotlib  # noqa: F401  (only whether it is there)
    except ImportError as error:
        raise ImportError("Pictures need matplotlib; run `pip install mcdropout[plot]`.") from error


def check_picture_path(path: str | os.PathLike[str], figure: Figure) -> None:
    """Of a kind that matplotlib writes, and in a folder that exists."""
    endings = sorted(figure.canvas.get_supported_filetypes())
    if Path(path).suffix[1:].lower() not in endings:
        raise ValueError(f'`path` must end in one of .{", .".join(endings)}; got "{os.fspath(path)}".')
    if not Path(path).parent.is_dir():
        raise ValueError(f'`path` must be in a folder that exists; got "{os.fspath(path)}".')


# Drift, and how draws settle ------------------------------------------------------------------------------

UNITS = {  # of measures of doubt; of the others, those of the values
    "predictive_entropy": "nats",
    "expected_entropy": "nats",
    "mutual_information": "nats",
    "variation_ratio": "share of draws",
    "least_confidence": "probability",
    "smallest_margin": "probability",
}
PALE = "#8C8C8C"


def mc_plot_drift(monitor: MCMonitor, *, path: str | os.PathLike[str] | None = None) -> Figure:
    """What a drift monitor saw, batch by batch; its table is `monitor.batches`.

    From top to bottom, over the inputs seen: the evidence of the sequential test on a logarithmic scale, with the line
    that makes an alarm; the mean of the measure, with that of the reference; the population stability index, with what
    it reaches by chance. Where there was an alarm, a solid line marks it and a dotted one where the change began.
    path: also writes the picture there. Raises ValueError for a monitor that has seen nothing.
    """
    if not isinstance(monitor, MCMonitor):
        raise TypeError(f"`monitor` must be what `mc_monitor()` returns; got {shown(type(monitor).__name__)}.")
    if len(monitor.batches) == 0:
        raise ValueError("`monitor` must have seen at least one batch; got none.")
    check_matplotlib()
    from matplotlib.figure import Figure

    table = monitor.batches
    figure = Figure(figsize=(7.2, 6.0), facecolor="white", layout="constrained")
    if path is not None:
        check_picture_path(path, figure)
    panels = figure.subplots(3, 1, sharex=True)
    unit = UNITS.get(monitor.measure, "units of the values" if monitor.labels is None else "probability")
    rows = (
        ("log10_evidence", "evidence of drift\n(log10)", [monitor.alarm_at], "alarm"),
        ("mean", f"mean {monitor.measure.replace('_', ' ')}\n({unit})", [monitor.reference.mean()], "reference"),
        ("psi", "population\nstability index", table["psi_limit"], "by chance up to"),
    )
    seen = table["seen"].to_numpy()
    for axes, (column, label, line, word) in zip(panels, rows, strict=True):
        axes.plot(seen, table[column], "o-", color=PREDICTED, markersize=4, linewidth=1.4, zorder=3)
        across = ([0, seen[-1]], np.repeat(line, 2)) if len(line) == 1 else (seen, line)
        axes.plot(*across, "--", color=PALE, linewidth=1.2, zorder=2, label=word)
        axes.set_ylabel(label, size=BIG, color=INK)
        axes.legend(loc="upper left", fontsize=SMALL, frameon=False)
        for number, style in ((monitor.alarm_input, "-"), (monitor.since_input, ":")):
            if number is not None:
                axes.axvline(number, color=INK, linestyle=style, linewidth=1, zorder=1)
        _plain_axes(axes)
    panels[-1].set_xlabel("inputs seen", size=BIG, color=INK)
    panels[-1].set_xlim(0, seen[-1] * 1.02)
    title = f"No drift in {seen[-1]} inputs"
    if monitor.drift:
        title = f"Drift since about input {monitor.since_input} (dotted); alarm at input {monitor.alarm_input} (solid)"
    panels[0].set_title(title, size=BIG, weight="bold", color=INK, loc="left")
    if path is not None:
        figure.savefig(path, dpi=FILE_DPI)
    return figure


def mc_plot_convergence(convergence: MCConvergence, *, path: str | os.PathLike[str] | None = None) -> Figure:
    """How each measure settles as draws are added; its table is `convergence.table`.

    Above: each measure, its mean over the inputs. Below: its Monte Carlo error for one input (root mean square over the
    inputs), with the tolerance. The number of draws is on a logarithmic scale. path: also writes the picture there.
    """
    from .convergence import MCConvergence

    if not isinstance(convergence, MCConvergence):
        kind = type(convergence).__name__
        raise TypeError(f"`convergence` must be what `mc_convergence()` returns; got {shown(kind)}.")
    check_matplotlib()
    from matplotlib.figure import Figure

    table, counts = convergence.table, list(convergence.n_samples)
    measures = list(dict.fromkeys(table["measure"]))
    figure = Figure(figsize=(1.0 + 2.3 * len(measures), 4.6), facecolor="white", layout="constrained")
    if path is not None:
        check_picture_path(path, figure)
    panels = figure.subplots(2, len(measures), sharex=True, squeeze=False)
    for place, measure in enumerate(measures):
        own = table[table["measure"] == measure]
        for axes, column in zip(panels[:, place], ("value", "mcse"), strict=True):
            axes.plot(counts, own[column], "o-", color=PREDICTED, markersize=4, linewidth=1.4, zorder=3)
            axes.set_xscale("log")
            axes.set_xticks(counts, [str(count) for count in counts])
            axes.minorticks_off()
            _plain_axes(axes)
        if convergence.tolerance is not None:
            panels[1, place].axhline(convergence.tolerance, color=PALE, linestyle="--", linewidth=1.2, zorder=2)
        panels[1, place].set_ylim(bottom=0)
        panels[0, place].set_title(f"{measure.replace('_', ' ')}\n({_unit(measure, table)})", size=BIG, color=INK)
    panels[0, 0].set_ylabel("mean over the inputs", size=BIG, color=INK)
    panels[1, 0].set_ylabel("Monte Carlo error", size=BIG, color=INK)
    words = "number of draws"
    if convergence.tolerance is not None:
        words += (
            f"     (dashed: tolerance {convergence.tolerance:g}; recommended for the mean: "
            f"{convergence.recommended} draws)"
        )
    figure.supxlabel(words, size=BIG, color=INK)
    if path is not None:
        figure.savefig(path, dpi=FILE_DPI)
    return figure


def _unit(measure: str, table: pd.DataFrame) -> str:
    classes = bool((table["measure"] == "mutual_information").any())
    return UNITS.get(measure, "probability" if classes else "units of the values")


def _plain_axes(axes: Axes) -> None:
    axes.tick_params(labelsize=SMALL, length=2, color=INK, labelcolor=INK)
    axes.grid(True, color="#E0E0E0", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
