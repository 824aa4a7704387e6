"""The sizes of chunks: how many draws of how many inputs are computed at once."""

from __future__ import annotations

import torch

from ..compute.devices import chunk_bytes

CHUNK_BYTES = 8 << 20  # largest intermediate result of a chunk; tests/benchmarks/bench_chunks.py shows the sweep

ROW_BYTES = 64  # lower bound on the size of a row: smaller rows keep several intermediate results alive at once

PREFIX_BYTES = 64 << 20  # largest result of a chunk before the first site, where one pass serves all draws

MASK_BYTES = 256 << 20  # masks of all draws are kept for the next batch up to this size, else computed again

INPUTS_PER_CHUNK = 4  # the least number, so that a mask is read once for several inputs

INPUTS_PER_WEIGHTS = 64  # the least number for drawn weights, which are larger than the inputs

FEW_DRAWS = 8  # if a chunk has room for fewer draws of weights, one draw after the other is faster


def chunk_sizes(
    n_samples: int, bytes_per_row: int, inputs_at_least: int = INPUTS_PER_CHUNK, budget: int = CHUNK_BYTES
) -> tuple[int, int]:
    """(draws, inputs) of a chunk whose largest intermediate result has about `budget` bytes and so stays in cache.

    They depend only on the network and the device, not on the load of the machine or the batch size, so that two runs
    agree to the bit.
    """
    rows = max(1, budget // max(1, bytes_per_row))
    most = max(1, rows // inputs_at_least)
    pieces = 1 if n_samples <= 1.5 * most else -(-n_samples // most)  # fewer inputs are better than a small last piece
    draws = -(-n_samples // pieces)
    return draws, max(1, rows // draws)


class ChunkSizes:
    """The sizes of the chunks of one plan; they shrink where memory runs out.

    draws, inputs: their numbers in a chunk. loop_inputs: the number of inputs in a chunk of the loop, which computes
    its draws one after the other.
    """

    def __init__(
        self,
        device: torch.device,
        n_samples: int,
        batch_size: int,
        row_bytes: int,
        prefix_bytes: int,
        has_weights: bool,
    ) -> None:
        at_least = INPUTS_PER_WEIGHTS if has_weights else INPUTS_PER_CHUNK
        budget = chunk_bytes(device, CHUNK_BYTES)
        self.draws, inputs = chunk_sizes(n_samples, max(ROW_BYTES, row_bytes), at_least, budget)
        most = chunk_bytes(device, PREFIX_BYTES) // max(1, prefix_bytes)
        # the inputs of a pass before the first site; with small batches a GPU would wait for the host
        self.most_inputs = max(1, min(batch_size, most) if device.type == "cpu" else most)
        self.inputs = min(inputs, self.most_inputs)
        self.loop_inputs = min(inputs * self.draws, self.most_inputs)
        self.n_samples = n_samples

    def holds_few_draws(self) -> bool:
        """Whether a chunk has room for so few draws that drawn weights are faster one draw after the other."""
        return self.draws < min(FEW_DRAWS, self.n_samples)

    def draw_one_after_the_other(self, draw_bytes: int) -> None:
        """Put all draws of a few inputs into one chunk of the loop, if memory has room for their weights.

        The weights of each draw are used for as many inputs as fit into the cache with their intermediate results. The
        part of the network before the first weights is computed once.
        """
        self.draws = max(1, min(self.n_samples, MASK_BYTES // draw_bytes))
        self.inputs = self.loop_inputs = min(self.loop_inputs, INPUTS_PER_WEIGHTS)

    def draw_parts(self, draws: range) -> list[range]:
        """The draws of each chunk."""
        return [
            range(start, min(start + self.draws, draws.stop)) for start in range(draws.start, draws.stop, self.draws)
        ]

    def input_parts(self, n_inputs: int, loop: bool) -> list[slice]:
        """The inputs of each chunk: about the same number in each, so that no worker waits for the others."""
        most = self.loop_inputs if loop else self.inputs
        step = -(-n_inputs // -(-n_inputs // most))
        return [slice(start, start + step) for start in range(0, n_inputs, step)]

    def halve_inputs(self) -> None:
        """Use half as many inputs; memory ran out in a chunk of several inputs."""
        self.inputs = max(1, self.inputs // 2)

    def halve_draws(self) -> bool:
        """Use half as many draws; memory ran out in a chunk of one input. False if there was only one draw."""
        if self.draws == 1:
            return False
        self.draws //= 2
        return True
