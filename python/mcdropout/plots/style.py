"""Colours, sizes, units and axes that all pictures share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from ..checks import check_path, shown
from ..disk import replaced
from ..evaluation.result import MCScores
from ..predictions.prediction import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The colours of R's pictures. In grey they are 0.36 and 0.75 of white, so they differ in print and for colour-blind
# readers.
PREDICTED, OTHER = "#36648B", "#BFBFBF"

INK = "black"

# In points.
BIG, SMALL = 9.0, 8.0

LETTERS = 16  # mean number of letters of the smaller size in an inch

FILE_DPI = 150


def check_matplotlib() -> None:
    """Refuse to draw without matplotlib, which is an optional dependency."""
    try:
        import matplotlib  # noqa: F401  (tests only that it is installed)
    except ImportError as error:
        raise ImportError("Pictures need matplotlib; run `pip install mcdropout[plot]`.") from error


def check_picture_path(path: str | os.PathLike[str], figure: Figure) -> None:
    """Refuse a path whose format matplotlib cannot write, or whose folder does not exist."""
    file = check_path(path)
    endings = sorted(figure.canvas.get_supported_filetypes())
    if file.suffix[1:].lower() not in endings:
        raise ValueError(f"`path` must end in one of .{', .'.join(endings)}; got {shown(str(file))}.")
    if not os.path.isdir(file.parent):  # False for names that are too long, too
        raise ValueError(f"`path` must be in a folder that exists; got {shown(str(file))}.")


PALE = "#8C8C8C"


def plain_axes(axes: Axes) -> None:
    """Give axes light ticks and grid lines."""
    axes.tick_params(labelsize=SMALL, length=2, color=INK, labelcolor=INK)
    axes.grid(True, color="#E0E0E0", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


PicturePath = str | os.PathLike[str]

BAND = "#DCE3EA"  # the outer of two bands

GRID = "#E0E0E0"

STYLES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 4)), (0, (8, 3)))  # lines that differ without colour

PANEL = (4.2, 3.2)  # width and height in inches

GOLDEN = 0.618034  # its multiples modulo 1 are spread evenly over (0, 1)


def make_panels(
    rows: int,
    columns: int,
    *,
    heights: Sequence[float] | None = None,
    size: tuple[float, float] = PANEL,
    share_x: bool = False,
) -> tuple[Figure, list[Axes]]:
    """Make a figure with panels in rows and columns. The panels are listed row by row."""
    check_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    panels = figure.subplots(rows, columns, sharex=share_x, squeeze=False, gridspec_kw={"height_ratios": heights})
    return figure, list(panels.ravel())


def label_axes(
    axes: Axes, x_label: str, y_label: str, x: tuple[float, float] | None = None, y: tuple[float, float] | None = None
) -> None:
    """Name both axes, and set their ranges."""
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


def add_legend(axes: Axes) -> None:
    """Add a legend without a frame."""
    axes.legend(fontsize=SMALL, frameon=False, labelcolor=INK)


def finish(figure: Figure, path: PicturePath | None) -> Figure:
    """Save the figure, if `path` is given, and return it."""
    if path is not None:
        check_picture_path(path, figure)
        with replaced(path) as file:  # an interrupt leaves the older picture whole
            figure.savefig(file, dpi=FILE_DPI, format=check_path(path).suffix[1:].lower())
    return figure


def check_scores(scores: object) -> MCScores:
    """Refuse anything but a result of `mc_scores()`."""
    if not isinstance(scores, MCScores):
        raise TypeError(f"`scores` must be what `mc_scores()` returns; got {shown(type(scores).__name__)}.")
    return scores


def one_column(x: object, name: str) -> Array:
    """The numbers of one column as an array of shape (input,)."""
    try:
        values = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"`{name}` must be one number per input; got {shown(type(x).__name__)}.") from error
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if values.ndim != 1 or not np.isfinite(values).all():
        got = f"shape {values.shape}" if values.ndim != 1 else "NaN or infinity"
        raise ValueError(f"`{name}` must be one finite number per input; got {got}.")
    return cast(Array, values)
