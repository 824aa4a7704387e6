"""The results of a prediction, collected batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..compute.devices import is_on_host
from ..compute.memory import LEAST_CHECKED, check_free, free_memory, in_words
from ..compute.transfers import to_host_async
from ..data.inputs import Inputs
from ..errors import OutOfMemory
from ..predictions.outputs import Outputs
from ..predictions.prediction import BY_INPUT
from ..predictions.summaries import standard_error, summarise_classes, summarise_values
from ..sites.site import tensors_in
from .options import SamplingOptions

PIECE_NUMBERS = 1 << 16  # numbers that are summarised at once: in float64 they and their results stay in cache


@dataclass
class Batch:
    """Some inputs, in the host's memory."""

    inputs: Inputs
    ids: np.ndarray
    first: int  # position of the first among all inputs


@dataclass
class BatchSummary:
    """The summaries of some inputs, and their draws if they are kept."""

    places: np.ndarray  # positions among all inputs
    n_draws: int
    arrays: Callable[[], dict[str, np.ndarray]]  # waits for the device; see `DrawnBatch.summarised()`


@dataclass
class DrawnBatch:
    """The complete draws of some inputs."""

    places: np.ndarray  # positions among all inputs
    raw: Tensor  # (draw, input, ...)
    outputs: Outputs

    def pieces(self) -> list[slice]:
        """Slices of the inputs: on a CPU so few at a time that they are summarised in cache, else all."""
        n = len(self.places)
        step = max(1, PIECE_NUMBERS // self.raw[:, 0].numel()) if self.raw.is_cpu else n
        return [slice(start, start + step) for start in range(0, n, step)]

    def summarised(self, options: SamplingOptions, piece: slice) -> BatchSummary:
        """Summaries by their names, "sound" (whether all numbers are finite), and the draws if they are kept."""
        values, noise = self.outputs.draws(self.raw[:, piece])
        if self.outputs.task == "classification":
            tensors = summarise_classes(values, options.level)
        else:
            tensors = summarise_values(values, noise, options.level)
        tensors["sound"] = is_sound(values)
        if options.keep_samples:
            tensors["samples"] = values.contiguous()
            if noise is not None:
                tensors["noise_variances"] = noise.contiguous()
        return BatchSummary(self.places[piece], len(values), to_host_async(tensors))

    def largest_error(self, piece: slice) -> Tensor:
        """The largest Monte Carlo standard error of each input's means, (input,)."""
        values, _ = self.outputs.draws(self.raw[:, piece])
        return standard_error(values).flatten(1).amax(dim=1)


def is_sound(values: Tensor) -> Tensor:
    """Whether all numbers of each input are finite."""
    if is_on_host(values) and bool(values.sum(dtype=torch.float64).isfinite()):  # a finite sum has finite terms
        return torch.ones(values.shape[1], dtype=torch.bool)
    return values.isfinite().flatten(2).all(dim=-1).all(dim=0)


class ResultBuilder:
    """The summaries of all inputs so far, and their draws if they are kept."""

    def __init__(self, n_inputs: int | None, options: SamplingOptions) -> None:
        self.n_inputs, self.options = n_inputs, options
        self.counts = GrowingArray((), n_inputs)
        self.summaries: dict[str, GrowingArray] = {}
        self.draws: list[GrowingArray | None] = [None, None]  # samples, noise variances
        self.n_seen = 0

    def put(self, parts: Iterable[BatchSummary]) -> None:
        """Add the summaries of a batch."""
        for part in parts:
            arrays, places = part.arrays(), part.places
            check_sound(arrays.pop("sound"), places)
            self.n_seen += len(places)
            if self.options.tolerance is not None:
                self.counts.put(places, np.full(len(places), part.n_draws))
            for which, name in enumerate(("samples", "noise_variances")):
                if name in arrays:
                    self._keep(which, places, arrays.pop(name))
            for name in arrays.keys() & BY_INPUT:
                store = self.summaries.setdefault(name, GrowingArray((), self.n_inputs))
                store.put(places, arrays[name])

    def _keep(self, which: int, places: np.ndarray, draws: np.ndarray) -> None:
        store = self.draws[which]
        if store is None:
            store = self.draws[which] = GrowingArray((self.options.n_samples,), self.n_inputs)
        store.put(places, draws)

    def summary(self) -> dict[str, np.ndarray]:
        """Each summary for all inputs, in their order; this object keeps no reference to them."""
        return {name: self.summaries.pop(name).to_array() for name in list(self.summaries)}

    def n_drawn(self) -> np.ndarray:
        """The number of draws of each input."""
        return self.counts.to_array()

    def samples(self) -> np.ndarray | None:
        """The draws, if they are kept."""
        return None if self.draws[0] is None else self.draws[0].to_array()

    def noise_variances(self) -> np.ndarray | None:
        """The noise variances of the draws, if there are any."""
        return None if self.draws[1] is None else self.draws[1].to_array()


def check_sound(sound: np.ndarray, places: np.ndarray) -> None:
    """Name the first input for which the model returned no number."""
    if not sound.all():
        raise ValueError(
            f"`model` returned NaN or infinite values for input number {places[~sound].min() + 1}; look at its weights "
            "and at the scale of `x`."
        )


def check_numbers(output: Any, n_inputs: int) -> None:
    """Name the first input for which a model returned NaN or infinity; a logit may be minus infinity."""
    by_input = [x for x in tensors_in(output) if x.is_floating_point() and x.ndim and len(x) == n_inputs]
    if by_input:
        unsound = (by_input[0].isnan() | by_input[0].isposinf()).reshape(n_inputs, -1).any(dim=1)
        check_sound(~unsound.cpu().numpy(), np.arange(n_inputs))


class GrowingArray:
    """An array that is filled by the positions of inputs, and grows if their number is not known.

    One array for all batches: a small array kept from each batch would fragment the memory.

    before: lengths of the axes before the axis of the inputs. Values may be shorter there; the array has NaN then.
    """

    def __init__(self, before: tuple[int, ...], n_inputs: int | None) -> None:
        self.before, self.n_inputs, self.n = before, n_inputs, 0
        self.array: np.ndarray | None = None

    def put(self, places: np.ndarray, values: np.ndarray) -> None:
        """Values (..., input, ...) of the inputs at these positions."""
        axis = len(self.before)
        self.n = max(self.n, int(places.max()) + 1)
        if self.array is None and values.shape[: axis + 1] == (*self.before, self.n_inputs) and _run_of(places):
            self.array = np.array(values, order="C")  # these are all inputs
            return
        if self.array is None or self.array.shape[axis] < self.n:
            self._grow(values)
        assert self.array is not None
        along_inputs = slice(places[0], places[-1] + 1) if _run_of(places) else places
        self.array[(*map(slice, values.shape[:axis]), along_inputs)] = values

    def _grow(self, values: np.ndarray) -> None:
        axis = len(self.before)
        old = self.array
        room = self.n_inputs or max(self.n, 0 if old is None else 2 * old.shape[axis])
        shape = (*self.before, room, *values.shape[axis + 1 :])
        if axis:
            check_room(shape, 1, values.itemsize)
        check_free(values.itemsize * math.prod(shape))
        self.array = np.full(shape, np.nan, values.dtype) if axis else np.empty(shape, values.dtype)
        if old is not None:
            self.array[(slice(None),) * axis + (slice(old.shape[axis]),)] = old

    def to_array(self) -> np.ndarray:
        """The values, in the order of the inputs."""
        assert self.array is not None
        if self.array.shape[len(self.before)] == self.n:
            return self.array
        if self.before:
            return self.array[(slice(None),) * len(self.before) + (slice(self.n),)].copy()
        self.array.resize((self.n, *self.array.shape[1:]), refcheck=False)  # in place: a copy would need as much again
        return self.array


def _run_of(places: np.ndarray) -> bool:
    """Whether the positions follow each other."""
    return places[-1] - places[0] + 1 == len(places)


def check_room(shape: tuple[int, ...], arrays: int, itemsize: int) -> None:
    """Raise OutOfMemory if draws of this shape do not fit into free memory; `itemsize` is the bytes of a number."""
    needed = itemsize * math.prod(shape) * arrays
    if needed > LEAST_CHECKED and needed > (free := free_memory()):
        raise OutOfMemory(
            f"`keep_samples` would need {in_words(needed)} for {shape[0]} draws of {shape[1]} inputs, and "
            f"{in_words(free)} are free; set it to false to get the summaries alone."
        )
