"""One pass under the masks of many draws, in which calls that can be fused are deferred.

A deferred call returns a stand-in: a tensor of the right shape without numbers. The call that it is fused with computes
its result. Any other function that is called with the stand-in gets the computed result.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..compute.precision import cast_arguments
from ..sites.interception import SampleMode
from ..sites.operations import drops
from ..sites.replica import Replica
from ..sites.site import Site, applied, mask_numbers, tensors_in
from .fused import Convolution, Kernel, Pooling, Source, materialise, plain_kernel

CONV2D_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")

CONVOLUTIONS = {F.conv1d: 3, F.conv2d: 4, F.conv3d: 5}  # with the number of axes of their weights


@dataclass
class Deferred:
    """A result that is not computed yet: a source, then optionally a relu, then optionally a dropout."""

    stand_in: weakref.ref[Tensor]
    source: Source
    relu: bool = False
    site: Site | None = None


class DeferringMode(SampleMode):
    """Applies the masks of many draws, along the axis of the inputs: all inputs of the first draw, then of the next.

    fused: the calls to defer, see `fused_calls()`.
    """

    def __init__(
        self,
        replica: Replica,
        sites: dict[str, Site],
        masks: dict[str, Tensor],
        n_inputs: int,
        fused: Mapping[str, str],
    ) -> None:
        super().__init__(replica, sites, masks, n_inputs)
        self.n_draws, self.fused = len(next(iter(masks.values()))), fused
        self.deferred: dict[int, Deferred] = {}  # by the identity of the stand-in
        self.drawn: dict[int, weakref.ref[Tensor]] = {}  # tensors with draws, by identity

    def marked(self, result: Any) -> Any:
        """`result`, recorded as a tensor with draws."""
        for tensor in (result,) if isinstance(result, Tensor) else tensors_in(result):
            key = id(tensor)
            self.drawn[key] = weakref.ref(tensor, lambda _, key=key: self.drawn.pop(key, None))
        return result

    def called(self, func: Any, types: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The result of a call, or a stand-in for it."""
        counted = self.counted_name(func)
        result = self._with_weights_of_draws(func, args, kwargs)
        if result is not None:
            return result
        if counted is not None and counted in self.fused and func is not F.max_pool2d:
            return self._defer(func, self.sites[self.fused[counted]], args, kwargs)
        if self.deferred:
            if func is F.max_pool2d and args and id(args[0]) in self.deferred:
                kernel = plain_kernel(*args[1:], **kwargs)
                if kernel is not None:
                    return self._pooled(self.deferred[id(args[0])], kernel, defer=counted in self.fused)
            if func is F.linear and args and id(args[0]) in self.deferred:
                result = self._linear_of_masked_weights(self.deferred[id(args[0])], *args[1:], **kwargs)
                if result is not None:
                    return result
            if not drops(func):
                args, kwargs = self.computed((args, kwargs))
        return super().__torch_function__(func, types, args, kwargs)

    def drop(self, x: Tensor, site: Site) -> Tensor:
        """The result of a site for `x`; at the first site the result gets draws."""
        if site.kind == "weights":
            return self.marked(self.masks[site.name])
        if site.name in self.fused:
            before = self.deferred.get(id(x))
            source, relu = (x, False) if before is None else (before.source, before.relu)
            return self.marked(self._stand_in(x, source, relu, site))
        return self.marked(self._dropped(self.computed(x), site))

    def computed(self, arguments: Any) -> Any:
        """`arguments` with each stand-in replaced by its computed result."""
        if isinstance(arguments, Tensor):
            if id(arguments) not in self.deferred:
                return arguments
            deferred = self.deferred[id(arguments)]
            x = materialise(deferred.source)
            x = x.relu() if deferred.relu else x
            x = x if deferred.site is None else self._dropped(x, deferred.site)
            return self.marked(x) if id(arguments) in self.drawn else x
        if type(arguments) in (tuple, list):
            return type(arguments)(self.computed(part) for part in arguments)
        if type(arguments) is dict:
            return {name: self.computed(part) for name, part in arguments.items()}
        return arguments

    # ---- deferred calls

    def _defer(self, func: Any, site: Site, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        """A stand-in for a relu or a convolution that the pool after `site` computes."""
        if func is not F.conv2d:
            before = self.deferred.get(id(args[0]))
            return self._stand_in(args[0], args[0] if before is None else before.source, relu=True)
        arguments = {**dict(zip(CONV2D_ARGUMENTS, args, strict=False)), **kwargs}
        input_ = arguments.pop("input")
        x = self._deferred_pool(input_) or self.computed(input_)
        if self.reduced is not None:
            _, arguments = cast_arguments(func, (), arguments, self.reduced)
            x = x if isinstance(x, Pooling) else cast_arguments(func, (x,), {}, self.reduced)[0][0]
        source = Convolution({**arguments, "input": x}, (x.shape[0], *site.x_shape[1:]))
        return self._stand_in(self._like(source), source)

    def _deferred_pool(self, stand_in: Tensor) -> Pooling | None:
        """The deferred pool of a stand-in, if its result needs no cast."""
        before = self.deferred.get(id(stand_in))
        if before is None or not isinstance(before.source, Pooling):
            return None
        return before.source if self.reduced in (None, before.source.dtype) else None

    def _like(self, source: Convolution | Pooling) -> Tensor:
        """A tensor with the shape and type of the result that needs no memory."""
        return next(iter(self.masks.values())).new_empty((), dtype=source.dtype).expand(source.shape)

    def _stand_in(self, like: Tensor, source: Source, relu: bool = False, site: Site | None = None) -> Tensor:
        stand_in = like.view_as(like)
        key = id(stand_in)
        reference = weakref.ref(stand_in, lambda _: self.deferred.pop(key, None))
        self.deferred[key] = Deferred(reference, source, relu, site)
        return stand_in

    def _pooled(self, deferred: Deferred, kernel: Kernel, defer: bool) -> Tensor:
        site, source = deferred.site, deferred.source
        assert site is not None  # every chain before a pool ends with a dropout
        assert not isinstance(source, Pooling)
        mask = self.masks[site.name].unflatten(1, (-1, 1))[:, :, 0]  # (draw, input, channel, height, width)
        if isinstance(source, Tensor):
            self.check_shape(source, site, self.n_draws if len(source) > self.n_inputs else 1)
        _, channels, height, width = site.x_shape
        shape = self.n_draws * self.n_inputs, channels, height // kernel[0], width // kernel[1]
        pooling = Pooling(source, deferred.relu, site, mask, kernel, shape, self.n_inputs)
        return self._stand_in(self._like(pooling), pooling) if defer else materialise(pooling)

    # ---- layers whose weights differ between draws

    def _linear_of_masked_weights(
        self, deferred: Deferred, weight: Tensor, bias: Tensor | None = None
    ) -> Tensor | None:
        """A linear layer after a dropout, with the masks applied to its weights instead of its many inputs.

        So one product computes all draws of inputs that have no draws yet. None if there are too few inputs.
        """
        x = deferred.source
        if deferred.site is None or not isinstance(x, Tensor) or 2 * len(weight) > self.n_inputs:
            return None
        x, mask = self._by_draw(x, deferred.site)  # (draw or 1, input, 1, feature)
        if self.reduced is not None:
            x, weight, mask = (tensor.to(self.reduced) for tensor in (x, weight, mask))
            bias = None if bias is None else bias.to(self.reduced)
        weights = mask[:, 0] * weight  # (draw, output, feature)
        return self._linear(x[:, :, 0], weights, None if bias is None else bias.expand(self.n_draws, -1))

    def _with_weights_of_draws(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
        """A linear layer or a convolution whose weights have draws; None for any other call."""
        axes = 2 if func is F.linear else CONVOLUTIONS.get(func)
        if axes is None:
            return None
        weight = args[1] if len(args) > 1 else kwargs.get("weight")
        if not isinstance(weight, Tensor) or weight.ndim != axes + 1 or id(weight) not in self.drawn:
            return None
        args, kwargs = self.computed((args, kwargs))
        if self.reduced is not None:
            args, kwargs = cast_arguments(func, args, kwargs, self.reduced)
        arguments = {**dict(zip(CONV2D_ARGUMENTS, args, strict=False)), **kwargs}
        x, weight, bias = (arguments.pop(name, None) for name in CONV2D_ARGUMENTS[:3])
        x = x.unflatten(0, (self.n_draws, -1)) if self._has_draws(args, kwargs) else x[None]
        if func is F.linear:
            return self._linear(x, weight, bias)
        biases = [None] * self.n_draws if bias is None else bias
        return self._convolved(func, x, weight, biases, arguments)

    def _has_draws(self, args: tuple, kwargs: dict[str, Any]) -> bool:
        return id(args[0] if args else kwargs["input"]) in self.drawn

    @staticmethod
    def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Rows (draw x input, ..., output) of inputs (draw or 1, input, ..., feature) and weights of each draw."""
        n_draws, axes = len(weight), x.shape[1:-1]
        if len(x) == 1:
            out = F.linear(x[0], weight.flatten(0, 1), None if bias is None else bias.flatten())
            return out.unflatten(-1, (n_draws, -1)).movedim(-2, 0).flatten(0, 1)
        x = x.flatten(1, -2)
        out = x @ weight.mT if bias is None else torch.baddbmm(bias[:, None], x, weight.mT)
        return out.unflatten(1, axes).flatten(0, 1)

    @staticmethod
    def _convolved(func: Any, x: Tensor, weight: Tensor, biases: Any, options: dict[str, Any]) -> Tensor:
        """A convolution draw by draw; one convolution in groups would give a memory format that is slow afterwards."""
        outs = (
            func(x[draw if len(x) > 1 else 0], weights, biases[draw], **options) for draw, weights in enumerate(weight)
        )
        first = next(outs)
        result = first.new_empty(len(weight), len(first), *first.shape[2:], first.shape[1]).movedim(-1, 2)
        for draw, out in enumerate(itertools.chain([first], outs)):
            result[draw] = out
        return result.flatten(0, 1)

    # ---- rows

    def _dropped(self, x: Tensor, site: Site) -> Tensor:
        if site.axis is None:  # a dropout of weights, which get an axis of draws
            self.check_shape(x, site)
            return applied(x[None], self.masks[site.name], site)
        x, mask = self._by_draw(x, site)
        mask = mask_numbers(mask, site) if mask.dtype == torch.uint8 else mask
        return applied(x, mask, site).flatten(site.axis, site.axis + 2)

    def _by_draw(self, x: Tensor, site: Site) -> tuple[Tensor, Tensor]:
        """`x` and its mask as (..., draw, input, entry of the input, ...); an axis that is repeated has length 1.

        The three axes replace the axis that grows with the inputs.
        """
        axis = site.axis or 0
        entries = site.x_shape[axis]
        self.check_shape(x, site, self.n_draws if x.shape[axis] > self.n_inputs * entries else 1)
        mask = self.masks[site.name].unflatten(1 + axis, (-1, site.shape[axis])).movedim(0, axis)
        return x.unflatten(axis, (-1, self.n_inputs, entries)), mask
