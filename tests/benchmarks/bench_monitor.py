"""The cost of a drift monitor for a growing stream, its false alarms, and its delay after a change.

Run: python tests/benchmarks/bench_monitor.py
The uncertainties are normally distributed numbers. The cost is measured on 100,000 inputs in batches of 100 with a
reference of 1,000, the false alarms on 1,000 runs of 10,000 inputs each. The timed code uses one core.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pandas as pd

import mcdropout as mcd

REFERENCE, BATCH, STREAM = 1_000, 100, 100_000
RUNS, LENGTH, RATE = 1_000, 10_000, 0.05
CHANGES = {
    "0.5 sd higher": (0.5, 1.0),
    "1 sd higher": (1.0, 1.0),
    "2 sd higher": (2.0, 1.0),
    "twice as wide": (0.0, 2.0),
}


def one_input() -> mcd.MCPrediction:
    """A prediction of one input, without draws."""
    half = np.array([[0.5, 0.5]])
    zero = np.zeros(1)
    return mcd.MCPrediction(
        task="classification", mean=half, variance=half, lower=half, upper=half, n_samples=50, level=0.95, seed=1,
        masks="shared", engine="vmap", engine_reason="", device="cpu", precision="float32", seconds=1.0,
        labels=("no", "yes"), predicted=np.array(["no"]), second=np.array(["yes"]), confidence=zero, margin=zero,
        predictive_entropy=zero, expected_entropy=zero, mutual_information=zero, variation_ratio=zero,
    )  # fmt: skip


def with_uncertainties(template: mcd.MCPrediction, values: np.ndarray) -> mcd.MCPrediction:
    """A prediction with these predictive entropies."""
    return replace(template[np.zeros(len(values), dtype=int)], predictive_entropy=values)


def cost(template: mcd.MCPrediction) -> pd.DataFrame:
    """Milliseconds of an update and kilobytes of its file, along the stream."""
    rng = np.random.default_rng(1)
    monitor = mcd.mc_monitor(with_uncertainties(template, rng.normal(size=REFERENCE)))
    rows, spent, updates = [], 0.0, 0
    for seen in range(BATCH, STREAM + 1, BATCH):
        batch = with_uncertainties(template, rng.normal(size=BATCH))
        start = time.process_time()
        monitor.update(batch)
        spent, updates = spent + time.process_time() - start, updates + 1
        if seen in (1_000, 10_000, 50_000, STREAM):
            size = len(json.dumps(monitor.to_state())) / 1e3
            without_table = len(json.dumps({**monitor.to_state(), "batches": {}})) / 1e3
            rows.append((seen, 1e3 * spent / updates, size, without_table))
            spent, updates = 0.0, 0
    return pd.DataFrame(rows, columns=["inputs seen", "ms per update", "file, kB", "of it without the table, kB"])


def run(template: mcd.MCPrediction, seed: int, before: int, after: int, shift: float, scale: float, rate: float):
    """A monitor after a stream that changes."""
    rng = np.random.default_rng(seed)
    monitor = mcd.mc_monitor(with_uncertainties(template, rng.normal(size=REFERENCE)), false_alarm_rate=rate, seed=seed)
    values = np.concatenate([rng.normal(size=before), shift + scale * rng.normal(size=after)])
    return monitor.update(with_uncertainties(template, values))


def main() -> None:
    """Print the three tables."""
    template = one_input()
    print(cost(template).round(1).to_string(index=False))
    alarms = sum(run(template, seed, LENGTH, 0, 0, 1, RATE).drift for seed in range(RUNS))
    print(f"\nFalse alarms: {alarms} of {RUNS:,} runs of {LENGTH:,} inputs; promised: at most {RATE:.0%}.\n")
    for name, (shift, scale) in CHANGES.items():
        runs = [run(template, seed, 5_000, 2_000, shift, scale, 0.01) for seed in range(100)]
        detected = [monitor for monitor in runs if monitor.drift and (monitor.alarm_input or 0) > 5_000]
        delay = np.median([(monitor.alarm_input or 0) - 5_000 for monitor in detected])
        error = np.median([abs((monitor.since_input or 0) - 5_001) for monitor in detected])
        print(
            f"{name} after 5,000 inputs: detected in {len(detected)} of 100 runs, {delay:.0f} inputs later (median); "
            f"its start is estimated to within {error:.0f}"
        )


if __name__ == "__main__":
    main()
