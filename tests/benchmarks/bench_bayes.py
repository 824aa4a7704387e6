"""What Bayesian networks cost: python tests/benchmarks/bench_bayes.py

A training step of mc_bayes_cnn() beside one of mc_cnn() (should be at most 2.5 times); 50 draws beside the loop that
users of bayesian-torch write on the same network (should be at least 3 times as fast); an epoch of training a head on
kept features beside one through the backbone (should be at least 20 times as fast). Each pair runs in turn in one
process, with one thread; printed are ratios of medians of processor time, which other processes disturb least.

bayesian-torch has no place in this project's environment. Put it beside it, and say where:
pip install --no-deps --target FOLDER bayesian-torch; PYTHONPATH=FOLDER python tests/benchmarks/bench_bayes.py
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))

import mcdropout as mcd

try:
    from bayesian_torch.layers import (  # pyright: ignore[reportMissingImports]
        Conv2dReparameterization,
        LinearReparameterization,
    )
except ImportError:
    Conv2dReparameterization = LinearReparameterization = None

INPUTS, DRAWS, BATCH = 512, 50, 128


def medians(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Seconds of each, run in turn after one run each to warm up."""
    seconds: list[list[float]] = [[], []]
    for repeat in range(repeats + 1):
        for which, run in enumerate((first, second)):
            started = time.process_time()
            run()
            if repeat > 0:
                seconds[which].append(time.process_time() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def training(data: mcd.datasets.SampleData) -> None:
    """One epoch of each, by every estimator."""
    plain = mcd.mc_cnn((28, 28, 1), data.labels)
    x, y = data.x_train[:1280], data.y_train[:1280]
    for estimator in ("flipout", "local_reparameterization", "reparameterization"):
        bayes = mcd.mc_bayes_cnn((28, 28, 1), data.labels, estimator=estimator)
        ours, dropout = medians(
            lambda net=bayes: mcd.mc_fit(net, x, y, epochs=1, batch_size=BATCH, seed=1, progress=False),
            lambda: mcd.mc_fit(plain, x, y, epochs=1, batch_size=BATCH, seed=1, progress=False),
            3,
        )
        print(f"training step, {estimator}: {ours / dropout:.2f} times that of mc_cnn()", flush=True)


class Peer(nn.Module):
    """The same network of the peer's layers."""

    def __init__(self) -> None:
        super().__init__()
        assert Conv2dReparameterization is not None
        assert LinearReparameterization is not None
        self.conv1, self.conv2 = Conv2dReparameterization(1, 32, 3), Conv2dReparameterization(32, 64, 3)
        self.dense, self.output = LinearReparameterization(1600, 128), LinearReparameterization(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits; without the KL divergence, which would cost it more."""
        pool = nn.functional.max_pool2d
        x = pool(self.conv1(x, return_kl=False).relu(), 2)
        x = pool(self.conv2(x, return_kl=False).relu(), 2).flatten(1)
        return self.output(self.dense(x, return_kl=False).relu(), return_kl=False)


def sampling(data: mcd.datasets.SampleData) -> None:
    """50 draws of 512 images."""
    net = mcd.mc_bayes_cnn((28, 28, 1), data.labels)
    x = data.x_test[:INPUTS]
    images = torch.from_numpy(np.ascontiguousarray(x)).permute(0, 3, 1, 2).contiguous()
    if Conv2dReparameterization is None:
        print("sampling: bayesian-torch is not there to compare with; the top of this file says how to get it")
        return
    peer = Peer().eval()

    @torch.no_grad()
    def loop() -> torch.Tensor:
        draws = [torch.cat([peer(one).softmax(-1) for one in images.split(BATCH)]) for _ in range(DRAWS)]
        return torch.stack(draws).mean(0)

    ours, theirs = medians(lambda: mcd.mc_predict(net, x, DRAWS, BATCH, seed=1, progress=False), loop, 3)
    print(f"{DRAWS} draws of {INPUTS} images: {ours:.2f} s, loop of bayesian-torch's layers {theirs:.2f} s, "
          f"{theirs / ours:.1f} times as fast", flush=True)  # fmt: skip


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

    def through() -> None:
        net.looked_at(x)
        mcd.mc_fit(net.head, features, y, epochs=1, batch_size=32, seed=1, progress=False)

    def kept() -> None:
        mcd.mc_fit(net.head, features, y, epochs=1, batch_size=32, seed=1, progress=False)

    slow, quick = medians(through, kept, 3)
    print(f"epoch of a head on kept features: {slow / quick:.0f} times as fast as through the backbone", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    data = mcd.mc_sample_data()
    training(data)
    sampling(data)
    frozen()
