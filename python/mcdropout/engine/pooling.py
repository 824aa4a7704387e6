"""Dropout and the max-pool that takes its result, in one go.

The product of activations and masks is the largest thing that a small convolutional network writes, and the pool
reads it back at once. On a CPU both wait for memory rather than for arithmetic. Here the product is made in pieces that
stay in a core's cache, and only the maxima leave it. Every product and every maximum is the one that torch computes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..compute.devices import piece_size
from ..compute.torchscript import native
from ..sites.site import Site

PIECE_BYTES = 512 << 10  # of a product: with its inputs and results about a core's second cache

Kernel = tuple[int, int]


def can_be_pooled(site: Site) -> bool:
    """Whether a site's product can be made in pieces: images along axis 0, channels innermost, plain dropout."""
    return (
        site.kind == "scale"
        and len(site.x_shape) == 4
        and site.x_shape[0] == 1
        and site.axis == 0
        and site.channels_innermost
    )


def plain_kernel(
    kernel_size: int | Kernel,
    stride: int | Kernel | None = None,
    padding: int | Kernel = 0,
    dilation: int | Kernel = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Kernel | None:
    """(height, width) of a max-pool whose windows lie side by side; None for any other. Arguments as torch's."""
    kernel = pair(kernel_size)
    adjacent = stride is None or pair(stride) == kernel
    plain = pair(padding) == (0, 0) and pair(dilation) == (1, 1) and not ceil_mode and not return_indices
    return kernel if adjacent and plain else None


def pair(value: int | Kernel) -> Kernel:
    """(vertical, horizontal) of an argument that torch takes as one number or two."""
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def masked_max_pool(x: Tensor, mask: Tensor, kernel: Kernel, relu: bool = False, factor: float = 1.0) -> Tensor:
    """max_pool2d(x * mask * factor), or of relu(x), (draw, input, channel, height, width), piece by piece.

    The first axis of `x` may be 1 long, the second of `mask`. A mask holds no number below 0 and may come in bytes, 0
    or 1. The factor is above 0. It and the relu meet the maxima alone: both keep the order of numbers, rounded or not,
    so the largest of what they make is what they make of the largest.
    """
    high, wide = kernel
    draws, inputs, channels = max(len(x), len(mask)), x.shape[1], x.shape[2]
    height, width = x.shape[3] // high, x.shape[4] // wide
    x, mask = (one.movedim(2, -1)[:, :, : height * high, : width * wide] for one in (x, mask))  # channels innermost
    if relu and x.dtype == torch.float16:  # whose minus infinity, near enough to be met, would be none times 0
        x, relu = x.relu(), False
    out = x.new_empty(draws, inputs, height, width, channels)
    piece = piece_size(x.device, PIECE_BYTES)
    steps = _steps(draws, inputs, height, max(1, piece // (high * width * wide * channels * x.itemsize)))
    native(_by_pieces)(x, mask, out, high, wide, relu, factor, *steps)
    return out.movedim(-1, 2)


def _steps(draws: int, inputs: int, height: int, rows: int) -> tuple[int, int, int]:
    """Draws, inputs and pooled rows of a piece of `rows`: whole draws if they fit, else whole inputs, else rows."""
    if rows >= inputs * height:
        return min(draws, rows // (inputs * height)), inputs, height
    return 1, max(1, rows // height), min(rows, height)


def _by_pieces(
    x: Tensor,
    mask: Tensor,
    out: Tensor,
    high: int,
    wide: int,
    relu: bool,
    factor: float,
    some_draws: int,
    some_inputs: int,
    some_rows: int,
) -> None:
    """Fill `out` (draw, input, height, width, channel), draw after draw of the same inputs, which so stay in the cache.

    The product has one place, which does too: new memory would come cold into it.
    """
    for row in range(0, out.size(2), some_rows):
        rows = slice(row, row + some_rows)
        above = slice(row * high, (row + some_rows) * high)
        for one in range(0, out.size(1), some_inputs):
            inputs = slice(one, one + some_inputs)
            own_x = x[:, inputs, above]
            own_mask = mask[:, inputs, above] if mask.size(1) > 1 else mask[:, :, above]
            own_out = out[:, inputs, rows]
            product = torch.empty_like(
                own_x[:1].expand(some_draws, -1, -1, -1, -1), memory_format=torch.contiguous_format
            )
            tallest = product[:, :, ::high]
            lower = [product[:, :, at::high] for at in range(1, high)]
            columns = [tallest[:, :, :, at::wide] for at in range(wide)]
            for draw in range(0, out.size(0), some_draws):
                first = min(draw, out.size(0) - some_draws)  # the last piece is as long as the others
                kept = own_mask.narrow(0, first, some_draws)
                activations = own_x if own_x.size(0) == 1 else own_x.narrow(0, first, some_draws)
                maxima = own_out.narrow(0, first, some_draws)
                torch.mul(activations, kept, out=product)
                for other in lower:
                    torch.maximum(tallest, other, out=tallest)
                if wide == 1:
                    maxima.copy_(tallest)
                else:
                    torch.maximum(columns[0], columns[1], out=maxima)
                    for other in columns[2:]:
                        torch.maximum(maxima, other, out=maxima)
                if relu:
                    maxima.clamp_min_(0)
                if factor != 1.0:
                    maxima.mul_(factor)
