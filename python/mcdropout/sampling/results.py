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
from ..compute.memory import free_memory
from ..compute.transfers import to_host_async
from ..data.inputs import Inputs
from ..errors import OutOfMemory
from ..predictions.outputs import Outputs
from ..predictions.prediction import BY_INPUT
from ..predictions.summaries import standard_error, summarise_classes, summarise_values
from ..sites.site import tensors_in
from .options import SamplingOptions

PIECE_NUMBERS = 1 << 16  # of them that are summarised at once: in float64 they and what is made of them stay in cache

ASKED_FROM = 16 << 20  # of fewer bytes nobody asks whether memory has room: to ask takes as long as a small prediction


@dataclass
class Batch:
    """Some inputs, in the host's memory."""

    inputs: Inputs
    ids: np.ndarray
    first: int  # position of the first among all inputs


@dataclass
class BatchSummary:
    """What is kept of the draws of some inputs."""

    places: np.ndarray  # positions among all inputs
    n_draws: int
    arrays: Callable[[], dict[str, np.ndarray]]  # as soon as the device has made them: see `Drawn.summarised()`


@dataclass
class DrawnBatch:
    """The complete draws of some inputs."""

    places: np.ndarray  # positions among all inputs
    raw: Tensor  # (draw, input, ...)
    outputs: Outputs

    def pieces(self) -> list[slice]:
        """The inputs, on a CPU so many at a time that the summaries are made in cache."""
        n = len(self.places)
        step = max(1, PIECE_NUMBERS // self.raw[:, 0].numel()) if self.raw.is_cpu else n
        return [slice(start, start + step) for start in range(0, n, step)]

    def summarised(self, request: SamplingOptions, piece: slice) -> BatchSummary:
        """Summaries by their names, "sound" (whether all numbers are finite), and the draws where they are wanted."""
        values, noise = self.outputs.draws(self.raw[:, piece])
        if self.outputs.task == "classification":
            made = summarise_classes(values, request.level)
        else:
            made = summarise_values(values, noise, request.level)
        made["sound"] = is_sound(values)
        if request.keep_samples:
            made["samples"] = values.contiguous()
            if noise is not None:
                made["noise_variances"] = noise.contiguous()
        return BatchSummary(self.places[piece], len(values), to_host_async(made))

    def largest_error(self, piece: slice) -> Tensor:
        """The largest Monte Carlo standard error of each input's means, (input,)."""
        values, _ = self.outputs.draws(self.raw[:, piece])
        return standard_error(values).flatten(1).amax(dim=1)


def is_sound(values: Tensor) -> Tensor:
    """Whether all numbers of each input are finite."""
    if is_on_host(values) and bool(values.sum(dtype=torch.float64).isfinite()):  # then all that it met are
        return torch.ones(values.shape[1], dtype=torch.bool)
    return values.isfinite().flatten(2).all(dim=-1).all(dim=0)


class ResultBuilder:
    """Summaries, and the draws where they are wanted, of the inputs so far."""

    def __init__(self, n_inputs: int | None, request: SamplingOptions) -> None:
        self.n_inputs, self.request = n_inputs, request
        self.counts = GrowingArray((), n_inputs)
        self.summaries: dict[str, GrowingArray] = {}
        self.draws: list[GrowingArray | None] = [None, None]  # samples, noise variances
        self.n_seen = 0

    def put(self, parts: Iterable[BatchSummary]) -> None:
        """Take over a batch."""
        for part in parts:
            arrays, places = part.arrays(), part.places
            check_sound(arrays.pop("sound"), places)
            self.n_seen += len(places)
            if self.request.tolerance is not None:
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
            store = self.draws[which] = GrowingArray((self.request.n_samples,), self.n_inputs)
        store.put(places, draws)

    def summary(self) -> dict[str, np.ndarray]:
        """Each summary for all inputs, in their order; they are handed over and not kept."""
        return {name: self.summaries.pop(name).whole() for name in list(self.summaries)}

    def n_drawn(self) -> np.ndarray:
        """Draws that each input took."""
        return self.counts.whole()

    def samples(self) -> np.ndarray | None:
        """The draws that were kept."""
        return None if self.draws[0] is None else self.draws[0].whole()

    def noise_variances(self) -> np.ndarray | None:
        """Their noise variances."""
        return None if self.draws[1] is None else self.draws[1].whole()


def check_sound(sound: np.ndarray, places: np.ndarray) -> None:
    """Name the first input for which the model returned no number."""
    if not sound.all():
        raise ValueError(
            f"`model` returned NaN or infinite values for input number {places[~sound].min() + 1}; look at its weights "
            "and at the scale of `x`."
        )


def check_numbers(output: Any, n_inputs: int) -> None:
    """Name the first input for which a model returned NaN or infinity; not minus infinity, as logits may be that."""
    by_input = [one for one in tensors_in(output) if one.is_floating_point() and one.ndim and len(one) == n_inputs]
    if by_input:
        unsound = (by_input[0].isnan() | by_input[0].isposinf()).reshape(n_inputs, -1).any(dim=1)
        check_sound(~unsound.cpu().numpy(), np.arange(n_inputs))


class GrowingArray:
    """An array that is filled by the positions of inputs, and grows where nobody knows how many will come.

    One place for all batches: a small array kept from each would hold on to the memory around it.

    `before`: lengths of the axes before that of the inputs; what is put may be shorter there, and NaN is left.
    """

    def __init__(self, before: tuple[int, ...], n_inputs: int | None) -> None:
        self.before, self.n_inputs, self.n = before, n_inputs, 0
        self.array: np.ndarray | None = None

    def put(self, places: np.ndarray, values: np.ndarray) -> None:
        """Values (..., input, ...) of the inputs at these positions."""
        axis = len(self.before)
        self.n = max(self.n, int(places.max()) + 1)
        if self.array is None and values.shape[: axis + 1] == (*self.before, self.n_inputs) and _run_of(places):
            self.array = np.array(values, order="C")  # all at once
            return
        if self.array is None or self.array.shape[axis] < self.n:
            self._grow(values)
        assert self.array is not None
        own = slice(places[0], places[-1] + 1) if _run_of(places) else places
        self.array[(*map(slice, values.shape[:axis]), own)] = values

    def _grow(self, values: np.ndarray) -> None:
        axis = len(self.before)
        old = self.array
        room = self.n_inputs or max(self.n, 0 if old is None else 2 * old.shape[axis])
        shape = (*self.before, room, *values.shape[axis + 1 :])
        if axis:
            check_room(shape, 1, values.itemsize)
        self.array = np.full(shape, np.nan, values.dtype) if axis else np.empty(shape, values.dtype)
        if old is not None:
            self.array[(slice(None),) * axis + (slice(old.shape[axis]),)] = old

    def whole(self) -> np.ndarray:
        """What was put, in the order of the inputs."""
        assert self.array is not None
        if self.array.shape[len(self.before)] == self.n:
            return self.array
        if self.before:
            return self.array[(slice(None),) * len(self.before) + (slice(self.n),)].copy()
        self.array.resize((self.n, *self.array.shape[1:]), refcheck=False)  # where it is: a copy would take as much
        return self.array


def _run_of(places: np.ndarray) -> bool:
    return places[-1] - places[0] + 1 == len(places)


def check_room(shape: tuple[int, ...], arrays: int, itemsize: int) -> None:
    """Refuse to keep draws of this shape, so many bytes a number, that memory has no room for."""
    needed = itemsize * math.prod(shape) * arrays
    if needed > ASKED_FROM and needed > (free := free_memory()):
        raise OutOfMemory(
            f"`keep_samples` would need {needed / 2**30:.1f} GiB for {shape[0]} draws of {shape[1]} inputs, and "
            f"{free / 2**30:.1f} GiB are free; set it to false to get the summaries alone."
        )
