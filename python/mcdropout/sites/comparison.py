"""Whether two results are equal up to rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

SCARCER = 16.0  # so many times too few numbers below t that one of them came out small by chance: 1 in about so many

SMALL = 0.1  # smaller numbers are rounded as this one is, where there are numbers of 1 or more


def alike(one: Any, other: Any, tolerance: float) -> bool:
    """Whether two outputs, of whatever parts, hold the same numbers up to rounding, each on a scale of its own."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return same_numbers(one, other, tolerance)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(alike(one[name], other[name], tolerance) for name in one)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(alike(*pair, tolerance) for pair in zip(one, other, strict=True))
    return True


def same_numbers(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Whether two tensors hold the same numbers up to `tolerance`, each on a scale of its own.

    Infinities are the same where they are equal, and NaN where both are NaN.
    """
    if one.shape != other.shape:
        return False
    if one.is_complex() and other.is_complex():
        one, other = torch.view_as_real(one), torch.view_as_real(other)
    one, other = one.detach().cpu().double(), other.detach().cpu().double()
    apart = (one != other) & ~(one.isnan() & other.isnan())
    if not bool(apart.any()):
        return True
    size = torch.maximum(one.abs(), other.abs())
    return bool(((one - other).abs()[apart] <= tolerance * _scales(size, size[apart])).all())


def _scales(sizes: Tensor, some: Tensor) -> Tensor:
    """For `some` of the sizes of many numbers, how large the numbers are of which each is one.

    A sum that comes out small is rounded as its large parts are, so it is held on the scale of the larger numbers if
    there are so many that some can be expected to be so small: of n numbers up to s about n * t / s are below t. So
    neither a few huge numbers nor the logits of many impossible classes are a scale for the others.
    """
    sizes = sizes[sizes.isfinite() & (sizes > 0)]
    if len(sizes) == 0:
        return torch.zeros_like(some)
    octaves = torch.frexp(sizes).exponent
    lowest = octaves.min()
    counts = torch.bincount(octaves - lowest)
    places = torch.arange(len(counts))
    ends = torch.ldexp(torch.ones(len(counts), dtype=torch.float64), places + lowest)  # sizes of an octave are below
    dense = counts.cumsum(0) / ends
    may_belong = (dense * SCARCER >= dense[:, None]) & (counts > 0)  # (octave, octave up to which its like may reach)
    scales = ends[torch.where(may_belong, places, 0).amax(dim=1)]
    found = scales[(torch.frexp(some).exponent - lowest).clamp(0, len(counts) - 1)]
    return found.clamp(min=SMALL * min(1.0, float(sizes.max())))
