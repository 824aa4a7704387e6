"""The speed for several sizes of chunks, compared with the size that the rule chooses.

Run: python tests/benchmarks/bench_chunks.py [--inputs 256] [--repeats 3]
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

import mcdropout as mcd
from mcdropout.engine import chunks


def main() -> None:
    """Print, for each size, the time relative to that of the rule's size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    networks = {
        "R Keras example": (mcd.mc_cnn((28, 28, 1), labels=range(10)), rng.random((options.inputs, 28, 28, 1))),
        "dense 784-512-10": (
            mcd.mc_mlp(784, labels=range(10), hidden=512, dropout=0.5),
            rng.random((8 * options.inputs, 784)),
        ),
    }
    rule = chunks.CHUNK_BYTES
    sizes = [1 << power for power in range(20, 28)]
    for name, (net, x) in networks.items():
        times: dict[int, list[float]] = {size: [] for size in sizes}
        for _ in range(options.repeats + 1):
            for size in sizes:
                chunks.CHUNK_BYTES = size
                started = time.perf_counter()
                mcd.mc_predict(net, x, 50, seed=1, progress=False, keep_samples=False)
                times[size].append(time.perf_counter() - started)
        chunks.CHUNK_BYTES = rule
        medians = {size: statistics.median(seconds[1:]) for size, seconds in times.items()}
        text = ", ".join(f"{size >> 20} MiB {seconds / medians[rule]:.2f}" for size, seconds in medians.items())
        print(f"{name}: time over that at {rule >> 20} MiB: {text}")


if __name__ == "__main__":
    main()
