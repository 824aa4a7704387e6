"""Labels of a network of the package, and true labels."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import torch
from input_models import DRAWS, N, numbers
from torch import nn

import mcdropout as mcd


@pytest.fixture
def x():
    return numbers(N, 3)


ANIMALS = ("dog", "cat", "emu")
FUNCTIONS = {
    "mc_predict": lambda net, x, labels: mcd.mc_predict(net, x, DRAWS, labels=labels, progress=False),
    "mc_predict_point": lambda net, x, labels: mcd.mc_predict_point(net, x, labels=labels, progress=False),
    "mc_sampler": lambda net, x, labels: mcd.mc_sampler(net, x, DRAWS, labels=labels),
    "mc_convergence": lambda net, x, labels: mcd.mc_convergence(net, x, (2, 5), labels=labels, progress=False),
    "mc_compare_rates": lambda net, x, labels: mcd.mc_compare_rates(
        net, x, np.array(ANIMALS)[np.arange(N) % 3], (0.2, 0.5), DRAWS, labels=labels, progress=False
    ),
}
NETWORKS = {
    "dropout": lambda: mcd.mc_mlp(3, ANIMALS, dropout=0.3),
    "Bayesian": lambda: mcd.mc_to_bayesian(mcd.mc_mlp(3, ANIMALS)),
    "frozen backbone": lambda: mcd.mc_frozen_backbone(nn.Linear(3, 4), mcd.mc_mlp(4, ANIMALS, dropout=0.3)),
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("labels", [["cat", "dog", "emu"], ["dog", "cat"], ["dog", "cat", "fox"]])
def test_labels_that_differ_from_those_of_the_network_are_refused(function, kind, labels, x):
    got = ", ".join(f'"{label}"' for label in labels)
    message = f'`labels` must be left out, or be those of `model` in their order, "dog", "cat", "emu"; got {got}.'
    with pytest.raises(ValueError, match=re.escape(message)):
        FUNCTIONS[function](NETWORKS[kind](), x, labels)


@pytest.mark.parametrize("function", [name for name in FUNCTIONS if name != "mc_compare_rates"])
def test_the_labels_of_the_network_may_be_repeated(function, x):
    FUNCTIONS[function](NETWORKS["dropout"](), x, ANIMALS)
    prediction = mcd.mc_predict(mcd.mc_mlp(3, [0, 1], dropout=0.3), x, DRAWS, labels=["0", "1"], progress=False)
    assert prediction.labels == (0, 1)  # the labels of the network, with their type


def test_a_network_for_values_has_no_labels(x):
    message = '`labels` must be left out where `model` is a network for values; got "cat", "dog".'
    with pytest.raises(ValueError, match=re.escape(message)):
        mcd.mc_predict(mcd.mc_mlp(3, task="regression"), x, DRAWS, labels=["cat", "dog"], progress=False)


def test_true_labels_are_matched_to_labels_by_name(x):
    names = np.array(ANIMALS)[np.arange(N) % 3]
    net = mcd.mc_mlp(3, ANIMALS, dropout=0.3)
    containers = [
        names,
        pd.Categorical(names, categories=["emu", "dog", "cat"]),
        pd.Series(pd.Categorical(names, categories=["emu", "fox", "dog", "cat"])),
        pd.get_dummies(pd.Series(names))[["cat", "emu", "dog"]],
    ]
    prediction = mcd.mc_predict(net, x, DRAWS, seed=3, progress=False)
    assert {mcd.mc_scores(prediction, y).accuracy for y in containers} == {
        float(np.mean(prediction.predicted == names))
    }
    networks = [mcd.mc_fit(mcd.mc_mlp(3, ANIMALS), x, y, epochs=2, seed=1, progress=False) for y in containers]
    weights = [network.get_parameter("layers.output.weight") for network in networks]
    assert all(torch.equal(weights[0], others) for others in weights[1:])
