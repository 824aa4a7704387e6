"""Passes through a Keras model, which record its stochastic calls or apply masks."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ...data.inputs import Inputs, Path
from ..calls import ALPHA, NUMBERS, Shape, StochasticCall
from ..lookups import check_looked_up
from ..site import Site
from ..trials import USUAL, Trial
from .loading import ATTENTION, load_keras


class Pass:
    """One pass through a replica without dropout, in which Keras draws the random numbers of the model."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.fixed: set[str] = set()  # calls whose seed is a number

    def named(self, path: str) -> str:
        """The name of the next call of the layer at `path`."""
        self.counts[path] += 1
        return f"{path}[{self.counts[path] - 1}]"

    def apply(self, path: str, drop: StochasticCall, x: Any) -> Any:
        """The result for `x` of the layer at `path`, which would drop in training."""
        return self.at(self.named(path), drop, x)

    def numbers(self, name: str, drop: StochasticCall, x: Any) -> Any:
        """The random numbers for a call, in the shape of `x`; or the seed from which Keras draws them."""
        return MODEL_SEED

    def by_keras(self, name: str, drop: StochasticCall, run: Run) -> Any:
        """The random numbers that Keras draws by `run(seed)`."""
        return run(MODEL_SEED)

    def at(self, name: str, drop: StochasticCall, x: Any) -> Any:
        """The result of a stochastic call for `x`; here nothing is dropped."""
        return x

    def entered(self, layer: Any, path: str, args: tuple[Any, ...]) -> None:
        """Called when the layer at `path` starts."""

    def left(self, layer: Any, x: Any, result: Any) -> None:
        """Called when a layer has computed `result` from `x`."""


class CarefulPass(Pass):
    """A pass that explains wrong whole numbers, which backends treat differently.

    It refuses dropout of whole numbers and lookups out of range. It ends after `lookups` lookups. `trouble` is the
    error, because Keras changes the text of errors that are raised inside it. first: position of the first of `inputs`
    among all.
    """

    def __init__(self, inputs: Inputs, first: int = 0, lookups: float = math.inf) -> None:
        super().__init__()
        self.inputs, self.first, self.lookups = inputs, first, lookups
        self.n_looked_up = 0
        self.trouble: ValueError | None = None

    def entered(self, layer: Any, path: str, args: tuple[Any, ...]) -> None:
        if not args or not looks_up(layer):
            return
        self.n_looked_up += 1
        ids = _numbers_of(args[0])
        if ids is not None:
            try:
                check_looked_up(
                    ids.long(), (0, layer.input_dim - 1), path, self.inputs, partial(self._paths, ids), self.first
                )
            except ValueError as error:
                self.trouble = error
                raise
        if self.n_looked_up >= self.lookups:
            raise Enough

    def _paths(self, ids: Tensor) -> list[Path]:
        """The inputs with these numbers."""
        return [path for path, array in self.inputs.arrays.items() if torch.equal(array.double().cpu(), ids)]

    def at(self, name: str, drop: StochasticCall, x: Any) -> Any:
        if not load_keras().backend.is_float_dtype(x.dtype):
            raise TypeError("dropout takes floating point numbers alone")
        return x


class Enough(Exception):
    """Ends a careful pass after the last lookup."""


def looks_up(layer: Any) -> bool:
    """Whether this is an embedding with the `call()` of Keras."""
    kind = load_keras().layers.Embedding
    return isinstance(layer, kind) and type(layer).call is kind.call


def _numbers_of(x: Any) -> Tensor | None:
    """The numbers of a tensor of the backend; None if it has no numbers yet, as during compilation."""
    try:
        return torch.from_numpy(np.array(load_keras().ops.convert_to_numpy(x), dtype=np.float64))
    except Exception:  # each backend raises its own types of errors
        return None


@dataclass(frozen=True)
class Layout:
    """The position of the channels of a tensor."""

    last: bool = False  # the channels are the last axis; torch has them first
    flat: Shape | None = None  # (height, width, channel), if these axes were flattened

    def inward(self, x: Tensor) -> Tensor:
        """A tensor in torch's order; flattened tensors are not changed."""
        return x.movedim(-1, 1) if self.last else x

    def outward(self, mask: Tensor) -> Tensor:
        """Masks (draw, ...) in Keras's order, from torch's order."""
        if self.last:
            mask = mask.movedim(2, -1)
        elif self.flat is not None:
            *sides, channels = self.flat
            mask = mask.unflatten(-1, (channels, *sides)).movedim(2, -1).flatten(2)
        return mask.contiguous()

    def shape(self, shape: Shape) -> Shape:
        """A shape in torch's order, from Keras's order."""
        return (shape[0], shape[-1], *shape[1:-1]) if self.last else shape


@dataclass(frozen=True)
class KerasCall:
    """One stochastic call as a probe records it."""

    drop: StochasticCall
    x: Any
    layout: Layout


class ProbePass(Pass):
    """Records the stochastic calls, the positions of channels, and the size of the largest result; drops nothing."""

    def __init__(self, gaussian_noise: bool, trial: Trial = USUAL) -> None:
        super().__init__()
        self.gaussian_noise, self.trial = gaussian_noise, trial
        self.found: dict[str, KerasCall] = {}
        self.weighted = [0, 0]  # dense layers and convolutions before the first site, and after it
        self.dropped = False
        self.largest = 0  # bytes of the largest result from the first call on
        self.layouts: dict[int, tuple[Any, Layout]] = {}  # by the id of the tensor, which is kept here to keep its id

    def at(self, name: str, drop: StochasticCall, x: Any) -> Any:
        self.found[name] = KerasCall(drop, x, Layout() if drop.operation == ATTENTION else self.layout_of(x))
        self.dropped = self.dropped or self.gaussian_noise or drop.kind != "noise"
        self._note_size(x)
        return x

    def numbers(self, name: str, drop: StochasticCall, x: Any) -> Any:
        self.at(name, drop, x)
        return _trial_numbers(name, drop, x, self.trial)

    def by_keras(self, name: str, drop: StochasticCall, run: Run) -> Any:
        result = run(0)
        self.found[name] = KerasCall(replace(drop, mask_shape=tuple(result.shape)), result, Layout())
        self.dropped = True
        return result

    def left(self, layer: Any, x: Any, result: Any) -> None:
        x = x[0] if isinstance(x, (list, tuple)) and x else x
        if isinstance(layer, _weighted_kinds()):
            self.weighted[self.dropped] += 1
        if not _is_tensor(result):
            return
        self._note_size(result)
        rank = len(result.shape)
        before = self.layout_of(x) if _is_tensor(x) else Layout()
        data_format = getattr(layer, "data_format", None)
        if type(layer).__name__ == "Flatten":
            if _is_tensor(x) and len(x.shape) > 2 and (before.last or data_format == "channels_first"):
                shape = tuple(x.shape[1:])
                layout = Layout(flat=shape if before.last else (*shape[1:], shape[0]))
                self.layouts[id(result)] = result, layout
        elif data_format is not None and rank > 2:
            self.layouts[id(result)] = result, Layout(last=data_format == "channels_last")
        elif _is_tensor(x) and tuple(x.shape[:-1]) == tuple(result.shape[:-1]) and id(x) in self.layouts:
            same = before.flat is None or tuple(x.shape) == tuple(result.shape)
            self.layouts[id(result)] = result, before if same else Layout()

    def layout_of(self, x: Any) -> Layout:
        """The layout of a tensor; for images that no layer has computed, Keras's setting."""
        known = self.layouts.get(id(x))
        if known is not None:
            return known[1]
        return Layout(last=len(x.shape) > 3 and load_keras().config.image_data_format() == "channels_last")

    def _note_size(self, x: Any) -> None:
        if self.found:
            self.largest = max(self.largest, math.prod(x.shape) * np.dtype(load_keras().backend.floatx()).itemsize)


class SamplePass(Pass):
    """Applies the masks of one draw at their sites, or of many draws if they are vectorised."""

    def __init__(self, sites: Mapping[str, KerasSite], masks: Mapping[str, Any], n_inputs: int) -> None:
        super().__init__()
        self.sites, self.masks, self.n_inputs = sites, masks, n_inputs
        self.unknown: set[str] = set()

    def at(self, name: str, drop: StochasticCall, x: Any) -> Any:
        if name in self.sites:
            return dropped(x, self.masks[name], self.sites[name], self.n_inputs)
        self.unknown.add(name)
        return x

    def numbers(self, name: str, drop: StochasticCall, x: Any) -> Any:
        if name not in self.sites:
            self.unknown.add(name)
            return load_keras().ops.zeros_like(x) if drop.kind == "normals" else _trial_numbers(name, drop, x, USUAL)
        if self.sites[name].site.kind == "generator":
            return int(self.masks[name]) % MAX_KERAS_SEED
        return dropped(x, self.masks[name], self.sites[name], self.n_inputs)

    def by_keras(self, name: str, drop: StochasticCall, run: Run) -> Any:
        if name not in self.sites:
            self.unknown.add(name)
            return run(0)
        return run(int(self.masks[name]) % MAX_KERAS_SEED)


class Now(threading.local):
    """The pass that runs in a thread, and the layers whose code is running, from the outermost to the innermost."""

    def __init__(self) -> None:
        self.on = Pass()
        self.path: list[str] = []


class PassOwner(Protocol):
    """The replica that runs a pass, as copied layers and functions of Keras use it."""

    now: Now
    raised: frozenset[str]
    asked: dict[str, Any]
    kept_masks: list[tuple[Any, str]]
    copies: dict[str, Any]


def _trial_numbers(name: str, drop: StochasticCall, x: Any, trial: Trial) -> Any:
    """The values that replace random numbers in a probe, as for torch models."""
    values = trial.numbers(name, drop, tuple(map(int, x.shape)))
    return load_keras().ops.convert_to_tensor(values.numpy(), dtype=load_keras().backend.standardize_dtype(x.dtype))


@cache
def _weighted_kinds() -> tuple[type, ...]:
    """Dense layers and convolutions."""
    layers = load_keras().layers
    convolutions = (layers.Conv1D, layers.DepthwiseConv1D, layers.SeparableConv1D)
    return (layers.Dense, layers.EinsumDense, *(layer.__mro__[1] for layer in convolutions))


@dataclass(frozen=True)
class KerasSite:
    """A site, and the position of its channels in Keras."""

    site: Site
    layout: Layout


def dropped(x: Any, mask: Any, at: KerasSite, n_inputs: int) -> Any:
    """`x` under its mask, both of the backend; a mask for one input is repeated for its entries."""
    ops, site = load_keras().ops, at.site
    shape = tuple(x.shape)
    expected = tuple(size * n_inputs if axis == site.axis else size for axis, size in enumerate(site.x_shape))
    if at.layout.shape(shape) != expected:
        raise ValueError(
            f"`model` meets its dropout at {site.name} with shape {at.layout.shape(shape)} where its first inputs gave "
            f"{expected}; inputs of one call must all take the same way through it."
        )
    mask = ops.cast(mask, x.dtype)
    if isinstance(x, Tensor):
        x = x.contiguous()  # after a convolution it may have channels first in memory, which later calls would keep
    axis = site.axis
    if axis is not None and mask.shape[axis] not in (1, shape[axis]):
        parts = (n_inputs, shape[axis] // n_inputs) if site.inputs_outermost else (shape[axis] // n_inputs, n_inputs)
        x = ops.reshape(x, (*shape[:axis], *parts, *shape[axis + 1 :]))
        mask = ops.expand_dims(mask, axis if site.inputs_outermost else axis + 1)
    if site.kind == "alpha":
        a = ((1 - site.rate) * (1 + site.rate * ALPHA**2)) ** -0.5  # as for torch models
        result = x * (a * mask) + (a * ALPHA * (1 - mask) - a * ALPHA * site.rate)
    else:
        result = x + mask if site.kind in ("noise", "keep", *NUMBERS) else x * mask  # `x` is zeros then
    return result if tuple(result.shape) == shape else ops.reshape(result, shape)


MODEL_SEED = None  # stands for the seed that the model passes to Keras itself

MAX_KERAS_SEED = 2**31

Run = Callable[[int | None], Any]


def _is_tensor(x: Any) -> bool:
    return load_keras().ops.is_tensor(x)
