"""Compare the accuracy of networks trained on inputs that `mc_acquire()` chooses and on random inputs.

Run: python tests/benchmarks/bench_acquisition.py [SEEDS]
The images are the bundled ones, reduced to 14 x 14, the network is dense, with 100 draws. It starts with 20 labels and
acquires more four times. The table shows the accuracy on the 1,000 test images over 12 seeds, and its difference from
random choice in the same pool, in standard errors. The pools: *unbalanced*, most images have one of two labels;
*copies*, ten equally frequent labels, with every image five times with a little noise; *balanced*, ten equally frequent
labels, with every image once.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch

import mcdropout as mcd
from mcdropout.data.samples import SampleData

DRAWS, EPOCHS, STEPS, FIRST = 100, 40, 4, 20
POOLS = {  # images of each label, copies of each image, inputs chosen per round
    "unbalanced": ([150] * 2 + [15] * 8, 1, 15),
    "copies": ([20] * 10, 5, 10),
    "balanced": ([60] * 10, 1, 10),
}
MEASURES = ("random", "mutual_information", "predictive_entropy", "batchbald")


def quarter_size(images: np.ndarray) -> np.ndarray:
    """Images of 28 x 28 as rows of 14 x 14 means."""
    return np.asarray(images).reshape(len(images), 14, 2, 14, 2).mean(axis=(2, 4)).reshape(len(images), -1)


def final_accuracy(by: str, pool_name: str, seed: int, data: SampleData) -> float:
    """Accuracy on the test images after the last round."""
    rng = np.random.default_rng(seed)
    sizes, copies, step = POOLS[pool_name]
    labels = np.asarray(data.y_train)
    of_label = [rng.permutation(np.flatnonzero(labels == label)) for label in data.labels]
    in_pool = np.concatenate([positions[:size] for positions, size in zip(of_label, sizes, strict=True)])
    in_pool = rng.permutation(np.repeat(in_pool, copies))
    pool, y = quarter_size(data.x_train)[in_pool], labels[in_pool]
    if copies > 1:
        pool = pool + rng.normal(0, 0.05, pool.shape)

    def train(labelled: np.ndarray) -> mcd.MCNetwork:
        network = mcd.mc_mlp(196, data.labels, hidden=(64,), dropout=0.3, seed=seed)
        settings: dict[str, Any] = {"epochs": EPOCHS, "batch_size": 10, "seed": seed, "progress": False}
        return mcd.mc_fit(network, pool[labelled], y[labelled], **settings)

    labelled = np.arange(FIRST)
    for _ in range(STEPS):
        network = train(labelled)
        unlabelled = np.setdiff1d(np.arange(len(pool)), labelled)
        if by == "random":
            chosen = rng.choice(len(unlabelled), step, replace=False)
        else:
            prediction = mcd.mc_predict(network, pool[unlabelled], DRAWS, seed=seed, progress=False)
            chosen = mcd.mc_acquire(prediction, step, by=by)["input"].to_numpy()
        labelled = np.concatenate([labelled, unlabelled[chosen]])
    network = train(labelled)
    test = mcd.mc_predict(network, quarter_size(data.x_test), 20, seed=1, keep_samples=False, progress=False)
    return float((test.predicted == data.y_test).mean())


def main() -> None:
    """Print the table."""
    n_seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "Of the .* draws apart")  # the last rounds warn; the table shows the effect
    data = mcd.mc_sample_data()
    rows = []
    for pool in POOLS:
        accuracies = {
            by: np.array([final_accuracy(by, pool, seed, data) for seed in range(n_seeds)]) for by in MEASURES
        }
        for by in MEASURES:
            difference = accuracies[by] - accuracies["random"]
            error = difference.std(ddof=1) / np.sqrt(n_seeds) if by != "random" else np.nan
            rows.append((pool, by, accuracies[by].mean(), difference.mean(), difference.mean() / error))
    columns = ["pool", "chosen by", "accuracy", "more than random", "in standard errors"]
    print(pd.DataFrame(rows, columns=columns).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
