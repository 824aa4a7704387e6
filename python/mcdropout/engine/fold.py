"""Many draws in one pass, laid along axis 0: all inputs of the first draw, all of the second, ...

What comes before the first site runs on the inputs alone, once for all draws. From there on the network sees a larger
batch and does not know it. Where something from before meets something from after, as in a skip connection, the
former is laid out for every draw. That a network takes it well is seen by holding its numbers against the loop's.

What has draws is known: the results of sites, and whatever is made of them. What of the rest wants to be laid out is
found in that first pass, where a call cannot do without, and later passes do the same. So never do the lengths in a
chunk decide, which may be equal by chance.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations, count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..compute.precision import cast_arguments
from ..sites.interception import SampleMode
from ..sites.operations import drops
from ..sites.replica import Replica
from ..sites.site import Site, applied, mask_numbers, tensors_in
from .fused import CONV2D_ARGUMENTS, Convolution, Deferred, Pooling, Source, materialise
from .pooling import Kernel, plain_kernel

RESHAPES = (Tensor.reshape, Tensor.view, torch.reshape)

FAILURES = (RuntimeError, LookupError, ValueError, AssertionError)  # of calls that are given too few rows

MOST_GUESSED = 3  # tensors of one call that are laid out together before all are


def can_be_folded(site: Site) -> bool:
    """Whether the mask of a site can be laid along axis 0 with the inputs."""
    return site.axis == 0 and (site.inputs_outermost or site.x_shape[0] == 1)


@dataclass
class Layout:
    """What a pass lays out for every draw, found in the pass that is held against the loop's."""

    calls: dict[int, tuple[Any, tuple[int, ...]]] = field(default_factory=dict)  # function, which of its tensors
    settled: bool = False


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
        fused: Mapping[str, str],
        layout: Layout | None = None,
    ) -> None:
        super().__init__(replica, sites, masks, n_inputs)
        self.n_draws, self.fused = n_draws, fused
        self.waiting: dict[int, Deferred] = {}  # by the identity of the stand-in
        self.drawn: dict[int, weakref.ref[Tensor]] = {}  # what has draws, by its identity
        self.layout = layout or Layout()
        self.n_met = 0  # sites so far
        self.n_meetings = 0  # calls so far in which what has draws met what has none

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if not self.drawn:
            return self._site_called(func, types, args, kwargs)
        have = [id(one) in self.drawn for one in args if isinstance(one, Tensor)]  # quicker than to look inside at once
        if kwargs or len(have) < len(args):
            have = [id(one) in self.drawn for one in tensors_in((args, kwargs))]
        if True not in have:
            return self._site_called(func, types, args, kwargs)
        if False not in have:
            return self._marked(self._called(func, types, args, kwargs))
        result = self._met(func, types, args, kwargs)
        if func is Tensor.__setitem__:
            self._marked(args[0])
        return self._marked(result)

    def _site_called(self, func: Any, types: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """A call of what has no draws; sites in its working may give it some."""
        before = self.n_met
        result = self._called(func, types, args, kwargs)
        return result if self.n_met == before else self._marked(result)

    def _marked(self, result: Any) -> Any:
        """`result`, which has draws."""
        for one in (result,) if isinstance(result, Tensor) else tensors_in(result):
            key = id(one)
            self.drawn[key] = weakref.ref(one, lambda _, key=key: self.drawn.pop(key, None))
        return result

    def _met(self, func: Any, types: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """A call in which what has draws meets what has none; as much of this is laid out as in the first pass."""
        place = self.n_meetings
        self.n_meetings += 1
        if not self.layout.settled:
            return self._met_first(place, func, types, args, kwargs)
        if place not in self.layout.calls:
            return self._called(func, types, args, kwargs)
        known, wanting = self.layout.calls[place]
        if known != func:
            raise ValueError(f"{func} where the first pass called {known}")
        return self._called(func, types, *self._laid_out(args, kwargs, wanting))

    def _met_first(self, place: int, func: Any, types: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The same in the first pass: no more is laid out than the call needs not to fail."""
        counts, counted = self.calls.counts.copy(), self.counted.copy()
        try:
            return self._called(func, types, args, kwargs)
        except FAILURES:
            args, kwargs = self._true((args, kwargs))
            for wanting in self._guesses((args, kwargs)):
                # of what was tried, and of calls inside, nothing stays
                self.calls.counts, self.counted, self.n_meetings = counts.copy(), counted.copy(), place + 1
                self.layout.calls = {one: known for one, known in self.layout.calls.items() if one < place}
                self.layout.calls[place] = func, wanting
                with suppress(*FAILURES):
                    return self._called(func, types, *self._laid_out(args, kwargs, wanting))
            raise

    def _called(self, func: Any, types: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """A call, its waiting arguments made or handed on."""
        counted = self.counted_name(func)
        if counted is not None and counted in self.fused and func is not F.max_pool2d:
            return self._waits(func, self.sites[self.fused[counted]], args, kwargs)
        if self.waiting:
            if func is F.max_pool2d and args and id(args[0]) in self.waiting:
                kernel = plain_kernel(*args[1:], **kwargs)
                if kernel is not None:
                    return self._pooled(self.waiting[id(args[0])], kernel, waits=counted in self.fused)
            if func is F.linear and args and id(args[0]) in self.waiting:
                result = self._weighed(self.waiting[id(args[0])], *args[1:], **kwargs)
                if result is not None:
                    return result
            if not drops(func):
                args, kwargs = self._true((args, kwargs))
        if func not in RESHAPES:
            return super().__torch_function__(func, types, args, kwargs)
        try:
            return super().__torch_function__(func, types, args, kwargs)
        except FAILURES:
            reshaped = self._reshaped(args)
            if reshaped is None:
                raise
            return super().__torch_function__(func, types, *reshaped)

    def _reshaped(self, args: tuple) -> Any:
        """Arguments of a reshape to sizes of which the first was noted before there were draws."""
        x, *sizes = args
        sizes = list(sizes[0]) if isinstance(sizes[0], (tuple, list)) else sizes
        if not sizes or sizes[0] * self.n_draws != len(x):
            return None
        return (x, (len(x), *sizes[1:])), {}

    def drop(self, x: Tensor, site: Site) -> Tensor:
        """What becomes of `x` at a site: laid out for every draw, if it is the first."""
        self.n_met += 1
        if site.name in self.fused:
            before = self.waiting.get(id(x))
            source, relu = (x, False) if before is None else (before.source, before.relu)
            return self._marked(self._hand_on(x, source, relu, site))
        return self._marked(self._dropped(self._true(x), site))

    # ---- results that wait

    def _waits(self, func: Any, site: Site, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        """A relu or a convolution that waits for the pool after `site`."""
        if func is not F.conv2d:
            before = self.waiting.get(id(args[0]))
            return self._hand_on(args[0], args[0] if before is None else before.source, relu=True)
        given = {**dict(zip(CONV2D_ARGUMENTS, args, strict=False)), **kwargs}
        stand_in = given.pop("input")
        x = self._waiting_pool(stand_in) or self._true(stand_in)
        if self.reduced is not None:
            _, given = cast_arguments(func, (), given, self.reduced)
            x = x if isinstance(x, Pooling) else cast_arguments(func, (x,), {}, self.reduced)[0][0]
        source = Convolution({**given, "input": x}, (x.shape[0], *site.x_shape[1:]))
        return self._hand_on(self._like(source), source)

    def _waiting_pool(self, stand_in: Tensor) -> Pooling | None:
        """The pool for which this tensor stands, if its result will not have to be cast."""
        before = self.waiting.get(id(stand_in))
        if before is None or not isinstance(before.source, Pooling):
            return None
        return before.source if self.reduced in (None, before.source.dtype) else None

    def _like(self, source: Convolution | Pooling) -> Tensor:
        """A tensor like its result, without memory of its own."""
        return next(iter(self.masks.values())).new_empty((), dtype=source.dtype).expand(source.shape)

    def _hand_on(self, like: Tensor, source: Source, relu: bool = False, site: Site | None = None) -> Tensor:
        stand_in = like.view_as(like)
        key = id(stand_in)
        self.waiting[key] = Deferred(weakref.ref(stand_in, lambda _: self.waiting.pop(key, None)), source, relu, site)
        return stand_in

    def _true(self, given: Any) -> Any:
        """`given` with the results in the place of their stand-ins."""
        if isinstance(given, Tensor):
            if id(given) not in self.waiting:
                return given
            made = self._computed(self.waiting[id(given)])
            return self._marked(made) if id(given) in self.drawn else made
        if type(given) in (tuple, list):
            return type(given)(self._true(one) for one in given)
        return {name: self._true(one) for name, one in given.items()} if type(given) is dict else given

    def _computed(self, one: Deferred) -> Tensor:
        x = materialise(one.source)
        x = x.relu() if one.relu else x
        return x if one.site is None else self._dropped(x, one.site)

    def _pooled(self, one: Deferred, kernel: Kernel, waits: bool) -> Tensor:
        site, source = one.site, one.source
        assert site is not None  # what else waits, waits for a dropout
        assert not isinstance(source, Pooling)
        mask = self.masks[site.name].unflatten(1, (-1, 1))[:, :, 0]  # (draw, input, channel, height, width)
        if isinstance(source, Tensor):
            self.check_shape(source, site, self.n_draws if len(source) > self.n_inputs else 1)
        _, channels, height, width = site.x_shape
        shape = self.n_draws * self.n_inputs, channels, height // kernel[0], width // kernel[1]
        pooling = Pooling(source, one.relu, site, mask, kernel, shape, self.n_inputs)
        return self._hand_on(self._like(pooling), pooling) if waits else materialise(pooling)

    def _weighed(self, one: Deferred, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
        """What a linear layer makes of a dropout, the masks having met its weights instead of its many inputs.

        So what has no draws yet meets the weights of all draws in one product. None where the inputs are too few.
        """
        x = one.source
        if one.site is None or not isinstance(x, Tensor) or 2 * len(weight) > self.n_inputs:
            return None
        x, mask = self._by_draw(x, one.site)  # (draw, input, 1, feature), the first axis 1 long before all draws
        x, mask = x[:, :, 0], mask[:, 0]
        if self.reduced is not None:
            x, weight, mask = (tensor.to(self.reduced) for tensor in (x, weight, mask))
            bias = None if bias is None else bias.to(self.reduced)
        weights = mask * weight  # (draw, output, feature)
        if len(x) == 1:
            out = F.linear(x[0], weights.flatten(0, 1), None if bias is None else bias.repeat(self.n_draws))
            return out.unflatten(1, (self.n_draws, -1)).transpose(0, 1).flatten(0, 1)
        out = x @ weights.mT if bias is None else torch.baddbmm(bias, x, weights.mT)
        return out.flatten(0, 1)

    # ---- rows

    def _dropped(self, x: Tensor, site: Site) -> Tensor:
        x, mask = self._by_draw(x, site)
        return applied(x, mask_numbers(mask, site) if mask.dtype == torch.uint8 else mask, site).flatten(0, 2)

    def _by_draw(self, x: Tensor, site: Site) -> tuple[Tensor, Tensor]:
        """`x` and its mask as (draw, input, entry of the input, ...); axes over which one is repeated are 1 long."""
        entries = site.x_shape[0]
        self.check_shape(x, site, self.n_draws if len(x) > self.n_inputs * entries else 1)
        return x.unflatten(0, (-1, self.n_inputs, entries)), self.masks[site.name].unflatten(1, (-1, site.shape[0]))

    def _guesses(self, given: Any) -> Iterator[tuple[int, ...]]:
        """Which tensors, by their place in a call, may be what the inputs became before there were draws.

        The fewest first: weights may be as many as inputs by chance.
        """
        tensors = tensors_in(given)
        rows = max((len(one) for one in tensors if one.ndim and id(one) in self.drawn), default=0)
        alone, rest = divmod(rows, self.n_draws)
        if rest or alone % self.n_inputs:
            return
        fitting = [
            place for place, one in enumerate(tensors) if one.ndim and len(one) == alone and id(one) not in self.drawn
        ]
        for n in range(1, min(len(fitting), MOST_GUESSED) + 1):
            yield from combinations(fitting, n)
        if len(fitting) > MOST_GUESSED:
            yield tuple(fitting)

    def _laid_out(self, args: tuple, kwargs: dict[str, Any], wanting: tuple[int, ...]) -> Any:
        """The arguments of a call with these tensors repeated for every draw."""
        return self._repeated(self._true((args, kwargs)), wanting, count())

    def _repeated(self, given: Any, wanting: tuple[int, ...], places: Iterator[int]) -> Any:
        if isinstance(given, Tensor):
            if next(places) not in wanting:
                return given
            if len(given) % self.n_inputs or id(given) in self.drawn:
                raise ValueError(f"the first pass laid out what now has shape {tuple(given.shape)}")
            return given.repeat(self.n_draws, *(1,) * (given.ndim - 1))
        if type(given) in (tuple, list):
            return type(given)(self._repeated(one, wanting, places) for one in given)
        if type(given) is dict:
            return {name: self._repeated(one, wanting, places) for name, one in given.items()}
        for _ in tensors_in(given):
            next(places)
        return given
