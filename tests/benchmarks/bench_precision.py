"""What `precision` costs in accuracy: the quickstart's network on real images, the same draws in each precision.

Run: python tests/benchmarks/bench_precision.py
Each row is compared with the first, image by image. The last row has other draws: that is what the choice of `seed`
moves, the Monte Carlo error, beside which rounding is to be judged.
"""

from __future__ import annotations

import numpy as np

import mcdropout as mcd
from mcdropout.data.samples import SampleData


def quickstart() -> tuple[mcd.MCNetwork, SampleData]:
    """The network of examples/quickstart.py, trained as there."""
    data = mcd.mc_sample_data()
    net = mcd.mc_cnn((28, 28, 1), labels=data.labels)
    settings = {"epochs": 8, "batch_size": 128, "validation_split": 0.1, "seed": 1, "progress": False}
    return mcd.mc_fit(net, data.x_train, data.y_train, **settings), data


def apart(one: np.ndarray, other: np.ndarray) -> str:
    """Median and greatest distance."""
    distance = np.abs(one - other)
    return f"{np.median(distance):.1e}, {distance.max():.1e}"


def main() -> None:
    """Print a row for each precision."""
    net, data = quickstart()
    rows = {
        "float32": {"precision": "float32", "seed": 1},
        "bfloat16": {"precision": "bfloat16", "seed": 1},
        "float16": {"precision": "float16", "seed": 1},
        "float32, other draws": {"precision": "float32", "seed": 2},
    }
    whole = None
    print(f"{len(data.x_test)} images, 50 draws; distances from the first row: median, greatest; entropies in nats\n")
    print("| `precision` | accuracy | labels changed | mean | predictive entropy | mutual information |")
    print("|---|---|---|---|---|---|")
    for name, settings in rows.items():
        pred = mcd.mc_predict(net, data.x_test, 50, keep_samples=False, progress=False, **settings)
        whole = whole or pred
        changed = int((pred.predicted != whole.predicted).sum())
        distances = [
            apart(getattr(pred, one), getattr(whole, one))
            for one in ("mean", "predictive_entropy", "mutual_information")
        ]
        cells = [f"{np.mean(pred.predicted == data.y_test):.3f}", str(changed), *distances]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
