"""Types of inputs: which conversion of whole numbers and truth values a model accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations, islice, product

import numpy as np
import torch
from torch import Tensor

from ..compute.transfers import to_device
from .inputs import Casts, Inputs, Path, Takes
from .rows import ArrayRows, Rows, doubles

MAX_TRIES = 300  # of combinations of types; four inputs never need more


@dataclass(frozen=True)
class InputConversion:
    """How arrays become the tensors of a model, in the host's memory.

    Floating numbers get the model's type. Whole numbers and truth values keep their type, unless `floats` is true.
    """

    dtype: torch.dtype = torch.float32  # of the model's weights
    floats: bool = False  # whole numbers become floating too: the networks of this package take nothing else
    channels_last: bool = False  # faster for convolutions, the same numbers
    columns: tuple[str, ...] = ()  # of the table that the model was trained on
    takes: Takes = field(default_factory=Takes)
    standard: Callable[[Tensor], Tensor] | None = None  # of a table: from float64 to the model's standard units

    def tensor(self, rows: Rows, part: slice) -> Tensor:
        """Some rows, copied so that an in-place operation of the model cannot change the caller's array."""
        if self.standard is not None:
            return self.standard(torch.from_numpy(doubles(rows, part))).to(self.dtype)
        if isinstance(rows, ArrayRows):
            kind = rows.values.dtype
            if kind.kind in "bui" and not self.floats:
                # torch supports few operations on unsigned numbers of more than a byte
                dtype = np.dtype(np.int64) if kind.kind == "u" and kind.itemsize > 1 else kind.newbyteorder("=")
                return torch.from_numpy(np.array(rows.values[part], dtype=dtype, order="C"))
            if self.dtype == torch.float64:
                return torch.from_numpy(rows.values[part].astype(np.float64, order="C"))
        return torch.from_numpy(np.array(rows.take(part), order="C")).to(self.dtype)

    def placed(self, inputs: Inputs, device: torch.device) -> Inputs:
        """Inputs on a device."""
        return inputs.each_tensor(lambda x: self.arranged(to_device(x, device)))

    def arranged(self, x: Tensor) -> Tensor:
        """A tensor in the memory order that the model prefers."""
        if not (self.channels_last and x.ndim == 4 and x.is_floating_point()):
            return x
        x = x.contiguous(memory_format=torch.channels_last)
        height, width = x.shape[2:]
        # with one channel both orders are the same in memory; the strides must name the channel as the last axis
        return x.as_strided(x.shape, (height * width, 1, width, 1)) if x.shape[1] == 1 else x


def ways_to_take(inputs: Inputs, dtype: torch.dtype) -> Iterator[Casts]:
    """The types to try for arrays of whole numbers, by their paths: first no change, then as few changes as possible.

    Whole numbers and truth values may become int64 or floating; floating numbers that are all whole may become int64.
    The last combination makes all of them floating.
    """
    others: dict[Path, tuple[torch.dtype, ...]] = {}
    for path, value in inputs.arrays.items():
        if not value.is_floating_point():
            others[path] = (dtype,) if value.dtype == torch.int64 else (torch.int64, dtype)
        elif bool((value == value.trunc()).all()):
            others[path] = (torch.int64,)
    combined = (
        dict(zip(which, types, strict=True))
        for n in range(len(others) + 1)
        for which in combinations(others, n)
        for types in product(*(others[path] for path in which))
    )
    yield from islice(combined, MAX_TRIES)
    floating = {path: dtype for path, types in others.items() if dtype in types}
    if floating:
        yield floating


def has_whole_numbers(inputs: Inputs) -> bool:
    """Whether any array holds only whole numbers, of any type."""
    return any(
        not value.is_floating_point() or bool((value == value.trunc()).all()) for value in inputs.arrays.values()
    )
