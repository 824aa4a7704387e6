"""The time of an epoch of mc_fit() and of a plain PyTorch loop: python tests/benchmarks/bench_training.py

Both train the same network on the same arrays in the same process, in alternate epochs, so that other work on the
machine slows both equally. The script prints the ratio of the medians; it should be at most 1.1.
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

from mcdropout.data.samples import mc_sample_data
from mcdropout.networks.network import MCNetwork
from mcdropout.networks.plain import mc_cnn, mc_mlp
from mcdropout.training.fit import mc_fit

Loss = Callable[[Tensor, Tensor], Tensor]


def plain_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, loss_of: Loss, x: Tensor, y: Tensor, size: int):
    """The usual loop: shuffle, slice, forward, loss, backward, step."""
    model.train()
    for index in torch.randperm(len(x)).split(size):
        optimizer.zero_grad()
        loss_of(model(x[index]), y[index]).backward()
        optimizer.step()


def plain_inputs(x: np.ndarray) -> Tensor:
    """The inputs of the layers: channels first, or standardised columns."""
    values = torch.tensor(x, dtype=torch.float32)
    return values.permute(0, 3, 1, 2) if values.ndim == 4 else (values - values.mean(0)) / values.std(0)


def compare(
    name: str, make: Callable[[], MCNetwork], x: np.ndarray, y: np.ndarray, size: int, repeats: int, epochs: int
) -> None:
    ours = make()
    plain = make().layers  # the modules of torch without the network around them
    loss_of: Loss = F.mse_loss if ours.labels is None else F.cross_entropy
    optimizer = torch.optim.Adam(plain.parameters())
    if ours.labels is None:
        targets = torch.tensor((y - y.mean()) / y.std(), dtype=torch.float32)[:, None]
    else:
        targets = torch.tensor([ours.labels.index(label) for label in y.tolist()])
    inputs = plain_inputs(x)
    ours_seconds, plain_seconds = [], []
    for repeat in range(repeats + 1):
        started = time.perf_counter()
        mc_fit(ours, x, y, epochs=epochs, batch_size=size, seed=repeat, progress=False)
        between = time.perf_counter()
        for _ in range(epochs):
            plain_epoch(plain, optimizer, loss_of, inputs, targets, size)
        ended = time.perf_counter()
        if repeat > 0:  # the first repeat is not counted
            ours_seconds.append((between - started) / epochs)
            plain_seconds.append((ended - between) / epochs)
    a, b = statistics.median(ours_seconds), statistics.median(plain_seconds)
    print(f"{name}: mc_fit {a:.3f} s, plain loop {b:.3f} s an epoch, ratio {a / b:.2f}", flush=True)


data = mc_sample_data()
rng = np.random.default_rng(0)
table = rng.normal(size=(6000, 13)).astype(np.float32)
values = table[:, 0] * 3 + rng.normal(size=6000)
classes = np.digitize(table[:, 0], [-0.5, 0.5])

threads = torch.get_num_threads()
torch.set_num_threads(1)  # nothing in a network this small is worth two, and waiting for the second is all noise
DENSE = "dense network, 13 features, 50 units, batches of 32"
compare(f"{DENSE}, classes", lambda: mc_mlp(13, n_outputs=3), table, classes, 32, 15, 3)
compare(f"{DENSE}, values", lambda: mc_mlp(13, task="regression", noise="none"), table, values, 32, 15, 3)
torch.set_num_threads(threads)
compare(
    "convolutional network, 28 x 28, batches of 128",
    lambda: mc_cnn((28, 28, 1), data.labels),
    data.x_train,
    data.y_train,
    128,
    5,
    1,
)
