"""The cost of sampling: ratios of the time of `mc_predict()` to that of the loop that users write.

Run: python tests/benchmarks/bench_sampling.py [--inputs 1024] [--draws 50] [--repeats 5]
The network is that of the R Keras example, with inputs of 28 x 28. Each ratio is the median over pairs of consecutive
runs, so that a change in the speed of the machine affects both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

import mcdropout as mcd


def naive_loop(model: nn.Module, x: np.ndarray, draws: int) -> torch.Tensor:
    """`model.train()`, then one forward per draw, 128 inputs at a time: (draw, input, label)."""
    model.train()
    with torch.no_grad():
        parts = [
            torch.stack([model(batch).softmax(dim=-1) for _ in range(draws)])
            for batch in torch.from_numpy(x).split(128)
        ]
    model.eval()
    return torch.cat(parts, dim=1)


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock seconds of one run."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    """Print one line per setting."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=1024)
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    net = mcd.mc_cnn((28, 28, 1), labels=range(10))
    x = np.random.default_rng(0).random((options.inputs, 28, 28, 1), dtype=np.float32)
    few = x[: max(128, options.inputs // 8)]  # the time of the naive loop per input does not depend on their number

    def ours(**settings: object) -> Callable[[], object]:
        return lambda: mcd.mc_predict(net, x, options.draws, seed=1, progress=False, **settings)  # pyright: ignore[reportArgumentType]

    variants = {
        "float32, shared masks (the defaults)": ours(),
        "float32, masks per input": ours(masks="per_input"),
        "bfloat16, shared masks": ours(precision="bfloat16"),
        "bfloat16, masks per input": ours(precision="bfloat16", masks="per_input"),
    }
    print(f"{options.inputs} inputs of 28 x 28, {options.draws} draws, {torch.get_num_threads()} threads")
    for name, run in variants.items():
        run()
        ratios, times = [], []
        for _ in range(options.repeats):
            naive = seconds(lambda: naive_loop(net, few, options.draws)) * len(x) / len(few)
            times.append(seconds(run))
            ratios.append(naive / times[-1])
        per_input = statistics.median(times) / options.inputs * 1000
        print(f"mc_predict, {name}: {statistics.median(ratios):.1f}x the naive loop ({per_input:.2f} ms per input)")


if __name__ == "__main__":
    main()
