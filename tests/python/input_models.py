"""Networks and helpers of the tests of inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import IterableDataset

import mcdropout as mcd

N, STEPS, LABELS, DRAWS = 11, 4, 5, 8


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


OPTIONS: dict[str, Any] = {"outputs": "logits", "seed": 3, "progress": False}


def predict(model, x, n_samples=DRAWS, **options: Any) -> Any:
    return mcd.mc_predict(model, x, n_samples, **(OPTIONS | options))


def point(model, x, **options):
    return mcd.mc_predict_point(model, x, **({"outputs": "values", "progress": False} | options))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A module whose weights do not depend on earlier tests."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


class Net(nn.Module):
    """A dropout network on three features. `combine` makes one input of its arguments, `wrap` makes its result."""

    def __init__(self, combine: Callable[..., Any] = lambda *args: args[0], wrap: Callable[..., Any] = lambda out: out):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, LABELS))
        self.combine, self.wrap = combine, wrap

    def forward(self, *args, **kwargs):
        return self.wrap(self.body(self.combine(*args, **kwargs)))


class Pair(Net):
    """Two arrays, of which the second is optional, and a target, as in models that compute their loss."""

    def forward(self, left, right=None, labels=None):
        assert labels is None
        return self.body(left if right is None else left * right)


class Maps(nn.Module):
    """Class maps (input, label, height, width), or (input, height, width, label) with `last`."""

    def __init__(self, last=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.drop, self.out = nn.Conv2d(2, 8, 3), nn.Dropout2d(0.5), nn.Conv2d(8, LABELS, 1)
        self.last = last

    def forward(self, x):
        out = self.out(self.drop(torch.relu(self.conv(x))))
        return out.movedim(1, -1) if self.last else out


class Stream(IterableDataset):
    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(self.x)


def assert_same(actual, expected):
    """Equal up to the rounding of float32 sums in another order."""
    np.testing.assert_allclose(actual.mean, expected.mean, atol=1e-6)
    np.testing.assert_allclose(actual.samples, expected.samples, atol=1e-6)
