"""Images in pictures, and the positions of the inputs that are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..checks import as_whole_number, shown
from ..data.images import Scale, as_image_rows
from ..data.libraries import is_a
from ..data.rows import from_tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Positions = int | Sequence[int] | np.ndarray

N_INPUTS = 12  # in rows of three they fill a page or a screen


def draw_picture(axes: Axes, picture: np.ndarray) -> None:
    """Draw an image in [0, 1] with square pixels, in the upper left corner of its axes."""
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="antialiased", origin="upper", aspect="equal")
    axes.set_anchor("NW")
    axes.set_axis_off()


def as_positions(inputs: Positions, n_inputs: int) -> np.ndarray:
    """Positions of inputs as an array, each checked to lie between 0 and `n_inputs` - 1."""
    if is_a(inputs, "torch", "Tensor"):
        inputs = from_tensor(cast(Any, inputs), "inputs")
    positions = np.atleast_1d(np.asarray(inputs, dtype=object))
    if positions.size == 0:
        raise ValueError("`inputs` must name at least one input; got none.")
    if positions.ndim > 1:
        raise ValueError(f"`inputs` must be positions along one axis; got shape {positions.shape}.")
    for position in positions:
        number = as_whole_number(position)
        if number is None or not 0 <= number < n_inputs:
            raise ValueError(f"`inputs` must be positions from 0 to {n_inputs - 1}; got {shown(position)}.")
    return positions.astype(np.int64)


def as_pictures(images: object, chosen: np.ndarray, n_inputs: int) -> np.ndarray:
    """The chosen images, (input, height, width) or (input, height, width, channel), in [0, 1]."""
    return scaled_pixels(as_image_rows(images, n_inputs).take(chosen))


def scaled_pixels(pixels: np.ndarray) -> np.ndarray:
    """Pixels in [0, 1]: those of another range are scaled from their least to their greatest value."""
    return Scale(float(pixels.min()), float(pixels.max())).applied(pixels)
