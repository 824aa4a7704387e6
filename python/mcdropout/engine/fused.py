"""Calls that are computed together with the call that uses their result.

The product of activations and masks is the largest result of a small convolutional network, and the pool after it reads
the product back at once. Both are limited by memory and not by arithmetic. So a dropout before a max-pool is deferred,
and the pool computes the product in pieces that stay in cache, or on a GPU in one kernel. A relu or a convolution
before such a dropout is deferred as well: a pool whose windows leave out the last rows of an image needs no convolution
there. A dropout before a linear layer of few outputs masks the weights of that layer instead of its many inputs.

The probes saw which call uses each result, so they know which calls can be deferred. `deferred.py` defers them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..compute.devices import piece_size
from ..compute.gpu_kernels import MOST_INPUTS, is_worthwhile, masked_maximum, packed_bits
from ..compute.torchscript import native
from ..sites.calls import Shape
from ..sites.interception import FUSABLE
from ..sites.probe import Probe
from ..sites.site import Site

RELU, CONVOLUTION, POOL = FUSABLE[F.relu], FUSABLE[F.conv2d], FUSABLE[F.max_pool2d]

PIECE_BYTES = 512 << 10  # of a product: with its inputs and results about a core's second-level cache

Kernel = tuple[int, int]


# ---- which calls can be deferred


def fused_calls(probe: Probe, device: torch.device, masks: str) -> dict[str, str]:
    """The calls that are deferred, each with the site at which its chain ends.

    A chain ends with a dropout before a max-pool or a linear layer. Before a max-pool, the chain can also have a relu,
    a convolution, and the max-pool before the convolution. Chains before a max-pool are deferred on CPUs and CUDA
    devices only.
    """
    uses, sites = probe.sole_uses, probe.sites
    pooled = {}
    if device.type in ("cpu", "cuda"):
        pooled = {name: name for name, site in sites.items() if _is(uses.get(name), POOL) and can_be_pooled(site)}
    for kind in (RELU, CONVOLUTION, POOL):
        pooled |= {name: pooled[use] for name, use in uses.items() if use in pooled and _is(name, kind)}
    linear = {
        name: name for name, site in sites.items() if uses.get(name) is F.linear and can_mask_weights(site, masks)
    }
    return pooled | linear


def _is(call: Any, kind: str) -> bool:
    return isinstance(call, str) and call.startswith(f"{kind} ")


def never_materialised(fused: Mapping[str, str]) -> frozenset[str]:
    """The deferred calls whose result is never computed as one tensor."""
    return frozenset(name for name in fused if not _is(name, CONVOLUTION) and not _is(name, POOL))


def can_be_pooled(site: Site) -> bool:
    """Whether a site's product can be computed in pieces: images along axis 0, channels innermost, plain dropout."""
    return (
        site.kind == "scale"
        and len(site.x_shape) == 4
        and site.x_shape[0] == 1
        and site.axis == 0
        and site.channels_innermost
    )


def can_mask_weights(site: Site, masks: str) -> bool:
    """Whether a site can mask the weights of the linear layer after it: its mask is shared, each input has one row."""
    one_row = site.axis == 0 and len(site.x_shape) == 2 and site.x_shape[0] == 1
    return masks == "shared" and site.kind == "scale" and one_row


# ---- deferred results


@dataclass(frozen=True)
class Convolution:
    """A two-dimensional convolution that is not computed yet."""

    arguments: dict[str, Any]  # by torch's names; the input may be a `Pooling`
    shape: Shape  # of the result, (row, channel, height, width)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the result."""
        return self.arguments["weight"].dtype

    def computed(self, height: int, width: int) -> Tensor:
        """The first rows and columns of the result.

        With padding the whole input is used, because a part of it would be padded at other places.
        """
        x, stride = self.arguments["input"], pair(self.arguments.get("stride", 1))
        rows, columns = x.shape[2:]
        if self._unpadded():
            rows -= (self.shape[2] - height) * stride[0]
            columns -= (self.shape[3] - width) * stride[1]
        return F.conv2d(**{**self.arguments, "input": first_of(x, rows, columns)})[:, :, :height, :width]

    def without_bias(self) -> tuple[Convolution, Tensor | None]:
        """The convolution without its bias, and the bias."""
        return replace(self, arguments={**self.arguments, "bias": None}), self.arguments.get("bias")

    def _unpadded(self) -> bool:
        padding = self.arguments.get("padding", 0)
        return padding == "valid" or (padding != "same" and not any(pair(padding)))


@dataclass(frozen=True)
class Pooling:
    """A max-pool of a dropout, with a relu before it or without, that is not computed yet."""

    source: Tensor | Convolution
    relu: bool
    site: Site
    mask: Tensor  # (draw, input, channel, height, width); the second axis has length 1 if inputs share the mask
    kernel: Kernel
    shape: Shape  # of the result, (row, channel, height, width)
    n_inputs: int

    @property
    def dtype(self) -> torch.dtype:
        """The type of the result."""
        return self.source.dtype

    def computed(self, height: int, width: int) -> Tensor:
        """The first rows and columns of the result."""
        high, wide = height * self.kernel[0], width * self.kernel[1]
        n_elements = len(self.mask) * self.n_inputs * self.shape[1] * high * wide
        if is_worthwhile(self.mask.device, n_elements) and self.kernel[0] * self.kernel[1] <= MOST_INPUTS - 2:
            pooled = self._computed_by_kernels(high, wide)
            if pooled is not None:
                return pooled.flatten(0, 1)
        factor = self.site.factor if self.mask.dtype == torch.uint8 else 1.0
        x = first_of(self.source, high, wide).unflatten(0, (-1, self.n_inputs))
        return masked_max_pool(x, self.mask, self.kernel, self.relu, factor).flatten(0, 1)

    def _computed_by_kernels(self, high: int, wide: int) -> Tensor | None:
        """(draw, input, channel, height, width), by kernels of a GPU; None if they cannot be compiled.

        The kernels also add the bias of a convolution, which torch would add in a pass of its own.
        """
        kept = _windows((self.mask > 0).to(torch.uint8)[:, :, :, :high, :wide], self.kernel)
        packed = packed_bits(len(kept))(*kept)
        if packed is None:
            return None
        source, bias = self.source, None
        if isinstance(source, Convolution):
            source, bias = source.without_bias()
        x = first_of(source, high, wide).unflatten(0, (-1, self.n_inputs))
        bias = x.new_zeros(x.shape[2]) if bias is None else bias
        pooled = masked_maximum(len(kept), self.relu)(
            packed.to(x.dtype), bias, *_windows(x, self.kernel), factor=self.site.factor
        )
        return None if pooled is None else pooled.movedim(-1, 2)


Source = Tensor | Convolution | Pooling


def first_of(source: Source, height: int, width: int) -> Tensor:
    """The first rows and columns of images (row, channel, height, width)."""
    return source[:, :, :height, :width] if isinstance(source, Tensor) else source.computed(height, width)


def materialise(source: Source) -> Tensor:
    """The whole result."""
    return source if isinstance(source, Tensor) else source.computed(*source.shape[2:])


# ---- dropout and max-pool in pieces


def plain_kernel(
    kernel_size: int | Kernel,
    stride: int | Kernel | None = None,
    padding: int | Kernel = 0,
    dilation: int | Kernel = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Kernel | None:
    """(height, width) of a max-pool whose windows do not overlap or leave gaps, else None; arguments as in torch."""
    kernel = pair(kernel_size)
    adjacent = stride is None or pair(stride) == kernel
    plain = pair(padding) == (0, 0) and pair(dilation) == (1, 1) and not ceil_mode and not return_indices
    return kernel if adjacent and plain else None


def pair(value: int | Kernel) -> Kernel:
    """(vertical, horizontal) of an argument that is one number or two in torch."""
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _windows(x: Tensor, kernel: Kernel) -> list[Tensor]:
    """The entries of each window: (draw, input, height, width, channel) for each place in the window."""
    x = x.movedim(2, -1)
    return [x[:, :, row :: kernel[0], column :: kernel[1]] for row in range(kernel[0]) for column in range(kernel[1])]


def masked_max_pool(x: Tensor, mask: Tensor, kernel: Kernel, relu: bool = False, factor: float = 1.0) -> Tensor:
    """max_pool2d(x * mask * factor), or of relu(x), (draw, input, channel, height, width), piece by piece.

    The first axis of `x` and the second of `mask` may have length 1. A mask has no number below 0 and may be bytes, 0
    or 1. The factor is above 0. The factor and the relu are applied to the maxima only. Both keep the order of numbers,
    also after rounding, so the result is the same.
    """
    high, wide = kernel
    draws, inputs, channels = max(len(x), len(mask)), x.shape[1], x.shape[2]
    height, width = x.shape[3] // high, x.shape[4] // wide
    # channels innermost
    x, mask = (tensor.movedim(2, -1)[:, :, : height * high, : width * wide] for tensor in (x, mask))
    if relu and x.dtype == torch.float16:  # float16 easily overflows to minus infinity, and that times 0 is NaN
        x, relu = x.relu(), False
    out = x.new_empty(draws, inputs, height, width, channels)
    piece = piece_size(x.device, PIECE_BYTES)
    rows = max(1, piece // (high * width * wide * channels * x.itemsize))
    native(_by_pieces)(x, mask, out, kernel, relu, factor, _sizes_of_piece(draws, inputs, height, rows))
    return out.movedim(-1, 2)


def _sizes_of_piece(draws: int, inputs: int, height: int, rows: int) -> tuple[int, int, int]:
    """Draws, inputs and pooled rows of a piece of `rows`: all rows of a draw if they fit, else of an input."""
    if rows >= inputs * height:
        return min(draws, rows // (inputs * height)), inputs, height
    return 1, max(1, rows // height), min(rows, height)


def _by_pieces(
    x: Tensor,
    mask: Tensor,
    out: Tensor,
    kernel: tuple[int, int],
    relu: bool,
    factor: float,
    piece: tuple[int, int, int],
) -> None:
    """Fill `out` (draw, input, height, width, channel). piece: the draws, inputs and pooled rows of a piece.

    All draws of the same inputs follow each other, so the inputs stay in cache. One buffer is used for every product,
    so that it stays in cache too.
    """
    high, wide = kernel
    n_draws, n_inputs, n_rows = piece
    for row in range(0, out.size(2), n_rows):
        rows = slice(row, row + n_rows)
        input_rows = slice(row * high, (row + n_rows) * high)
        for first_input in range(0, out.size(1), n_inputs):
            inputs = slice(first_input, first_input + n_inputs)
            x_part = x[:, inputs, input_rows]
            mask_part = mask[:, inputs, input_rows] if mask.size(1) > 1 else mask[:, :, input_rows]
            out_part = out[:, inputs, rows]
            product = torch.empty_like(
                x_part[:1].expand(n_draws, -1, -1, -1, -1), memory_format=torch.contiguous_format
            )
            row_maxima = product[:, :, ::high]
            other_rows = [product[:, :, at::high] for at in range(1, high)]
            columns = [row_maxima[:, :, :, at::wide] for at in range(wide)]
            for draw in range(0, out.size(0), n_draws):
                first = min(draw, out.size(0) - n_draws)  # the last piece has as many draws as the others
                kept = mask_part.narrow(0, first, n_draws)
                activations = x_part if x_part.size(0) == 1 else x_part.narrow(0, first, n_draws)
                maxima = out_part.narrow(0, first, n_draws)
                torch.mul(activations, kept, out=product)
                for other in other_rows:
                    torch.maximum(row_maxima, other, out=row_maxima)
                if wide == 1:
                    maxima.copy_(row_maxima)
                else:
                    torch.maximum(columns[0], columns[1], out=maxima)
                    for other in columns[2:]:
                        torch.maximum(maxima, other, out=maxima)
                if relu:
                    maxima.clamp_min_(0)
                if factor != 1.0:
                    maxima.mul_(factor)
