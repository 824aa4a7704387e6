"""The memory of a prediction for growing numbers of inputs and draws, when the draws are not kept.

Run: python tests/benchmarks/bench_memory.py [--inputs 1000000] [--draws 1000]
Inputs are generated batch by batch and streamed. Each figure is of a new process: the peak resident set after the run,
less the peak after a small run that has loaded everything. The summaries are the result and are kept for every input;
the table shows their size. The remaining memory is the working memory of a chunk and a batch. It grows to a fixed size
that small runs do not reach, and no further.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

import mcdropout as mcd

BATCH = 1000
FEATURES = 16


def batches(n_inputs: int) -> Iterator[np.ndarray]:
    """Inputs (input, feature), as if they came from a file."""
    rng = np.random.default_rng(0)
    for start in range(0, n_inputs, BATCH):
        yield rng.random((min(BATCH, n_inputs - start), FEATURES), dtype=np.float32)


def peak() -> float:
    """Largest resident set so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def measured(n_inputs: int, n_samples: int) -> None:
    """Print growth and what the summaries hold, both in MB, and seconds of the processor."""
    net = mcd.mc_mlp(FEATURES, labels=["no", "yes"], hidden=8, dropout=0.2)
    settings = {"batch_size": BATCH, "seed": 1, "keep_samples": False, "progress": False}
    mcd.mc_predict(net, batches(2 * BATCH), 50, **settings)
    before, started = peak(), time.process_time()
    pred = mcd.mc_predict(net, batches(n_inputs), n_samples, **settings)
    took = time.process_time() - started
    held = sum(value.nbytes for value in vars(pred).values() if isinstance(value, np.ndarray)) / 1e6
    print(peak() - before, held, took)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--measure", nargs=2, type=int, help="inputs and draws of a single run, for its own process")
    options = parser.parse_args()
    if options.measure:
        measured(*options.measure)
        return
    print(f"A dense network on {FEATURES} features, inputs streamed {BATCH} at a time, draws not kept\n")
    print("| inputs | draws | peak memory grew by | of which summaries | besides them | processor seconds |")
    print("|---|---|---|---|---|---|")
    few = 10_000
    sizes = ((few, 50), (options.inputs // 4, 50), (options.inputs, 50), (few, options.draws), (few, 4 * options.draws))
    for n_inputs, n_samples in sizes:
        command = [sys.executable, __file__, "--measure", str(n_inputs), str(n_samples)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        grew, held, took = (float(one) for one in done.stdout.split())
        text = f"{grew:.0f} MB | {held:.0f} MB, {1e6 * held / n_inputs:.0f} bytes each | {grew - held:.0f} MB"
        print(f"| {n_inputs:,} | {n_samples:,} | {text} | {took:.0f} |", flush=True)


if __name__ == "__main__":
    main()
