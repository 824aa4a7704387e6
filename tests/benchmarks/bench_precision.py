"""The effect of `precision` on accuracy: the network of the quickstart on real images, the same draws in each row.

Run: python tests/benchmarks/bench_precision.py
Each row is compared with the first row, image by image. The last row has other draws: it shows the effect of `seed`,
the Monte Carlo error, with which the effect of rounding should be compared.
"""

from __future__ import annotations

import numpy as np

import mcdropout as mcd
from mcdropout.data.samples import SampleData


def quickstart() -> tuple[mcd.MCNetwork, SampleData]:
    """The network of examples/quickstart.py, trained as in the script."""
    data = mcd.mc_sample_data()
    net = mcd.mc_cnn((28, 28, 1), labels=data.labels)
    settings = {"epochs": 8, "batch_size": 128, "validation_split": 0.1, "seed": 1, "progress": False}
    return mcd.mc_fit(net, data.x_train, data.y_train, **settings), data


def distances_of(values: np.ndarray, reference: np.ndarray) -> str:
    """Median and greatest distance."""
    distance = np.abs(values - reference)
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
    reference = None
    print(f"{len(data.x_test)} images, 50 draws; distances from the first row: median, greatest; entropies in nats\n")
    print("| `precision` | accuracy | labels changed | mean | predictive entropy | mutual information |")
    print("|---|---|---|---|---|---|")
    for name, settings in rows.items():
        pred = mcd.mc_predict(net, data.x_test, 50, keep_samples=False, progress=False, **settings)
        reference = reference or pred
        changed = int((pred.predicted != reference.predicted).sum())
        distances = [
            distances_of(getattr(pred, field), getattr(reference, field))
            for field in ("mean", "predictive_entropy", "mutual_information")
        ]
        cells = [f"{np.mean(pred.predicted == data.y_test):.3f}", str(changed), *distances]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
