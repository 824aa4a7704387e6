"""Many draws in one pass, along the axis of the inputs: all inputs of the first draw, all of the second, ...

The part of the network before the first site runs on the inputs once for all draws. After the first site the network
runs on a larger batch. If a call combines a tensor from before the first site with one from after it, as a skip
connection does, the former is repeated for every draw. The numbers of the first pass are compared with those of the
loop.

The mode records which tensors have draws: the results of sites, and what is computed from them. The first pass
determines which other tensors have to be repeated: those without which a call fails. Later passes repeat the same
tensors. So lengths that are equal by chance never decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations, count
from typing import Any

import torch
from torch import Tensor

from ..data.inputs import Inputs
from ..sites.interception import SampleMode
from ..sites.replica import Replica
from ..sites.site import Site, tensors_in
from .deferred import DeferringMode
from .engines import Engine
from .masks import Masks

RESHAPES = (Tensor.reshape, Tensor.view, torch.reshape)

FAILURES = (RuntimeError, LookupError, ValueError, AssertionError)  # raised by calls with too few rows

MOST_GUESSED = 3  # tensors of one call that are tried together before all are repeated

ELEMENTWISE = (Tensor.add, Tensor.__add__, Tensor.__radd__, torch.add, Tensor.mul, Tensor.__mul__, torch.mul)

IN_PLACE = (Tensor.add_, Tensor.__iadd__)

INPUT_AXES = (0, 1)  # possible axes of the inputs in tensors that are repeated; recurrent and attention layers use both


def can_be_folded(site: Site) -> bool:
    """Whether the masks of many draws can lie along the axis of the inputs, or are masks of weights."""
    if site.axis is None:
        return site.kind in ("weights", "scale")
    return site.inputs_outermost or site.x_shape[site.axis] == 1


@dataclass(frozen=True)
class Repeated:
    """The tensors of one call that are repeated for every draw."""

    function: Any
    places: tuple[int, ...]
    axis: int


@dataclass
class Layout:
    """The calls that repeat tensors or reshape otherwise, by the number of the call; determined in the first pass."""

    calls: dict[int, Repeated] = field(default_factory=dict)
    reshapes: dict[int, int] = field(default_factory=dict)  # the axis with the number of inputs, by number of the call
    settled: bool = False

    def forget_from(self, call: int, reshape: int) -> None:
        """Forget the entries from these numbers of calls and reshapes on."""
        self.calls = {number: repeated for number, repeated in self.calls.items() if number < call}
        self.reshapes = {number: axis for number, axis in self.reshapes.items() if number < reshape}


class FoldedEngine(Engine):
    """All draws of a chunk in one pass."""

    name = "folded"

    def __init__(
        self,
        sites: dict[str, Site],
        run_pass: Callable[[Replica, Inputs, SampleMode], Tensor],
        fused: Mapping[str, str],
    ) -> None:
        self.sites, self.run_pass, self.fused = sites, run_pass, fused
        self.byte_masks = frozenset(fused)
        self.layout = Layout()

    def run(self, replica: Replica, inputs: Inputs, masks: Masks) -> Tensor:
        mode = FoldedMode(replica, self.sites, masks, len(inputs), self.fused, self.layout)
        return self.run_pass(replica, inputs.clone(), mode).unflatten(0, (mode.n_draws, len(inputs)))

    def settle(self) -> None:
        self.layout.settled = True


class FoldedMode(DeferringMode):
    """One pass under the masks of many draws."""

    def __init__(
        self,
        replica: Replica,
        sites: dict[str, Site],
        masks: Masks,
        n_inputs: int,
        fused: Mapping[str, str],
        layout: Layout | None = None,
    ) -> None:
        super().__init__(replica, sites, masks, n_inputs, fused)
        self.layout = layout or Layout()
        self.n_sites = 0  # sites so far
        self.n_reshapes = 0  # reshapes of tensors with draws so far
        self.n_calls = 0  # calls after the first site with tensors without draws so far

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        before = self.n_sites
        if not self.drawn:
            result = self.called(func, types, args, kwargs)
            return result if self.n_sites == before else self.marked(result)
        have_draws = [id(x) in self.drawn for x in args if isinstance(x, Tensor)]  # faster than `tensors_in()`
        if kwargs or len(have_draws) < len(args):
            have_draws = [id(x) in self.drawn for x in tensors_in((args, kwargs))]
        if have_draws and False not in have_draws:
            return self.marked(self.called(func, types, args, kwargs))
        number = self.n_calls
        self.n_calls += 1
        result = self._called_in_layout(number, func, types, args, kwargs)
        if func is Tensor.__setitem__ and True in have_draws:
            self.marked(args[0])
        # a result has draws if an argument has draws, if one was repeated, or if a site is inside the call
        got_draws = True in have_draws or number in self.layout.calls or self.n_sites > before
        return self.marked(result) if got_draws else result

    def _called_in_layout(self, number: int, func: Any, types: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """A call with tensors that have no draws; the tensors of the first pass are repeated."""
        if not self.layout.settled:
            return self._first_called(number, func, types, args, kwargs)
        if number not in self.layout.calls:
            return self.called(func, types, args, kwargs)
        repeated = self.layout.calls[number]
        if repeated.function != func:
            raise ValueError(f"{func} where the first pass called {repeated.function}")
        return self._called_with_repeated(func, types, args, kwargs, repeated)

    def _first_called(self, number: int, func: Any, types: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Such a call in the first pass: only tensors without which the call fails are repeated."""
        counts, counted, n_reshapes = self.calls.counts.copy(), self.counted.copy(), self.n_reshapes
        try:
            return self.called(func, types, args, kwargs)
        except FAILURES:
            args, kwargs = self.computed((args, kwargs))
            for places, axis in self._guesses((args, kwargs)):
                # undo the records of the call that failed and of the calls inside it
                self.calls.counts, self.counted = counts.copy(), counted.copy()
                self.n_calls, self.n_reshapes = number + 1, n_reshapes
                self.layout.forget_from(number, n_reshapes)
                self.layout.calls[number] = Repeated(func, places, axis)
                with suppress(*FAILURES):
                    return self._called_with_repeated(func, types, args, kwargs, self.layout.calls[number])
            self.layout.forget_from(number, n_reshapes)
            raise

    def called(self, func: Any, types: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The result of a call. A reshape may use the number of inputs from before the first site."""
        if func in RESHAPES and args and id(args[0]) in self.drawn and len(args) > 1:
            args = self._with_noted_size(args)
        return super().called(func, types, args, kwargs)

    def _with_noted_size(self, args: tuple) -> tuple:
        """The arguments of a reshape, with the number of inputs replaced by the number of rows of all draws."""
        x, *sizes = args
        sizes = list(sizes[0]) if isinstance(sizes[0], (tuple, list)) else sizes
        number = self.n_reshapes
        self.n_reshapes += 1
        noted = [axis for axis in range(min(len(sizes), x.ndim)) if self._is_noted(x, sizes, axis)]
        if not self.layout.settled and noted:
            self.layout.reshapes[number] = noted[0]
        axis = self.layout.reshapes.get(number)
        if axis is None:
            return args
        if axis not in noted:
            raise ValueError(f"sizes {sizes} where the first pass had noted the number of inputs")
        sizes[axis] = x.shape[axis]
        return x, sizes

    def _is_noted(self, x: Tensor, sizes: list[Any], axis: int) -> bool:
        """Whether the size of an axis is that of `x` without its draws, and the sizes before agree."""
        return list(x.shape[:axis]) == sizes[:axis] and sizes[axis] * self.n_draws == x.shape[axis]

    def drop(self, x: Tensor, site: Site) -> Tensor:
        self.n_sites += 1
        return super().drop(x, site)

    # ---- repeated tensors

    def _guesses(self, arguments: Any) -> Iterator[tuple[tuple[int, ...], int]]:
        """Which tensors of a call, by their places, may have inputs without draws, and along which axis.

        They are as long as the tensors with draws would be without draws. If the call has no tensor with draws, they
        are as long as the inputs. Fewer tensors are tried first, because weights may be as long as the inputs by
        chance.
        """
        tensors = tensors_in(arguments)
        for axis in INPUT_AXES:
            drawn = [x.shape[axis] for x in tensors if x.ndim > axis and id(x) in self.drawn]
            rows, remainder = divmod(max(drawn), self.n_draws) if drawn else (self.n_inputs, 0)
            if remainder or rows % self.n_inputs or not rows:
                continue
            places = [
                place
                for place, x in enumerate(tensors)
                if x.ndim > axis and x.shape[axis] == rows and id(x) not in self.drawn
            ]
            for n in range(1, min(len(places), MOST_GUESSED) + 1):
                for guess in combinations(places, n):
                    yield guess, axis
            if len(places) > MOST_GUESSED:
                yield tuple(places), axis

    def _called_with_repeated(
        self, func: Any, types: Any, args: tuple, kwargs: dict[str, Any], repeated: Repeated
    ) -> Any:
        """The result of a call with tensors repeated for every draw; a tensor that broadcasts is not copied."""
        args, kwargs = self.computed((args, kwargs))
        if len(args) == 2 and repeated.axis == 0 and len(repeated.places) == 1:
            drawn, other = args if repeated.places == (1,) else args[::-1]
            broadcasts = func in ELEMENTWISE or (func in IN_PLACE and drawn is args[0])
            if broadcasts and drawn.ndim == other.ndim:
                self._check_repeatable(other, repeated)
                operands = drawn.unflatten(0, (self.n_draws, -1)), other[None]
                operands = operands if drawn is args[0] else operands[::-1]
                return self.called(func, types, operands, kwargs).flatten(0, 1)
        return self.called(func, types, *self._repeat((args, kwargs), repeated, count()))

    def _check_repeatable(self, x: Tensor, repeated: Repeated) -> None:
        if x.shape[repeated.axis] % self.n_inputs or id(x) in self.drawn:
            raise ValueError(f"the first pass repeated a tensor that now has shape {tuple(x.shape)}")

    def _repeat(self, argument: Any, repeated: Repeated, places: Iterator[int]) -> Any:
        if isinstance(argument, Tensor):
            if next(places) not in repeated.places:
                return argument
            self._check_repeatable(argument, repeated)
            times = [1] * argument.ndim
            times[repeated.axis] = self.n_draws
            return argument.repeat(*times)
        if type(argument) in (tuple, list):
            return type(argument)(self._repeat(part, repeated, places) for part in argument)
        if type(argument) is dict:
            return {name: self._repeat(part, repeated, places) for name, part in argument.items()}
        for _ in tensors_in(argument):
            next(places)
        return argument
