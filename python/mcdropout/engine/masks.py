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
    MULTIPLIERS,
    WEYL,
    Key,
    generator_starts,
    halves,
    normals,
    philox,
    philox_rounds,
    site_key,
    uniforms,
)


def keep_masks(
    seed: int,
    masks: str,
    site: str,
    rate: float,
    n_elements: int,
    draws: Tensor,
    ids: Tensor,
    channels: int = 1,
    room: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """Which elements stay: uint8 (draw, id, element), each 1 with probability 1 - rate, else 0.

    `draws` and `ids` are 1-d int64 tensors on the device where the masks are wanted. With `channels` the elements,
    numbered (channel, place), come in the order (place, channel). `room` gives so many bytes to write them to.
    """
    scaled, bits = _field_bits(rate)
    threshold = math.floor(scaled)
    n_bytes = -(-n_elements * bits // 8)
    n_masks = len(draws) * len(ids)
    key, tail = site_key(seed, masks, site), site_key(seed, masks, site, "tail")
    if is_worthwhile(draws.device, n_masks * n_elements):
        kept = _kept_by_kernels(key, tail, scaled, bits, n_elements, draws, ids, channels)
        if kept is not None:
            return kept
    empty = room or partial(torch.empty, dtype=torch.uint8, device=draws.device)
    kept = empty(n_masks * n_elements).view(n_masks, n_elements)
    draw, one = draws.repeat_interleave(len(ids)), ids.repeat(len(draws))  # one row for each (draw, id)
    given = n_bytes, bits, threshold, *key, *MULTIPLIERS, *WEYL
    step = max(1, piece_size(draws.device, BLOCKS_AT_ONCE) * 16 // n_bytes)
    if scaled == threshold:
        # channels whose fields fill whole words of 64 bits are unpacked into such words
        words = kept.view(torch.int64) if channels > 1 and channels * bits % 64 == 0 else kept.new_empty(0, 0).long()
        native(_decide_by_pieces)(kept, words, draw, one, channels, step, *given)
        return kept.view(len(draws), len(ids), n_elements)
    for start in range(0, n_masks, step):
        rows = slice(start, start + step)
        piece = torch.empty_like(kept[rows])
        data = native(_decide)(piece, kept.new_empty(0, 0), draw[rows], one[rows], 1, *given)
        _settle_ties(piece, data, threshold, scaled - threshold, tail, draw[rows], one[rows])
        kept[rows] = piece.view(len(piece), channels, -1).transpose(1, 2).flatten(1)
    return kept.view(len(draws), len(ids), n_elements)


def _field_bits(rate: float) -> tuple[float, int]:
    """rate * 2^bits and the number of bits of a decision."""
    for bits in (1, 2, 4):
        if rate * 2**bits == int(rate * 2**bits):
            return rate * 2**bits, bits
    return rate * 256, 8


def _kept_by_kernels(
    key: Key, tail: Key, scaled: float, bits: int, n_elements: int, draws: Tensor, ids: Tensor, channels: int
) -> Tensor | None:
    """As `keep_masks()`, by kernels of a GPU; None where they cannot be compiled or fields do not fill whole bytes."""
    channels = n_elements if channels == 1 else channels  # elements in their own order are channels of one place
    lanes, rest = divmod(channels * bits, 8)  # the bytes of a place; each holds the fields of some channels
    if rest:
        return None
    n_bytes, threshold = n_elements // channels * lanes, math.floor(scaled)
    counter = [part.int()[:, None, None, None] for part in (draws, *halves(ids))]
    draw, low, high = counter[0][:, None], counter[1], counter[2]  # (draw, id, place, field, lane)
    block = torch.arange(-(-n_bytes // 16), dtype=torch.int32, device=draws.device)
    words = philox_words(block, draw[..., 0, 0], low[..., 0, 0], high[..., 0, 0], k0=key[0], k1=key[1])
    if words is None:
        return None
    data = torch.stack(words, dim=2).flatten(2).view(torch.uint8)[..., :n_bytes]
    data = data.unflatten(2, (lanes, -1)).mT.unsqueeze(-2)
    if scaled == threshold:
        shift = torch.arange(0, 8, bits, dtype=torch.uint8, device=draws.device)[:, None]
        # in memory as the result is to be: a kernel's result lies as its first tensor does
        shift = shift.expand(data.shape[2], -1, lanes).contiguous()
        kept = fields_reached(shift, data, field=2**bits - 1, threshold=threshold)
    else:
        element = torch.arange(n_elements, dtype=torch.int32, device=draws.device).view(lanes, -1).T.unsqueeze(1)
        options = {"k0": tail[0], "k1": tail[1], "threshold": threshold, "limit": round((scaled - threshold) * 2**32)}
        kept = fields_reached_or_settled(element.contiguous(), data.int(), draw, low, high, **options)
    return None if kept is None else kept.to(torch.uint8).reshape(len(draws), len(ids), n_elements)


def _decide_by_pieces(
    kept: Tensor,
    kept_words: Tensor,
    draw: Tensor,
    one: Tensor,
    channels: int,
    step: int,
    n_bytes: int,
    bits: int,
    threshold: int,
    k0: int,
    k1: int,
    m0: int,
    m1: int,
    weyl0: int,
    weyl1: int,
) -> None:
    """Fill `kept` (row, element), so many rows at a time that the working numbers stay in cache."""
    for start in range(0, kept.size(0), step):
        end = start + step
        rows, words, draws, ones = kept[start:end], kept_words[start:end], draw[start:end], one[start:end]
        _decide(rows, words, draws, ones, channels, n_bytes, bits, threshold, k0, k1, m0, m1, weyl0, weyl1)


def _decide(
    kept: Tensor,
    kept_words: Tensor,
    draw: Tensor,
    one: Tensor,
    channels: int,
    n_bytes: int,
    bits: int,
    threshold: int,
    k0: int,
    k1: int,
    m0: int,
    m1: int,
    weyl0: int,
    weyl1: int,
) -> Tensor:
    """Fill `kept` (row, element) for rows of (draw, id); gives the bytes (row, byte) that decided.

    `kept_words`: the same memory in words of 64 bits where it can be filled by words, else nothing.
    """
    n_blocks = (n_bytes + 15) // 16
    block = torch.arange(n_blocks, device=draw.device)[None, :]
    low, high = one[:, None] & 0xFFFFFFFF, (one[:, None] >> 32) & 0xFFFFFFFF
    words = philox_rounds(block, draw[:, None], low, high, k0, k1, m0, m1, weyl0, weyl1)
    whole = torch.empty([draw.size(0), 4, n_blocks], dtype=torch.int32, device=draw.device)
    for place, word in enumerate(words):
        whole[:, place] = word  # int64 to int32 keeps the low 32 bits
    data = torch.view_copy(whole.view([draw.size(0), -1]), dtype=torch.uint8)[:, :n_bytes]
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

    In bytes throughout: torch compares them one at a time, but clamps many at once.
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
    """As `_unpack`, elements numbered (channel, place) in the order (place, channel); `kept` comes as words too.

    The channels of which the fields lie in the same bytes come in runs of 8, so bytes are turned before they are
    unpacked, 8 at a time.
    """
    lanes = channels * bits // 8
    turned = data.view([data.size(0), lanes, -1]).transpose(1, 2).contiguous()
    fields = torch.view_copy(turned, dtype=torch.int64)  # (row, place, word)
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
    """Fields packed in numbers: the lowest bit of each says whether it reaches the threshold, its others nothing.

    All fields of a number at once: from the lowest bit up, a field is above threshold - 1 where its bit is set and that
    number's is not, or where the two agree and it was above so far.
    """
    above = torch.zeros_like(fields) if (threshold - 1) % 2 else fields
    for place in range(1, bits):
        bit = fields >> place
        above = bit.bitwise_and_(above) if (threshold - 1) >> place & 1 else bit.bitwise_or_(above)
    return above


def _settle_ties(
    kept: Tensor, data: Tensor, threshold: int, remainder: float, key: Key, draw: Tensor, one: Tensor
) -> None:
    """Decide, in place, the elements whose field equals the threshold: 1 in 256."""
    row, element = (data == threshold).nonzero(as_tuple=True)
    word = philox(key, (element, draw[row], *halves(one[row])))[0]
    kept[row, element] = (word >= round(remainder * 2**32)).to(torch.uint8)


Masks = dict[str, Tensor]


def site_masks(
    seed: int, site: Site, draws: Tensor, ids: Tensor | None, room: Callable[[int], Tensor] | None = None
) -> Tensor:
    """Masks of a site, (draw, ...): the factor, 0 or 1, or number in [0, 1) that the site's kind asks for.

    Shared masks (`ids` None) have the shape of one input's mask; else the inputs lie along the site's own axis. A
    site that no input has for itself (no axis grows with the inputs) has one mask per draw in both cases.
    With `room` they are the decisions themselves, 1 to keep and 0 to drop, in the bytes that it gives.
    """
    per_input = ids is not None and site.axis is not None
    which = ids if ids is not None and per_input else torch.zeros(1, dtype=torch.int64, device=draws.device)
    masks = "per_input" if per_input else "shared"
    given = seed, masks, site.key
    if site.kind in ("generator", "start"):
        return generator_starts(seed, site.key, draws)
    if site.kind == "uniforms":
        made = uniforms(*given, site.n_elements, draws, which, site.dtype)
    elif site.kind in NORMAL_KINDS:
        made = normals(*given, site.n_elements, draws, which)
    elif site.axis == 0 and site.shape[0] == 1 and site.channels_innermost:
        channels, *sides = site.shape[1:]
        kept = keep_masks(*given, site.rate, site.n_elements, draws, which, channels, room)
        kept = kept.view(len(draws), -1, *sides, channels)
        return (mask_numbers(kept, site) if room is None else kept).movedim(-1, 2)
    else:
        made = keep_masks(*given, site.rate, site.n_elements, draws, which, 1, room)
    made = made.view(len(draws), len(which), *site.shape)
    if site.axis is None:
        made = made[:, 0]
    else:
        axis = 1 + site.axis
        made = made.movedim(1, axis if site.inputs_outermost else axis + 1)
        made = made.flatten(axis, axis + 1)  # inputs and their k entries, as they lie in the site's own tensor
    order = (0, *(one + 1 for one in site.order))
    back = sorted(range(made.ndim), key=lambda one: order[one])
    made = made.permute(order).contiguous()  # in memory as the input it meets
    return (mask_numbers(made, site) if room is None else made).permute(back)


class _KeyedNoise:
    """The noise of some draws of one site, for weights on a device."""

    def __init__(self, seed: int, site: Site, draws: Tensor, device: torch.device) -> None:
        self.seed, self.site, self.draws, self.device = seed, site, draws, device

    def normals(self, n: int) -> Tensor:
        one = torch.zeros_like(self.draws[:1])
        return normals(self.seed, "shared", self.site.key, n, self.draws, one, self.site.dtype)[:, 0].to(self.device)

    def each(self, sample: Callable[[], Tensor]) -> Tensor:
        drawn = []
        for start in generator_starts(self.seed, self.site.key, self.draws).tolist():
            with seeded_generators(start):
                drawn.append(sample())
        return torch.stack(drawn)


def drawn_weights(seed: int, site: Site, draws: Tensor, device: torch.device) -> Tensor:
    """The weights of a variational layer, (draw, weight)."""
    assert site.layer is not None
    with torch.no_grad():
        return site.layer.draw(_KeyedNoise(seed, site, draws, device)).contiguous()
