"""The time of one answer: a prepared sampler on one 28 x 28 image, a plain forward, and the loop that users write.

Run: python tests/benchmarks/bench_latency.py [--repeats 50] [--r]
The network is that of the R Keras example, with 50 draws. The methods alternate, and the times are medians of the wall
clock and of the processor time of the process; the difference shows other work on the machine. `--r` also measures
R, in a separate process.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

import mcdropout as mcd

DRAWS = 50
IN_R = """
library(mcdropout)
net <- mc_load("{path}")
x <- mc_sample_data()$x_train[1, , , , drop = FALSE]
ask <- mc_sampler(net, x, {draws}, seed = 1)
for (warm in 1:3) ask(x)
took <- vapply(1:{repeats}, function(i) system.time(ask(x), gcFirst = FALSE)[["elapsed"]], 0)
cat(median(took))
"""


def in_turns(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, tuple[float, float]]:
    """Median wall-clock and processor seconds of each. The runs alternate, and the first turn is not counted."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            wall, processor = time.perf_counter(), time.process_time()
            run()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {
        name: (statistics.median(wall for wall, _ in times[1:]), statistics.median(used for _, used in times[1:]))
        for name, times in seconds.items()
    }


def from_r(net: mcd.MCNetwork, repeats: int) -> float:
    """Median seconds of an answer in R."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        mcd.mc_save(net, path)
        script = Path(folder) / "in_r.R"
        script.write_text(IN_R.format(path=path, draws=DRAWS, repeats=repeats))
        completed = subprocess.run(["Rscript", str(script)], capture_output=True, text=True, check=True)
    return float(completed.stdout)


def main() -> None:
    """Print a table for one thread and for all threads."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--r", action="store_true")
    options = parser.parse_args()
    net = mcd.mc_cnn((28, 28, 1), labels=range(10))
    image = np.random.default_rng(0).random((1, 28, 28, 1), dtype=np.float32)
    tensor = torch.from_numpy(image)
    stochastic = copy.deepcopy(net)
    for module in stochastic.modules():
        module.training = isinstance(module, nn.Dropout)

    def plain() -> object:
        with torch.inference_mode():
            return net(tensor)

    def loop() -> object:
        with torch.inference_mode():
            return torch.stack([stochastic(tensor).softmax(dim=-1) for _ in range(DRAWS)]).mean(dim=0)

    before = torch.get_num_threads()
    print(f"One image, {DRAWS} draws, median of {options.repeats} turns\n")
    print("| threads | | wall clock | processor | times a plain forward |")
    print("|---|---|---|---|---|")
    for threads in dict.fromkeys((1, before)):
        torch.set_num_threads(threads)
        runs: dict[str, Callable[[], object]] = {"plain forward": plain, "naive loop": loop}
        for precision in ("float32", "bfloat16"):
            sampler = mcd.mc_sampler(net, image, DRAWS, seed=1, precision=precision)
            runs[f"`mc_sampler`, {precision}"] = lambda sampler=sampler: sampler(image)
        medians = in_turns(runs, options.repeats)
        for name, (wall, processor) in medians.items():
            times = processor / medians["plain forward"][1]
            print(f"| {threads} | {name} | {1000 * wall:.2f} ms | {1000 * processor:.2f} ms | {times:.1f} |")
    torch.set_num_threads(before)
    if options.r:
        print(f"| {before} | `mc_sampler` from R | {1000 * from_r(net, options.repeats):.2f} ms | | |")


if __name__ == "__main__":
    main()
