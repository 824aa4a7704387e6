"""A network of images, and helpers of the tests that run it on devices."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import mcdropout as mcd
from mcdropout.engine.fold import FoldedEngine

N, LABELS, DRAWS = 11, 5, 6
MASKS = ("shared", "per_input")


class Net(nn.Module):
    """Convolution, batch norm, dropout of elements before a pool, and dropout of channels (rate 0.3) beside a skip."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.conv, self.norm, self.head = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Linear(6 * 9, LABELS)
        self.drop, self.channels = nn.Dropout(0.25), nn.Dropout2d(0.3)

    def forward(self, x):
        h = F.max_pool2d(self.drop(F.relu(self.norm(self.conv(x)))), 2)
        return self.head((h + self.channels(h)).flatten(1))


def numbers(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def predict(model, x, **options: Any) -> Any:
    settings: dict[str, Any] = {"outputs": "logits", "seed": 3, "progress": False} | options
    return mcd.mc_predict(model, x, DRAWS, **settings)


def assert_same(actual, expected, atol=1e-5):
    """Equal up to the order of float32 sums, which depends on the sizes of chunks and on the number of threads."""
    for name in ("predicted", "n_samples"):
        np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name), err_msg=name)
    for name in ("samples", "mean", "variance", "lower", "mutual_information"):
        if getattr(actual, name) is not None or getattr(expected, name) is not None:
            np.testing.assert_allclose(getattr(actual, name), getattr(expected, name), atol=atol, err_msg=name)


def cuda_error():
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class PassMemory:
    """Stands for the tensors of a pass. Those of a failed pass must be released before the next pass starts."""

    alive = 0

    def __init__(self):
        PassMemory.alive += 1

    def __del__(self):
        PassMemory.alive -= 1


def limit_memory(max_rows, error, monkeypatch):
    """Make passes of more rows run out of memory."""
    errors = []  # Python 3.13 keeps many errors after they were handled; this list keeps all
    run_folded = FoldedEngine.run

    def run(self, replica, inputs, masks):
        assert PassMemory.alive == 0, "an error refers to the memory of the pass that failed"
        memory = PassMemory()
        if len(inputs) * len(next(iter(masks.values()))) > max_rows:
            errors.append(error())
            raise errors[-1]
        del memory
        return run_folded(self, replica, inputs, masks)

    monkeypatch.setattr(FoldedEngine, "run", run)
