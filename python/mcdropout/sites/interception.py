"""The modes that intercept the stochastic calls of a torch model while it runs.

A model is sampled in `eval()`, so batch norm and everything else behave as in prediction. A torch function mode
intercepts only the stochastic operations, and applies keyed masks instead. This covers layers and functional calls.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..compute.precision import cast_arguments
from ..compute.streams import seeded_generators
from ..data.inputs import Inputs, Path
from .calls import NUMBERS, STOCHASTIC_DEPTH, StochasticCall
from .lookups import LOOKUPS, MASKS, WHOLE_NUMBERS, check_looked_up, check_on_device
from .operations import HANDLERS, RELUS
from .random_operations import RANDOM
from .replica import Replica
from .site import ALL_EXPERTS, REST, Site, dropped, is_random, where_of

KEYED = {**HANDLERS, **RANDOM}

FUSABLE = {**dict.fromkeys(RELUS, "relu"), F.conv2d: "convolution", F.max_pool2d: "pool"}

CPU = torch.device("cpu")


class StochasticMode(TorchFunctionMode):
    """Calls `apply` for every stochastic call; all other calls run unchanged.

    An object is used for one pass.
    """

    handlers = HANDLERS  # in the ordinary prediction torch draws the random numbers of the model

    def __init__(self, replica: Replica) -> None:
        super().__init__()
        self.calls, self.device, self.generators = replica.calls, replica.device, replica.generators
        self.reduced = None if replica.precision == "float32" else getattr(torch, replica.precision)
        self.counted: Counter[str] = Counter()
        self.calls.start()

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if self.reduced is not None:
            args, kwargs = cast_arguments(func, args, kwargs, self.reduced)
        if self.device.type == "cuda" and func in LOOKUPS:
            check_on_device(*LOOKUPS[func](*args, **kwargs))
        handler = self.handlers.get(func)
        if handler is None:
            return func(*args, **kwargs)
        return handler(self, func, *args, **kwargs)

    def apply(self, drop: StochasticCall, x: Tensor) -> Tensor:
        """The result of a stochastic call for `x`; here nothing is dropped."""
        self.calls.next(is_random(drop))
        return without_dropout(drop, x)

    def by_torch(self, operation: str, run: Callable[[], Tensor], own: torch.Generator | None) -> Tensor:
        """The result of `run`, which draws from torch's generator or from the model's generator `own`."""
        self.calls.next(numbers=True)
        return run()

    def skip(self) -> None:
        """Count a call that drops nothing, so that the names of later calls do not depend on its rate."""
        self.calls.next()

    def is_fixed(self) -> bool:
        """Whether the model has fixed the random numbers of the current call by a seed; such calls are not sampled."""
        return False

    def drew_fixed(self) -> None:
        """Called after a call whose random numbers are fixed."""

    def counted_name(self, func: Any) -> str | None:
        """The name of a call that can be deferred, by its number; None for other calls."""
        kind = FUSABLE.get(func)
        if kind is not None:
            self.counted[kind] += 1
        return None if kind is None else f"{kind} {self.counted[kind]}"

    def module(self) -> nn.Module | None:
        """The module whose code is running."""
        return self.calls.path[-1][1] if self.calls.path else None


def without_dropout(drop: StochasticCall, x: Tensor) -> Tensor:
    """The result for `x` if nothing is dropped; random numbers become their mean."""
    if drop.kind in NUMBERS:
        return torch.full_like(x, 0.5 if drop.kind == "uniforms" else 0.0)
    return x if drop.kind in ("scale", "alpha", "weights") else torch.ones_like(x)


class CarefulMode(StochasticMode):
    """A pass without dropout that explains wrong whole numbers, for which torch's errors say little.

    first: position of the first of `inputs` among all. floated: inputs whose whole numbers were cast to floating ones.
    """

    def __init__(
        self, replica: Replica, inputs: Inputs, first: int = 0, floated: frozenset[Path] = frozenset()
    ) -> None:
        super().__init__(replica)
        self.inputs, self.first, self.floated = inputs, first, floated

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in LOOKUPS:
            ids, lowest, highest = LOOKUPS[func](*args, **(kwargs or {}))
            if isinstance(ids, Tensor) and ids.dtype in WHOLE_NUMBERS:
                self._check_range(ids, lowest, highest)
        masks = MASKS[func](*args, **(kwargs or {})) if self.floated and func in MASKS else ()
        for mask in masks:
            if isinstance(mask, Tensor) and not self.floated.isdisjoint(self._paths(mask)):
                # torch would add a floating mask to the scores, instead of hiding keys
                raise TypeError("masks of attention are truth values or floating point numbers")
        return super().__torch_function__(func, types, args, kwargs)

    def apply(self, drop: StochasticCall, x: Tensor) -> Tensor:
        if drop.kind in ("scale", "alpha") and drop.rate > 0 and not x.is_floating_point():
            raise TypeError("dropout takes floating point numbers alone")
        return super().apply(drop, x)

    def _check_range(self, ids: Tensor, lowest: int, highest: int) -> None:
        path = self.calls.path[-1][0] if self.calls.path else ""
        check_looked_up(ids, (lowest, highest), path, self.inputs, lambda: self._paths(ids), self.first)

    def _paths(self, x: Tensor) -> list[Path]:
        """The inputs that share their memory with `x`."""
        memory = x.untyped_storage().data_ptr()
        return [path for path, array in self.inputs.arrays.items() if array.untyped_storage().data_ptr() == memory]


class SampleMode(StochasticMode):
    """Applies the masks of one draw (or of many, see `engine.fold`) at their sites."""

    handlers = KEYED

    def __init__(self, replica: Replica, sites: dict[str, Site], masks: dict[str, Tensor], n_inputs: int) -> None:
        super().__init__(replica)
        self.passed_over, self.fixed = replica.passed_over, replica.fixed
        self.sites, self.masks, self.n_inputs = sites, masks, n_inputs
        self.unknown: set[str] = set()
        self.unknown_numbers: set[str] = set()

    def apply(self, drop: StochasticCall, x: Tensor) -> Tensor:
        before = self.calls.counts.copy()
        name = self.calls.next(is_random(drop))
        if name in self.sites and self.sites[name].operation == drop.operation:
            self.at_site(before)
            if self.sites[name].kind == "generator":
                with seeded_generators(int(self.masks[name])):
                    return _drawn_by_torch(drop, x)
            return self.drop(x, self.sites[name])
        if is_random(drop) and name not in self.passed_over and REST in self.sites:
            return self._drawn_outside_sites(name, drop, x, before)
        if drop.active and drop.samples and drop.rate != 1 and drop.operation != STOCHASTIC_DEPTH and x.numel() > 0:
            self.unknown.add(name)
        return without_dropout(drop, x)

    def is_fixed(self) -> bool:
        fixed = bool(self.fixed) and self.calls.coming(numbers=True) in self.fixed
        if fixed:
            self.calls.next(numbers=True)
        return fixed

    def _drawn_outside_sites(self, name: str, drop: StochasticCall, x: Tensor, counts: Counter[str]) -> Tensor:
        """Random numbers for a call that not every probe has seen."""
        self.at_site(counts)
        if self.sites[REST].kind == "start":
            self.unknown_numbers.add(where_of(name, drop))
        start = int(self.masks[REST])  # fails for several draws at once, so that the loop is chosen
        with seeded_generators((start + zlib.crc32(name.encode())) % 2**63):
            return _drawn_by_torch(drop, x)

    def by_torch(self, operation: str, run: Callable[[], Tensor], own: torch.Generator | None) -> Tensor:
        before = self.calls.counts.copy()
        name = self.calls.next(numbers=True)
        if name not in self.sites:
            self.unknown.add(name)
            with seeded_generators(0):
                return run()
        self.at_site(before)
        with seeded_generators(int(self.masks[name]), own):
            return run()

    def at_site(self, counts: Counter[str]) -> None:
        """Called when a site is reached, with the counts of the calls before it."""

    def drop(self, x: Tensor, site: Site) -> Tensor:
        """The result of a site for `x`."""
        self.check_shape(x, site)
        return dropped(x, self.masks[site.name], site, self.n_inputs)

    def check_shape(self, x: Tensor, site: Site, n_draws: int = 1) -> None:
        """Raise ValueError unless `x` has the shape that the probes have seen at this site."""
        rows = self.n_inputs * n_draws
        expected = tuple(size * rows if axis == site.axis else size for axis, size in enumerate(site.x_shape))
        if tuple(x.shape) != expected:
            raise ValueError(
                f"`model` meets its dropout at {site.name} with shape {tuple(x.shape)} where its first inputs gave "
                f"{expected}; inputs of one call must all take the same way through it, {ALL_EXPERTS}."
            )


def _drawn_by_torch(drop: StochasticCall, x: Tensor) -> Tensor:
    """Random numbers for a call that cannot be keyed by its inputs."""
    if drop.kind == "keep":
        return torch.empty_like(x).bernoulli_(1 - drop.rate)
    return torch.rand_like(x) if drop.kind == "uniforms" else torch.randn_like(x)
