"""Many draws in one pass, laid along axis 0: all inputs of the first draw, all of the second, ...

What comes before the first site runs on the inputs alone, once for all draws. From there on the network sees a larger
batch and does not know it. Where something from before meets something from after, as in a skip connection, the
former is laid out for every draw. That a network takes it well is seen by holding its numbers against the loop's.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .operations import RELUS, drops
from .pooling import can_be_pooled, masked_max_pool, plain_kernel
from .sites import Probe, Replica, SampleMode, Site, applied, mask_numbers, tensors_in

RESHAPES = (Tensor.reshape, Tensor.view, torch.reshape)


def can_be_folded(site: Site) -> bool:
    """Whether the mask of a site can be laid along axis 0 with the inputs."""
    return site.axis == 0 and (site.inputs_outermost or site.x_shape[0] == 1)


def fused_calls(probe: Probe, device: torch.device) -> frozenset[str]:
    """The calls that can wait for the max-pool after them: dropouts, and the relu before those.

    On a CPU only: elsewhere a piece at a time is too little work.
    """
    uses = probe.sole_uses if device.type == "cpu" else {}
    pooled = {name for name, site in probe.sites.items() if uses.get(name) is F.max_pool2d and can_be_pooled(site)}
    return frozenset(name for name, use in uses.items() if name in pooled or use in pooled)


@dataclass
class Waiting:
    """A result that is not computed yet, in whose place a tensor like it is handed on."""

    stand_in: weakref.ref[Tensor]
    x: Tensor
    relu: bool
    site: Site | None


class FoldedMode(SampleMode):
    """One pass under the masks of many draws.

    Dropouts in `fused` wait for the max-pool that the probes saw after them, and so does a relu before such a
    dropout. Any other function that is given a stand-in gets the true result.
    """

    def __init__(
        self,
        replica: Replica,
        sites: dict[str, Site],
        masks: dict[str, Tensor],
        n_inputs: int,
        n_draws: int,
        fused: frozenset[str],
    ) -> None:
        super().__init__(replica, sites, masks, n_inputs)
        self.n_draws, self.fused = n_draws, fused
        self.waiting: dict[int, Waiting] = {}  # by the identity of the stand-in

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in RELUS and self.next_relu() in self.fused:
            return self._hand_on(self._true(args[0]), True, None)
        if self.waiting:
            if func is F.max_pool2d and args and id(args[0]) in self.waiting:
                kernel = plain_kernel(*args[1:], **kwargs)
                if kernel is not None:
                    return self._pooled(self.waiting[id(args[0])], kernel)
            if not drops(func):
                args, kwargs = self._true((args, kwargs))
        counts = self.calls.counts.copy()
        try:
            return super().__torch_function__(func, types, args, kwargs)
        except (RuntimeError, LookupError, ValueError, AssertionError):
            laid_out = self._reshaped(args) if func in RESHAPES else self._laid_out((args, kwargs))
            if laid_out is None:
                raise
            self.calls.counts = counts
            return super().__torch_function__(func, types, *laid_out)

    def _reshaped(self, args: tuple) -> Any:
        """Arguments of a reshape to sizes of which the first was noted before there were draws."""
        x, *sizes = args
        sizes = list(sizes[0]) if isinstance(sizes[0], (tuple, list)) else sizes
        if not sizes or sizes[0] * self.n_draws != len(x):
            return None
        return (x, (len(x), *sizes[1:])), {}

    def drop(self, x: Tensor, site: Site) -> Tensor:
        """What becomes of `x` at a site: laid out for every draw, if it is the first."""
        if site.name in self.fused:
            before = self.waiting.get(id(x))
            return self._hand_on(x, False, site) if before is None else self._hand_on(before.x, before.relu, site)
        return self._dropped(self._true(x), site)

    # ---- results that wait

    def _hand_on(self, x: Tensor, relu: bool, site: Site | None) -> Tensor:
        stand_in = x.view_as(x)
        key = id(stand_in)
        self.waiting[key] = Waiting(weakref.ref(stand_in, lambda _: self.waiting.pop(key, None)), x, relu, site)
        return stand_in

    def _true(self, given: Any) -> Any:
        """`given` with the results in the place of their stand-ins."""
        if isinstance(given, Tensor):
            return self._computed(self.waiting[id(given)]) if id(given) in self.waiting else given
        if type(given) in (tuple, list):
            return type(given)(self._true(one) for one in given)
        return {name: self._true(one) for name, one in given.items()} if type(given) is dict else given

    def _computed(self, one: Waiting) -> Tensor:
        x = one.x.relu() if one.relu else one.x
        return x if one.site is None else self._dropped(x, one.site)

    def _pooled(self, one: Waiting, kernel: tuple[int, int]) -> Tensor:
        assert one.site is not None  # a relu waits for a dropout alone
        x, mask = self._by_draw(one.x, one.site)
        factor = one.site.factor if mask.dtype == torch.uint8 else 1.0
        return masked_max_pool(x[:, :, 0], mask[:, :, 0], kernel, one.relu, factor).flatten(0, 1)

    # ---- rows

    def _dropped(self, x: Tensor, site: Site) -> Tensor:
        x, mask = self._by_draw(x, site)
        return applied(x, mask_numbers(mask, site) if mask.dtype == torch.uint8 else mask, site).flatten(0, 2)

    def _by_draw(self, x: Tensor, site: Site) -> tuple[Tensor, Tensor]:
        """`x` and its mask as (draw, input, entry of the input, ...); axes over which one is repeated are 1 long."""
        entries = site.x_shape[0]
        self.check_shape(x, site, self.n_draws if len(x) > self.n_inputs * entries else 1)
        return x.unflatten(0, (-1, self.n_inputs, entries)), self.masks[site.name].unflatten(1, (-1, site.shape[0]))

    def _laid_out(self, given: Any) -> Any:
        """`given` with what has no draws yet repeated for every draw; None if nothing is to be repeated."""
        rows = max((len(one) for one in tensors_in(given) if one.ndim), default=0)
        alone, rest = divmod(rows, self.n_draws)
        wanting = [one for one in tensors_in(given) if one.ndim and len(one) == alone]
        if rest or alone % self.n_inputs or self.n_draws == 1 or not wanting:
            return None
        return self._repeated(given, alone)

    def _repeated(self, given: Any, rows: int) -> Any:
        if isinstance(given, Tensor):
            fits = given.ndim > 0 and len(given) == rows
            return given.repeat(self.n_draws, *(1,) * (given.ndim - 1)) if fits else given
        if type(given) in (tuple, list):
            return type(given)(self._repeated(one, rows) for one in given)
        return {name: self._repeated(one, rows) for name, one in given.items()} if type(given) is dict else given
