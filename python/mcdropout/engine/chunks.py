"""The sizes of chunks: how many draws of how many inputs are computed at once."""

from __future__ import annotations

CHUNK_BYTES = 8 << 20  # largest intermediate result of a chunk; tests/benchmarks/bench_chunks.py shows the sweep

ROW_BYTES = 64  # so large at least is a row taken to be: of smaller ones several results lie about at a time

PREFIX_BYTES = 64 << 20  # largest result of a chunk before the first site, where one pass serves all draws

MASK_BYTES = 256 << 20  # masks of all draws are kept for the next batch up to this size, else made again

INPUTS_PER_CHUNK = 4  # so few at least that a mask, once read, serves several inputs

INPUTS_PER_WEIGHTS = 64  # weights of a draw are larger than what they work on, and want to serve more

FEW_DRAWS = 8  # where fewer than so many fit into a chunk, vmap costs more than it saves


def chunk_sizes(
    n_samples: int, bytes_per_row: int, inputs_at_least: int = INPUTS_PER_CHUNK, budget: int = CHUNK_BYTES
) -> tuple[int, int]:
    """(draws, inputs) of a chunk, whose largest intermediate result should take `budget` bytes: what stays in cache.

    Depends on the network and the device alone, never on the machine's load or the caller's batch size, so that two
    runs agree to the bit.
    """
    rows = max(1, budget // max(1, bytes_per_row))
    most = max(1, rows // inputs_at_least)
    pieces = 1 if n_samples <= 1.5 * most else -(-n_samples // most)  # rather fewer inputs than a small last piece
    draws = -(-n_samples // pieces)
    return draws, max(1, rows // draws)
