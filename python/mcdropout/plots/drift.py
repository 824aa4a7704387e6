"""The picture of a monitor: drift over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..checks import shown
from ..decisions.monitoring import MCMonitor
from ..predictions.uncertainty import unit_of
from .style import BIG, INK, PALE, PREDICTED, SMALL, PicturePath, finish, make_panels, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def mc_plot_drift(monitor: MCMonitor, *, path: PicturePath | None = None) -> Figure:
    """Draw the results of a drift monitor, batch by batch. Its table is `monitor.batches`.

    The horizontal axis is the number of inputs seen. The first panel shows the evidence of the sequential test on a
    logarithmic scale, with the limit of the alarm. The second shows the mean of the measure and that of the reference.
    The third shows the population stability index and the value it reaches by chance. After an alarm, a solid line
    marks the alarm and a dotted line the estimated start of the change.

    Args:
        monitor: The result of `mc_monitor()`.
        path: Also write the picture to this file. The ending decides the format: .png, .pdf or .svg.

    Returns:
        The figure. It is not one of pyplot's: `figure.savefig()` writes it, and a notebook shows it after `%matplotlib
        inline`.

    Raises:
        ValueError: For a monitor that has seen no batch.
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
        >>> monitor = mcd.mc_monitor(prediction).update(mcd.mc_predict(net, x[:50], 20, seed=2, progress=False))
        >>> figure = mcd.mc_plot_drift(monitor)
    """
    if not isinstance(monitor, MCMonitor):
        raise TypeError(f"`monitor` must be what `mc_monitor()` returns; got {shown(type(monitor).__name__)}.")
    if len(monitor.batches) == 0:
        raise ValueError("`monitor` must have seen at least one batch; got none.")
    table = monitor.batches
    figure, panels = make_panels(3, 1, size=(7.2, 6.0), share_x=True)
    unit = unit_of(monitor.measure, monitor.labels is not None)
    rows = (
        ("log10_evidence", "evidence of drift\n(log10)", [monitor.alarm_at], "alarm"),
        ("mean", f"mean {monitor.measure.replace('_', ' ')}\n({unit})", [monitor.reference.mean()], "reference"),
        ("psi", "population\nstability index", table["psi_limit"], "by chance up to"),
    )
    seen = table["seen"].to_numpy()
    for axes, (column, label, limit, limit_name) in zip(panels, rows, strict=True):
        axes.plot(seen, table[column], "o-", color=PREDICTED, markersize=4, linewidth=1.4, zorder=3)
        limit_points = ([0, seen[-1]], np.repeat(limit, 2)) if len(limit) == 1 else (seen, limit)
        axes.plot(*limit_points, "--", color=PALE, linewidth=1.2, zorder=2, label=limit_name)
        axes.set_ylabel(label, size=BIG, color=INK)
        axes.legend(loc="upper left", fontsize=SMALL, frameon=False)
        for number, style in ((monitor.alarm_input, "-"), (monitor.since_input, ":")):
            if number is not None:
                axes.axvline(number, color=INK, linestyle=style, linewidth=1, zorder=1)
        plain_axes(axes)
    panels[-1].set_xlabel("inputs seen", size=BIG, color=INK)
    panels[-1].set_xlim(0, seen[-1] * 1.02)
    title = f"No drift in {seen[-1]} inputs"
    if monitor.drift:
        title = f"Drift since about input {monitor.since_input} (dotted); alarm at input {monitor.alarm_input} (solid)"
    panels[0].set_title(title, size=BIG, weight="bold", color=INK, loc="left")
    return finish(figure, path)
