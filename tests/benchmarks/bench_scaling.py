"""The growth of the time with the numbers of draws and of inputs.

Run: python tests/benchmarks/bench_scaling.py [--repeats 5]
The network is that of the R Keras example, 28 x 28. The sizes alternate. The times are processor times, which other
processes do not lengthen. If the cost is linear, the time for a draw (an input) is the same in every row, except for
the work that a prediction does once.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

import mcdropout as mcd


def in_turns(runs: Mapping[object, Callable[[], object]], repeats: int) -> list[float]:
    """Median processor seconds of each run. The runs alternate, and the first turn is not counted."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats + 1):
        for run, seconds in zip(runs.values(), times, strict=True):
            started = time.process_time()
            run()
            seconds.append(time.process_time() - started)
    return [statistics.median(seconds[1:]) for seconds in times]


def growth(net: mcd.MCNetwork, x: np.ndarray, repeats: int) -> None:
    """Runs with more draws, and with more inputs."""

    def run(n_inputs: int, n_samples: int) -> Callable[[], object]:
        return lambda: mcd.mc_predict(net, x[:n_inputs], n_samples, seed=1, keep_samples=False, progress=False)

    for sizes in ([(256, 50), (256, 100), (256, 200), (256, 400)], [(256, 50), (512, 50), (1024, 50), (2048, 50)]):
        seconds = in_turns({size: run(*size) for size in sizes}, repeats)
        print("\n| inputs | draws | processor seconds | microseconds for one draw of one input |")
        print("|---|---|---|---|")
        for (n_inputs, n_samples), took in zip(sizes, seconds, strict=True):
            print(f"| {n_inputs} | {n_samples} | {took:.2f} | {1e6 * took / n_inputs / n_samples:.1f} |")


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    net = mcd.mc_cnn((28, 28, 1), labels=range(10))
    x = np.random.default_rng(0).random((2048, 28, 28, 1), dtype=np.float32)
    print(f"{torch.get_num_threads()} threads, median of {options.repeats} turns\n")
    growth(net, x, options.repeats)


if __name__ == "__main__":
    main()
