"""The savings of `tolerance`, and the bias of a number of draws that depends on the draws.

Run: python tests/benchmarks/bench_tolerance.py [--inputs 300] [--seeds 10]
The network is that of the quickstart, with real images. `tolerance` is the largest error that 100 draws leave, over all
images and labels. Each seed runs with and without it. The draws of an image are the same until it stops, and the mean
of all 100 draws has no bias, so the difference of the two is the bias of stopping, with little Monte Carlo error. Masks
are per input, so that the errors of the images are independent and average out.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np
from bench_precision import quickstart

import mcdropout as mcd


def with_error(values: np.ndarray) -> str:
    """Mean of (seed, input) with its standard error over inputs, whose masks are independent."""
    by_input = values.mean(axis=0)
    return f"{values.mean():+.5f} +- {by_input.std(ddof=1) / np.sqrt(len(by_input)):.5f}"


def main() -> None:
    """Print the share of the draws that were used, and the bias."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    net, data = quickstart()
    x = data.x_test[: options.inputs]
    rows = np.arange(len(x))

    def predict(**settings: object) -> mcd.MCPrediction:
        return mcd.mc_predict(net, x, 100, keep_samples=False, progress=False, **settings)  # pyright: ignore[reportArgumentType]

    fixed = predict(seed=0)
    tolerance = float(fixed.mcse.max())
    shared = float(np.mean(predict(seed=0, tolerance=tolerance).n_samples))
    pairs = [
        (predict(seed=seed, masks="per_input", tolerance=tolerance), predict(seed=seed, masks="per_input"))
        for seed in range(1, options.seeds + 1)
    ]
    n_drawn = np.stack([stopped.n_samples for stopped, _ in pairs])
    mean_of_all = np.mean([all_draws.mean for _, all_draws in pairs], axis=0)  # of 100 x seeds draws
    likeliest = mean_of_all.argmax(axis=1)
    print(
        f"tolerance {tolerance:.4f}, the largest error after 100 draws: {shared:.0f} % of the draws with "
        f"shared masks, {n_drawn.mean():.0f} % with masks per input"
    )
    counts = Counter(n_drawn.flatten().tolist())
    print("draws used: " + ", ".join(f"{n} by {100 * counts[n] / n_drawn.size:.0f} %" for n in sorted(counts)))
    over = np.mean([np.abs(stopped.mean - mean_of_all).max(axis=1) > 2 * tolerance for stopped, _ in pairs])
    print(f"images off by more than twice the tolerance in some label: {100 * over:.1f} %")
    quantities = {
        "probability of the likeliest label": lambda pred: pred.mean[rows, likeliest],
        "predictive entropy": lambda pred: pred.predictive_entropy,
        "expected entropy": lambda pred: pred.expected_entropy,
        "mutual information": lambda pred: pred.mutual_information,
    }
    print("\n| | stopped less all 100 draws | average of all 100 |")
    print("|---|---|---|")
    for name, quantity in quantities.items():
        stopped, all_draws = (np.stack([quantity(pair[index]) for pair in pairs]) for index in (0, 1))
        print(f"| {name} | {with_error(stopped - all_draws)} | {all_draws.mean():.4f} |")


if __name__ == "__main__":
    main()
