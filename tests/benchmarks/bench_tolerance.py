"""What `tolerance` saves, and what stopping by what was drawn does to the answer.

Run: python tests/benchmarks/bench_tolerance.py
A network is trained on the bundled images. `tolerance` is the error that 100 draws leave at worst. Then the mean
probability of the label predicted is compared with that of 2,000 other draws: its average error is the bias of
stopping.
"""

from __future__ import annotations

import numpy as np

import mcdropout as mcd

SEEDS = range(1, 11)  # ten sets of draws, each with its own stopping


def main() -> None:
    """Print the share of the draws that were taken, and the bias."""
    data = mcd.mc_sample_data()
    net = mcd.mc_cnn((28, 28, 1), labels=data.labels)
    net = mcd.mc_fit(net, data.x_train, data.y_train, epochs=4, seed=1, progress=False)
    x = data.x_test[:300]
    fixed = mcd.mc_predict(net, x, 100, seed=0, keep_samples=False, progress=False)
    tolerance = float(fixed.mcse.max())
    truth = mcd.mc_predict(net, x, 2000, seed=99, masks="per_input", keep_samples=False, progress=False)
    place = truth.mean.argmax(axis=1)
    rows = np.arange(len(x))
    taken, errors, fixed_errors = [], [], []
    for seed in SEEDS:
        # masks per input: the errors of different inputs are then independent, and average out
        ours = mcd.mc_predict(
            net, x, 100, seed=seed, tolerance=tolerance, masks="per_input", keep_samples=False, progress=False
        )
        whole = mcd.mc_predict(net, x, 100, seed=seed, masks="per_input", keep_samples=False, progress=False)
        taken.append(np.mean(ours.n_samples) / 100)
        errors.append(ours.mean[rows, place] - truth.mean[rows, place])
        fixed_errors.append(whole.mean[rows, place] - truth.mean[rows, place])
    print(
        f"tolerance {tolerance:.4f}, the error that 100 draws leave at worst: {100 * np.mean(taken):.0f} % of the draws"
    )
    for name, found in (("stopped", np.stack(errors)), ("all 100 draws", np.stack(fixed_errors))):
        bias, error = found.mean(), found.mean(axis=0).std() / np.sqrt(len(x))
        print(
            f"{name}: average error of the probability {bias:+.5f} +- {error:.5f}, root mean square {found.std():.4f}"
        )


if __name__ == "__main__":
    main()
