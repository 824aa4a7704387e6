"""Helpers of tests that sample small models: numbers, a prediction of values, and a function as a model."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

import mcdropout as mcd

DRAWS = 6


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def predict(model: Any, x: Any, n_samples: int = DRAWS, **options: Any) -> Any:
    settings: dict[str, Any] = {"outputs": "values", "seed": 3, "progress": False} | options
    return mcd.mc_predict(model, x, n_samples, **settings)


class Apply(nn.Module):
    """A function of the module and its input, as a model."""

    def __init__(self, function: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Any) -> Any:
        return self.function(self, x)
