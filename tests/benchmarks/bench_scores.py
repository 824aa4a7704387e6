"""The time of the scores and decisions on predictions like those of a large test set.

Run: python tests/benchmarks/bench_scores.py
All scores of 1,000,000 inputs with 10 labels, a triage policy on 100,000, and their decisions. The timed code uses one
core.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from scipy.special import entr

import mcdropout as mcd

LABELS = 10


def example(n_inputs: int) -> tuple[mcd.MCPrediction, np.ndarray]:
    """A prediction without draws, and true labels drawn from its probabilities."""
    rng = np.random.default_rng(1)
    scores = rng.normal(0, 3, (n_inputs, LABELS))
    codes = (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)
    mean = np.exp(scores)
    mean /= mean.sum(axis=1, keepdims=True)
    names = np.array([f"label {code}" for code in range(LABELS)])
    ranked = np.sort(mean, axis=1)
    total = entr(mean).sum(axis=1)
    expected = total * rng.uniform(0.5, 1, n_inputs)
    prediction = mcd.MCPrediction(
        task="classification", mean=mean, variance=mean * (1 - mean) / 10, lower=mean, upper=mean, n_samples=50,
        level=0.95, seed=1, masks="shared", engine="vmap", engine_reason="", device="cpu", precision="float32",
        seconds=1.0, labels=tuple(names.tolist()), predicted=names[mean.argmax(axis=1)], second=names[codes],
        confidence=ranked[:, -1], margin=ranked[:, -1] - ranked[:, -2], predictive_entropy=total,
        expected_entropy=expected, mutual_information=total - expected,
        variation_ratio=rng.integers(0, 40, n_inputs) / 50,
    )  # fmt: skip
    return prediction, names[codes]


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock seconds and processor seconds; the first are more if other processes use the processor."""
    start, worked = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - worked


def main() -> None:
    """Print the seconds of each, the least of three runs."""
    prediction, y = example(1_000_000)
    part, labels = prediction[:100_000], y[:100_000]
    policy = mcd.mc_triage(part, labels, max_error=0.1)
    for name, work in (
        ("all scores of 1,000,000 x 10", lambda: mcd.mc_scores(prediction, y)),
        ("scores of in and out, 100,000 each", lambda: mcd.mc_ood_scores(part, part)),
        ("triage learnt on 100,000", lambda: mcd.mc_triage(part, labels, max_error=0.1)),
        ("the same with a limit for every label", lambda: mcd.mc_triage(part, labels, max_error=0.3, by_label=True)),
        ("the same by costs", lambda: mcd.mc_triage(part, labels, costs={"error": 10, "refer": 1})),
        ("decisions on 100,000", lambda: mcd.mc_decide(policy, part)),
        ("conformal sets learnt on 100,000", lambda: mcd.mc_conformal(part, labels, method="raps")),
    ):
        passed, worked = min(timed(work) for _ in range(3))
        print(f"{name}: {passed:.2f} s, of which one core worked {worked:.2f} s")


if __name__ == "__main__":
    main()
