"""Interrupts that another error hides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import mcdropout as mcd
from mcdropout.errors import interrupts_kept

X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


PASSES = [0]  # in a list of the module, because predictions copy the model


def fail_after_an_interrupt() -> None:
    try:
        raise KeyboardInterrupt
    finally:
        raise RuntimeError("trying to pop from empty mode stack")


class Interrupted(nn.Module):
    """A network whose pass of this number is interrupted, and in which torch then fails."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
        self.number = number
        PASSES[0] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        PASSES[0] += 1
        if PASSES[0] == self.number:
            fail_after_an_interrupt()
        return self.layers(x)


def predict(model: nn.Module) -> mcd.MCPrediction:
    return mcd.mc_predict(model, X, 6, outputs="logits", labels=["a", "b"], seed=1, progress=False)


def test_an_interrupt_behind_another_error_ends_a_prediction_at_any_pass() -> None:
    predict(Interrupted(0))
    n_passes = PASSES[0]
    assert n_passes > 3
    for number in range(1, n_passes + 1):
        with pytest.raises(KeyboardInterrupt):
            predict(Interrupted(number))


def test_an_interrupt_behind_another_error_ends_training_as_an_interrupt_does() -> None:
    def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        fail_after_an_interrupt()
        return x

    with pytest.warns(UserWarning, match="Training was interrupted after epoch 0; the model is unchanged"):
        mcd.mc_fit(mcd.mc_mlp(3, ["a", "b"]), X, ["a", "b", "a", "b", "a"], augment=augment, progress=False)


def test_an_interrupt_that_the_caller_handles_is_none_of_the_block() -> None:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        with pytest.raises(ZeroDivisionError), interrupts_kept():
            _ = 1 / 0


def test_gradients_are_recorded_again_after_an_interrupt() -> None:
    def interrupt(row: object) -> None:
        torch.set_grad_enabled(False)  # as torch does before it sets them again
        raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="Training was interrupted after epoch 1"):
        mcd.mc_fit(mcd.mc_mlp(3, ["a", "b"]), X, ["a", "b", "a", "b", "a"], callbacks=interrupt, progress=False)
    assert torch.is_grad_enabled()
