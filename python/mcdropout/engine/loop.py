"""One draw after the other; the part of the network before the first site is computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack  # pyright: ignore[reportAttributeAccessIssue]  # torch has no public function for this, and its stubs omit it

from ..data.inputs import Inputs
from ..sites.interception import SampleMode
from ..sites.operations import HANDLERS, is_opened
from ..sites.replica import Replica
from ..sites.site import Site, tensors_in
from .engines import Engine
from .masks import Masks


class OtherCalls(Exception):
    """The calls before the first site differ from those of the first pass, or their results cannot be kept."""


class LoopEngine(Engine):
    """One draw after the other, in passes that start at the first site if that gives the same results."""

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
    """The results of all torch calls before the first site. They are the same in every draw, so computed only once.

    Every pass makes the same calls up to the first site, so later passes get the results in their order. Each call is
    compared with that of the first pass, its function and its arguments, because a model may carry state from one pass
    to the next. Torch counts the writes to each tensor, which shows whether a later call wrote into a result. Calls
    that return no tensor are made again. So are calls inside `torch.func.grad()` and similar functions, whose tensors
    are not valid after the function has ended.
    """

    inputs: Inputs  # after the first pass, which may have written to them

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any]] = []  # the function, its arguments, its result
        self.counts: Counter[str] = Counter()  # stochastic calls before the first site, for the names of later calls
        self.versions: list[tuple[Tensor, int]] | None = None  # None until the first pass has reached the first site

    def complete(self, counts: Counter[str]) -> None:
        """End the recording: the first site is reached."""
        arguments = [self.inputs.args, self.inputs.kwargs, self.inputs.constants]
        tensors = tensors_in([[result for _, _, result in self.calls], arguments])
        if any(tensor.is_inference() for tensor in tensors):
            raise OtherCalls("torch does not count writes to inference tensors")
        if any(tensor.requires_grad for tensor in tensors):
            raise OtherCalls("the graph of gradients of a pass can be used only once")
        self.counts, self.versions = counts, [(tensor, tensor._version) for tensor in tensors]

    def was_written_to(self) -> bool:
        """Whether a call after the first site changed a result in place."""
        return self.versions is None or any(tensor._version != version for tensor, version in self.versions)


def _transforming() -> bool:
    """Whether a function of `torch.func` is running; tensors that are made inside belong to it."""
    return peek_interpreter_stack() is not None


class RecordingMode(SampleMode):
    """A draw that records the calls before its first site."""

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
    """A draw that uses the recorded results of the calls before its first site."""

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
        recorded, arguments, result = next(self.known)
        if recorded != func or not _same_arguments(arguments, (args, kwargs or {})):
            raise OtherCalls(f"{func} where the first pass called {recorded}, or with other arguments")
        return result if tensors_in(result) else super().__torch_function__(func, types, args, kwargs)


def _same_arguments(a: Any, b: Any) -> bool:
    """Whether the arguments of two calls are the same objects or equal, tensor by tensor."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_same_arguments, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same_arguments(a[name], b[name]) for name in a)
    try:
        return bool(a == b)
    except Exception:  # arrays, and objects that cannot be compared
        return False
