"""Sources of batches: arrays in memory, loaders and iterators."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from ..checks import check_length, shown
from ..compute.streams import OwnStream
from .conversion import InputConversion
from .inputs import Inputs, Takes
from .rows import ArrayRows, Rows, as_rows, check_finite, in_order

TARGETS = frozenset(("labels", "label", "targets", "target", "y"))  # seldom for the model, in batches by keyword

BATCH_SIZE = 32  # into which a Dataset is cut


class ArraySource:
    """Inputs in memory (or in files): arrays of one length, by position or by keyword, alone or in mappings."""

    def __init__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], conversion: InputConversion) -> None:
        self.conversion = conversion
        self.args = tuple(_rows_in(value, "x", conversion) for value in args)
        self.kwargs = {name: _rows_in(value, name, conversion) for name, value in kwargs.items()}
        given = [*_rows_of(self.args), *_rows_of(self.kwargs)]
        if not given:
            raise ValueError("`x` must hold at least one array; got none.")
        self.n_inputs: int | None = given[0].shape[0]
        self.shape = given[0].shape  # of the first array
        for rows in given[1:]:
            check_length(rows.shape[0], "x", given[0].shape[0], "its first array")

    def head(self, n: int) -> Inputs:
        """The first n inputs, starting again where there are fewer."""
        return self._part(slice(0, n)).cycled(n)

    def batches(self, size: int) -> Iterator[Inputs]:
        """All inputs, in order."""
        for start in range(0, self.n_inputs or 0, size):
            yield self._part(slice(start, min(start + size, self.n_inputs or 0)))

    def _part(self, part: slice) -> Inputs:
        def taken(rows: Any) -> Any:
            if isinstance(rows, Mapping):
                return {name: taken(one) for name, one in rows.items()}
            return None if rows is None else self.conversion.tensor(rows, part)

        args = tuple(taken(rows) for rows in self.args)
        return Inputs(args, taken(self.kwargs), len(range(*part.indices(self.n_inputs or 0))))


def _rows_in(value: Any, name: str, conversion: InputConversion) -> Any:
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {key: _rows_in(one, key, conversion) for key, one in value.items()}
    rows = in_order(as_rows(value, name), conversion.columns, name)
    check_finite(rows, name)
    if isinstance(rows, ArrayRows) and rows.values.dtype.kind == "u" and rows.values.max() > np.iinfo(np.int64).max:
        raise ValueError(f"`{name}` must hold whole numbers of 64 bits with their sign; got {rows.values.max()}.")
    return rows


def _rows_of(given: Any) -> list[Rows]:
    if given is None:
        return []
    if isinstance(given, Mapping | tuple):
        parts = given.values() if isinstance(given, Mapping) else given
        return [rows for part in parts for rows in _rows_of(part)]
    return [given]


@dataclass(frozen=True)
class Counts:
    """What a Dataset or DataLoader tells of the batches that come from it."""

    n_inputs: int | None = None
    size: int | None = None  # of each batch but the last

    @classmethod
    def of(cls, x: Any, batch_size: int = BATCH_SIZE) -> Counts | None:
        """None of anything else, nothing known where items are batches themselves."""
        if not isinstance(x, Dataset | DataLoader):
            return None
        dataset, size = (x.dataset, x.batch_size) if isinstance(x, DataLoader) else (x, batch_size)
        if isinstance(x, DataLoader) and x.batch_sampler is None:
            return cls()
        counted = not isinstance(dataset, IterableDataset)
        return cls(len(dataset) if counted else None, size)  # pyright: ignore[reportArgumentType]

    def check(self, n: int, seen: int) -> None:
        """Refuse a batch of other than the items that it was made of; `seen`: inputs before it."""
        left = math.inf if self.n_inputs is None else self.n_inputs - seen
        most = min(math.inf if self.size is None else self.size, left)
        if n > most or (n < most and self.size is not None and self.n_inputs is not None):
            got = f"{seen + n} inputs of {left + seen} items" if self.size is None else f"{n} in a batch of {most}"
            raise ValueError(
                f"`x` must give as many inputs as its dataset has items; got {got}. Stack rows or images along a first "
                "axis (a list of two counts as inputs and target), or set `batch_size` of a DataLoader whose items are "
                "batches to none."
            )

    def check_end(self, seen: int) -> None:
        """The same, of all."""
        if self.n_inputs not in (None, seen):
            raise ValueError(
                f"`x` must give as many inputs as its dataset has items; got {seen} inputs of {self.n_inputs} items."
            )


class StreamSource:
    """Inputs that come in batches: a DataLoader, or any iterator. They are met once, in their order.

    counts: of a Dataset or DataLoader; None of any other iterator.
    """

    def __init__(self, batches: Iterable[Any], conversion: InputConversion, counts: Counts | None = None) -> None:
        self.conversion, self.loaded = conversion, counts is not None
        self.counts = counts or Counts()
        self.n_inputs = self.counts.n_inputs
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
        self.counts.check_end(self.seen)

    def _inputs(self, batch: Any) -> Inputs:
        inputs = inputs_in(batch, self.loaded)
        takes = self.conversion.takes
        if isinstance(inputs, Mapping) and takes.is_argument(inputs):
            args, kwargs = (inputs,), {}
        elif isinstance(inputs, Mapping):
            args, kwargs = (), _by_keyword(inputs, takes)
        else:
            args, kwargs = _by_position(inputs), {}
            if inputs is not batch and len(args) == 1 and len(takes.required) > 1:
                raise ValueError(
                    f"`x` comes in batches of (inputs, target), whose inputs are one array, and `model` takes "
                    f"{', '.join(takes.required)}; give them as ((first, second), target), or as a mapping by keyword."
                )
        source = ArraySource(args, kwargs, self.conversion)
        n = source.n_inputs or 1
        target: Any = batch[1] if inputs is not batch and len(batch) == 2 else None
        if len(getattr(target, "shape", ())) and target.shape[0] != n:
            raise ValueError(
                f"`x` must come in batches of inputs, or of (inputs, target) of one length; got {n} inputs and "
                f"{target.shape[0]} targets."
            )
        self.counts.check(n, self.seen)
        return next(source.batches(n))


def _check_pair(batch: Any) -> None:
    """Refuse a list of what may as well be two images, or other large inputs, as (inputs, target)."""
    if not (isinstance(batch, list) and len(batch) == 2):
        return
    one, other = ((getattr(part, "shape", ()), getattr(part, "dtype", None)) for part in batch)
    if one == other and len(one[0]) > 2:
        raise ValueError(
            "`x` must come in batches of one array of inputs, or of a tuple (inputs, target); got a list of two arrays "
            f"of shape {tuple(one[0])}, which may be two inputs. Give two inputs as one array, or leave out the target."
        )


def inputs_in(batch: Any, loaded: bool) -> Any:
    """The inputs of a batch: (inputs, target) has them first, anything else is inputs. Lists of numbers are an array.

    loaded: whether a DataLoader made it, whose lists are such pairs, and whose inputs are counted.

    Raises ValueError for more than two parts: which of them are inputs is not known.
    """
    if not loaded:
        _check_pair(batch)
    if not isinstance(batch, tuple | list) or (isinstance(batch, list) and all(map(_is_plain, batch))):
        return batch
    if len(batch) not in (1, 2):
        raise ValueError(
            f"`x` must come in batches of inputs, or of (inputs, target); got one of {len(batch)} parts. Give several "
            "arrays as ((first, second), target) or as a mapping by keyword, and rows or images as one array."
        )
    return batch[0]


def _is_plain(value: Any) -> bool:
    return isinstance(value, list) or np.isscalar(value)


def _by_position(inputs: Any) -> tuple[Any, ...]:
    several = isinstance(inputs, tuple) or (isinstance(inputs, list) and not all(map(_is_plain, inputs)))
    return tuple(inputs) if several else (inputs,)


def _by_keyword(batch: Mapping[str, Any], takes: Takes) -> dict[str, Any]:
    """Without targets, and without what the model has no argument for.

    `y` is an input where the model has such an argument, other names of targets are where it must have it: models
    that can be trained have one for labels, and give the loss then.
    """
    inputs = {}
    left = []
    for name, value in batch.items():
        if name in TARGETS and name not in takes.required and not (name == "y" and name in takes.optional):
            continue
        if name in takes:
            inputs[name] = value
        elif hasattr(value, "shape"):
            left.append(name)
    free = [name for name in (*takes.required, *takes.optional) if name not in batch and name not in TARGETS]
    if left and free:  # it may be one of them, misspelt
        raise ValueError(
            f"`x` comes in batches with {shown(left[0])}, which `model` does not take (it takes "
            f"{', '.join((*takes.required, *takes.optional))}); name it as `model` does, or leave it out of them."
        )
    return inputs


InputSource = ArraySource | StreamSource


def source_of(x: Any, conversion: InputConversion) -> InputSource:
    """Inputs in any form: an array, a tuple of arrays (by position), a mapping (by keyword), a torch Dataset or
    DataLoader, or an iterator of batches.

    A batch is one of these forms, or a pair (inputs, target) of which the inputs are taken. In batches that are
    mappings, targets and what the model has no argument for are left out; see `_by_keyword()`. A mapping in memory is
    taken whole.

    Raises ValueError for nothing at all, arrays of unequal lengths, numbers that are not finite, names that the model
    does not take, batches of more than two parts, lists of two images, and a loader that does not give all inputs in
    their order.
    """
    if isinstance(x, Mapping) and conversion.takes.is_argument(x):
        x = (x,)
    if isinstance(x, Mapping):
        conversion.takes.check(x, "x")
        return ArraySource((), x, conversion)
    if isinstance(x, tuple):
        return ArraySource(x, {}, conversion)
    batches = in_batches(x)
    if batches is None:
        return ArraySource((x,), {}, conversion)
    return StreamSource(batches, conversion, Counts.of(x))


def in_batches(x: Any, batch_size: int = BATCH_SIZE) -> Iterator[Any] | None:
    """The batches of what comes in batches; None of anything else. A Dataset is cut into batches of `batch_size`."""
    if isinstance(x, DataLoader):
        check_order(x)
        return _quietly(lambda: iter(x))
    if isinstance(x, Dataset):
        return _quietly(lambda: iter(DataLoader(x, batch_size=batch_size)))
    return x if isinstance(x, Iterator) else None


SHUFFLING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


def check_order(loader: DataLoader) -> None:
    """Refuse a loader that shuffles, repeats or leaves out: results could not be matched to inputs."""
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    inner = getattr(sampler, "sampler", sampler)
    if isinstance(inner, RandomSampler):
        raise ValueError(
            "`x` is a DataLoader that shuffles, so results could not be matched to inputs; set `shuffle` to false."
        )
    if isinstance(loader.dataset, IterableDataset):  # in the order in which it comes
        whole = not loader.drop_last
    elif isinstance(inner, SHUFFLING):
        whole = False
    else:
        n = len(loader.dataset)  # pyright: ignore[reportArgumentType]  (map-style datasets have a length)
        if type(sampler) is BatchSampler and type(inner) is SequentialSampler:
            whole = len(inner) == n and (not sampler.drop_last or n % sampler.batch_size == 0)
        else:
            whole = _is_in_order(sampler, n)
    if not whole:
        by = "drop_last" if loader.drop_last else type(inner).__name__
        raise ValueError(
            f"`x` is a DataLoader that does not give all inputs in their order (by its {by}), so results could not be "
            "matched to inputs; give its dataset, or a `torch.utils.data.Subset` of that, instead."
        )


def _is_in_order(sampler: Iterable[Any], n: int) -> bool:
    """Whether it gives 0, 1, ..., n - 1, one by one or in batches."""
    with OwnStream(None):
        found = (one for part in sampler for one in (part if isinstance(part, Sequence | np.ndarray) else (part,)))
        return list(islice(found, n + 1)) == list(range(n))


def _quietly(start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """An iterator that starts with the number that torch's global generator would give, which does not move."""
    with OwnStream(None):
        return start()
