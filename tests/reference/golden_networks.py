"""The networks and the inputs of the cases in `make_golden.py`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mcdropout as mcd

QUIET: dict[str, Any] = {"progress": False, "device": "cpu"}
LABELS = ["cat", "dog", "fox"]
N = 12

RNG = np.random.default_rng(0)
IMAGES = RNG.random((N, 10, 9, 2), dtype=np.float32)
MAPS = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2))
TABLE = RNG.normal(3, 2, (N, 5)).astype(np.float32)
TOKENS = RNG.integers(0, 13, (N, 6))
CODES = np.arange(N) % 3
NAMES = np.array(LABELS)[CODES]
VALUES = TABLE @ np.array([1.0, -2.0, 0.5, 0.0, 3.0]) + 1


def settled(module: nn.Module) -> nn.Module:
    """The module with weights that do not depend on the initialisation in this version of torch."""
    rng = np.random.default_rng(7)
    with torch.no_grad():
        for tensor in module.parameters():
            size = 1.5 / max(1, tensor[0].numel() if tensor.ndim > 1 else 4) ** 0.5
            tensor.copy_(torch.from_numpy(rng.normal(0, size, tuple(tensor.shape)).astype(np.float32)))
    return module.eval()


class Convolutions(nn.Module):
    """Batch norm, dropout of elements and of channels, a skip connection, an addition in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Linear(6 * 12, 3)
        self.drop, self.channels = nn.Dropout(0.25), nn.Dropout2d(0.3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(self.drop(F.relu(self.norm(self.conv(x)))), 2)
        h += self.channels(h)
        return self.last(F.dropout(h, 0.1, self.training).flatten(1))


class Words(nn.Module):
    """A transformer."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, 0.2, batch_first=True)
        self.embed, self.last = nn.Embedding(13, 8), nn.Linear(8, 3)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.last(self.layers(self.embed(tokens)).mean(dim=1))


class Recurrent(nn.Module):
    """An LSTM with dropout between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.last = nn.LSTM(5, 7, num_layers=2, dropout=0.3, batch_first=True), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x)[0][:, -1])


class Noisy(nn.Module):
    """Random numbers that the model draws itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x) + 0.1 * torch.randn(len(x), 8, device=x.device))
        return self.last(h * torch.bernoulli(torch.full_like(h, 0.8)))


class Backbone(nn.Module):
    """A trained network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x))).mean(dim=(2, 3))


def frozen() -> nn.Module:
    head = mcd.mc_mlp(4, LABELS, hidden=(6,), seed=1)
    return mcd.mc_frozen_backbone(settled(Backbone()), head, input_shape=(2, 10, 9))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], np.ndarray, dict[str, Any]]] = {
    "mlp classes": (lambda: mcd.mc_mlp(5, LABELS, hidden=(9, 8), seed=1), TABLE, {}),
    "mlp values": (lambda: mcd.mc_mlp(5, task="regression", hidden=(9,), seed=1), TABLE, {}),
    "cnn": (lambda: mcd.mc_cnn((10, 9, 2), LABELS, filters=(4, 5), hidden=(6,), seed=1), IMAGES, {}),
    "convolutions": (lambda: settled(Convolutions()), MAPS, {"outputs": "logits", "labels": LABELS}),
    "transformer": (lambda: settled(Words()), TOKENS, {"outputs": "logits", "labels": LABELS}),
    "recurrent": (
        lambda: settled(Recurrent()),
        np.stack([TABLE, TABLE**2 / 9], axis=1),
        {"outputs": "mean_log_variance"},
    ),
    "own random numbers": (lambda: settled(Noisy()), TABLE, {"outputs": "logits", "labels": LABELS}),
    "bayes mlp": (lambda: mcd.mc_bayes_mlp(5, LABELS, hidden=(7,), seed=1), TABLE, {}),
    "bayes cnn": (lambda: mcd.mc_bayes_cnn((10, 9, 2), LABELS, filters=(4,), hidden=(6,), seed=1), IMAGES, {}),
    "bayes resnet": (lambda: mcd.mc_bayes_resnet((10, 9, 2), LABELS, filters=(4,), seed=1), IMAGES, {}),
    "made bayesian": (
        lambda: mcd.mc_to_bayesian(settled(Convolutions())),
        MAPS,
        {"outputs": "logits", "labels": LABELS},
    ),
    "frozen backbone": (frozen, MAPS, {}),
}


def keras_network() -> Any:
    """A Keras model on torch, with fixed weights like those of the other networks."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    layers = keras.layers
    inputs = keras.Input((10, 9, 2))
    h = layers.Dropout(0.25)(layers.MaxPooling2D()(layers.Conv2D(4, 3, activation="relu")(inputs)))
    h = layers.BatchNormalization()(layers.SpatialDropout2D(0.3)(h))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.Dropout(0.5)(layers.Flatten()(h))))
    rng = np.random.default_rng(7)
    model.set_weights([rng.uniform(0.1, 0.4, weights.shape) for weights in model.get_weights()])
    return model
