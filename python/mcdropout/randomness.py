"""Keyed random numbers: every mask is a pure function of (seed, site, draw) and, on request, of the input's id.

So is the noise of the weights of a variational layer, of (seed, site, draw): a draw is a network.

The generator is Philox, counter-based: nothing is consumed, so any draw of any input can be made at any time, in any
order, on any device, in any language. Masks take Philox4x32-10, which runs where the network does; normal numbers take
NumPy's Philox4x64-10, which needs a tenth of the time that torch does. `tests/reference/randomness.json` holds what is
fixed:

* key: the first 8 bytes of BLAKE2b (digest of 8 bytes) of the UTF-8 text
  ``"mcdropout 1|<seed>|<masks>|<site>|<part>"``, little-endian; the low 4 bytes are key word 0. `masks` is
  "shared" or "per_input", `part` is "field", "tail", "uniform", "normal" or "generator". `site` is the site's place,
  "0", "1", ...
* counter: (block, draw, low 32 bits of the id, high 32 bits of the id); the id is 0 when masks are shared.
* bytes: a mask of E elements with B-bit fields takes ceil(E * B / 8) bytes, so ceil(bytes / 16) blocks. Word 0 of
  all blocks comes first, then word 1, 2, 3; a word's low byte first. Bytes beyond the need are not used.
* fields: element e takes byte e mod nb, field e div nb (lowest bits first), nb being the number of bytes: so a
  field is one shift of a run of bytes. B is the least of 1, 2, 4, 8 for which rate * 2^B is whole, else 8.
* decision: an element is dropped if its field is below floor(rate * 2^B). If rate * 2^B is not whole, a field equal
  to that floor is a tie: dropped if word 0 of the block (element, draw, id) under the "tail" key is below
  round(remainder * 2^32). The rate is so met to 2^-41.
* elements are numbered in torch's order (channels first, last axis fastest) whatever the memory layout.
* normals: E standard normal numbers take n = ceil(E / 2) words of 64 bits of Philox4x64-10, as `numpy.random.Philox`
  gives them: its key is (the 8 bytes of the part "normal" as one number, 0), its counter (block, draw, id, 0) with
  blocks 1, 2, ... of four words each. A word's low half w and its high half h, signed, are u = (w + 1/2) / 2^32 and
  v = h / 2^32, and give sqrt(-2 ln u) cos(2 pi v), which is element e for word e, and sqrt(-2 ln u) sin(2 pi v), which
  is element n + e (Box and Muller, 1958). All in float64. The largest possible is sqrt(66 ln 2) = 6.76.
* uniforms: E numbers in [0, 1) take nb = ceil(E / 4) blocks (block, draw, low and high 32 bits of the id) of part
  "uniform"; element e is word e div nb of block e mod nb. Its upper b bits are taken, times 2^-b: 32 of them for
  float64, 24 for float32, 11 for float16, 8 for bfloat16, so that the type holds each number.
* generators: where a distribution brings noise of its own, torch's generator is seeded with
  (word 0 + 2^32 * word 1) mod 2^63 of the block (0, draw, 0, 0) under part "generator".

References: Box and Muller (1958), A note on the generation of random normal deviates, doi:10.1214/aoms/1177706645.
Salmon, Moraes, Dror, Shaw (2011), Parallel random numbers: as easy as 1, 2, 3, doi:10.1145/2063384.2063405.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .checks import whole
from .devices import generator_states, piece_size, put_back, seed_generators, shared_lock
from .native import native

Key = tuple[int, int]

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)  # Philox4x32's two multipliers (Salmon et al., 2011)
WEYL = (0x9E3779B9, 0xBB67AE85)  # what is added to the two key words between rounds
WORD = 0xFFFFFFFF
CPU = torch.device("cpu")
GENERATORS = shared_lock()  # torch's global generators are lent to one at a time
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
    """Four 32-bit words for each counter; all are int64 tensors that broadcast, holding 0 .. 2^32 - 1."""
    return native(_philox)(*counter, *key, *MULTIPLIERS, *WEYL)


def _philox(
    x0: Tensor, x1: Tensor, x2: Tensor, x3: Tensor, k0: int, k1: int, m0: int, m1: int, weyl0: int, weyl1: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds. x1 and x3 carry more than their 32 bits, which is cut off where they meet a product's upper half.

    A product of two 32-bit words may pass 2^63 and wrap, which keeps its bits: what the shift fills in is cut off too.
    """
    word = 0xFFFFFFFF
    for _ in range(10):
        product0, product1 = x0 * m0, x2 * m1
        x0 = torch.bitwise_xor(product1 >> 32, x1).bitwise_xor_(k0).bitwise_and_(word)
        x2 = torch.bitwise_xor(product0 >> 32, x3).bitwise_xor_(k1).bitwise_and_(word)
        x1, x3 = product1, product0
        k0, k1 = (k0 + weyl0) & word, (k1 + weyl1) & word
    return x0, x1 & word, x2, x3 & word


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
    empty = room or partial(torch.empty, dtype=torch.uint8, device=draws.device)
    kept = empty(n_masks * n_elements).view(n_masks, n_elements)
    draw, one = draws.repeat_interleave(len(ids)), ids.repeat(len(draws))  # one row for each (draw, id)
    given = n_bytes, bits, threshold, *site_key(seed, masks, site), *MULTIPLIERS, *WEYL
    step = max(1, piece_size(draws.device, BLOCKS_AT_ONCE) * 16 // n_bytes)
    if scaled == threshold:
        # channels whose fields fill whole words of 64 bits are unpacked into such words
        words = kept.view(torch.int64) if channels > 1 and channels * bits % 64 == 0 else kept.new_empty(0, 0).long()
        native(_decide_by_pieces)(kept, words, draw, one, channels, step, *given)
        return kept.view(len(draws), len(ids), n_elements)
    tail = site_key(seed, masks, site, "tail")
    for start in range(0, n_masks, step):
        rows = slice(start, start + step)
        piece = torch.empty_like(kept[rows])
        data = native(_decide)(piece, kept.new_empty(0, 0), draw[rows], one[rows], 1, *given)
        _settle_ties(piece, data, threshold, scaled - threshold, tail, draw[rows], one[rows])
        kept[rows] = piece.view(len(piece), channels, -1).transpose(1, 2).flatten(1)
    return kept.view(len(draws), len(ids), n_elements)


UNIFORM_BITS = {torch.float64: 32, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}


def uniforms(
    seed: int, masks: str, site: str, n_elements: int, draws: Tensor, ids: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Numbers in [0, 1): (draw, id, element), in `dtype`; the other arguments as in `keep_masks()`."""
    key, bits = site_key(seed, masks, site, "uniform"), UNIFORM_BITS[dtype]
    n_blocks = -(-n_elements // 4)
    numbers = torch.empty(len(draws), len(ids), 4, n_blocks, dtype=dtype, device=draws.device)
    low, high = (half[:, None] for half in _halves(ids))
    step = piece_size(draws.device, BLOCKS_AT_ONCE)
    for start in range(0, n_blocks, step):
        block = torch.arange(start, min(start + step, n_blocks), device=draws.device)[None, :]
        for place, draw in enumerate(draws):
            for word, made in enumerate(philox(key, (block, draw, low, high))):
                upper = (made >> (32 - bits)).double() * 2.0**-bits
                numbers[place, :, word, start : start + block.shape[1]] = upper
    return numbers.flatten(2)[..., :n_elements]


def normals(
    seed: int,
    masks: str,
    site: str,
    n_elements: int,
    draws: Tensor,
    ids: Tensor,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Standard normal numbers: (draw, id, element), rounded to `dtype`; the other arguments as in `keep_masks()`."""
    low, high = site_key(seed, masks, site, "normal")
    n_words = -(-n_elements // 2)
    numbers = torch.empty(len(draws), len(ids), 2 * n_words, dtype=dtype, device=draws.device)
    step = piece_size(draws.device, BLOCKS_AT_ONCE)
    for place, draw in enumerate(draws.tolist()):
        for other, one in enumerate(ids.tolist()):
            philox4x64 = np.random.Philox(key=low + (high << 32), counter=[0, draw, one & (2**64 - 1), 0])
            pair = numbers[place, other].view(2, n_words)
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
    """What torch's generators start from in each draw: int64 (draw,)."""
    nothing = torch.zeros_like(draws)
    words = philox(site_key(seed, "shared", site, "generator"), (nothing, draws, nothing, nothing))
    return (words[0] + (words[1] << 32)) & (2**63 - 1)


@contextmanager
def seeded_generators(start: int, own: torch.Generator | None = None) -> Iterator[None]:
    """Inside, torch and a generator of the model's own begin at `start`; afterwards the latter is as before."""
    before = None if own is None else own.get_state()
    try:
        if own is not None:
            own.manual_seed(start)
        with OwnStream(start):
            yield
    finally:
        if own is not None and before is not None:
            own.set_state(before)


@contextmanager
def other_generators_kept(
    start: int | None = None, waits: bool = True
) -> Iterator[Callable[[Callable[[], object]], tuple[str, ...]]]:
    """Put Python's and NumPy's global generators back if the block moves them, begun at `start` if that is given.

    What is given to the block is a function that names those that it has moved. All threads share them, and what others
    drew is not to come again, so it runs a part of the block some times more: what does not move each time is theirs.
    """
    ours: set[str] = set()

    def moved(again: Callable[[], object]) -> tuple[str, ...]:
        ours.update(_moved(before))
        for _ in range(TIMES_AGAIN):
            if ours:
                now = _other_states()
                again()
                ours.intersection_update(_moved(now))
        return tuple(sorted(ours))

    with OTHERS_WATCHED if waits else nullcontext():  # else two would mix theirs, and put back each other's
        before = _other_states()
        try:
            if start is not None:
                random.seed(start)
                np.random.seed(start % 2**32)
            yield moved
        finally:
            if start is not None or ours:
                random.setstate(before[0])
                np.random.set_state(before[1])


TIMES_AGAIN = 3
OTHERS_WATCHED = shared_lock()


def _other_states() -> tuple[Any, Any]:
    return random.getstate(), np.random.get_state()


def _moved(before: tuple[Any, Any]) -> set[str]:
    """Which of the two are not as they were."""
    now = _other_states()
    same = now[0] == before[0], all(map(np.array_equal, now[1], before[1]))
    return {name for name, one in zip(("Python's `random`", "`numpy.random`"), same, strict=True) if not one}


def _field_bits(rate: float) -> tuple[float, int]:
    """rate * 2^bits and the number of bits of a decision."""
    for bits in (1, 2, 4):
        if rate * 2**bits == int(rate * 2**bits):
            return rate * 2**bits, bits
    return rate * 256, 8


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
    words = _philox(block, draw[:, None], low, high, k0, k1, m0, m1, weyl0, weyl1)
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


def _halves(one: Tensor) -> tuple[Tensor, Tensor]:
    """An id's low and high 32 bits."""
    return one & WORD, (one >> 32) & WORD


def _settle_ties(
    kept: Tensor, data: Tensor, threshold: int, remainder: float, key: Key, draw: Tensor, one: Tensor
) -> None:
    """Decide, in place, the elements whose field equals the threshold: 1 in 256."""
    row, element = (data == threshold).nonzero(as_tuple=True)
    word = philox(key, (element, draw[row], *_halves(one[row])))[0]
    kept[row, element] = (word >= round(remainder * 2**32)).to(torch.uint8)


# ---- what torch draws itself ----------------------------------------------------------------------------------


class OwnStream(TorchDispatchMode):
    """Inside, all that torch draws in this thread comes from generators of this object's own, started from `seed`.

    The numbers are those of the global generators started from there, but these, which all threads share, stay as they
    are. Only what takes no generator, as fused dropout on a GPU does, has them lent for that one operation. `seed`
    None: as the host's global generator would go on.
    """

    def __init__(self, seed: int | None) -> None:
        super().__init__()
        self.start(seed)

    def start(self, seed: int | None) -> None:
        """Start from another seed, wherever the generators are."""
        self.seed = seed
        self.generators: dict[torch.device, torch.Generator | _State] = {}
        self.starts: dict[torch.device, Tensor] = {}

    @property
    def has_drawn(self) -> bool:
        """Whether anything was drawn since the start."""
        return any(not torch.equal(one.get_state(), self.starts[device]) for device, one in self.generators.items())

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if not _draws(func) or _argument(func, "generator", args, kwargs) is not None:
            return func(*args, **kwargs)
        device = _device_of(args, kwargs)
        if device.type == "meta" or _argument(func, "dropout_p", args, kwargs) == 0:
            return func(*args, **kwargs)
        drawing, generator = _with_generator(func), self.generator(device)
        if drawing is not None and isinstance(generator, torch.Generator):
            named = dict(zip((one.name for one in func._schema.arguments), args, strict=False))
            place = next((at for at, name in enumerate(named) if name == "generator"), len(args))
            return drawing(*args[:place], **{**dict(list(named.items())[place:]), **kwargs, "generator": generator})
        with self:  # it may be made of others
            made = func.decompose(*args, **kwargs)
        if made is not NotImplemented:
            return made
        with self.lent(device):
            return func(*args, **kwargs)

    def drawn(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a function of torch's gives inside; the commonest on a CPU are computed as torch does, which is quick.

        A function that makes a tensor says where by the keyword `device`.
        """
        device = args[0].device if args and isinstance(args[0], Tensor) else kwargs.get("device")
        made = self._quickly(func, args, kwargs) if device == CPU and "generator" not in kwargs else None
        if made is not None:
            return made
        with self:
            return func(*args, **kwargs)

    def _quickly(self, func: Any, args: tuple, kwargs: dict) -> Tensor | None:
        generator: Any = self.generator(CPU)
        if func in TAKING_GENERATORS:
            return func(*args, **kwargs, generator=generator)
        if func is torch.randn_like and len(args) == 1 and not kwargs:
            return torch.empty_like(args[0]).normal_(generator=generator)
        if func is F.dropout and not kwargs["inplace"]:
            if not kwargs["training"] or kwargs["p"] == 0:
                return args[0]
            if 0 < kwargs["p"] < 1:
                keep = 1 - kwargs["p"]
                return args[0] * torch.empty_like(args[0]).bernoulli_(keep, generator=generator).div_(keep)
        return None

    def generator(self, device: torch.device) -> torch.Generator | _State:
        """Our generator of a device; its state alone where torch makes none."""
        if device not in self.generators:
            try:
                made = torch.Generator(device)
                made.set_state(torch.get_rng_state()) if self.seed is None else made.manual_seed(self.seed)
            except RuntimeError:
                made = _State(self.seed, device)
            self.generators[device], self.starts[device] = made, made.get_state()
        return self.generators[device]

    @contextmanager
    def lent(self, device: torch.device) -> Iterator[None]:
        """Inside, the global generators go on where ours are; afterwards they are as they were, and ours go on."""
        own = [self.generator(one) for one in dict.fromkeys((CPU, device))]
        with GENERATORS:
            before = generator_states(device)
            put_back([one.get_state() for one in own], device)
            try:
                yield
            finally:
                for one, state in zip(own, generator_states(device), strict=True):
                    one.set_state(state)
                put_back(before, device)


class _State:
    """The state of a device's global generator, for devices that have no other."""

    def __init__(self, seed: int | None, device: torch.device) -> None:
        with GENERATORS:
            before = generator_states(device)
            if seed is not None:
                seed_generators(seed, device)
            self.state = generator_states(device)[1]
            put_back(before, device)

    def get_state(self) -> Tensor:
        return self.state

    def set_state(self, state: Tensor) -> None:
        self.state = state


class OwnDraws(TorchFunctionMode):
    """As its `stream`, for code that is run often: looks at those functions alone that may draw."""

    def __init__(self, stream: OwnStream) -> None:
        super().__init__()
        self.stream = stream

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return self.stream.drawn(func, *args, **kwargs or {}) if may_draw(func) else func(*args, **kwargs or {})


TAKING_GENERATORS = {torch.rand, torch.randn, torch.randint, Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_}
DRAWING = (
    *("rand", "dropout", "bernoulli", "normal", "uniform", "multinomial", "poisson", "binomial", "exponential"),
    *("cauchy", "geometric", "gamma", "dirichlet", "rrelu", "gumbel", "fractional", "attention", "sdp", "lowrank"),
    *("lobpcg", "lstm", "gru", "rnn", "softmax_with_shape"),
)  # words in the names of torch functions that may draw


@cache
def may_draw(func: Any) -> bool:
    """Whether the name of a torch function says that it may draw; operators of others' libraries do not tell."""
    name = getattr(func, "__name__", "")
    return any(word in name for word in DRAWING) or isinstance(
        func, torch._ops.OpOverload | torch._ops.OpOverloadPacket
    )


@cache
def _draws(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


@cache
def _with_generator(func: Any) -> Any:
    """The operation, or its twin, that takes a generator; None where there is none."""
    twins = ("generator",) if func._overloadname == "default" else (f"{func._overloadname}_generator",)
    for one in (func, *(getattr(func.overloadpacket, name, None) for name in twins)):
        if one is not None and any(argument.name == "generator" for argument in one._schema.arguments):
            return one
    return None


def _argument(func: Any, name: str, args: tuple, kwargs: dict) -> Any:
    """What an operation is given under this name; None where it has no such argument."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            return args[place] if place < len(args) else kwargs.get(name, argument.default_value)
    return None


def _device_of(args: tuple, kwargs: dict) -> torch.device:
    """Where an operation works."""
    tensor = next((one for one in args if isinstance(one, Tensor)), None)
    return torch.device(kwargs.get("device") or "cpu") if tensor is None else tensor.device
