"""Masks, random numbers and weights of the sites, made from keyed random numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..compute.devices import piece_size
from ..compute.gpu_kernels import fields_reached, fields_reached_or_settled, is_worthwhile, philox_words
from ..compute.streams import seeded_generators
from ..compute.torchscript import native
from ..sites.site import NORMAL_KINDS, Site, mask_numbers
from .randomness import (
    BLOCKS_AT_ONCE,
    Key,
    SiteSeed,
    generator_starts,
    halves,
    normals,
    philox,
    philox_rounds,
    uniforms,
)


def keep_masks(
    seed: SiteSeed,
    rate: float,
    n_elements: int,
    draws: Tensor,
    ids: Tensor,
    channels: int = 1,
    room: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """Which elements stay: uint8 (draw, id, element), each 1 with probability 1 - rate, else 0.

    `draws` and `ids` are 1-d int64 tensors on the device of the masks. With `channels`, the elements, numbered
    (channel, place), are returned in the order (place, channel). `room` gives memory of so many bytes for the masks.
    """
    scaled, bits = _field_bits(rate)
    field = threshold, _ = math.floor(scaled), bits
    n_masks = len(draws) * len(ids)
    if is_worthwhile(draws.device, n_masks * n_elements):
        kept = _kept_by_kernels(seed, rate, n_elements, draws, ids, channels)
        if kept is not None:
            return kept
    empty = room or partial(torch.empty, dtype=torch.uint8, device=draws.device)
    kept = empty(n_masks * n_elements).view(n_masks, n_elements)
    draw, input_id = draws.repeat_interleave(len(ids)), ids.repeat(len(draws))  # one row for each (draw, id)
    step = max(1, piece_size(draws.device, BLOCKS_AT_ONCE) * 16 // -(-n_elements * bits // 8))
    if scaled == threshold:
        # channels whose fields fill whole words of 64 bits are unpacked into such words
        words = kept.view(torch.int64) if channels > 1 and channels * bits % 64 == 0 else kept.new_empty(0, 0).long()
        native(_decide_by_pieces)(kept, words, draw, input_id, channels, step, field, seed.key())
        return kept.view(len(draws), len(ids), n_elements)
    for start in range(0, n_masks, step):
        rows = slice(start, start + step)
        piece = torch.empty_like(kept[rows])
        data = native(_decide)(piece, kept.new_empty(0, 0), draw[rows], input_id[rows], 1, field, seed.key())
        _settle_ties(piece, data, threshold, scaled - threshold, seed.key("tail"), draw[rows], input_id[rows])
        kept[rows] = piece.view(len(piece), channels, -1).transpose(1, 2).flatten(1)
    return kept.view(len(draws), len(ids), n_elements)


def _field_bits(rate: float) -> tuple[float, int]:
    """rate * 2^bits and the number of bits of a decision."""
    for bits in (1, 2, 4):
        if rate * 2**bits == int(rate * 2**bits):
            return rate * 2**bits, bits
    return rate * 256, 8


def _kept_by_kernels(
    seed: SiteSeed, rate: float, n_elements: int, draws: Tensor, ids: Tensor, channels: int
) -> Tensor | None:
    """As `keep_masks()`, by kernels of a GPU; None if they cannot be compiled or fields do not fill whole bytes."""
    scaled, bits = _field_bits(rate)
    channels = n_elements if channels == 1 else channels  # elements in their own order are channels of one place
    lanes, remainder = divmod(channels * bits, 8)  # the bytes of a place; each has the fields of some channels
    if remainder:
        return None
    n_bytes, threshold = n_elements // channels * lanes, math.floor(scaled)
    # (draw, id, place, field, lane)
    draw, low, high = (part.int()[:, None, None, None] for part in (draws, *halves(ids)))
    draw = draw[:, None]
    block = torch.arange(-(-n_bytes // 16), dtype=torch.int32, device=draws.device)
    k0, k1 = seed.key()
    words = philox_words(block, draw[..., 0, 0], low[..., 0, 0], high[..., 0, 0], k0=k0, k1=k1)
    if words is None:
        return None
    data = torch.stack(words, dim=2).flatten(2).view(torch.uint8)[..., :n_bytes]
    data = data.unflatten(2, (lanes, -1)).mT.unsqueeze(-2)
    if scaled == threshold:
        shift = torch.arange(0, 8, bits, dtype=torch.uint8, device=draws.device)[:, None]
        # contiguous, because the result of a kernel has the memory format of its first tensor
        shift = shift.expand(data.shape[2], -1, lanes).contiguous()
        kept = fields_reached(shift, data, field=2**bits - 1, threshold=threshold)
    else:
        element = torch.arange(n_elements, dtype=torch.int32, device=draws.device).view(lanes, -1).T.unsqueeze(1)
        k0, k1 = seed.key("tail")
        options = {"k0": k0, "k1": k1, "threshold": threshold, "limit": round((scaled - threshold) * 2**32)}
        kept = fields_reached_or_settled(element.contiguous(), data.int(), draw, low, high, **options)
    return None if kept is None else kept.to(torch.uint8).reshape(len(draws), len(ids), n_elements)


def _decide_by_pieces(
    kept: Tensor,
    kept_words: Tensor,
    draw: Tensor,
    input_id: Tensor,
    channels: int,
    step: int,
    field: tuple[int, int],
    key: Key,
) -> None:
    """Fill `kept` (row, element), a few rows at a time, so that the working numbers stay in cache."""
    for start in range(0, kept.size(0), step):
        end = start + step
        _decide(kept[start:end], kept_words[start:end], draw[start:end], input_id[start:end], channels, field, key)


def _decide(
    kept: Tensor,
    kept_words: Tensor,
    draw: Tensor,
    input_id: Tensor,
    channels: int,
    field: tuple[int, int],
    key: Key,
) -> Tensor:
    """Fill `kept` (row, element) for rows of (draw, id); returns the bytes (row, byte) that decided.

    kept_words: the same memory as words of 64 bits if it can be filled by words, else empty. field: threshold, bits.
    """
    threshold, bits = field
    n_bytes = (kept.size(1) * bits + 7) // 8
    n_blocks = (n_bytes + 15) // 16
    block = torch.arange(n_blocks, device=draw.device)[None, :]
    low, high = input_id[:, None] & 0xFFFFFFFF, (input_id[:, None] >> 32) & 0xFFFFFFFF
    words = philox_rounds(block, draw[:, None], low, high, key)
    all_words = torch.empty([draw.size(0), 4, n_blocks], dtype=torch.int32, device=draw.device)
    for place, word in enumerate(words):
        all_words[:, place] = word  # int64 to int32 keeps the low 32 bits
    data = torch.view_copy(all_words.view([draw.size(0), -1]), dtype=torch.uint8)[:, :n_bytes]
    if channels == 1:
        _unpack(data, bits, threshold, kept)
    elif kept_words.numel() > 0:
        _unpack_by_place(data, bits, threshold, channels, kept, kept_words)
    else:
        by_element = torch.empty_like(kept)
        _unpack(data, bits, threshold, by_element)
        by_place = by_element.view([kept.size(0), channels, -1]).transpose(1, 2)
        kept.view([kept.size(0), -1, channels]).copy_(by_place)
    return data


def _unpack(data: Tensor, bits: int, threshold: int, kept: Tensor) -> None:
    """Fill `kept` (row, element) with 1 where the element's field in `data` (row, byte) reaches the threshold, else 0.

    All operations are on bytes: torch compares bytes one at a time, but clamps many at once.
    """
    if threshold == 0:
        kept.fill_(1)
    elif bits == 8:
        torch.sub(data.clamp(threshold - 1, threshold), threshold - 1, out=kept)
    else:
        reached, n_bytes, n_elements = _reached(data, bits, threshold), data.size(1), kept.size(1)
        for place in range(8 // bits):
            first = place * n_bytes
            if first < n_elements:
                out = kept[:, first : min(first + n_bytes, n_elements)]
                torch.bitwise_and(reached[:, : out.size(1)] >> (place * bits), 1, out=out)


def _unpack_by_place(data: Tensor, bits: int, threshold: int, channels: int, kept: Tensor, kept_words: Tensor) -> None:
    """As `_unpack()`, for elements numbered (channel, place) in the order (place, channel).

    kept_words: the memory of `kept` as words. The fields of 8 neighbouring channels lie in 8 neighbouring bytes, so
    bytes are transposed first, and unpacked 8 at a time.
    """
    lanes = channels * bits // 8
    by_place = data.view([data.size(0), lanes, -1]).transpose(1, 2).contiguous()
    fields = torch.view_copy(by_place, dtype=torch.int64)  # (row, place, word)
    out = kept_words.view([kept.size(0), -1, 8 // bits, lanes // 8])  # (row, place, field, word)
    if threshold == 0:
        kept.fill_(1)
    elif bits == 8:
        out.select(2, 0).copy_(fields)
        kept.clamp_(threshold - 1, threshold).sub_(threshold - 1)
    else:
        reached = _reached(fields, bits, threshold)
        for place in range(8 // bits):
            torch.bitwise_and(reached >> (place * bits), 0x0101010101010101, out=out.select(2, place))


def _reached(fields: Tensor, bits: int, threshold: int) -> Tensor:
    """For fields packed in numbers: the lowest bit of each field says whether the field reaches the threshold.

    The other bits mean nothing. All fields of a number are compared at once, from the lowest bit up: a field is above
    threshold - 1 if its bit is set and that of threshold - 1 is not, or if the bits agree and it was above before.
    """
    above = torch.zeros_like(fields) if (threshold - 1) % 2 else fields
    for place in range(1, bits):
        bit = fields >> place
        above = bit.bitwise_and_(above) if (threshold - 1) >> place & 1 else bit.bitwise_or_(above)
    return above


def _settle_ties(
    kept: Tensor, data: Tensor, threshold: int, remainder: float, key: Key, draw: Tensor, input_id: Tensor
) -> None:
    """Decide, in place, the elements whose field equals the threshold, which are 1 in 256."""
    row, element = (data == threshold).nonzero(as_tuple=True)
    word = philox(key, (element, draw[row], *halves(input_id[row])))[0]
    kept[row, element] = (word >= round(remainder * 2**32)).to(torch.uint8)


Masks = dict[str, Tensor]


def site_masks(
    seed: int, site: Site, draws: Tensor, ids: Tensor | None, room: Callable[[int], Tensor] | None = None
) -> Tensor:
    """Masks of a site, (draw, ...): factors, zeros and ones, or random numbers, as the site's kind says.

    Shared masks (`ids` is None) have the shape of one input's mask; else the inputs lie along the site's axis. If no
    axis of the site grows with the inputs, there is one mask per draw in both cases. With `room`, the masks are bytes
    in the memory that it gives: 1 to keep and 0 to drop.
    """
    per_input = ids is not None and site.axis is not None
    mask_ids = ids if ids is not None and per_input else torch.zeros(1, dtype=torch.int64, device=draws.device)
    site_seed = SiteSeed(seed, "per_input" if per_input else "shared", site.key)
    if site.kind in ("generator", "start"):
        return generator_starts(seed, site.key, draws)
    if site.kind == "uniforms":
        masks = uniforms(site_seed, site.n_elements, draws, mask_ids, site.dtype)
    elif site.kind in NORMAL_KINDS:
        masks = normals(site_seed, site.n_elements, draws, mask_ids)
    elif site.axis == 0 and site.shape[0] == 1 and site.channels_innermost:
        channels, *sides = site.shape[1:]
        kept = keep_masks(site_seed, site.rate, site.n_elements, draws, mask_ids, channels, room)
        kept = kept.view(len(draws), -1, *sides, channels)
        return (mask_numbers(kept, site) if room is None else kept).movedim(-1, 2)
    else:
        masks = keep_masks(site_seed, site.rate, site.n_elements, draws, mask_ids, 1, room)
    masks = masks.view(len(draws), len(mask_ids), *site.shape)
    if site.axis is None:
        masks = masks[:, 0]
    else:
        axis = 1 + site.axis
        masks = masks.movedim(1, axis if site.inputs_outermost else axis + 1)
        masks = masks.flatten(axis, axis + 1)  # inputs and their k entries, in the order of the site's tensor
    order = (0, *(axis + 1 for axis in site.order))
    inverse_order = sorted(range(masks.ndim), key=lambda axis: order[axis])
    masks = masks.permute(order).contiguous()  # in the memory format of the tensor that it is applied to
    return (mask_numbers(masks, site) if room is None else masks).permute(inverse_order)


class _KeyedNoise:
    """The noise of some draws at one site, for weights on a device."""

    def __init__(self, seed: int, site: Site, draws: Tensor, device: torch.device) -> None:
        self.seed, self.site, self.draws, self.device = seed, site, draws, device

    def normals(self, n: int) -> Tensor:
        no_id = torch.zeros_like(self.draws[:1])
        seed = SiteSeed(self.seed, "shared", self.site.key)
        return normals(seed, n, self.draws, no_id, self.site.dtype)[:, 0].to(self.device)

    def each(self, sample: Callable[[], Tensor]) -> Tensor:
        samples = []
        for start in generator_starts(self.seed, self.site.key, self.draws).tolist():
            with seeded_generators(start):
                samples.append(sample())
        return torch.stack(samples)


def drawn_weights(seed: int, site: Site, draws: Tensor, device: torch.device) -> Tensor:
    """The weights of a variational layer, (draw, weight)."""
    assert site.layer is not None
    with torch.no_grad():
        return site.layer.draw(_KeyedNoise(seed, site, draws, device)).contiguous()
