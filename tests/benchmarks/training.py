"""How long an epoch of mc_fit() takes beside a plain PyTorch loop: python tests/benchmarks/training.py

Both learn the same network from the same arrays in the same process, epoch by epoch in turn, so that whatever
else the machine does slows both alike. Printed is the ratio of the medians; it should be at most 1.1.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))

from mcdropout.datasets import mc_sample_data
from mcdropout.models import MCNetwork, mc_cnn, mc_mlp
from mcdropout.training import mc_fit

EPOCHS = 2  # in a row, as training goes
Loss = Callable[[Tensor, Tensor], Tensor]


def plain_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, loss_of: Loss, x: Tensor, y: Tensor, size: int):
    """The loop that everybody writes: shuffle, slice, forward, loss, backward, step."""
    model.train()
    for index in torch.randperm(len(x)).split(size):
        optimizer.zero_grad()
        loss_of(model(x[index]), y[index]).backward()
        optimizer.step()


def gaussian(out: Tensor, y: Tensor) -> Tensor:
    mean, log_variance = out.chunk(2, dim=-1)
    return F.gaussian_nll_loss(mean, y, log_variance.exp())


def compare(name: str, make: Callable[[], MCNetwork], x: np.ndarray, y: np.ndarray, loss_of: Loss, size: int, n: int):
    ours, plain = make(), make()
    optimizer = torch.optim.Adam(plain.parameters())
    if plain.labels is not None:
        targets = torch.tensor([plain.labels.index(label) for label in y.tolist()])
    else:
        targets = torch.tensor(y, dtype=torch.float32).reshape(len(y), -1)
    inputs = torch.tensor(x, dtype=torch.float32)
    ours_seconds, plain_seconds = [], []
    for repeat in range(n + 1):
        started = time.perf_counter()
        mc_fit(ours, x, y, epochs=EPOCHS, batch_size=size, seed=repeat, progress=False)
        between = time.perf_counter()
        for _ in range(EPOCHS):
            plain_epoch(plain, optimizer, loss_of, inputs, targets, size)
        ended = time.perf_counter()
        if repeat > 0:  # the first warms up
            ours_seconds.append((between - started) / EPOCHS)
            plain_seconds.append((ended - between) / EPOCHS)
    a, b = statistics.median(ours_seconds), statistics.median(plain_seconds)
    print(f"{name}: mc_fit {a:.3f} s, plain loop {b:.3f} s, ratio {a / b:.2f}", flush=True)


data = mc_sample_data()
rng = np.random.default_rng(0)
table = rng.normal(size=(6000, 13)).astype(np.float32)
values = table[:, 0] * 3 + rng.normal(size=6000)
classes = np.digitize(table[:, 0], [-0.5, 0.5])

compare(
    "dense network, 13 features, 50 units, batches of 32, classes",
    lambda: mc_mlp(13, n_outputs=3),
    table, classes, F.cross_entropy, 32, 15,
)  # fmt: skip
compare(
    "dense network, 13 features, 50 units, batches of 32, values",
    lambda: mc_mlp(13, task="regression"),
    table, values, gaussian, 32, 15,
)  # fmt: skip
compare(
    "convolutional network, 28 x 28, batches of 128",
    lambda: mc_cnn((28, 28, 1), data.labels),
    data.x_train, data.y_train, F.cross_entropy, 128, 5,
)  # fmt: skip
