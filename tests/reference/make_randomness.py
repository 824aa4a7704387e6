"""Write randomness.json: masks and random numbers computed with Python integers from the specification.

The specification is the docstring of `mcdropout.engine.randomness`.

Run: python tests/reference/make_randomness.py
This file imports nothing of the package, so the tests compare the package with its specification.
The first blocks are published results of Random123 1.14 (its file kat_vectors).
"""

import hashlib
import json
import math
from pathlib import Path

PUBLISHED = [
    {"key": [0, 0], "counter": [0, 0, 0, 0], "words": ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]},
    {
        "key": [2**32 - 1] * 2,
        "counter": [2**32 - 1] * 4,
        "words": ["408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"],
    },
    {
        "key": [0xA4093822, 0x299F31D0],
        "counter": [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        "words": ["d16cfe09", "94fdcceb", "5001e420", "24126ea1"],
    },
]


PUBLISHED_64 = [  # philox4x64 10 of the same file
    {
        "key": [0, 0],
        "counter": [0, 0, 0, 0],
        "words": ["16554d9eca36314c", "db20fe9d672d0fdc", "d7e772cee186176b", "7e68b68aec7ba23b"],
    },
    {
        "key": [2**64 - 1] * 2,
        "counter": [2**64 - 1] * 4,
        "words": ["87b092c3013fe90b", "438c3c67be8d0224", "9cc7d7c69cd777b6", "a09caebf594f0ba0"],
    },
]

CONSTANTS = {  # by the bits of a word: two multipliers, and the increments of the key words between rounds
    32: ((0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)),
    64: ((0xD2E7470EE14C6C93, 0xCA5A826395121157), (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)),
}


def philox(key: list[int], counter: list[int], bits: int = 32) -> list[int]:
    """Four words, round by round, as in the figure of Salmon et al. (2011)."""
    multipliers, weyl = CONSTANTS[bits]
    (k0, k1), (x0, x1, x2, x3) = key, counter
    for _ in range(10):
        high0, low0 = divmod(multipliers[0] * x0, 2**bits)
        high1, low1 = divmod(multipliers[1] * x2, 2**bits)
        x0, x1, x2, x3 = high1 ^ x1 ^ k0, low1, high0 ^ x3 ^ k1, low0
        k0, k1 = (k0 + weyl[0]) % 2**bits, (k1 + weyl[1]) % 2**bits
    return [x0, x1, x2, x3]


def key_of(seed: int, masks: str, site: str, part: str) -> list[int]:
    text = f"mcdropout 1|{seed}|{masks}|{site}|{part}".encode()
    digest = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return [digest % 2**32, digest // 2**32]


def kept(seed: int, masks: str, site: str, rate: float, n_elements: int, draw: int, input_id: int) -> list[int]:
    """1 for an element that is kept, else 0; element by element, as in the specification."""
    bits = next((b for b in (1, 2, 4) if (rate * 2**b).is_integer()), 8)
    threshold = int(rate * 2**bits)
    remainder = rate * 2**bits - threshold
    n_bytes = -(-n_elements * bits // 8)
    n_blocks = -(-n_bytes // 16)
    halves = [input_id % 2**32, (input_id >> 32) % 2**32]
    field_key = key_of(seed, masks, site, "field")
    blocks = [philox(field_key, [block, draw, *halves]) for block in range(n_blocks)]
    data = b"".join(blocks[block][word].to_bytes(4, "little") for word in range(4) for block in range(n_blocks))
    result = []
    for element in range(n_elements):
        field = (data[element % n_bytes] >> (bits * (element // n_bytes))) % 2**bits
        dropped = field < threshold
        if field == threshold and remainder:
            word = philox(key_of(seed, masks, site, "tail"), [element, draw, *halves])[0]
            dropped = word < round(remainder * 2**32)
        result.append(int(not dropped))
    return result


def normals(seed: int, site: str, n_elements: int, draw: int) -> list[float]:
    """Standard normal numbers, one by one, as in the specification."""
    n_words = -(-n_elements // 2)
    low, high = key_of(seed, "shared", site, "normal")
    result = []
    for element in range(n_elements):
        position = element % n_words
        word = philox([low + 2**32 * high, 0], [1 + position // 4, draw, 0, 0], bits=64)[position % 4]
        radius = math.sqrt(-2 * math.log((word % 2**32 + 0.5) / 2**32))
        upper = word // 2**32
        angle = 2 * math.pi * (upper - 2**32 if upper >= 2**31 else upper) / 2**32
        result.append(radius * (math.sin(angle) if element >= n_words else math.cos(angle)))
    return result


def uniforms(seed: int, masks: str, site: str, bits: int, n_elements: int, draw: int, input_id: int) -> list[float]:
    """Numbers in [0, 1) with this number of bits, one by one, as in the specification."""
    key, n_blocks = key_of(seed, masks, site, "uniform"), -(-n_elements // 4)
    counters = [[element % n_blocks, draw, input_id % 2**32, (input_id >> 32) % 2**32] for element in range(n_elements)]
    words = [philox(key, counter)[element // n_blocks] for element, counter in enumerate(counters)]
    return [(word >> (32 - bits)) / 2**bits for word in words]


def generator_seed(seed: int, site: str, draw: int) -> int:
    words = philox(key_of(seed, "shared", site, "generator"), [0, draw, 0, 0])
    return (words[0] + 2**32 * words[1]) % 2**63


CASES = [  # seed, masks, site, rate, elements, draw, id
    (1, "shared", "layers.conv1_dropout[0]", 0.25, 37, 0, 0),
    (1, "shared", "layers.conv1_dropout[0]", 0.25, 37, 49, 0),
    (1, "shared", "layers.dense1_dropout[0]", 0.5, 128, 3, 0),
    (2**53 - 1, "per_input", "[0]", 0.1, 1000, 7, 2**40 + 5),
    (0, "per_input", "encoder.layers.0.dropout1[1]", 0.3, 700, 1, -1),
    (3, "shared", "Blöcke.0[0]", 0.0625, 33, 2, 0),
]

NORMAL_CASES = [  # seed, site, elements, draw
    (1, "layers.conv1[0]", 9, 0),
    (1, "layers.conv1[0]", 9, 49),
    (2**53 - 1, "[0]", 1, 7),
    (3, "Blöcke.0[0]", 30, 2),
]

UNIFORM_CASES = [  # seed, masks, site, bits, elements, draw, id
    (1, "shared", "0", 24, 11, 0, 0),
    (1, "shared", "0", 24, 11, 49, 0),
    (2**53 - 1, "per_input", "3", 32, 4, 7, 2**40 + 5),
    (0, "per_input", "12", 8, 21, 1, -1),
    (5, "shared", "2", 11, 1, 3, 0),
]

if __name__ == "__main__":
    names = ("seed", "masks", "site", "rate", "n_elements", "draw", "id")
    cases = [dict(zip(names, case, strict=True)) | {"kept": "".join(map(str, kept(*case)))} for case in CASES]
    normal_cases = [
        dict(zip(("seed", "site", "n_elements", "draw"), case, strict=True))
        | {"normals": normals(*case), "generator_seed": generator_seed(case[0], case[1], case[3])}
        for case in NORMAL_CASES
    ]
    uniform_names = ("seed", "masks", "site", "bits", "n_elements", "draw", "id")
    uniform_cases = [
        dict(zip(uniform_names, case, strict=True)) | {"uniforms": uniforms(*case)} for case in UNIFORM_CASES
    ]
    path = Path(__file__).with_name("randomness.json")
    blocks = {"philox4x32_10": PUBLISHED, "philox4x64_10": PUBLISHED_64}
    text = json.dumps(
        {**blocks, "masks": cases, "normals": normal_cases, "uniforms": uniform_cases}, indent=1, ensure_ascii=False
    )
    path.write_text(text + "\n")
