"""Copies by pickle and by the module copy: every public class gives an object that works like the first."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import mcdropout as mcd
from mcdropout.errors import ForkedProcess

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 4))
Y = np.where(X[:, 0] > 0, "yes", "no")

COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.fixture(scope="module")
def objects(tmp_path_factory) -> dict[str, Any]:
    """An object of each public class."""
    network = mcd.mc_fit(mcd.mc_mlp(4, ["no", "yes"], seed=1), X, Y, epochs=2, seed=1, progress=False)
    prediction = mcd.mc_predict(network, X, 10, seed=1, progress=False)
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.ReLU())
    folder = tmp_path_factory.mktemp("images") / "cat"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(np.full((4, 5), i, np.uint8)).save(folder / f"{i}.png")
    objects = [
        network, prediction, mcd.mc_triage(prediction, Y, budget=0.1), mcd.mc_calibrate(prediction, Y),
        mcd.mc_conformal(prediction, Y), mcd.mc_monitor(prediction).update(prediction[:20]),
        mcd.mc_scores(prediction, Y), mcd.mc_sampler(network, X[:3], seed=1), mcd.mc_prior_laplace(0, 0.5),
        mcd.mc_posterior_normal(0.02), mcd.mc_convergence(network, X[:5], seed=1, progress=False), mcd.mc_sample_data(),
        mcd.BayesLinear(2, 3), mcd.BayesConv1d(2, 3, 1), mcd.BayesConv2d(2, 3, 1),
        mcd.mc_read_images(folder.parent, size=(4, 5)),
        mcd.mc_frozen_backbone(
            backbone, lambda shape: mcd.mc_mlp(shape[0], ["a", "b"]), input_shape=(3, 6, 6), pooling="mean"
        ),
    ]  # fmt: skip
    errors = [mcd.IdenticalDraws("a"), mcd.NoStochasticSites("b"), mcd.OutOfMemory("c"), mcd.UnreadableFile("d")]
    return {type(thing).__name__: thing for thing in [*objects, *errors, ForkedProcess("torch")]}


CLASSES = [name for name in mcd.__all__ if inspect.isclass(getattr(mcd, name))]


def contents(thing: Any) -> Any:
    """What an object holds, or what it answers."""
    if isinstance(thing, mcd.MCSampler):
        return contents(thing(X[:7]))["mean"]
    if isinstance(thing, torch.nn.Module):
        return {name: values.numpy() for name, values in thing.state_dict().items()}, repr(thing)
    if isinstance(thing, pd.DataFrame):
        return thing.to_dict(orient="list")
    if isinstance(thing, BaseException):
        return str(thing), thing.args
    if isinstance(thing, mcd.ImageFiles):
        return thing.take(np.arange(3))
    if is_dataclass(thing):
        return {field.name: contents(getattr(thing, field.name)) for field in fields(thing)}
    return thing


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", [*CLASSES, "ForkedProcess"])
def test_a_copy_holds_and_answers_the_same(objects, name, way):
    thing = objects[name]
    copied = COPIES[way](thing)
    assert type(copied) is type(thing)
    assert copied is not thing or way == "copy"
    np.testing.assert_equal(contents(copied), contents(thing))


def test_a_copied_sampler_follows_its_own_model(objects):
    sampler = objects["MCSampler"]
    before = sampler(X).mean
    for way in ("pickle", "deepcopy"):
        copied = COPIES[way](sampler)
        with torch.no_grad():
            copied.model.layers.output.bias[0] += 3
        assert np.abs(copied(X).mean - before).max() > 0.1
    np.testing.assert_array_equal(sampler(X).mean, before)
