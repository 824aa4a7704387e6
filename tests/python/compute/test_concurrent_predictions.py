"""Predictions in several threads at once give the numbers of one thread, and leave the model and torch as they were."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from small_models import numbers, predict
from torch import nn

import mcdropout as mcd

N, FEATURES, THREADS = 11, 4, 4


def foreign() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


class DrawsItself(nn.Module):
    """Draws a number of its own in each pass, so its passes cannot run at the same time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = foreign()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x + 0.1 * torch.randn(x.shape))


MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "own": (lambda: mcd.mc_mlp(FEATURES, labels=["a", "b"], dropout=0.3), {"outputs": None}),
    "Bayesian": (lambda: mcd.mc_bayes_mlp(FEATURES, labels=["a", "b"]), {"outputs": None}),
    "foreign": (foreign, {}),
    "draws itself": (DrawsItself, {}),
}


@pytest.mark.parametrize("masks", ["shared", "per_input"])
@pytest.mark.parametrize(("make", "options"), MODELS.values(), ids=MODELS)
def test_several_threads_predict_with_one_model(
    make: Callable[[], nn.Module], options: dict[str, Any], masks: str
) -> None:
    model, x = make(), numbers(N, FEATURES)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, n_threads = torch.get_rng_state(), torch.get_num_threads()

    def sample(seed: int) -> np.ndarray:
        return predict(model, x, 20, masks=masks, seed=seed, batch_size=3, **options).samples

    alone = [sample(seed) for seed in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(sample, 3 * list(range(THREADS))))
    for place, samples in enumerate(together):
        np.testing.assert_allclose(samples, alone[place % THREADS], atol=1e-6)  # the number of threads of torch differs
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == n_threads
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_several_threads_ask_one_sampler() -> None:
    x = numbers(N, FEATURES)
    sampler = mcd.mc_sampler(foreign(), x, 20, outputs="values", seed=3)
    alone = sampler(x).mean
    with ThreadPoolExecutor(THREADS) as pool:
        for i, mean in zip(
            3 * list(range(N)), pool.map(lambda i: sampler(x[[i]]).mean[0], 3 * list(range(N))), strict=True
        ):
            np.testing.assert_allclose(mean, alone[i], atol=1e-6)


def test_training_in_one_thread_and_predictions_in_others() -> None:
    x = numbers(N, FEATURES)
    y = np.where(x[:, 0] > 0, "a", "b")

    def trained() -> dict[str, torch.Tensor]:
        net = mcd.mc_mlp(FEATURES, labels=["a", "b"], dropout=0.3)
        return mcd.mc_fit(net, x, y, epochs=4, batch_size=4, seed=1, progress=False).state_dict()

    model, alone = foreign(), trained()
    usual = predict(model, x).samples
    with ThreadPoolExecutor(THREADS) as pool:
        training = [pool.submit(trained) for _ in range(2)]
        predictions = [pool.submit(lambda: predict(model, x).samples) for _ in range(6)]
        for samples in predictions:
            np.testing.assert_allclose(samples.result(), usual, atol=1e-6)
        for weights in training:
            for name, value in weights.result().items():
                torch.testing.assert_close(value, alone[name], atol=1e-5, rtol=1e-5)
