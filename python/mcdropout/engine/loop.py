"""One draw after the other, with what comes before the first site computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack  # pyright: ignore[reportAttributeAccessIssue]  # torch has no public way to say this, and its stubs leave it out

from ..data.inputs import Inputs
from ..sites.interception import SampleMode
from ..sites.operations import HANDLERS, is_opened
from ..sites.replica import Replica
from ..sites.site import Site, tensors_in
from .engines import Engine
from .masks import Masks


class OtherCalls(Exception):
    """A pass before the first site is not what the first pass was, or cannot be kept."""


class LoopEngine(Engine):
    """One draw after the other, in passes that start where the first site is, as long as that gives the same."""

    name = "loop"

    def __init__(
        self,
        sites: dict[str, Site],
        run_pass: Callable[[Replica, Inputs, SampleMode], Tensor],
        prefix_can_be_kept: bool,
    ) -> None:
        self.sites, self.run_pass, self.prefix_can_be_kept = sites, run_pass, prefix_can_be_kept

    def run(self, replica: Replica, inputs: Inputs, masks: Masks) -> Tensor:
        n_draws = len(next(iter(masks.values())))
        by_draw = [{name: mask[draw] for name, mask in masks.items()} for draw in range(n_draws)]
        if self.prefix_can_be_kept:
            with suppress(OtherCalls):
                return self._with_prefix(replica, inputs, by_draw)
            self.prefix_can_be_kept = False  # the passes differ before the first site
        return torch.stack([self._pass(replica, inputs, of_draw) for of_draw in by_draw])

    def _with_prefix(self, replica: Replica, inputs: Inputs, by_draw: list[Masks]) -> Tensor:
        draws, prefix = [], Prefix()
        for of_draw in by_draw:
            draws.append(self._pass(replica, inputs, of_draw, prefix if self.prefix_can_be_kept else None))
            if prefix.was_written_to():
                self.prefix_can_be_kept = False
        return torch.stack(draws)

    def _pass(self, replica: Replica, inputs: Inputs, masks: Masks, prefix: Prefix | None = None) -> Tensor:
        """One pass of the network under the masks of one draw."""
        sites, n_inputs = self.sites, len(inputs)
        inputs = inputs.clone()  # a model may write to its inputs
        if prefix is None:
            mode = SampleMode(replica, sites, masks, n_inputs)
        elif prefix.versions is None:
            mode, prefix.inputs = RecordingMode(replica, sites, masks, n_inputs, prefix), inputs
        else:
            mode, inputs = ReplayingMode(replica, sites, masks, n_inputs, prefix), prefix.inputs
        return self.run_pass(replica, inputs, mode)


class Prefix:
    """The results of all torch calls before the first site: the same in every draw, so computed in the first alone.

    A pass makes the same calls up to there, so the results are handed out by their order. That they are the same calls,
    of the same functions with the same arguments, is seen as they are made: a model may keep in one pass what it takes
    from there in the next. Whether a later call wrote into a result is seen from torch's own count of the writes to
    each tensor. Calls that give no tensor are made anew, and so is what happens inside `torch.func.grad()` and its
    like, whose tensors are no longer any once it has ended.
    """

    inputs: Inputs  # as the first pass left them

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any]] = []  # the function, what it was given, what it gave
        self.counts: Counter[str] = Counter()  # stochastic calls before the first site, for the names of later ones
        self.versions: list[tuple[Tensor, int]] | None = None  # None while the first pass is under way

    def complete(self, counts: Counter[str]) -> None:
        """The first site is reached."""
        given = [self.inputs.args, self.inputs.kwargs, self.inputs.constants]
        tensors = tensors_in([[result for _, _, result in self.calls], given])
        if any(one.is_inference() for one in tensors):
            raise OtherCalls("no writes to inference tensors are counted")
        if any(one.requires_grad for one in tensors):
            raise OtherCalls("gradients go back through a pass once")
        self.counts, self.versions = counts, [(one, one._version) for one in tensors]

    def was_written_to(self) -> bool:
        """Whether a call after the first site changed a result in place."""
        return self.versions is None or any(tensor._version != version for tensor, version in self.versions)


def _transforming() -> bool:
    """Whether a function of `torch.func` is at work: tensors made now belong to it."""
    return peek_interpreter_stack() is not None


class RecordingMode(SampleMode):
    """A draw that notes what comes before its first site."""

    def __init__(self, replica: Replica, sites: dict[str, Site], masks: Masks, n_inputs: int, prefix: Prefix) -> None:
        super().__init__(replica, sites, masks, n_inputs)
        self.prefix = prefix

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        if self.prefix.versions is None and not is_opened(func):
            if not _transforming():
                self.prefix.calls.append((func, (args, kwargs or {}), result))
            elif func in HANDLERS:
                raise OtherCalls("a stochastic call that is made anew would be counted twice")
        return result

    def at_site(self, counts: Counter[str]) -> None:
        if self.prefix.versions is None:
            self.prefix.complete(counts)


class ReplayingMode(SampleMode):
    """A draw that takes what comes before its first site from an earlier one."""

    def __init__(self, replica: Replica, sites: dict[str, Site], masks: Masks, n_inputs: int, prefix: Prefix) -> None:
        super().__init__(replica, sites, masks, n_inputs)
        self.calls.counts.update(prefix.counts)
        self.known = iter(prefix.calls)
        self.left = len(prefix.calls)

    def at_site(self, counts: Counter[str]) -> None:
        if self.left > 0:
            raise OtherCalls("a site was reached before all calls had been made")

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if self.left == 0 or is_opened(func) or _transforming():
            return super().__torch_function__(func, types, args, kwargs)
        self.left -= 1
        known, given, result = next(self.known)
        if known != func or not _same_arguments(given, (args, kwargs or {})):
            raise OtherCalls(f"{func} where the first pass called {known}, or with other arguments")
        return result if tensors_in(result) else super().__torch_function__(func, types, args, kwargs)


def _same_arguments(one: Any, other: Any) -> bool:
    """Whether a call is given the very tensors that another was, or equal ones, and else what is equal."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(_same_arguments, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same_arguments(one[name], other[name]) for name in one)
    try:
        return bool(one == other)
    except Exception:  # of arrays, and of what cannot be compared
        return False
