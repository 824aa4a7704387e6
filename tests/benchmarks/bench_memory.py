"""How much the process grows while 20,000 inputs x 200 draws are summarised and not kept.

Run: python tests/benchmarks/bench_memory.py [--inputs 20000] [--draws 200]
Growth is the peak resident set after the run less that before it, once a small run has loaded everything.
"""

from __future__ import annotations

import argparse
import resource

import numpy as np

import mcdropout as mcd


def peak() -> float:
    """Largest resident set so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def main() -> None:
    """Print the growth."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--draws", type=int, default=200)
    options = parser.parse_args()
    net = mcd.mc_cnn((28, 28, 1), labels=range(10))
    x = np.random.default_rng(0).random((options.inputs, 28, 28, 1), dtype=np.float32)
    mcd.mc_predict(net, x[:64], 10, seed=1, progress=False)
    before = peak()
    mcd.mc_predict(net, x, options.draws, seed=1, keep_samples=False, progress=False)
    print(f"{options.inputs} inputs x {options.draws} draws, not kept: peak memory grew by {peak() - before:.0f} MB")


if __name__ == "__main__":
    main()
