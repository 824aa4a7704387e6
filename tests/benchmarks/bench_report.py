"""The time and the size of the report of a large test set.

Run: python tests/benchmarks/bench_report.py
10,000 predictions of ten labels with their images: 28 x 28 in grey, shown at their size, and 224 x 224 in colour, which
the report reduces. The timed code uses one core.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.special import entr

import mcdropout as mcd

INPUTS, LABELS = 10_000, 10


class Images:
    """Images that are created on demand, as images in files are read on demand."""

    def __init__(self, *shape: int) -> None:
        self.shape = (INPUTS, *shape)
        self.image = np.random.default_rng(1).uniform(size=(1, *shape)).astype(np.float32)

    def take(self, index: slice | np.ndarray) -> np.ndarray:
        """The selected inputs."""
        n = len(np.arange(INPUTS)[index])
        return np.repeat(self.image, n, axis=0)


def example() -> tuple[mcd.MCPrediction, np.ndarray]:
    """A prediction without draws, and true labels drawn from its probabilities."""
    rng = np.random.default_rng(1)
    scores = rng.normal(0, 3, (INPUTS, LABELS))
    codes = (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)
    mean = np.exp(scores)
    mean /= mean.sum(axis=1, keepdims=True)
    names = np.array([f"label {code}" for code in range(LABELS)])
    order = np.argsort(-mean, axis=1)
    ranked = -np.sort(-mean, axis=1)
    total = entr(mean).sum(axis=1)
    prediction = mcd.MCPrediction(
        task="classification", mean=mean, variance=mean * (1 - mean) / 10, lower=mean * 0.9, upper=mean, n_samples=50,
        level=0.95, seed=1, masks="shared", engine="vmap", engine_reason="", device="cpu", precision="float32",
        seconds=1.0, labels=tuple(names.tolist()), predicted=names[order[:, 0]], second=names[order[:, 1]],
        confidence=ranked[:, 0], margin=ranked[:, 0] - ranked[:, 1], predictive_entropy=total,
        expected_entropy=total * 0.7, mutual_information=total * 0.3, variation_ratio=1 - ranked[:, 0],
    )  # fmt: skip
    return prediction, names[codes]


def main() -> None:
    """Print the seconds and the size of each report."""
    prediction, y = example()
    policy = mcd.mc_triage(prediction, y, budget=0.2)
    small = np.random.default_rng(2).uniform(size=(INPUTS, 28, 28))
    with tempfile.TemporaryDirectory() as folder:
        for name, images in (("28 x 28 grey", small), ("224 x 224 colour", Images(224, 224, 3))):
            start, worked = time.perf_counter(), time.process_time()
            path = mcd.mc_report(prediction, images, y, policy, path=Path(folder) / "report.html")
            passed, worked = time.perf_counter() - start, time.process_time() - worked
            size = path.stat().st_size / 1e6
            print(f"{INPUTS:,} images, {name}: {passed:.1f} s, of which one core worked {worked:.1f} s; {size:.0f} MB")


if __name__ == "__main__":
    main()
