"""What a model is fed: one input array or several, held in memory or streamed, as tensors batch by batch."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations, islice, product
from typing import Any

import numpy as np
import torch
from torch import Tensor
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

from .arrays import ArrayRows, Rows, as_rows, check_finite, doubles, in_order
from .checks import check_length, shown
from .devices import sent
from .randomness import OwnStream

TARGETS = frozenset(("labels", "label", "targets", "target", "y"))  # seldom for the model, in batches by keyword
BATCH_SIZE = 32  # into which a Dataset is cut
MOST_TRIES = 300  # of ways to take whole numbers; four inputs have no more

Part = slice | Tensor  # which inputs: a slice, or positions
Path = tuple[int | str, ...]  # where an array is: its position or keyword, and its name in a mapping that lies there
Casts = Mapping[Path, torch.dtype]  # the types that a model takes instead of those given, where they lie
Kinds = tuple[tuple[Path, torch.dtype], ...]


@dataclass(frozen=True)
class Inputs:
    """Some inputs as the model is called with them: `model(*args, **kwargs, **constants)`.

    Each of `args` and `kwargs` is a tensor, None, or a mapping of such. All tensors there have one entry for each
    input; `constants` are the same for all inputs.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    n: int
    constants: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, part: Part) -> Inputs:
        """Some of them."""
        n = len(range(*part.indices(self.n))) if isinstance(part, slice) else len(part)
        return self.changed(lambda _, value: value[part], n)

    def changed(self, change: Callable[[Path, Tensor], Tensor], n: int | None = None) -> Inputs:
        """With every tensor changed but the constants; of `n` inputs then, by default of as many."""
        args = tuple(_changed((place,), value, change) for place, value in enumerate(self.args))
        kwargs = {name: _changed((name,), value, change) for name, value in self.kwargs.items()}
        return Inputs(args, kwargs, self.n if n is None else n, self.constants)

    def each_tensor(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """The same, wherever the tensor is."""
        return self.changed(lambda _, value: change(value))

    @property
    def arrays(self) -> dict[Path, Tensor]:
        """The tensors that have an entry for each input, by where they are."""
        found: dict[Path, Tensor] = {}

        def note(path: Path, value: Tensor) -> Tensor:
            found[path] = value
            return value

        self.changed(note)
        return found

    @property
    def nbytes(self) -> int:
        """Size of all tensors that have an entry for each input."""
        return sum(value.nbytes for value in self.arrays.values())

    def clone(self) -> Inputs:
        """A copy that may be written to."""
        constants = _changed((), self.constants, lambda _, value: value.clone())
        return self.with_constants(constants).each_tensor(Tensor.clone)

    def with_constants(self, constants: dict[str, Any]) -> Inputs:
        """With these beside them."""
        return Inputs(self.args, self.kwargs, self.n, constants)

    def noised(self, generator: torch.Generator) -> Inputs:
        """With noise added to the floating point inputs, for each of them the same however many there are."""

        def add(_: Path, value: Tensor) -> Tensor:
            if not value.is_floating_point():
                return value
            noise = [torch.randn(value.shape[1:], generator=generator, dtype=torch.float32) for _ in range(self.n)]
            return value + torch.stack(noise).to(value)

        return self.changed(add)

    def cast(self, casts: Casts) -> Inputs:
        """With the types that the model takes."""
        if not casts:
            return self

        def cast(path: Path, value: Tensor) -> Tensor:
            dtype = casts.get(path)
            if dtype == torch.int64 and value.is_floating_point():
                _check_whole(value, self.name(path))
            return value if dtype is None else value.to(dtype)

        return self.changed(cast)

    @property
    def kinds(self) -> Kinds:
        """The type of each array, by which a model may take it in another way."""
        return tuple((path, value.dtype) for path, value in self.arrays.items())

    @property
    def signature(self) -> tuple[Any, ...]:
        """Shapes and types of one input, by which a model may go other ways."""
        return tuple((path, tuple(value.shape[1:]), value.dtype) for path, value in self.arrays.items())

    @property
    def shapes(self) -> str:
        """The shapes of one input in words."""
        return ", ".join(_shape_words(value) for value in self.arrays.values())

    def name(self, path: Path) -> str:
        """What messages call an array."""
        words = [one for one in path if isinstance(one, str)]
        if words or len(self.arrays) == 1:
            return f"`{words[-1]}`" if words else "`x`"
        return f"`x`'s array number {int(path[0]) + 1}"

    def cycled(self, n: int) -> Inputs:
        """The first n, starting again where there are fewer."""
        return self[torch.arange(n) % self.n]


def _changed(path: Path, value: Any, change: Callable[[Path, Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(path, value)
    if isinstance(value, Mapping):
        return {name: _changed((*path, name), one, change) for name, one in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_changed((*path, place), one, change) for place, one in enumerate(value))
    return value


def _shape_words(x: Tensor) -> str:
    sizes = ", ".join(map(str, ("input", *x.shape[1:])))
    kind = "truth values" if x.dtype == torch.bool else "numbers" if x.is_floating_point() else "whole numbers"
    if x.ndim == 1:
        return f"({sizes}) of single {kind}"
    return f"({sizes})" if x.is_floating_point() else f"({sizes}) of {kind}"


# ---- arrays to tensors ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Takes:
    """What a model can be given by keyword."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    anything: bool = True  # besides
    positional: tuple[str, ...] = ()  # of both, those that may be given by position, in that order
    mapping: bool = False  # whether one argument may be a mapping, which then has other names

    @classmethod
    def of(cls, forward: Callable[..., Any]) -> Takes:
        """As its signature tells, if it has one."""
        try:
            parameters = inspect.signature(forward).parameters
        except (TypeError, ValueError):
            return cls()
        named = [one for one in parameters.values() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        return cls(
            tuple(one.name for one in named if one.default is one.empty),
            tuple(one.name for one in named if one.default is not one.empty),
            any(one.kind is one.VAR_KEYWORD for one in parameters.values()),
            tuple(one.name for one in named if one.kind is one.POSITIONAL_OR_KEYWORD),
        )

    def __contains__(self, name: str) -> bool:
        return self.anything or name in self.required or name in self.optional

    def is_argument(self, x: Mapping[str, Any]) -> bool:
        """Whether a mapping is one argument, not several by keyword."""
        return self.mapping and not any(name in self for name in x)

    def check(self, names: Iterable[str], argument: str) -> None:
        """Refuse names that the model does not take."""
        strange = next((name for name in names if name not in self), None)
        if strange is not None:
            known = ", ".join((*self.required, *self.optional)) or "none"
            raise ValueError(f"`{argument}` must have names that `model` takes ({known}); got {shown(strange)}.")


@dataclass(frozen=True)
class Taking:
    """How arrays become the tensors of a model, in the host's memory.

    Floating numbers take the model's type. Whole numbers and truth values stay what they are, unless `floats` is true.
    """

    dtype: torch.dtype = torch.float32  # of the model's weights
    floats: bool = False  # whole numbers become floating ones too: our networks take nothing else
    channels_last: bool = False  # quicker for convolutions, the same numbers
    columns: tuple[str, ...] = ()  # of the table that the model was trained on
    takes: Takes = field(default_factory=Takes)
    standard: Callable[[Tensor], Tensor] | None = None  # of a table: what puts float64 into the model's standard units

    def tensor(self, rows: Rows, part: slice) -> Tensor:
        """Some rows, copied so that an in-place operation of the model cannot reach the caller's array."""
        if self.standard is not None:
            return self.standard(torch.from_numpy(doubles(rows, part))).to(self.dtype)
        if isinstance(rows, ArrayRows):
            kind = rows.values.dtype
            if kind.kind in "bui" and not self.floats:
                # torch can do little with unsigned numbers of more than a byte
                kept = np.dtype(np.int64) if kind.kind == "u" and kind.itemsize > 1 else kind.newbyteorder("=")
                return torch.from_numpy(np.array(rows.values[part], dtype=kept, order="C"))
            if self.dtype == torch.float64:
                return torch.from_numpy(rows.values[part].astype(np.float64, order="C"))
        return torch.from_numpy(np.array(rows.take(part), order="C")).to(self.dtype)

    def placed(self, inputs: Inputs, device: torch.device) -> Inputs:
        """Inputs on a device."""
        return inputs.each_tensor(lambda x: self.arranged(sent(x, device)))

    def arranged(self, x: Tensor) -> Tensor:
        """In the memory order that suits the model."""
        if not (self.channels_last and x.ndim == 4 and x.is_floating_point()):
            return x
        x = x.contiguous(memory_format=torch.channels_last)
        height, width = x.shape[2:]
        # a single channel lies last too, which its strides are to say
        return x.as_strided(x.shape, (height * width, 1, width, 1)) if x.shape[1] == 1 else x


def _check_whole(x: Tensor, name: str) -> None:
    broken = x[x != x.trunc()]
    if len(broken):
        raise ValueError(f"{name} must hold whole numbers, as `model` takes no others there; got {broken[0]:g}.")


def ways_to_take(inputs: Inputs, dtype: torch.dtype) -> Iterator[Casts]:
    """The types to try for arrays of whole numbers, where they lie: as they are first, then as few others as can be.

    Whole numbers and truth values may become int64 or floating; floating numbers that are all whole may become int64.
    The last way makes all of them floating.
    """
    others: dict[Path, tuple[torch.dtype, ...]] = {}
    for path, value in inputs.arrays.items():
        if not value.is_floating_point():
            others[path] = (dtype,) if value.dtype == torch.int64 else (torch.int64, dtype)
        elif bool((value == value.trunc()).all()):
            others[path] = (torch.int64,)
    some = (
        dict(zip(which, types, strict=True))
        for n in range(len(others) + 1)
        for which in combinations(others, n)
        for types in product(*(others[path] for path in which))
    )
    yield from islice(some, MOST_TRIES)
    floating = {path: dtype for path, types in others.items() if dtype in types}
    if floating:
        yield floating


def has_whole_numbers(inputs: Inputs) -> bool:
    """Whether any array holds whole numbers alone, whatever their type."""
    return any(
        not value.is_floating_point() or bool((value == value.trunc()).all()) for value in inputs.arrays.values()
    )


def as_constants(given: Any, takes: Takes, dtype: torch.dtype) -> dict[str, Any]:
    """What a model is given beside its inputs, by keyword; arrays become tensors, floating ones of the model's type.

    Raises ValueError for what is no mapping of names, and for names that the model does not take.
    """
    if given is None or (isinstance(given, list | tuple) and not given):  # as an empty list of R's comes
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"`constants` must give names to what `model` takes beside `x`; got {shown(given)}.")
    takes.check(given, "constants")
    return {name: _as_constant(value, dtype) for name, value in given.items()}


def _as_constant(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "buifc":
        value = torch.from_numpy(value.astype(value.dtype.newbyteorder("="), order="C"))
    if isinstance(value, Mapping):
        return {name: _as_constant(one, dtype) for name, one in value.items()}
    if type(value) in (tuple, list):
        parts = [_as_constant(one, dtype) for one in value]
        return parts if type(value) is list else tuple(parts)
    if isinstance(value, Tensor):
        return value.detach().to(dtype) if value.is_floating_point() else value.detach()
    return value


def check_given_once(constants: Iterable[str], inputs: Inputs, takes: Takes) -> None:
    """Refuse constants that have the name of an input, given by position or by keyword."""
    given = {*takes.positional[: len(inputs.args)], *inputs.kwargs}
    twice = next((name for name in constants if name in given), None)
    if twice is not None:
        raise ValueError(f"`constants` must not name what `x` gives; got {shown(twice)}.")


def placed_constants(constants: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """With all tensors on a device."""
    return _changed((), constants, lambda _, value: value.to(device))


# ---- in memory ------------------------------------------------------------------------------------------------


class ArrayFeed:
    """Inputs in memory (or in files): arrays of one length, by position or by keyword, alone or in mappings."""

    def __init__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], taking: Taking) -> None:
        self.taking = taking
        self.args = tuple(_rows_in(value, "x", taking) for value in args)
        self.kwargs = {name: _rows_in(value, name, taking) for name, value in kwargs.items()}
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
            return None if rows is None else self.taking.tensor(rows, part)

        args = tuple(taken(rows) for rows in self.args)
        return Inputs(args, taken(self.kwargs), len(range(*part.indices(self.n_inputs or 0))))


def _rows_in(value: Any, name: str, taking: Taking) -> Any:
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {key: _rows_in(one, key, taking) for key, one in value.items()}
    rows = in_order(as_rows(value, name), taking.columns, name)
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


# ---- in batches -----------------------------------------------------------------------------------------------


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


class StreamFeed:
    """Inputs that come in batches: a DataLoader, or any iterator. They are met once, in their order.

    counts: of a Dataset or DataLoader; None of any other iterator.
    """

    def __init__(self, batches: Iterable[Any], taking: Taking, counts: Counts | None = None) -> None:
        self.taking, self.loaded = taking, counts is not None
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
        takes = self.taking.takes
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
        feed = ArrayFeed(args, kwargs, self.taking)
        n = feed.n_inputs or 1
        target: Any = batch[1] if inputs is not batch and len(batch) == 2 else None
        if len(getattr(target, "shape", ())) and target.shape[0] != n:
            raise ValueError(
                f"`x` must come in batches of inputs, or of (inputs, target) of one length; got {n} inputs and "
                f"{target.shape[0]} targets."
            )
        self.counts.check(n, self.seen)
        return next(feed.batches(n))


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


Feed = ArrayFeed | StreamFeed


def feed_of(x: Any, taking: Taking) -> Feed:
    """Inputs in any form: an array, a tuple of arrays (by position), a mapping (by keyword), a torch Dataset or
    DataLoader, or an iterator of batches.

    A batch is one of these forms, or a pair (inputs, target) of which the inputs are taken. In batches that are
    mappings, targets and what the model has no argument for are left out; see `_by_keyword()`. A mapping in memory is
    taken whole.

    Raises ValueError for nothing at all, arrays of unequal lengths, numbers that are not finite, names that the model
    does not take, batches of more than two parts, lists of two images, and a loader that does not give all inputs in
    their order.
    """
    if isinstance(x, Mapping) and taking.takes.is_argument(x):
        x = (x,)
    if isinstance(x, Mapping):
        taking.takes.check(x, "x")
        return ArrayFeed((), x, taking)
    if isinstance(x, tuple):
        return ArrayFeed(x, {}, taking)
    batches = in_batches(x)
    if batches is None:
        return ArrayFeed((x,), {}, taking)
    return StreamFeed(batches, taking, Counts.of(x))


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
