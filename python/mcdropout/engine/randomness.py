"""Keyed random numbers: every mask is a pure function of (seed, site, draw) and, on request, of the input's id.

The noise of the weights of a variational layer is a pure function of (seed, site, draw), because a draw is a network.

The generator is Philox. It is counter-based, so any draw of any input can be made at any time, in any order, on any
device and in any language. Masks use Philox4x32-10, which runs on the device of the network. Normal numbers use NumPy's
Philox4x64-10, which needs a tenth of torch's time. The following is fixed; `tests/reference/randomness.json` holds
examples:

* key: the first 8 bytes of BLAKE2b (digest of 8 bytes) of the UTF-8 text
  ``"mcdropout 1|<seed>|<masks>|<site>|<part>"``, little-endian; the low 4 bytes are key word 0. `masks` is
  "shared" or "per_input", `part` is "field", "tail", "uniform", "normal" or "generator". `site` is the site's place,
  "0", "1", ...
* counter: (block, draw, low 32 bits of the id, high 32 bits of the id); the id is 0 when masks are shared.
* bytes: a mask of E elements with B-bit fields takes ceil(E * B / 8) bytes, so ceil(bytes / 16) blocks. Word 0 of
  all blocks comes first, then word 1, 2, 3; a word's low byte first. Surplus bytes are not used.
* fields: element e takes byte e mod nb, field e div nb (lowest bits first), where nb is the number of bytes. So the
  fields of one place are one shift of all bytes. B is the least of 1, 2, 4, 8 for which rate * 2^B is whole, else 8.
* decision: an element is dropped if its field is below floor(rate * 2^B). If rate * 2^B is not whole, a field equal
  to that floor is a tie: dropped if word 0 of the block (element, draw, id) under the "tail" key is below
  round(remainder * 2^32). The rate of dropping differs from the wanted rate by at most 2^-41.
* elements are numbered in torch's order (channels first, last axis fastest) whatever the memory layout.
* normals: E standard normal numbers take n = ceil(E / 2) words of 64 bits of Philox4x64-10, as `numpy.random.Philox`
  gives them: its key is (the 8 bytes of the part "normal" as one number, 0), its counter (block, draw, id, 0) with
  blocks 1, 2, ... of four words each. A word's low half w and its high half h, signed, are u = (w + 1/2) / 2^32 and
  v = h / 2^32, and give sqrt(-2 ln u) cos(2 pi v), which is element e for word e, and sqrt(-2 ln u) sin(2 pi v), which
  is element n + e (Box and Muller, 1958). All in float64. The largest possible is sqrt(66 ln 2) = 6.76.
* uniforms: E numbers in [0, 1) take nb = ceil(E / 4) blocks (block, draw, low and high 32 bits of the id) of part
  "uniform"; element e is word e div nb of block e mod nb. Its upper b bits are taken, times 2^-b: 32 of them for
  float64, 24 for float32, 11 for float16, 8 for bfloat16, so that the type holds each number.
* generators: for a distribution that draws its noise itself, torch's generator is seeded with
  (word 0 + 2^32 * word 1) mod 2^63 of the block (0, draw, 0, 0) under part "generator".

References: Box and Muller (1958), A note on the generation of random normal deviates, doi:10.1214/aoms/1177706645.
Salmon, Moraes, Dror, Shaw (2011), Parallel random numbers: as easy as 1, 2, 3, doi:10.1145/2063384.2063405.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import as_whole_number
from ..compute.devices import piece_size
from ..compute.torchscript import native

Key = tuple[int, int]

WORD = 0xFFFFFFFF

BLOCKS_AT_ONCE = 1 << 14  # 4 words of 8 bytes each: about 1 MiB of working numbers, which stays in a core's cache


class SiteSeed(NamedTuple):
    """The seed of a site; `masks` is "shared" or "per_input", `site` the place of the site."""

    seed: int
    masks: str
    site: str

    def key(self, part: str = "field") -> Key:
        """The two 32-bit key words of a part."""
        text = f"mcdropout 1|{self.seed}|{self.masks}|{self.site}|{part}"
        digest = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
        return digest & WORD, digest >> 32


def input_ids(ids: Sequence[object] | np.ndarray | None, n_inputs: int) -> np.ndarray:
    """Ids as int64: positions by default; whole numbers unchanged; anything else hashed as text."""
    if ids is None:
        return np.arange(n_inputs, dtype=np.int64)
    return np.array([_id_number(value) for value in ids], dtype=np.int64)


def _id_number(value: object) -> int:
    number = as_whole_number(value)
    if number is not None:
        return number
    digest = hashlib.blake2b(str(value).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def philox(key: Key, counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four 32-bit words for each counter; all are int64 tensors that broadcast, with values 0 .. 2^32 - 1."""
    return native(philox_rounds)(*counter, key)


def philox_rounds(x0: Tensor, x1: Tensor, x2: Tensor, x3: Tensor, key: Key) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox4x32; the constants are those of Salmon et al. (2011).

    x1 and x3 have more than 32 bits; the surplus is cut off after they are combined with the upper half of a product. A
    product of two 32-bit words may exceed 2^63 and wrap. That keeps its bits, and the sign bits of the shift are cut
    off too.
    """
    word = 0xFFFFFFFF
    k0, k1 = key
    for _ in range(10):
        product0, product1 = x0 * 0xD2511F53, x2 * 0xCD9E8D57
        x0 = torch.bitwise_xor(product1 >> 32, x1).bitwise_xor_(k0).bitwise_and_(word)
        x2 = torch.bitwise_xor(product0 >> 32, x3).bitwise_xor_(k1).bitwise_and_(word)
        x1, x3 = product1, product0
        k0, k1 = (k0 + 0x9E3779B9) & word, (k1 + 0xBB67AE85) & word
    return x0, x1 & word, x2, x3 & word


UNIFORM_BITS = {torch.float64: 32, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}


def uniforms(seed: SiteSeed, n_elements: int, draws: Tensor, ids: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers in [0, 1): (draw, id, element), in `dtype`; the other arguments as in `keep_masks()`."""
    key, bits = seed.key("uniform"), UNIFORM_BITS[dtype]
    n_blocks = -(-n_elements // 4)
    numbers = torch.empty(len(draws), len(ids), 4, n_blocks, dtype=dtype, device=draws.device)
    low, high = (half[:, None] for half in halves(ids))
    step = piece_size(draws.device, BLOCKS_AT_ONCE)
    for start in range(0, n_blocks, step):
        block = torch.arange(start, min(start + step, n_blocks), device=draws.device)[None, :]
        for place, draw in enumerate(draws):
            for position, word in enumerate(philox(key, (block, draw, low, high))):
                upper = (word >> (32 - bits)).double() * 2.0**-bits
                numbers[place, :, position, start : start + block.shape[1]] = upper
    return numbers.flatten(2)[..., :n_elements]


def normals(seed: SiteSeed, n_elements: int, draws: Tensor, ids: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers: (draw, id, element), rounded to `dtype`; the other arguments as in `keep_masks()`."""
    low, high = seed.key("normal")
    n_words = -(-n_elements // 2)
    numbers = torch.empty(len(draws), len(ids), 2 * n_words, dtype=dtype, device=draws.device)
    step = piece_size(draws.device, BLOCKS_AT_ONCE)
    for i, draw in enumerate(draws.tolist()):
        for j, input_id in enumerate(ids.tolist()):
            philox4x64 = np.random.Philox(key=low + (high << 32), counter=[0, draw, input_id & (2**64 - 1), 0])
            pair = numbers[i, j].view(2, n_words)
            for start in range(0, n_words, step):
                words = torch.from_numpy(philox4x64.random_raw(min(step, n_words - start)).view(np.int64))
                native(_box_muller)(words.to(draws.device), pair[:, start : start + step])
    return numbers[..., :n_elements]


def _box_muller(words: Tensor, pair: Tensor) -> None:
    """Fill `pair` (2, word) with the two numbers of each 64-bit word."""
    radius = (words & 0xFFFFFFFF).double().add_(0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
    angle = (words >> 32).double().mul_(2.0**-32 * 2 * math.pi)
    pair[0] = radius * angle.cos()
    pair[1] = radius * angle.sin()


def generator_starts(seed: int, site: str, draws: Tensor) -> Tensor:
    """The seeds of torch's generators in each draw: int64 (draw,)."""
    zero = torch.zeros_like(draws)
    words = philox(SiteSeed(seed, "shared", site).key("generator"), (zero, draws, zero, zero))
    return (words[0] + (words[1] << 32)) & (2**63 - 1)


def halves(ids: Tensor) -> tuple[Tensor, Tensor]:
    """The low and the high 32 bits of ids."""
    return ids & WORD, (ids >> 32) & WORD
