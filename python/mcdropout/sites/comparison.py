"""Whether two results are equal up to rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# A small number may be a sum of large parts, if numbers of its size are at most so many times rarer than expected.
SCARCER = 16.0

SMALL = 0.1  # if there are numbers of 1 or more, smaller numbers than this one get its rounding error


def alike(a: Any, b: Any, tolerance: float) -> bool:
    """Whether two outputs, of any structure, have the same numbers up to rounding; see `same_numbers()`."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return same_numbers(a, b, tolerance)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(alike(a[name], b[name], tolerance) for name in a)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(alike(*pair, tolerance) for pair in zip(a, b, strict=True))
    return True


def same_numbers(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether two tensors have the same numbers up to `tolerance`, each relative to a scale of its own.

    Infinities must be equal, and NaN must be NaN in both.
    """
    if a.shape != b.shape:
        return False
    if a.is_complex() and b.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    different = (a != b) & ~(a.isnan() & b.isnan())
    if not bool(different.any()):
        return True
    size = torch.maximum(a.abs(), b.abs())
    return bool(((a - b).abs()[different] <= tolerance * _scales(size, size[different])).all())


def _scales(sizes: Tensor, selected: Tensor) -> Tensor:
    """The scale of rounding errors for `selected` ones of the sizes of many numbers.

    A small sum has the rounding error of its large parts. So a small number gets the scale of larger numbers, if there
    are so many of these that some sums are expected to be so small: of n numbers up to s, about n * t / s are below t.
    Therefore neither a few huge numbers nor the logits of many impossible classes set the scale of the others.
    """
    sizes = sizes[sizes.isfinite() & (sizes > 0)]
    if len(sizes) == 0:
        return torch.zeros_like(selected)
    octaves = torch.frexp(sizes).exponent
    lowest = octaves.min()
    counts = torch.bincount(octaves - lowest)
    places = torch.arange(len(counts))
    ends = torch.ldexp(torch.ones(len(counts), dtype=torch.float64), places + lowest)  # upper limits of the octaves
    density = counts.cumsum(0) / ends
    may_belong = (density * SCARCER >= density[:, None]) & (counts > 0)  # (octave, octave that may set its scale)
    scales = ends[torch.where(may_belong, places, 0).amax(dim=1)]
    of_selected = scales[(torch.frexp(selected).exponent - lowest).clamp(0, len(counts) - 1)]
    return of_selected.clamp(min=SMALL * min(1.0, float(sizes.max())))
