"""As many inputs as features, channels, pixels, steps, draws and labels: no axis is taken for another.

Everywhere else the sizes in tests differ from each other. Here all are the same, and each prediction is compared with
one of more inputs, whose first rows must have the same numbers.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mcdropout as mcd
from mcdropout.engine.torch_passes import TorchPasses

MORE = 3  # inputs of the other prediction


class Apply(nn.Module):
    """A network whose forward is a function of its layers and inputs."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def dense(k: int) -> nn.Module:
    return nn.Sequential(nn.Linear(k, k), nn.ReLU(), nn.Dropout(0.5), nn.Linear(k, k), nn.Dropout(0.2), nn.Linear(k, k))


def convolutional(k: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(k, k, 3, padding=1), nn.ReLU(), nn.Dropout(0.3), nn.MaxPool2d(2, padding=k // 4),
        nn.Conv2d(k, k, 3, padding=1), nn.Dropout2d(0.3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(k, k),
    )  # fmt: skip


def residual(k: int) -> nn.Module:
    conv = nn.Conv2d(k, k, 3, padding=1)
    return Apply(lambda m, x: x + F.dropout(m.conv(x).relu(), 0.5, m.training).transpose(2, 3), conv=conv)


def normalised(k: int) -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(k, k, 1), nn.BatchNorm2d(k), nn.Dropout(0.5), nn.Flatten(2), nn.BatchNorm1d(k), nn.LayerNorm(k * k),
        nn.Dropout(0.5), nn.Linear(k * k, k),
    )  # fmt: skip
    for layer in model:
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(layer.weight)
            assert layer.running_mean is not None
            nn.init.normal_(layer.running_mean)
    return model


def recurrent(k: int, batch_first: bool) -> nn.Module:
    rnn = nn.LSTM(k, k, num_layers=2, dropout=0.5, batch_first=batch_first)
    if batch_first:
        return Apply(lambda m, x: m.rnn(F.dropout(x, 0.3, m.training))[0], rnn=rnn)
    return Apply(lambda m, x: m.rnn(x.transpose(0, 1))[0].transpose(0, 1), rnn=rnn)


def attention(k: int, batch_first: bool) -> nn.Module:
    attend = nn.MultiheadAttention(k, 2, dropout=0.5, batch_first=batch_first)
    if batch_first:
        return Apply(lambda m, x: m.attend(x, x, x)[0] + x, attend=attend)
    return Apply(lambda m, x: m.attend(*[x.transpose(0, 1)] * 3)[0].transpose(0, 1) + x, attend=attend)


def noted(k: int) -> nn.Module:
    """A network that reads the number of inputs and writes it into a shape."""
    return Apply(lambda m, x: F.dropout(x, 0.5, m.training).reshape(len(x), k, 1, k).expand(-1, -1, k, -1).sum(dim=2))


VECTOR, MATRIX, IMAGE = 1, 2, 3  # axes of an input, each k long
NETWORKS: dict[str, tuple[Callable[[int], nn.Module], int]] = {
    "dense": (dense, VECTOR),
    "dense on rows": (dense, MATRIX),
    "convolutional": (convolutional, IMAGE),
    "residual": (residual, IMAGE),
    "batch norm": (normalised, IMAGE),
    "recurrent": (lambda k: recurrent(k, True), MATRIX),
    "recurrent, steps first": (lambda k: recurrent(k, False), MATRIX),
    "attention": (lambda k: attention(k, True), MATRIX),
    "attention, steps first": (lambda k: attention(k, False), MATRIX),
    "a noted number of inputs": (noted, MATRIX),
    "Bayesian layers": (lambda k: mcd.mc_to_bayesian(dense(k)), VECTOR),
    "Bayesian convolutions": (lambda k: mcd.mc_to_bayesian(convolutional(k)), IMAGE),
}


def draws(model: nn.Module, x: np.ndarray, k: int, masks: str, folded: bool) -> np.ndarray:
    with pytest.MonkeyPatch.context() as patch:
        if not folded:
            all_engines = TorchPasses.engines
            patch.setattr(TorchPasses, "engines", lambda passes: all_engines(passes)[-1:])
        result = mcd.mc_predict(
            model, x, k, outputs="values", masks=masks, seed=1, batch_size=len(x), keep_samples=True, progress=False
        )
    assert result.samples is not None
    return result.samples


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("masks", ["shared", "per_input"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_size_that_all_axes_share_changes_no_draw(name, masks, k):
    torch.manual_seed(0)
    build, n_axes = NETWORKS[name]
    model = build(k).eval()
    x = np.random.default_rng(0).normal(size=(k + MORE, *[k] * n_axes)).astype(np.float32)
    by_loop = draws(model, x, k, masks, folded=False)
    assert np.ptp(by_loop, axis=0).max() > 0
    for folded in (True, False):
        # float32: products of other sizes add their terms in another order
        np.testing.assert_allclose(draws(model, x[:k], k, masks, folded), by_loop[:, :k], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masks", ["shared", "per_input"])
def test_own_networks_with_as_many_inputs_as_labels_and_features(masks):
    k = 3
    x = np.random.default_rng(0).normal(size=(k + MORE, k)).astype(np.float32)
    images = np.random.default_rng(0).normal(size=(k + MORE, k, k, k)).astype(np.float32)
    for network, inputs in (
        (mcd.mc_mlp(k, range(k), hidden=(4 * k,)), x),
        (mcd.mc_bayes_mlp(k, range(k), hidden=(4 * k,)), x),
        (mcd.mc_cnn((k, k, k), range(k), filters=(4 * k,), hidden=(4 * k,), dropout=0.5), images),
        (mcd.mc_bayes_cnn((k, k, k), range(k), filters=(4 * k,), hidden=(4 * k,)), images),
    ):
        options: dict[str, Any] = {"masks": masks, "seed": 1, "keep_samples": True, "progress": False}
        several, same = (mcd.mc_predict(network, part, k, **options) for part in (inputs, inputs[:k]))
        assert several.samples is not None
        assert same.samples is not None
        np.testing.assert_allclose(same.samples, several.samples[:, :k], rtol=1e-5, atol=1e-6)
        assert several.predicted is not None
        assert same.predicted is not None
        np.testing.assert_array_equal(same.predicted, several.predicted[:k])
