"""Networks of every kind with their inputs, for the tests on a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import mcdropout as mcd

N, FEATURES, LABELS = 11, 3, ("a", "b", "c", "d")
RNG = np.random.default_rng(0)
TABLE = RNG.normal(2e6, 3, (N, FEATURES))  # so far from 0 that float32 would lose two digits of the spread
IMAGES = RNG.random((N, 9, 8, 2))
MAPS = RNG.standard_normal((N, 2, 9, 8)).astype(np.float32)
CODES = np.arange(N) % len(LABELS)
NAMES = np.array(LABELS)[CODES]
VALUES = np.stack([TABLE.sum(axis=1), TABLE[:, 0] * 2 + 1e7], axis=1)


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.last = nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.Linear(5 * 9, 4)
        self.drop, self.channels = nn.Dropout(0.25), nn.Dropout2d(0.3)
        self.task, self.labels, self.outputs = "classification", LABELS, "logits"

    def forward(self, x):
        h = F.max_pool2d(self.drop(F.relu(self.norm(self.conv(x)))), 2)
        return self.last((h + self.channels(h)).flatten(1))


class Transformer(nn.Module):
    """Two inputs (words and their mask), attention, and several kinds of dropout."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.last = nn.Embedding(13, 8), nn.Linear(8, 4)
        self.layers = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 12, 0.2, batch_first=True), 2, enable_nested_tensor=False
        )
        self.alpha = nn.AlphaDropout(0.1)

    def forward(self, ids, hidden):
        h = self.layers(self.words(ids), src_key_padding_mask=hidden)
        return self.last(self.alpha(h[:, 0]))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.last, self.drop = nn.RNNCell(2, 6), nn.Linear(6, 2), nn.Dropout(0.4)

    def forward(self, x):
        h = torch.zeros(len(x), 6, device=x.device)
        for step in range(x.shape[2]):
            h = self.cell(x[:, :, step, 0], h)
        return self.last(self.drop(h))


def word_inputs():
    hidden = np.zeros((N, 5), bool)
    hidden[::2, 3:] = True
    return {"ids": RNG.integers(0, 13, (N, 5)), "hidden": hidden}


def bayesian(**options: Any) -> mcd.MCNetwork:
    return mcd.mc_bayes_mlp(FEATURES, LABELS, hidden=5, **options)


def values(noise="homoscedastic"):
    return mcd.mc_mlp(FEATURES, n_outputs=2, task="regression", noise=noise, hidden=(6, 5), dropout=0.2)


# The function that builds the network, its inputs, and the kind of its outputs where the network does not declare it.
MODELS: dict[str, tuple[Callable[[], Any], Any, str | None]] = {
    "table": (lambda: mcd.mc_mlp(FEATURES, LABELS, dropout=0.3, input_dropout=0.1), TABLE, None),
    "binary": (lambda: mcd.mc_mlp(FEATURES, LABELS[:2], task="binary", dropout=0.3), TABLE, None),
    "values": (values, TABLE, None),
    "values, predicted noise": (lambda: values("heteroscedastic"), TABLE, None),
    "values, no noise": (lambda: values("none"), TABLE, None),
    "images": (lambda: mcd.mc_cnn((9, 8, 2), LABELS, filters=(4, 3), hidden=6), IMAGES, None),
    "images, values": (
        lambda: mcd.mc_cnn((9, 8, 2), task="regression", filters=4, hidden=6, dropout=0.2),
        IMAGES,
        None,
    ),
    "Bayesian": (bayesian, TABLE, None),
    "Bayesian, full": (lambda: bayesian(posterior=mcd.mc_posterior_multivariate_normal()), TABLE, None),
    "Bayesian, flipout": (lambda: bayesian(estimator="flipout", prior=mcd.mc_prior_student_t(3)), TABLE, None),
    "Bayesian, local": (
        lambda: bayesian(estimator="local_reparameterization", prior=mcd.mc_prior_mixture((1, 0.1))),
        TABLE,
        None,
    ),
    "Bayesian images": (lambda: mcd.mc_bayes_cnn((9, 8, 2), LABELS, filters=(3,), hidden=5), IMAGES, None),
    "residual": (lambda: mcd.mc_bayes_resnet((9, 8, 2), LABELS, filters=(3, 4)), IMAGES, None),
    "converted to Bayesian": (lambda: mcd.mc_to_bayesian(values()), TABLE, None),
    "foreign": (Convolutions, MAPS, "logits"),
    "foreign converted to Bayesian": (lambda: mcd.mc_to_bayesian(Convolutions()), MAPS, "logits"),
    "transformer": (Transformer, word_inputs(), "logits"),
    "recurrent": (Recurrent, MAPS, "mean_log_variance"),
}
