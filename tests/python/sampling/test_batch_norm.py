"""Batch norm in every way to sample: running statistics are used, and stay as they were."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from small_models import DRAWS, numbers, predict
from torch import nn

import mcdropout as mcd

CHANNELS, N = 5, 7
OPTIONS: dict[str, Any] = {"outputs": "values", "seed": 3}


def network(norm: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, CHANNELS, 3),
        norm,
        nn.ReLU(),
        nn.Dropout(0.4),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(CHANNELS, 3),
    )


def with_statistics(norm: nn.Module) -> nn.Module:
    """Statistics and weights as after training."""
    generator = torch.Generator().manual_seed(1)
    for name, values in norm.state_dict().items():
        if values.is_floating_point():
            values.copy_(torch.rand(values.shape, generator=generator) + (0.5 if name == "running_var" else -0.5))
    return norm


class Affine(nn.Module):
    """What batch norm computes from its running statistics, by hand."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
        self.scale, self.shift = scale[:, None, None], (norm.bias.detach() - norm.running_mean * scale)[:, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale + self.shift


def by_sampler(model: nn.Module, x: np.ndarray) -> np.ndarray:
    return mcd.mc_sampler(model, x, DRAWS, **OPTIONS)(x).mean


SAMPLERS: dict[str, Callable[[nn.Module, np.ndarray], np.ndarray]] = {
    "mc_predict": lambda model, x: predict(model, x).samples,
    "masks of each input": lambda model, x: predict(model, x, masks="per_input").samples,
    "batches of one": lambda model, x: predict(model, x, batch_size=1).samples,
    "workers": lambda model, x: predict(model, x, workers=3).samples,
    "two devices": lambda model, x: predict(model, x, device=["cpu", "cpu"], batch_size=2).samples,
    "tolerance": lambda model, x: predict(model, x, 30, tolerance=0.05).mean,
    "bfloat16": lambda model, x: predict(model, x, precision="bfloat16").samples,
    "mc_sampler": by_sampler,
    "mc_predict_point": lambda model, x: mcd.mc_predict_point(model, x, outputs="values", progress=False),
    "mc_compare_rates": lambda model, x: mcd.mc_compare_rates(
        model, x, x[:, 0, 0, :3], [0.3], n_samples=DRAWS, outputs="values", seed=3, progress=False
    )["loss"].to_numpy(),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("sample", SAMPLERS.values(), ids=SAMPLERS)
def test_every_sampler_uses_the_running_statistics_and_keeps_them(
    sample: Callable[[nn.Module, np.ndarray], np.ndarray], training: bool
) -> None:
    norm = with_statistics(nn.BatchNorm2d(CHANNELS))
    assert isinstance(norm, nn.BatchNorm2d)
    model, by_hand = network(norm).train(training), network(Affine(norm)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = numbers(N, 2, 4, 4)
    # one rounding more or less of numbers of about 1; bfloat16 has 8 bits
    atol = 0.05 if sample is SAMPLERS["bfloat16"] else 1e-5
    np.testing.assert_allclose(sample(model, x), sample(by_hand, x), atol=atol)
    assert model.training == training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("engine", ["folded", "loop"])
@pytest.mark.parametrize("n_inputs", [1, CHANNELS, N])
def test_an_input_alone_is_as_among_others(n_inputs: int, engine: str, only_engine: Callable[[str], None]) -> None:
    only_engine(engine)
    model, x = network(with_statistics(nn.BatchNorm2d(CHANNELS))), numbers(N, 2, 4, 4)
    prediction = predict(model, x[:n_inputs])
    assert prediction.engine == engine
    np.testing.assert_allclose(prediction.samples, predict(model, x).samples[:, :n_inputs], atol=1e-5)


def convergence(model: nn.Module, x: np.ndarray) -> object:
    return mcd.mc_compare_rates(model, x, np.zeros((len(x), 3)), [0.3], outputs="values", progress=False)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "sample",
    [predict, mcd.mc_sites, by_sampler, convergence],
    ids=["mc_predict", "mc_sites", "mc_sampler", "mc_compare_rates"],
)
def test_without_running_statistics_every_sampler_says_the_way_out(
    sample: Callable[[nn.Module, np.ndarray], object], training: bool
) -> None:
    """Statistics of the batch would let each input depend on the others."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Dropout(0.4), nn.Linear(8, 3)
    ).train(training)
    with pytest.raises(ValueError, match=r"train the batch norm at 1 with `track_running_stats=True`"):
        sample(model, numbers(12, 5))


@pytest.mark.parametrize("norm", [nn.GroupNorm(1, CHANNELS), nn.InstanceNorm2d(CHANNELS, affine=True)])
def test_norms_of_single_inputs_need_no_statistics(norm: nn.Module) -> None:
    model, x = network(norm), numbers(N, 2, 4, 4)
    np.testing.assert_allclose(predict(model, x).samples[:, :2], predict(model, x[:2]).samples, atol=1e-5)
