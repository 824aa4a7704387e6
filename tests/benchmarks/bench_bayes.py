"""The cost of Bayesian networks: python tests/benchmarks/bench_bayes.py, or as part of bash tools/bench.sh

Three comparisons. A training step of mc_bayes_cnn() and one of mc_cnn(): at most 2.5 times as long. 50 draws and the
loops that users of bayesian-torch and torch-uncertainty write on the same network, for many images and for the few that
a service receives: at least 3 times as fast. An epoch of a head on stored features and one through the backbone: at
least 20 times as fast. The runs that are compared alternate in one process with one thread. The script prints ratios of
medians of processor time, which other processes change least.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from torchvision_operators import declare_what_torchvision_lacks

import mcdropout as mcd
from mcdropout.data.samples import SampleData

declare_what_torchvision_lacks()  # torch-uncertainty imports it

INPUTS, FEW, DRAWS, BATCH = 512, 16, 50, 128


def medians(repeats: int, *runs: Callable[[], object]) -> list[float]:
    """Median seconds of each. The runs alternate, and the first of each is not counted."""
    seconds: list[list[float]] = [[] for _ in runs]
    for repeat in range(repeats + 1):
        for index, run in enumerate(runs):
            started = time.process_time()
            run()
            if repeat > 0:
                seconds[index].append(time.process_time() - started)
    return [statistics.median(times) for times in seconds]


def training(data: SampleData) -> None:
    """One epoch of each, by every estimator."""
    plain = mcd.mc_cnn((28, 28, 1), data.labels)
    x, y = data.x_train[:1280], data.y_train[:1280]
    for estimator in ("flipout", "local_reparameterization", "reparameterization"):
        bayes = mcd.mc_bayes_cnn((28, 28, 1), data.labels, estimator=estimator)
        ours, dropout = medians(
            3,
            lambda net=bayes: mcd.mc_fit(net, x, y, epochs=1, batch_size=BATCH, seed=1, progress=False),
            lambda: mcd.mc_fit(plain, x, y, epochs=1, batch_size=BATCH, seed=1, progress=False),
        )
        print(f"training step, {estimator}: {ours / dropout:.2f} times that of mc_cnn()", flush=True)


class Peer(nn.Module):
    """The network of mc_bayes_cnn() of another package's layers; `options` go to the call of each."""

    def __init__(self, convolution: Callable[..., nn.Module], dense: Callable[..., nn.Module], **options: Any) -> None:
        super().__init__()
        self.conv1, self.conv2 = convolution(1, 32, 3), convolution(32, 64, 3)
        self.dense, self.output = dense(1600, 128), dense(128, 10)
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        pool = nn.functional.max_pool2d
        x = pool(self.conv1(x, **self.options).relu(), 2)
        x = pool(self.conv2(x, **self.options).relu(), 2).flatten(1)
        return self.output(self.dense(x, **self.options).relu(), **self.options)


def peers() -> dict[str, Callable[[Tensor], Tensor]]:
    """Functions from images to mean probabilities, as the users of each package write them."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {}
    try:
        from bayesian_torch.layers import Conv2dReparameterization, LinearReparameterization

        # without the KL divergence, which each call would compute by default
        network = Peer(Conv2dReparameterization, LinearReparameterization, return_kl=False).eval()

        def draw_after_draw(x: Tensor) -> Tensor:
            draws = [torch.cat([network(batch).softmax(-1) for batch in x.split(BATCH)]) for _ in range(DRAWS)]
            return torch.stack(draws).mean(0)

        functions["bayesian-torch"] = draw_after_draw
    except ImportError as error:
        print(f"bayesian-torch: {error}")
    try:
        from torch_uncertainty.layers.bayesian import BayesConv2d, BayesLinear
        from torch_uncertainty.methods import StochasticModel

        wrapped = StochasticModel(Peer(BayesConv2d, BayesLinear), num_samples=DRAWS).eval()

        def batch_after_batch(x: Tensor) -> Tensor:
            means = [wrapped(batch).unflatten(0, (DRAWS, -1)).softmax(-1).mean(0) for batch in x.split(BATCH)]
            return torch.cat(means)

        functions["torch-uncertainty"] = batch_after_batch
    except ImportError as error:
        print(f"torch-uncertainty: {error}")
    if not functions:
        print("sampling: there is no other package to compare with; `make bench-peers` installs the other packages")
    return functions


def sampling(data: SampleData) -> None:
    """50 draws of many images in one prediction, and of the few that a service receives at a time."""
    net = mcd.mc_bayes_cnn((28, 28, 1), data.labels)
    others = peers()
    sampler = mcd.mc_sampler(net, data.x_test[:FEW], n_samples=DRAWS, seed=1)

    def predict(x: np.ndarray) -> object:
        return mcd.mc_predict(net, x, DRAWS, BATCH, seed=1, progress=False)

    for name, n, run in (("mc_predict", INPUTS, predict), ("mc_predict", FEW, predict), ("mc_sampler", FEW, sampler)):
        x = data.x_test[:n]
        images = torch.from_numpy(np.ascontiguousarray(x)).permute(0, 3, 1, 2).contiguous()
        with torch.no_grad():
            seconds, *of_others = medians(5, partial(run, x), *(partial(other, images) for other in others.values()))
        print(f"{DRAWS} draws of {n} images: {name} {seconds:.3f} s", end="")
        for package, other in zip(others, of_others, strict=True):
            print(f"; {package} {other:.3f} s, {other / seconds:.2f} times", end="")
        print(flush=True)


def frozen() -> None:
    """An epoch of a Bayesian dense head on features of 96 images, and the same through the backbone."""
    try:
        net = mcd.mc_frozen_backbone(
            "efficientnet_lite0", lambda shape: mcd.mc_bayes_mlp(shape[0], ["a", "b"], hidden=(32,)), pooling="mean"
        )
    except ImportError as error:
        print(f"frozen backbone: {error}")
        return
    x = np.random.default_rng(0).random((96, 224, 224, 1)).astype(np.float32)
    y = ["a", "b"] * 48
    features = net.features(x)

    def through_backbone() -> None:
        net.extract(x)
        mcd.mc_fit(net.head, features, y, epochs=1, batch_size=32, seed=1, progress=False)

    def on_stored_features() -> None:
        mcd.mc_fit(net.head, features, y, epochs=1, batch_size=32, seed=1, progress=False)

    slow, quick = medians(3, through_backbone, on_stored_features)
    print(f"epoch of a head on stored features: {slow / quick:.0f} times as fast as through the backbone", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    data = mcd.mc_sample_data()
    training(data)
    sampling(data)
    frozen()
