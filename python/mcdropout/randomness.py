"""Keyed random numbers: every mask is a pure function of (seed, site, draw) and, on request, of the input's id.

So is the noise of the weights of a variational layer, of (seed, site, draw): a draw is a network.

The generator is Philox4x32-10, counter-based: nothing is consumed, so any draw of any input can be made at any
time, in any order, on any device, in any language. What is fixed by `tests/reference/randomness.json`:

* key: the first 8 bytes of BLAKE2b (digest of 8 bytes) of the UTF-8 text
  ``"mcdropout 1|<seed>|<masks>|<site>|<part>"``, little-endian; the low 4 bytes are key word 0. `masks` is
  "shared" or "per_input", `part` is "field" or "tail".
* counter: (block, draw, low 32 bits of the id, high 32 bits of the id); the id is 0 when masks are shared.
* bytes: a mask of E elements with B-bit fields takes ceil(E * B / 8) bytes, so ceil(bytes / 16) blocks. Word 0 of
  all blocks comes first, then word 1, 2, 3; a word's low byte first. Bytes beyond the need are not used.
* fields: element e takes byte e mod nb, field e div nb (lowest bits first), nb being the number of bytes: so a
  field is one shift of a run of bytes. B is the least of 1, 2, 4, 8 for which rate * 2^B is whole, else 8.
* decision: an element is dropped if its field is below floor(rate * 2^B). If rate * 2^B is not whole, a field equal
  to that floor is a tie: dropped if word 0 of the block (element, draw, id) under the "tail" key is below
  round(remainder * 2^32). The rate is so met to 2^-41.
* elements are numbered in torch's order (channels first, last axis fastest) whatever the memory layout.
* normals: E standard normal numbers take n = ceil(E / 4) blocks, counter (block, draw, 0, 0), key of `masks` "shared"
  and part "normal". Words 0 and 1 of a block are u = (word 0 + 1/2) / 2^32 and v = word 1 / 2^32, and give
  sqrt(-2 ln u) cos(2 pi v) and sqrt(-2 ln u) sin(2 pi v); words 2 and 3 give two more (Box and Muller, 1958). All
  in float64. Element e is number e div n of block e mod n. The largest possible is sqrt(66 ln 2) = 6.76.
* generators: where a distribution brings noise of its own, torch's generator is seeded with
  (word 0 + 2^32 * word 1) mod 2^63 of the block (0, draw, 0, 0) under part "generator".

References: Box and Muller (1958), A note on the generation of random normal deviates, doi:10.1214/aoms/1177706645.
Salmon, Moraes, Dror, Shaw (2011), Parallel random numbers: as easy as 1, 2, 3, doi:10.1145/2063384.2063405.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from .checks import whole

Key = tuple[int, int]

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)  # Philox4x32's two multipliers (Salmon et al., 2011)
WEYL = (0x9E3779B9, 0xBB67AE85)  # what is added to the two key words between rounds
ROUNDS = 10
WORD = 0xFFFFFFFF
GENERATORS = threading.RLock()  # torch's own generators serve one draw at a time
BLOCKS_AT_ONCE = 1 << 14  # 4 words of 8 bytes each: about 1 MiB of working numbers, which stays in a core's cache


def site_key(seed: int, masks: str, site: str, part: str = "field") -> Key:
    """The two 32-bit key words of a site."""
    text = f"mcdropout 1|{seed}|{masks}|{site}|{part}"
    digest = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    return digest & WORD, digest >> 32


def input_ids(ids: Sequence[object] | np.ndarray | None, n_inputs: int) -> np.ndarray:
    """Ids as 64-bit numbers (int64): positions by default, whole numbers as they are, anything else hashed as text."""
    if ids is None:
        return np.arange(n_inputs, dtype=np.int64)
    return np.array([_id_number(one) for one in ids], dtype=np.int64)


def _id_number(one: object) -> int:
    number = whole(one)
    if number is not None:
        return number
    digest = hashlib.blake2b(str(one).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def philox(key: Key, counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four 32-bit words for each counter; words and counters are int64 tensors that broadcast, holding 0 .. 2^32 - 1.

    A product of two 32-bit words may pass 2^63 and wrap, which keeps its bits: the shift is masked afterwards.
    """
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product0, product1 = x0 * MULTIPLIERS[0], x2 * MULTIPLIERS[1]
        x0 = (product1 >> 32).bitwise_and_(WORD).bitwise_xor_(k0).bitwise_xor(x1)
        x2 = (product0 >> 32).bitwise_and_(WORD).bitwise_xor_(k1).bitwise_xor(x3)
        x1, x3 = product1.bitwise_and_(WORD), product0.bitwise_and_(WORD)
        k0, k1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
    return x0, x1, x2, x3


def keep_masks(seed: int, masks: str, site: str, rate: float, n_elements: int, draws: Tensor, ids: Tensor) -> Tensor:
    """Which elements stay: bool (draw, id, element), each True with probability 1 - rate.

    `draws` and `ids` are 1-d int64 tensors on the device where the masks are wanted.
    """
    scaled, bits = _field_bits(rate)
    threshold = math.floor(scaled)
    n_bytes = -(-n_elements * bits // 8)
    kept = torch.empty(len(draws) * len(ids), n_elements, dtype=torch.bool, device=draws.device)
    draw, one = draws.repeat_interleave(len(ids)), ids.repeat(len(draws))  # one row for each (draw, id)
    for rows in _pieces(len(kept), -(-n_bytes // 16)):
        data = _bytes(site_key(seed, masks, site), draw[rows], one[rows], n_bytes)
        for place, shift in enumerate(range(0, 8, bits)):
            out = kept[rows, place * n_bytes : (place + 1) * n_bytes]
            field = data[:, : out.shape[1]] >> shift
            torch.ge(field.bitwise_and_(2**bits - 1), threshold, out=out)
        if scaled != threshold:
            tail = site_key(seed, masks, site, "tail")
            _settle_ties(kept[rows], data == threshold, scaled - threshold, tail, draw[rows], one[rows])
    return kept.view(len(draws), len(ids), n_elements)


def normals(seed: int, site: str, n_elements: int, draws: Tensor) -> Tensor:
    """Standard normal numbers, float64 (draw, element), for int64 `draws` on the device where they are wanted."""
    n_blocks = -(-n_elements // 4)
    key = site_key(seed, "shared", site, "normal")
    numbers = torch.empty(len(draws), 4, n_blocks, dtype=torch.float64, device=draws.device)
    blocks, nothing = torch.arange(n_blocks, device=draws.device)[None, :], torch.zeros_like(draws)[:1, None]
    for rows in _pieces(len(draws), n_blocks):
        for start in range(0, n_blocks, BLOCKS_AT_ONCE):
            part = slice(start, start + BLOCKS_AT_ONCE)
            words = philox(key, (blocks[:, part], draws[rows, None], nothing, nothing))
            for place in (0, 2):
                radius = words[place].double().add_(0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
                angle = words[place + 1].double().mul_(2.0**-32 * 2 * math.pi)
                numbers[rows, place, part] = radius * angle.cos()
                numbers[rows, place + 1, part] = radius * angle.sin()
    return numbers.view(len(draws), -1)[:, :n_elements]


@contextmanager
def seeded_generators(seed: int, site: str, draw: int, device: torch.device) -> Iterator[None]:
    """Inside, torch's global generators start from the key of this draw; afterwards they are as they were."""
    nothing = torch.zeros(1, dtype=torch.int64)
    words = philox(site_key(seed, "shared", site, "generator"), (nothing, nothing + draw, nothing, nothing))
    start = (int(words[0]) + (int(words[1]) << 32)) % 2**63
    gpus = [device] if device.type == "cuda" else []
    with GENERATORS, torch.random.fork_rng(gpus, device_type="cuda"):
        torch.default_generator.manual_seed(start)
        if gpus:
            torch.cuda.manual_seed(start)
        yield


def _field_bits(rate: float) -> tuple[float, int]:
    """rate * 2^bits and the number of bits of a decision."""
    for bits in (1, 2, 4):
        if rate * 2**bits == int(rate * 2**bits):
            return rate * 2**bits, bits
    return rate * 256, 8


def _pieces(n_rows: int, blocks_per_row: int) -> list[slice]:
    """Row numbers in pieces whose working numbers stay in cache."""
    step = max(1, BLOCKS_AT_ONCE // blocks_per_row)
    return [slice(start, start + step) for start in range(0, n_rows, step)]


def _bytes(key: Key, draw: Tensor, one: Tensor, n_bytes: int) -> Tensor:
    """uint8 (row, byte) for rows of (draw, id)."""
    n_blocks = -(-n_bytes // 16)
    block = torch.arange(n_blocks, device=draw.device)[None, :]
    words = philox(key, (block, draw[:, None], *_halves(one[:, None])))
    out = torch.empty(len(draw), 4, n_blocks, dtype=torch.int32, device=draw.device)
    for place, word in enumerate(words):
        out[:, place] = word  # int64 to int32 keeps the low 32 bits
    return out.view(len(draw), -1).view(torch.uint8)[:, :n_bytes]


def _halves(one: Tensor) -> tuple[Tensor, Tensor]:
    """An id's low and high 32 bits."""
    return one & WORD, (one >> 32) & WORD


def _settle_ties(kept: Tensor, tied: Tensor, remainder: float, key: Key, draw: Tensor, one: Tensor) -> None:
    """Decide, in place, the elements whose field equals the threshold: 1 in 256."""
    row, element = tied.nonzero(as_tuple=True)
    word = philox(key, (element, draw[row], *_halves(one[row])))[0]
    kept[row, element] = word >= round(remainder * 2**32)
