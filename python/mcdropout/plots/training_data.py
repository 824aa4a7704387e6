"""Pictures of the training data and of the training history."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from ..checks import as_list, check_length, shown
from ..data.images import as_image_rows
from ..data.labels import Label, as_label, as_label_set, as_labels
from ..data.libraries import is_a
from ..data.rows import from_tensor
from .draws import row_names
from .images import Positions, as_positions, draw_picture, scaled_pixels
from .names import distinct_names
from .style import (
    INK,
    PANEL,
    PREDICTED,
    SMALL,
    PicturePath,
    add_legend,
    check_matplotlib,
    finish,
    label_axes,
    make_panels,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 1.1  # side of an image of the grid, in inches

N_GRID = 40  # images in the grid: five rows of eight

MOST_LABELS = 60  # more rows of labels are not legible

METRICS = {"loss": "loss", "accuracy": "accuracy (share right)", "rmse": "RMSE (unit of y)"}


def mc_balance_table(y: object, labels: Sequence[Label] | None = None) -> pd.DataFrame:
    """Count how many inputs each label has.

    Args:
        y: The labels of the inputs.
        labels: All possible labels. By default those of `y`.

    Returns:
        A table with columns label, n and share.

    Raises:
        ValueError: For labels in `y` that are not among `labels`.

    Examples:
        >>> import mcdropout as mcd
        >>> mcd.mc_balance_table(["cat", "dog", "cat"]).n.tolist()
        [2, 1]
    """
    codes, names = as_labels(y, None if labels is None else as_label_set(labels))
    n = np.bincount(codes, minlength=len(names))
    return pd.DataFrame({"label": [as_label(name) for name in names], "n": n, "share": n / n.sum()})


def mc_plot_balance(y: object, labels: Sequence[Label] | None = None, *, path: PicturePath | None = None) -> Figure:
    """Draw the class balance: how many inputs each label has. `mc_balance_table()` gives the numbers.

    Of more than 60 labels, the most frequent are drawn.

    Args:
        y: The labels of the inputs.
        labels: All possible labels. By default those of `y`.
        path: Also write the picture to this file. The ending decides the format: .png, .pdf or .svg.

    Returns:
        The figure. It is not one of pyplot's: `figure.savefig()` writes it, and a notebook shows it after `%matplotlib
        inline`.

    Raises:
        ValueError: For labels in `y` that are not among `labels`.
        ImportError: Without matplotlib.

    Examples:
        >>> import mcdropout as mcd
        >>> figure = mcd.mc_plot_balance(["cat", "dog", "cat"])
    """
    table = mc_balance_table(y, labels)
    drawn = table if len(table) <= MOST_LABELS else table.nlargest(MOST_LABELS, "n")
    check_matplotlib()
    names = distinct_names(drawn["label"])
    figure, (axes,) = make_panels(1, 1, size=(PANEL[0] + 0.8, 0.8 + 0.22 * len(drawn)))
    axes.barh(range(len(drawn)), drawn["n"], height=0.75, color=PREDICTED)
    for place, (n, share) in enumerate(zip(drawn["n"], drawn["share"], strict=True)):
        axes.text(n, place, f" {n:,} ({100 * share:.1f} %)", size=SMALL, color=INK, va="center_baseline")
    label_axes(axes, f"inputs, of {table['n'].sum():,}", "", (0, 1.35 * max(int(drawn["n"].max()), 1)))
    row_names(axes, names)
    axes.set_ylim(len(drawn) - 0.5, -0.5)
    return finish(figure, path)


def mc_plot_images(
    images: object, titles: object = None, *, inputs: Positions | None = None, path: PicturePath | None = None
) -> Figure:
    """Draw a grid of images, each with its number and, if `titles` is given, its title.

    Args:
        images: All images: (input, height, width) or (input, height, width, channel), grey, RGB or RGBA; or image
            files. Pixels outside [0, 1] are scaled to it.
        titles: One title for each image, for example its label.
        inputs: Positions of the inputs that are drawn, from 0. By default the first 40.
        path: Also write the picture to this file. The ending decides the format: .png, .pdf or .svg.

    Returns:
        The figure. It is not one of pyplot's: `figure.savefig()` writes it, and a notebook shows it after `%matplotlib
        inline`.

    Raises:
        ValueError: For titles of another length, and for positions that do not exist.
        ImportError: Without matplotlib.

    Examples:
        >>> import mcdropout as mcd
        >>> data = mcd.mc_sample_data()
        >>> figure = mcd.mc_plot_images(data.x_test, data.y_test, inputs=range(8))
    """
    rows = as_image_rows(images)
    n = rows.shape[0]
    chosen = np.arange(min(n, N_GRID)) if inputs is None else as_positions(inputs, n)
    words = None if titles is None else _words(titles)
    short: dict[str, str] = {}
    if words is not None:
        check_length(len(words), "titles", n, "images")
        shown_titles = dict.fromkeys(words[i] for i in chosen)
        short = dict(zip(shown_titles, distinct_names(shown_titles, SIDE - 0.2), strict=True))
    pictures = scaled_pixels(rows.take(chosen))
    columns = min(8, len(chosen))
    n_rows = math.ceil(len(chosen) / columns)
    figure, panels = make_panels(n_rows, columns, size=(columns * SIDE, n_rows * (SIDE + 0.3)))
    for axes in panels:
        axes.set_axis_off()
    for axes, number, picture in zip(panels, chosen, pictures, strict=False):
        draw_picture(axes, picture)
        title = str(number) if words is None else f"{number}: {short[words[number]]}"
        axes.set_title(title, size=SMALL, color=INK, pad=2, loc="left", parse_math=False)
    return finish(figure, path)


def mc_plot_history(model: object, *, path: PicturePath | None = None) -> Figure:
    """Draw a training history: loss and metric of each epoch, for the training and the validation inputs.

    Args:
        model: The result of `mc_fit()`, or its `history`, which has the numbers.
        path: Also write the picture to this file. The ending decides the format: .png, .pdf or .svg.

    Returns:
        The figure. It is not one of pyplot's: `figure.savefig()` writes it, and a notebook shows it after `%matplotlib
        inline`.

    Raises:
        ValueError: For a network that was not trained.
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
        >>> figure = mcd.mc_plot_history(net)
    """
    history = model if isinstance(model, pd.DataFrame) else getattr(model, "history", None)
    if not isinstance(history, pd.DataFrame) or "loss" not in history or len(history) == 0:
        raise ValueError(f"`model` must be trained by `mc_fit()`; got {shown(type(model).__name__)} without a history.")
    known = [name for name in METRICS if name in history]
    check_matplotlib()
    from matplotlib.ticker import MaxNLocator

    figure, panels = make_panels(1, len(known), size=(PANEL[0] * len(known), PANEL[1]))
    epochs = history["epoch"] if "epoch" in history else pd.Series(range(1, len(history) + 1))
    for axes, name in zip(panels, known, strict=True):
        axes.plot(epochs, history[name], "o-", color=PREDICTED, markersize=3, linewidth=1.3, label="training")
        if f"val_{name}" in history:
            axes.plot(epochs, history[f"val_{name}"], "s--", color=INK, markersize=3, linewidth=1.1, label="validation")
        label_axes(axes, "epoch", METRICS[name])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        add_legend(axes)
    return finish(figure, path)


def _words(titles: object) -> list[str]:
    """Titles of any type, as strings."""
    if is_a(titles, "torch", "Tensor"):
        titles = from_tensor(cast(Any, titles), "titles")
    if isinstance(titles, np.ndarray):
        titles = titles.ravel().tolist()
    return [str(title) for title in as_list(titles)]
