"""What a model is fed: one input array or several, held in memory or streamed, as tensors batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

from .arrays import ArrayRows, Rows, as_rows, check_finite, doubles, in_order
from .checks import check_length
from .devices import sent
from .randomness import OwnStream

TARGETS = frozenset(("labels", "label", "targets", "target", "y"))  # not for the model, in batches that are mappings

Part = slice | Tensor  # which inputs: a slice, or positions


@dataclass(frozen=True)
class Inputs:
    """Some inputs as the model is called with them: `model(*args, **kwargs)`."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    n: int

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, part: Part) -> Inputs:
        """Some of them; what has no entry for each input is passed on whole."""
        n = len(range(*part.indices(self.n))) if isinstance(part, slice) else len(part)
        return self._each(lambda value: value[part], n)

    @property
    def nbytes(self) -> int:
        """Size of all tensors."""
        return sum(value.nbytes for value in (*self.args, *self.kwargs.values()) if isinstance(value, Tensor))

    def clone(self) -> Inputs:
        """A copy that may be written to."""
        return self._each(Tensor.clone, self.n)

    def noised(self, generator: torch.Generator) -> Inputs:
        """With noise added to the floating point inputs, for each of them the same however many there are."""

        def add(value: Tensor) -> Tensor:
            if not value.is_floating_point():
                return value
            noise = [torch.randn(value.shape[1:], generator=generator, dtype=torch.float32) for _ in range(self.n)]
            return value + torch.stack(noise).to(value)

        return self._each(add, self.n)

    @property
    def signature(self) -> tuple[Any, ...]:
        """The shapes of one input, by which a model may go other ways."""
        values = (*self.args, *self.kwargs.values())
        return tuple(tuple(value.shape[1:]) if isinstance(value, Tensor) else None for value in values)

    def each_tensor(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """With every tensor changed, the number of inputs the same."""

        def changed(value: Any) -> Any:
            return change(value) if isinstance(value, Tensor) else value

        kwargs = {name: changed(value) for name, value in self.kwargs.items()}
        return Inputs(tuple(changed(value) for value in self.args), kwargs, self.n)

    def cycled(self, n: int) -> Inputs:
        """The first n, starting again where there are fewer."""
        return self[torch.arange(n) % self.n]

    def _each(self, change: Callable[[Tensor], Tensor], n: int) -> Inputs:
        def changed(value: Any) -> Any:
            whole = isinstance(value, Tensor) and value.ndim > 0 and len(value) == self.n
            return change(value) if whole else value

        kwargs = {name: changed(value) for name, value in self.kwargs.items()}
        return Inputs(tuple(changed(value) for value in self.args), kwargs, n)


@dataclass(frozen=True)
class Taking:
    """How arrays become the tensors of a model, in the host's memory."""

    dtype: torch.dtype = torch.float32  # of the model's weights
    keep_whole_numbers: bool = False  # token ids stay whole numbers; pixels and features become float32
    channels_last: bool = False  # quicker for convolutions, the same numbers
    columns: tuple[str, ...] = ()  # of the table that the model was trained on
    standard: Callable[[Tensor], Tensor] | None = None  # of a table: what puts float64 into the model's standard units

    def tensor(self, rows: Rows, part: slice) -> Tensor:
        """Some rows, copied so that an in-place operation of the model cannot reach the caller's array."""
        if self.standard is not None:
            return self.standard(torch.from_numpy(doubles(rows, part))).to(self.dtype)
        dtype = rows.values.dtype if isinstance(rows, ArrayRows) else np.dtype(np.float32)
        if self.keep_whole_numbers and isinstance(rows, ArrayRows) and (dtype.kind == "b" or _is_wide(dtype)):
            whole = rows.values[part].astype(bool if dtype.kind == "b" else np.int64, order="C")
            return torch.from_numpy(whole)
        if isinstance(rows, ArrayRows) and self.dtype == torch.float64:
            return torch.from_numpy(rows.values[part].astype(np.float64, order="C"))
        return torch.from_numpy(np.array(rows.take(part), order="C")).to(self.dtype)

    def placed(self, inputs: Inputs, device: torch.device) -> Inputs:
        """Inputs as the model takes them on a device."""
        return inputs.each_tensor(lambda x: self.arranged(sent(x, device)))

    def arranged(self, x: Tensor) -> Tensor:
        """In the memory order that suits the model."""
        if not (self.channels_last and x.ndim == 4 and x.is_floating_point()):
            return x
        x = x.contiguous(memory_format=torch.channels_last)
        height, width = x.shape[2:]
        # a single channel lies last too, which its strides are to say
        return x.as_strided(x.shape, (height * width, 1, width, 1)) if x.shape[1] == 1 else x


def _is_wide(dtype: np.dtype) -> bool:
    return dtype.kind in "iu" and dtype.itemsize >= 4  # smaller ones are pixels


class ArrayFeed:
    """Inputs in memory (or in files): arrays of one length, by position or by keyword."""

    def __init__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], taking: Taking) -> None:
        self.taking = taking
        self.args = tuple(_rows_or_none(value, "x", taking) for value in args)
        self.kwargs = {name: _rows_or_none(value, name, taking) for name, value in kwargs.items()}
        given = [rows for rows in (*self.args, *self.kwargs.values()) if rows is not None]
        if not given:
            raise ValueError("`x` must hold at least one array; got none.")
        self.n_inputs: int | None = given[0].shape[0]
        for rows in given[1:]:
            check_length(rows.shape[0], "x", given[0].shape[0], "its first array")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first array."""
        return next(rows.shape for rows in (*self.args, *self.kwargs.values()) if rows is not None)

    def head(self, n: int) -> Inputs:
        """The first n inputs, starting again where there are fewer."""
        return self._part(slice(0, n)).cycled(n)

    def batches(self, size: int) -> Iterator[Inputs]:
        """All inputs, in order."""
        for start in range(0, self.n_inputs or 0, size):
            yield self._part(slice(start, min(start + size, self.n_inputs or 0)))

    def _part(self, part: slice) -> Inputs:
        def taken(rows: Rows | None) -> Tensor | None:
            return None if rows is None else self.taking.tensor(rows, part)

        args = tuple(taken(rows) for rows in self.args)
        kwargs = {name: taken(rows) for name, rows in self.kwargs.items()}
        return Inputs(args, kwargs, len(range(*part.indices(self.n_inputs or 0))))


def _rows_or_none(value: Any, name: str, taking: Taking) -> Rows | None:
    if value is None:
        return None
    rows = in_order(as_rows(value, name), taking.columns, name)
    check_finite(rows, name)
    return rows


class StreamFeed:
    """Inputs that come in batches: a DataLoader, or any iterator. They are met once, in their order."""

    def __init__(self, batches: Iterable[Any], taking: Taking, n_inputs: int | None = None) -> None:
        self.taking, self.n_inputs = taking, n_inputs
        self.source = iter(batches)
        first = next(self.source, None)
        if first is None:
            raise ValueError("`x` must hold at least one input; got an empty stream.")
        self.first, self.seen = first, 0

    def head(self, n: int) -> Inputs:
        """The first n inputs of the first batch, starting again where there are fewer."""
        return self._inputs(self.first).cycled(n)

    def batches(self, size: int) -> Iterator[Inputs]:
        """All inputs, in order; batches that are larger than `size` are cut."""
        for raw in chain([self.first], self.source):
            inputs = self._inputs(raw)
            for start in range(0, len(inputs), size):
                yield inputs[slice(start, start + size)]
            self.seen += len(inputs)

    def _inputs(self, raw: Any) -> Inputs:
        if isinstance(raw, (tuple, list)) and raw and not np.isscalar(raw[0]):
            raw = raw[0]  # (inputs, targets), as datasets give them
        named = raw if isinstance(raw, Mapping) else {}
        arrays = {name: value for name, value in named.items() if name not in TARGETS}
        feed = ArrayFeed(() if isinstance(raw, Mapping) else (raw,), arrays, self.taking)
        return next(feed.batches(feed.n_inputs or 1))


Feed = ArrayFeed | StreamFeed


def feed_of(x: Any, taking: Taking) -> Feed:
    """Inputs in any form: an array, a tuple of arrays (by position), a mapping (by keyword), a torch Dataset or
    DataLoader, or an iterator of batches. Datasets may give (input, target): the input is taken.

    Raises ValueError for nothing at all, arrays of unequal lengths, numbers that are not finite, and a loader that
    shuffles.
    """
    if isinstance(x, Mapping):
        return ArrayFeed((), x, taking)
    if isinstance(x, tuple):
        return ArrayFeed(x, {}, taking)
    if isinstance(x, DataLoader):
        if isinstance(x.sampler, RandomSampler):
            raise ValueError(
                "`x` is a DataLoader that shuffles, so results could not be matched to inputs; set `shuffle` to false."
            )
        return StreamFeed(_quietly(x), taking)
    if isinstance(x, IterableDataset):
        return StreamFeed(_quietly(DataLoader(x, batch_size=32)), taking)
    if isinstance(x, Dataset):
        n_inputs = len(x)  # pyright: ignore[reportArgumentType]  (map-style datasets have a length)
        return StreamFeed(_quietly(DataLoader(x, batch_size=32)), taking, n_inputs)
    if isinstance(x, Iterator):
        return StreamFeed(x, taking)
    return ArrayFeed((x,), {}, taking)


def _quietly(loader: DataLoader) -> Iterator[Any]:
    """The loader's batches; it starts with the number that torch's global generator would give, which does not move."""
    with OwnStream(None):
        return iter(loader)
