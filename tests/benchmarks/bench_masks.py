"""The savings of masks that depend on each other between draws, and their effect on the estimates.

Run: python tests/benchmarks/bench_masks.py [--inputs 20] [--seeds 100]
Three kinds of masks have the same rate for each unit of each draw. Independent: the masks of `mc_predict()`.
Antithetic: draw 2k + 1 uses 1 - u where draw 2k used the uniform number u, so the two drop no unit together at rates up
to one half. Stratified: the numbers of a unit are a Latin hypercube over the draws, so that the unit is dropped in
rate * T of them. The networks are trained on the bundled images. The reference is the estimate from all independent
draws together. Each run of T draws gives one estimate of every quantity.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

import mcdropout as mcd
from mcdropout.engine import masks
from mcdropout.predictions.summaries import entropy_parts, mean_and_variance

INDEPENDENT = masks.keep_masks
LENGTHS = (10, 20, 50)
RUNS_AT_ONCE = 10  # few enough that the masks of their draws are stored for all inputs


def antithetic(rng: np.random.Generator, n_draws: int, n_elements: int) -> np.ndarray:
    """Uniform numbers (draw, element)."""
    first = rng.random((n_draws // 2, 1, n_elements), dtype=np.float32)
    return np.concatenate([first, 1 - first], axis=1).reshape(n_draws, n_elements)


def stratified(rng: np.random.Generator, n_draws: int, n_elements: int) -> np.ndarray:
    """Uniform numbers (draw, element), one of an element in each n_draws-th of the unit interval."""
    stratum = rng.random((n_elements, n_draws), dtype=np.float32).argsort(axis=1).T
    return (stratum + rng.random((n_draws, n_elements), dtype=np.float32)) / n_draws


Uniforms = Callable[[np.random.Generator, int, int], np.ndarray]


def coupled(uniforms: Uniforms, n_draws: int) -> Callable[..., Tensor]:
    """A replacement of `keep_masks()` for shared masks: independent runs of `n_draws` draws."""

    @lru_cache(maxsize=8)  # for each site, a run that several chunks share
    def masks_of_run(seed: int, site: str, rate: float, n_elements: int, run: int) -> np.ndarray:
        return uniforms(np.random.default_rng([seed, int(site), run]), n_draws, n_elements) >= rate

    def keep_masks(
        seed: int, _masks: str, site: str, rate: float, n_elements: int, which: Tensor, _ids: Tensor, *_: int
    ) -> Tensor:
        rows = [masks_of_run(seed, site, rate, n_elements, draw // n_draws)[draw % n_draws] for draw in which.tolist()]
        return torch.from_numpy(np.stack(rows).astype(np.uint8))[:, None]

    return keep_masks


def drawn(net: mcd.MCNetwork, x: np.ndarray, keep_masks: Callable[..., Tensor], n_draws: int, seeds: int) -> np.ndarray:
    """Probabilities (run, draw, input, label)."""
    parts = []
    masks.keep_masks = keep_masks
    for first in range(0, seeds, RUNS_AT_ONCE):
        runs = min(RUNS_AT_ONCE, seeds - first)
        samples = mcd.mc_predict(net, x, runs * n_draws, seed=1 + first, progress=False).samples
        assert samples is not None
        parts.append(samples.reshape(runs, n_draws, *samples.shape[1:]))
    masks.keep_masks = INDEPENDENT
    return np.concatenate(parts)


def estimates(samples: np.ndarray) -> dict[str, np.ndarray]:
    """The estimates of each run, (run, input, ...)."""
    runs, n_draws, inputs, labels = samples.shape
    rows = torch.from_numpy(samples).movedim(1, 0).reshape(n_draws, runs * inputs, labels)
    mean, variance = mean_and_variance(rows)
    summaries = {**entropy_parts(rows), "mean": mean, "variance": variance, "mean_mcse": (variance / n_draws).sqrt()}
    return {name: values.numpy().reshape(runs, inputs, -1) for name, values in summaries.items()}


def spread(values: np.ndarray) -> float:
    """Variance over runs, averaged over inputs and labels."""
    return float(values.var(axis=0, ddof=1).mean())


def row(kind: dict[str, np.ndarray], plain: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> list[str]:
    """Variances relative to independent masks, biases, and estimated errors relative to true errors."""
    names = ("mean", "predictive_entropy", "mutual_information")
    ratios = [f"{spread(kind[name]) / spread(plain[name]):.2f}" for name in names]
    variance, information = (kind[name].mean() / truth[name].mean() - 1 for name in ("variance", "mutual_information"))
    estimated = [f"{np.sqrt((kind[f'{name}_mcse'] ** 2).mean() / spread(kind[name])):.2f}" for name in names]
    return [*ratios, f"{100 * variance:+.1f} %", f"{100 * information:+.1f} %", *estimated]


def compare(net: mcd.MCNetwork, x: np.ndarray, seeds: int, name: str) -> None:
    """The rows of one network."""
    longest = LENGTHS[-1]
    plain = drawn(net, x, INDEPENDENT, longest, seeds)
    pairs = drawn(net, x, coupled(antithetic, longest), longest, seeds)
    truth = estimates(plain.reshape(1, -1, *plain.shape[2:]))
    for n_draws in LENGTHS:
        # the first draws of each run are a run as well
        kinds = {
            "independent": plain[:, :n_draws],
            "antithetic": pairs[:, :n_draws],
            "stratified": drawn(net, x, coupled(stratified, n_draws), n_draws, seeds),
        }
        results = {kind: estimates(samples) for kind, samples in kinds.items()}
        for kind, result in results.items():
            cells = row(result, results["independent"], truth)
            print(f"| {name} | {n_draws} | {kind} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print a row for each network, number of draws and kind of masks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=100)
    options = parser.parse_args()
    data = mcd.mc_sample_data()
    images = data.x_test[:: len(data.x_test) // options.inputs][: options.inputs]
    settings = {"epochs": 4, "batch_size": 128, "seed": 1, "progress": False}
    print("Variance over runs, relative to independent masks; bias of the variance and of mutual information; the")
    print("estimated Monte Carlo error relative to the true one. p: mean probabilities, H: predictive entropy,")
    print("I: mutual information.\n")
    print("| network, rate | T | masks | p | H | I | bias of variance | bias of I | MCSE of p | of H | of I |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for rate in (0.25, 0.5):
        mlp = mcd.mc_mlp(784, data.labels, hidden=(512, 512), dropout=rate)
        flat = data.x_train.reshape(len(data.x_train), -1)
        mcd.mc_fit(mlp, flat, data.y_train, **settings)
        compare(mlp, images.reshape(len(images), -1), options.seeds, f"mc_mlp, {rate}")
        cnn = mcd.mc_cnn((28, 28, 1), data.labels, dropout=rate)
        mcd.mc_fit(cnn, data.x_train, data.y_train, **settings)
        compare(cnn, images, options.seeds, f"mc_cnn, {rate}")


if __name__ == "__main__":
    main()
