"""The picture of convergence: the summaries against the number of draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..checks import shown
from ..predictions.uncertainty import unit_of
from .style import BIG, INK, PALE, PREDICTED, PicturePath, finish, make_panels, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..evaluation.convergence import MCConvergence


def mc_plot_convergence(convergence: MCConvergence, *, path: PicturePath | None = None) -> Figure:
    """Draw each measure against the number of draws. Its table is `convergence.table`.

    The upper panels show the mean of each measure over the inputs. The lower panels show its Monte Carlo error for one
    input (root mean square over the inputs) and the tolerance. The number of draws is on a logarithmic scale.

    Args:
        convergence: The result of `mc_convergence()`.
        path: Also write the picture to this file. The ending decides the format: .png, .pdf or .svg.

    Returns:
        The figure. It is not one of pyplot's: `figure.savefig()` writes it, and a notebook shows it after `%matplotlib
        inline`.

    Raises:
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
        >>> figure = mcd.mc_plot_convergence(mcd.mc_convergence(net, x, (10, 20), seed=1, progress=False))
    """
    from ..evaluation.convergence import MCConvergence

    if not isinstance(convergence, MCConvergence):
        kind = type(convergence).__name__
        raise TypeError(f"`convergence` must be what `mc_convergence()` returns; got {shown(kind)}.")

    table, counts = convergence.table, list(convergence.n_samples)
    measures = list(dict.fromkeys(table["measure"]))
    classes = "mutual_information" in measures
    figure, panels = make_panels(2, len(measures), size=(1.0 + 2.3 * len(measures), 4.6), share_x=True)
    upper, lower = panels[: len(measures)], panels[len(measures) :]
    for place, measure in enumerate(measures):
        measure_rows = table[table["measure"] == measure]
        for axes, column in ((upper[place], "value"), (lower[place], "mcse")):
            axes.plot(counts, measure_rows[column], "o-", color=PREDICTED, markersize=4, linewidth=1.4, zorder=3)
            axes.set_xscale("log")
            axes.set_xticks(counts, [str(count) for count in counts])
            axes.minorticks_off()
            plain_axes(axes)
        if convergence.tolerance is not None:
            lower[place].axhline(convergence.tolerance, color=PALE, linestyle="--", linewidth=1.2, zorder=2)
        lower[place].set_ylim(bottom=0)
        upper[place].set_title(f"{measure.replace('_', ' ')}\n({unit_of(measure, classes)})", size=BIG, color=INK)
    upper[0].set_ylabel("mean over the inputs", size=BIG, color=INK)
    lower[0].set_ylabel("Monte Carlo error", size=BIG, color=INK)
    words = "number of draws"
    if convergence.tolerance is not None:
        words += (
            f"     (dashed: tolerance {convergence.tolerance:g}; recommended for the mean: "
            f"{convergence.recommended} draws)"
        )
    figure.supxlabel(words, size=BIG, color=INK)
    return finish(figure, path)
