"""Images in pictures, and the inputs that are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..checks import as_whole_number, shown
from ..data.images import Scale, as_image_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Positions = Sequence[int] | np.ndarray

N_INPUTS = 12  # in rows of three they fill a page or a screen


def draw_picture(axes: Axes, picture: np.ndarray) -> None:
    """An image in [0, 1], its pixels square, in the upper left of its room."""
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="antialiased", origin="upper", aspect="equal")
    axes.set_anchor("NW")
    axes.set_axis_off()


def as_positions(inputs: Positions, n_inputs: int) -> np.ndarray:
    """Positions of the chosen ones of `n_inputs` inputs."""
    given = np.atleast_1d(np.asarray(inputs, dtype=object)).ravel()
    if len(given) == 0:
        raise ValueError("`inputs` must name at least one input; got none.")
    for one in given:
        number = as_whole_number(one)
        if number is None or not 0 <= number < n_inputs:
            raise ValueError(f"`inputs` must be positions from 0 to {n_inputs - 1}; got {shown(one)}.")
    return given.astype(np.int64)


def as_pictures(images: object, chosen: np.ndarray, n_inputs: int) -> np.ndarray:
    """The chosen images, (input, height, width) or (input, height, width, channel), in [0, 1]."""
    rows = as_image_rows(images, n_inputs)
    pixels = rows.take(chosen)
    return Scale(float(pixels.min()), float(pixels.max())).applied(pixels)
