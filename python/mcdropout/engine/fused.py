"""Results that wait for what comes after them, and then are made with it, or only as far as it needs them.

A max-pool behind a dropout takes the product of activations and mask in pieces (`pooling`), and a linear layer behind
one has masked weights instead of masked inputs. What comes before such a dropout waits too: a pool with no window for
the last rows of an image needs no convolution there, nor the rows of the pool before that. Which calls wait is known
from the probes, which saw what takes each result. In their place goes a tensor like them, without numbers; should
something else ask for it, the result is made after all.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..sites.calls import Shape
from ..sites.interception import FUSABLE
from ..sites.probe import Probe
from ..sites.site import Site
from .pooling import Kernel, can_be_pooled, masked_max_pool, pair

RELU, CONVOLUTION, POOL = FUSABLE[F.relu], FUSABLE[F.conv2d], FUSABLE[F.max_pool2d]

CONV2D_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def fused_calls(probe: Probe, device: torch.device, masks: str) -> dict[str, str]:
    """The calls that can wait for what comes after them, each with the site at which its waiting ends.

    They are dropouts before a max-pool or a linear layer, and before the former a relu, a convolution, and that one's
    own max-pool. For a pool they wait on a CPU only: elsewhere a piece at a time is too little work.
    """
    uses, sites = probe.sole_uses, probe.sites
    before = {}
    if device.type == "cpu":
        before = {name: name for name, one in sites.items() if _is(uses.get(name), POOL) and can_be_pooled(one)}
    for kind in (RELU, CONVOLUTION, POOL):
        before |= {name: before[use] for name, use in uses.items() if use in before and _is(name, kind)}
    weighed = {name: name for name, one in sites.items() if uses.get(name) is F.linear and can_weigh(one, masks)}
    return before | weighed


def _is(call: Any, kind: str) -> bool:
    return isinstance(call, str) and call.startswith(f"{kind} ")


def never_materialised(fused: Mapping[str, str]) -> frozenset[str]:
    """Those of them whose result is never whole in memory."""
    return frozenset(name for name in fused if not _is(name, CONVOLUTION) and not _is(name, POOL))


def can_weigh(site: Site, masks: str) -> bool:
    """Whether the masks of a site can meet the weights of the linear layer after it: one row for each input."""
    own_row = site.axis == 0 and len(site.x_shape) == 2 and site.x_shape[0] == 1
    return masks == "shared" and site.kind == "scale" and own_row


@dataclass(frozen=True)
class Convolution:
    """A two-dimensional convolution that is not computed yet."""

    given: dict[str, Any]  # its arguments as torch names them; the input may be a `Pooling`
    shape: Shape  # of its result, (row, channel, height, width)

    @property
    def dtype(self) -> torch.dtype:
        """Of its result."""
        return self.given["weight"].dtype

    def made(self, height: int, width: int) -> Tensor:
        """So much of its result.

        Where there is padding all of the input is taken: less of it would be padded elsewhere.
        """
        x, stride = self.given["input"], pair(self.given.get("stride", 1))
        rows, columns = x.shape[2:]
        if self._unpadded():
            rows -= (self.shape[2] - height) * stride[0]
            columns -= (self.shape[3] - width) * stride[1]
        return F.conv2d(**{**self.given, "input": first_of(x, rows, columns)})[:, :, :height, :width]

    def _unpadded(self) -> bool:
        padding = self.given.get("padding", 0)
        return padding == "valid" or (padding != "same" and not any(pair(padding)))


@dataclass(frozen=True)
class Pooling:
    """A max-pool of a dropout, with a relu before it or without, that is not computed yet."""

    source: Tensor | Convolution
    relu: bool
    site: Site
    mask: Tensor  # (draw, input, channel, height, width), its second axis 1 long where inputs share it
    kernel: Kernel
    shape: Shape  # of its result, (row, channel, height, width)
    n_inputs: int

    @property
    def dtype(self) -> torch.dtype:
        """Of its result."""
        return self.source.dtype

    def made(self, height: int, width: int) -> Tensor:
        """So much of its result."""
        x = first_of(self.source, height * self.kernel[0], width * self.kernel[1])
        factor = self.site.factor if self.mask.dtype == torch.uint8 else 1.0
        x = x.unflatten(0, (-1, self.n_inputs))
        return masked_max_pool(x, self.mask, self.kernel, self.relu, factor).flatten(0, 1)


Source = Tensor | Convolution | Pooling


def first_of(source: Source, height: int, width: int) -> Tensor:
    """The first rows and columns of images (row, channel, height, width)."""
    return source[:, :, :height, :width] if isinstance(source, Tensor) else source.made(height, width)


def materialise(source: Source) -> Tensor:
    """All of it."""
    return source if isinstance(source, Tensor) else source.made(*source.shape[2:])


@dataclass
class Deferred:
    """A result that is not computed yet, in whose place a tensor like it is handed on."""

    stand_in: weakref.ref[Tensor]
    source: Source
    relu: bool = False
    site: Site | None = None
