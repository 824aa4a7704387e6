"""Training: the result depends only on the seed, a run stops early on request, and an error changes nothing."""

from __future__ import annotations

import copy
import functools
import math
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optional import import_or_skip
from torch import nn

import mcdropout as mcd
from mcdropout.compute.streams import OwnDraws, OwnStream
from mcdropout.data.images import mc_read_images
from mcdropout.data.samples import mc_sample_data
from mcdropout.errors import UnreadableFile
from mcdropout.networks.plain import mc_cnn, mc_mlp
from mcdropout.training.examples import stratified_choice
from mcdropout.training.fit import mc_fit
from mcdropout.training.losses import objective_of
from mcdropout.training.one_batch import mc_train_on_batch
from mcdropout.training.step import batch_sizes

LABELS = ("u", "v", "w")
N, FEATURES = 90, 5


@pytest.fixture(scope="module")
def table():
    """Three labels with linear boundaries, and noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, FEATURES)) * 3 + 10
    codes = np.digitize(x[:, 0] + rng.normal(size=N), [9, 11])
    return x, np.array(LABELS)[codes]


def network(**arguments: Any) -> mcd.MCNetwork:
    return mc_mlp(FEATURES, LABELS, hidden=8, dropout=0.2, **arguments)


def fit(model: Any, x: object, y: object, **arguments: Any) -> Any:
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 16, "seed": 1, "progress": False, **arguments}
    return mc_fit(model, x, y, **settings)


def history_of(model: nn.Module) -> pd.DataFrame:
    history = model.history
    assert isinstance(history, pd.DataFrame)
    return history


def same_weights(left: Any, right: Any) -> bool:
    pairs = zip(left.state_dict().items(), right.state_dict().items(), strict=True)
    return all(a == b and torch.equal(v, w) for (a, v), (b, w) in pairs)


def without_seconds(model: nn.Module) -> pd.DataFrame:
    return history_of(model).drop(columns="seconds")


def interrupt_after(epoch: int) -> Callable[[dict[str, Any]], None]:
    def callback(row: dict[str, Any]) -> None:
        if row["epoch"] == epoch:
            raise KeyboardInterrupt

    return callback


# Results of training --------------------------------------------------------------------------------------


def test_the_weights_depend_on_the_seed_and_not_on_the_global_generators(table):
    torch.manual_seed(1)
    first = fit(network(), *table)
    torch.manual_seed(2)
    same_seed, other_seed = fit(network(), *table), fit(network(), *table, seed=2)
    assert same_weights(first, same_seed)
    pd.testing.assert_frame_equal(without_seconds(first), without_seconds(same_seed))
    assert not same_weights(first, other_seed)


def test_training_is_in_place_and_ends_ready_to_predict(table):
    model = network()
    before = copy.deepcopy(model)
    assert fit(model, *table) is model
    assert not same_weights(model, before)
    assert not model.training


def test_labels_of_every_type_give_the_same_weights(table):
    x, y = table
    codes = np.array([LABELS.index(label) for label in y])
    factor = pd.Categorical(y, categories=["w", "unused", "v", "u"])
    plain = fit(network(), x, y)
    assert same_weights(plain, fit(network(), x, list(y)))
    assert same_weights(plain, fit(network(), x, factor))
    assert same_weights(plain, fit(network(), x, np.eye(3)[codes]))
    assert same_weights(plain, fit(network(), pd.DataFrame(x), pd.Series(y)))


def test_memory_order_and_type_of_the_inputs_have_no_effect(table):
    x, y = table[0].astype(np.float32).astype(np.float64), table[1]  # numbers that both types represent exactly
    plain = fit(network(), x, y)
    r_array = np.asfortranarray(x)
    r_array.flags.writeable = False
    assert same_weights(plain, fit(network(), r_array, y))
    assert same_weights(plain, fit(network(), torch.from_numpy(x), y))
    assert same_weights(plain, fit(network(), x.astype(np.float32), y))


def test_image_files_give_the_weights_of_their_pixels(tmp_path):
    image = import_or_skip("PIL.Image")
    for label, grey in (("dark", 40), ("light", 200)):
        (tmp_path / label).mkdir()
        for i in range(7):
            pixels = np.random.default_rng(grey + i).integers(grey - 40, grey + 40, (9, 8), dtype=np.uint8)
            image.fromarray(pixels).save(tmp_path / label / f"{i}.png")
    images = mc_read_images(tmp_path, size=(9, 8))

    def trained(x):
        model = mc_cnn((9, 8, 1), images.labels, filters=(3, 4), hidden=5, dropout=0.1)
        return fit(model, x, images.y, batch_size=5, validation_split=0.2)

    assert same_weights(trained(images), trained(images.take(slice(None))))


def test_a_plain_loop_with_the_same_batches_gives_the_same_weights():
    """Without dropout and shuffling an epoch in one batch is a step of Adam on the mean loss."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(20, 4)).astype(np.float32), rng.integers(0, 3, 20)
    model = mc_mlp(4, n_outputs=3, hidden=6, dropout=0.0)
    plain = copy.deepcopy(model)
    fit(model, x, y, epochs=5, batch_size=20)
    z = torch.from_numpy((x - x.mean(0)) / x.std(0))
    optimizer = torch.optim.Adam(plain.parameters())
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(z), torch.from_numpy(y)).backward()
        optimizer.step()
    for trained, expected in zip(model.parameters(), plain.parameters(), strict=True):
        # Adam divides by the gradient's size, so that a gradient of rounding size moves a weight visibly: 1e-4
        torch.testing.assert_close(trained, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("noise", ["homoscedastic", "heteroscedastic", "none"])
def test_values_near_300_with_a_spread_of_a_hundredth_are_learnt(noise):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    y = 300 + 0.01 * x[:, 0] + 0.002 * rng.normal(size=400)
    model = mc_mlp(2, task="regression", noise=noise, hidden=20, dropout=0.0)
    fit(model, x, y, epochs=40, learning_rate=0.01, validation_split=0.25)
    last = history_of(model).iloc[-1]
    assert 0.0015 < last["val_rmse"] < 0.003  # the noise has 0.002
    if noise != "none":
        log_variance = model(torch.from_numpy(x).float())[:, 1].detach().numpy()
        assert 0.0015 < np.exp(log_variance.mean() / 2) < 0.003


def test_a_network_with_two_labels_and_one_logit_learns(table):
    x, y = table
    model = mc_mlp(FEATURES, ["other", "u"], task="binary")
    fit(model, x, np.where(y == "u", "u", "other"), epochs=30, learning_rate=0.01)
    assert history_of(model)["accuracy"].iloc[-1] > 0.8


def test_the_accuracy_of_two_labels_has_its_threshold_at_probability_one_half():
    quality = objective_of(mc_mlp(2, ["a", "b"], task="binary")).quality
    logits = torch.tensor([[-2.0], [-0.1], [0.1], [2.0]])
    assert float(quality(logits, torch.tensor([0.0, 1.0, 1.0, 1.0]))) == 0.75
    assert float(quality(logits, torch.tensor([0.0, 0.0, 0.0, 1.0]))) == 0.75


def test_the_history_has_a_row_per_epoch_that_agrees_with_a_forward_pass(table):
    x, y = table
    model = network(seed=3)
    fit(model, x, y, validation_data=(x[:30], y[:30]))
    columns = ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"]
    assert list(history_of(model)) == columns
    assert history_of(model)["epoch"].tolist() == [1, 2, 3]
    with torch.no_grad():
        out = model(torch.from_numpy(x[:30]).float())
    codes = torch.tensor([LABELS.index(label) for label in y[:30]])
    last = history_of(model).iloc[-1]
    assert last["val_loss"] == pytest.approx(float(nn.functional.cross_entropy(out, codes)), rel=1e-5)
    assert last["val_accuracy"] == pytest.approx(float((out.argmax(1) == codes).double().mean()))


def test_the_history_of_values_weights_partial_batches_by_their_size():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(21, 2)), rng.normal(size=(21, 3)) * [1, 10, 100]
    model = mc_mlp(2, n_outputs=3, task="regression", noise="none")
    fit(model, x, y, validation_data=(x, y))  # batches of 16 and 5
    with torch.no_grad():
        error = model(torch.from_numpy(x).float()).numpy() - y
    assert history_of(model)["val_rmse"].iloc[-1] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-5)


def test_a_weight_on_a_label_makes_it_predicted_more_often(table):
    x, y = table
    plain, weighted = fit(network(), x, y, epochs=20), fit(network(), x, y, epochs=20, class_weight={"w": 50})

    def n_predicted(model):
        return int((model(torch.from_numpy(x).float()).argmax(1) == 2).sum())

    assert n_predicted(weighted) > n_predicted(plain)


@pytest.mark.parametrize("noise", ["homoscedastic", "heteroscedastic"])
def test_the_loss_of_values_is_the_log_density_with_its_constant(noise):
    """Only then is the loss plus a KL divergence an evidence lower bound."""
    net = mc_mlp(2, n_outputs=3, task="regression", noise=noise)
    out, y = torch.randn(5, 6), torch.randn(5, 3)
    mean, log_variance = out.chunk(2, dim=-1)
    expected = -torch.distributions.Normal(mean, (0.5 * log_variance).exp()).log_prob(y).mean()
    torch.testing.assert_close(objective_of(net).loss(out, y, None), expected)


def test_balanced_weights_are_the_inverse_frequencies(table):
    x, y = table
    counts = [np.mean(y == label) for label in LABELS]
    by_hand = dict(zip(LABELS, [1 / (3 * share) for share in counts], strict=True))
    assert same_weights(fit(network(), x, y, class_weight="balanced"), fit(network(), x, y, class_weight=by_hand))


def test_class_weights_of_two_labels_give_a_weighted_mean():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(12, 2)), np.arange(12) % 3 == 0
    once = mc_mlp(2, [False, True], task="binary", dropout=0.0)
    twice = copy.deepcopy(once)
    options: dict[str, Any] = {"epochs": 1, "batch_size": 100, "optimizer": lambda p: torch.optim.SGD(p, lr=1.0)}
    repeated = np.concatenate([x, x[y]]), np.concatenate([y, y[y]])  # a weight of 2 is the input twice
    scales = x.mean(0), x.std(0)
    once.set_scales(scales, None)
    twice.set_scales(scales, None)
    fit(once, x, y, class_weight=[1, 2], **options)
    fit(twice, *repeated, **options)
    for a, b in zip(once.parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)  # the order of the sums differs


def test_weight_decay_leaves_the_noise_alone():
    x = np.zeros((4, 2))
    y = np.array([-1.0, 1.0, -1.0, 1.0])
    model = mc_mlp(2, task="regression", dropout=0.0)
    with torch.no_grad():
        assert model.log_variance is not None
        model.log_variance.fill_(2.0)
    dense = model.layers.get_submodule("dense1")
    assert isinstance(dense, nn.Linear)
    before = dense.weight.detach().clone()
    fit(model, x, y, epochs=1, optimizer="adamw", learning_rate=1e-3, weight_decay=100.0)
    step = 1e-3  # Adam's first step is its rate; the decay before it is rate * weight_decay, a tenth
    assert float(model.log_variance.detach()) == pytest.approx(2 - step, abs=1e-5)
    torch.testing.assert_close(dense.weight.detach(), 0.9 * before, atol=1.01 * step, rtol=0)


def test_augmentation_changes_the_weights_and_depends_on_the_seed(table):
    def jitter(x, generator):
        return x + torch.randn(x.shape, generator=generator)

    first, second = (fit(network(), *table, augment=jitter) for _ in range(2))
    assert same_weights(first, second)
    assert not same_weights(first, fit(network(), *table))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_learns_and_leaves_float32_weights(table, precision):
    model = fit(network(), *table, epochs=20, learning_rate=0.01, precision=precision)
    assert history_of(model)["accuracy"].iloc[-1] > 0.6  # a third would be chance
    assert {weights.dtype for weights in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop", torch.optim.NAdam])
def test_every_optimizer_learns(table, optimizer):
    model = fit(network(), *table, optimizer=optimizer, epochs=8)
    assert history_of(model)["loss"].iloc[-1] < history_of(model)["loss"].iloc[0]


def test_a_module_of_the_user_is_trained_by_its_attributes(table):
    x, y = table
    model: Any = nn.Sequential(nn.Linear(FEATURES, 9), nn.ReLU(), nn.Dropout(0.1), nn.Linear(9, 3))
    model.task, model.labels, model.outputs = "classification", LABELS, "logits"
    fit(model, (x - 10) / 3, y, epochs=30, learning_rate=0.01)
    assert history_of(model)["accuracy"].iloc[-1] > 0.6


# Validation, stopping, rates ------------------------------------------------------------------------------


def test_the_split_holds_out_the_same_share_of_every_label():
    codes = np.repeat([0, 1, 2], [100, 30, 11])
    held_out = stratified_choice(codes, 0.2, seed=4)
    assert len(held_out) == len(set(held_out)) == 28  # round(0.2 * 141)
    assert np.abs(np.bincount(codes[held_out]) - 0.2 * np.array([100, 30, 11])).max() < 1
    assert not np.array_equal(held_out, stratified_choice(codes, 0.2, seed=5))


def test_held_out_inputs_have_no_effect_on_the_weights(table):
    x, y = table
    held_out = stratified_choice(np.array([LABELS.index(label) for label in y]), 0.2, seed=1)
    spoilt = x.copy()
    spoilt[held_out] = 1000.0  # neither weights nor standard units may depend on this
    assert same_weights(fit(network(), x, y, validation_split=0.2), fit(network(), spoilt, y, validation_split=0.2))


def test_the_units_of_values_depend_only_on_the_training_part():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(40, 2)), rng.normal(size=40)
    held_out = stratified_choice(np.zeros(40, int), 0.2, seed=1)
    spoilt = y.copy()
    spoilt[held_out] = 1000.0
    trained = (fit(mc_mlp(2, task="regression"), x, targets, validation_split=0.2) for targets in (y, spoilt))
    assert same_weights(*trained)


def test_early_stopping_stops_and_restores_the_best_weights(table):
    x, y = table
    epochs = []
    model = network()

    def record(row):
        epochs.append((row["val_loss"], copy.deepcopy(model.state_dict())))

    fit(model, x, y, epochs=60, learning_rate=0.1, validation_split=0.3, early_stopping=2, callbacks=record)
    losses = [loss for loss, _ in epochs]
    best = int(np.argmin(losses))
    assert best < len(epochs) - 1  # otherwise the last weights are the best
    assert len(epochs) == best + 3  # two epochs without a better one
    assert all(torch.equal(epochs[best][1][name], values) for name, values in model.state_dict().items())


def test_a_larger_accuracy_is_better_for_early_stopping(table):
    model = fit(network(), *table, epochs=40, early_stopping=3, monitor="accuracy")
    accuracy = history_of(model)["accuracy"].to_numpy()
    assert len(accuracy) == np.argmax(accuracy) + 4


def test_the_learning_rate_falls_when_nothing_improves(table):
    x, y = table
    model = fit(network(), x, y, epochs=30, learning_rate=0.5, monitor="loss", reduce_lr={"patience": 2, "factor": 0.6})
    best, waited, rate = math.inf, 0, 0.5
    for row in history_of(model).to_dict("records"):
        assert row["learning_rate"] == pytest.approx(rate)
        best, waited = (row["loss"], 0) if row["loss"] < best else (best, waited + 1)
        if waited == 2:
            rate, waited = rate * 0.6, 0
    assert rate < 0.5


def test_callbacks_get_every_epoch_and_may_end_training(table):
    rows = []
    model = fit(network(), *table, epochs=9, callbacks=[rows.append, lambda row: row["epoch"] == 4])
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4] == history_of(model)["epoch"].tolist()


# Interrupts, failures, checkpoints --------------------------------------------------------------------------


def test_an_interrupt_keeps_the_progress(table):
    with pytest.warns(UserWarning, match="Training was interrupted after epoch 2; the model keeps its progress"):
        model = fit(network(), *table, epochs=9, callbacks=interrupt_after(2))
    assert same_weights(model, fit(network(), *table, epochs=2))
    assert len(history_of(model)) == 2
    assert not model.training


@pytest.mark.parametrize("early_stopping", [6, None])  # ends with the best weights, or with the last
def test_a_run_resumed_from_its_checkpoint_equals_one_never_interrupted_to_the_bit(table, tmp_path, early_stopping):
    x, y = table
    wrong_labels = dict(zip(LABELS, LABELS[1:] + LABELS[:1], strict=True))
    arguments: dict[str, Any] = {
        "epochs": 7, "validation_data": (x, [wrong_labels[label] for label in y]), "early_stopping": early_stopping,
        "reduce_lr": 1, "learning_rate": 0.2, "monitor": "val_loss",
    }  # fmt: skip
    uninterrupted = fit(network(), x, y, **arguments)
    # The file must restore state that has changed before the interrupt: the best weights are set and the rate is lower,
    # because training makes the fit to the wrong labels worse.
    assert history_of(uninterrupted)["val_loss"].argmin() < 3
    assert history_of(uninterrupted)["learning_rate"][3] < 0.2
    arguments["checkpoint"] = tmp_path / "run.checkpoint"
    with pytest.warns(UserWarning, match="interrupted after epoch 4"):
        fit(network(), x, y, **arguments, callbacks=interrupt_after(4))
    resumed = fit(network(), x, y, **arguments | {"seed": None})  # the seed is that of the file
    assert same_weights(resumed, uninterrupted)
    pd.testing.assert_frame_equal(without_seconds(resumed), without_seconds(uninterrupted), check_exact=True)


def test_tensors_from_a_checkpoint_are_aligned_as_tensors_of_torch(table, tmp_path):
    """Kernels may depend on the alignment: torch aligns to 64 bytes, NumPy to 16."""
    optimizers = []

    def optimizer(parameters):
        optimizers.append(torch.optim.Adam(parameters))
        return optimizers[-1]

    arguments = {"optimizer": optimizer, "checkpoint": tmp_path / "run.checkpoint"}
    fit(network(), *table, **arguments)
    fit(network(), *table, **arguments)
    for resumed in optimizers:
        addresses = [value.data_ptr() for state in resumed.state.values() for value in state.values()]
        assert len(addresses) > 0
        assert all(address % 64 == 0 for address in addresses)


def test_every_epoch_has_a_different_order(table):
    first_batches, rows = {}, []

    def record_first(x, generator):
        first_batches.setdefault(len(rows), x.clone())
        return x

    fit(network(), *table, augment=record_first, callbacks=rows.append)
    assert len(first_batches) == 3
    assert not torch.equal(first_batches[0], first_batches[1])


def test_a_finished_checkpoint_only_restores_the_weights(table, tmp_path):
    path = tmp_path / "run.checkpoint"
    finished = fit(network(), *table, checkpoint=path)
    rows = []
    again = fit(network(), *table, checkpoint=path, callbacks=rows.append)
    assert same_weights(finished, again)
    assert rows == []


def test_the_checkpoint_of_another_training_is_refused(table, tmp_path):
    path = tmp_path / "run.checkpoint"
    fit(network(), *table, checkpoint=path)
    with pytest.raises(ValueError, match="`checkpoint` must be of the same training; got .*another `batch_size`"):
        fit(network(), *table, checkpoint=path, batch_size=17)
    with pytest.raises(ValueError, match="made with another `y`"):
        fit(network(), table[0], table[1][::-1], checkpoint=path)
    with pytest.raises(ValueError, match="made with another `x`"):
        fit(network(), table[0] * 2, table[1], checkpoint=path)  # other standard units
    path.write_bytes(b"something else")
    with pytest.raises(UnreadableFile, match="which is not"):
        fit(network(), *table, checkpoint=path)


def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_last_finite_weights(table):
    model, rows = network(), []

    def spoil_the_third_epoch(x, generator):
        return x if len(rows) < 2 else x * math.nan

    message = "it was not in epoch 3, and the model keeps its weights from before that epoch"
    with pytest.raises(FloatingPointError, match=message):
        fit(model, *table, epochs=5, augment=spoil_the_third_epoch, callbacks=rows.append)
    assert same_weights(model, fit(network(), *table, epochs=2))
    assert len(history_of(model)) == 2
    assert not model.training


# State after a failed training ----------------------------------------------------------------------------


def state_of(model: nn.Module) -> tuple[Any, ...]:
    """The state of a network that training may change."""
    attributes = {
        name: vars(model)[name] for name in ("columns", "history", "labels", "spec", "stepper") if name in vars(model)
    }
    tensors = {name: values.clone() for name, values in model.state_dict().items()}
    return (
        tensors,
        attributes,
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
    )


def assert_unchanged(model: nn.Module, before: tuple[Any, ...]) -> None:
    tensors, attributes, *flags = state_of(model)
    assert tensors.keys() == before[0].keys()
    assert all(torch.equal(values, before[0][name]) for name, values in tensors.items())
    assert attributes.keys() == before[1].keys()
    assert all(value is before[1][name] or value == before[1][name] for name, value in attributes.items())
    assert flags == list(before[2:])


class Foreign(nn.Module):
    """A module of the user, with statistics that a pass in training changes."""

    task, outputs, labels = "regression", "values", None

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(FEATURES, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 1))

    def forward(self, x):
        return self.layers(x)


BACKBONE = nn.Linear(FEATURES, 6)
NETWORKS: dict[str, Callable[[], Any]] = {
    "classes": network,
    "values": lambda: mc_mlp(FEATURES, task="regression", hidden=8),
    "Bayesian": lambda: mcd.mc_bayes_mlp(FEATURES, LABELS, hidden=4),
    "converted to Bayesian": lambda: mcd.mc_to_bayesian(network()),
    "residual": lambda: mcd.mc_bayes_resnet((4, 4, 1), task="regression", filters=(3,)),
    "foreign": Foreign,
    "behind a backbone": lambda: mcd.mc_frozen_backbone(BACKBONE, mc_mlp(6, LABELS, hidden=4)),
}


def data_for(model: Any, table: tuple[Any, Any], scale: float = 1.0) -> tuple[Any, Any]:
    x = table[0] * scale
    if "ResidualBlock" in str(model):
        x = np.repeat(x, 4, axis=1)[:, :16].reshape(-1, 4, 4, 1)
    return x, (x.reshape(len(x), -1)[:, 0] * scale if model.task == "regression" else table[1])


def spoiling(batch: int, spoil: Callable[[Any], Any]) -> dict[str, Any]:
    """An augmentation that calls `spoil` in one batch."""
    batches = iter(range(1, 1000))
    return {"augment": lambda x, generator: spoil(x) if next(batches) == batch else x}


def fault(*_: object) -> Any:
    raise ZeroDivisionError("a fault of the caller")


def interrupt(*_: object) -> Any:
    raise KeyboardInterrupt


REFUSALS: dict[str, Any] = {
    "an optimizer function that returns none": {"optimizer": lambda parameters: None},
    "an optimizer function that fails": {"optimizer": fault},
    "a weight function that fails": "kl_weight",
    "progress that fails": {"progress": fault},
    "an unknown monitor": {"monitor": "val_los", "early_stopping": 1},
    "a class weight for no class": {"class_weight": {"none of them": 2}},
    "validation data of another shape": {"validation_data": (np.zeros((3, 99)), ["u", "v", "w"])},
    "an augmentation that fails": spoiling,
    "an augmentation that fails in the third batch": spoiling,
    "an augmentation that changes the shape": spoiling,
    "a loss that is not finite": spoiling,
    "the checkpoint of another run": "checkpoint",
}
BATCHES: dict[str, tuple[int, Callable[[Any], Any]]] = {
    "an augmentation that fails": (1, fault),
    "an augmentation that fails in the third batch": (3, fault),
    "an augmentation that changes the shape": (2, lambda x: x[:, :1]),
    "a loss that is not finite": (2, lambda x: x * math.nan),
}


NO_AUGMENTATION = "behind a backbone"  # the features of a backbone are computed once
REFUSED = [
    (kind, reason) for kind in NETWORKS for reason in REFUSALS if (kind, reason in BATCHES) != (NO_AUGMENTATION, True)
]


@pytest.mark.parametrize(("kind", "reason"), REFUSED)
def test_a_failed_fit_leaves_the_network_unchanged(kind, reason, table, tmp_path):
    model, arguments = NETWORKS[kind](), REFUSALS[reason]
    if arguments is spoiling:
        arguments = spoiling(*BATCHES[reason])
    elif arguments == "kl_weight":
        weights = iter((1.0, "no number"))  # the first call is a check before training
        arguments = {"kl_weight": lambda epoch: next(weights)}
    elif arguments == "checkpoint":
        x, y = data_for(model, table)
        arguments = {"checkpoint": tmp_path / "run"}
        fit(NETWORKS[kind](), x, y, epochs=1, batch_size=17, **arguments)
    model.train()
    next(iter(model.children())).eval()  # flags that differ from those after a fit
    trained = model.head if kind == "behind a backbone" else model
    before = state_of(trained)
    x, y = data_for(model, table, scale=1000)
    with pytest.raises(Exception, match="."):  # the class depends on the case
        fit(model, pd.DataFrame(x) if x.ndim == 2 else x, y, **arguments)
    assert_unchanged(trained, before)
    x, y = data_for(model, table)
    assert same_weights(*(fit(net, x, y) for net in (model, NETWORKS[kind]())))


def test_columns_of_a_failed_fit_are_not_stored(table):
    model = network()
    with pytest.raises(TypeError, match="`optimizer` must give a torch optimizer"):
        fit(model, pd.DataFrame(table[0], columns=list("abcde")), table[1], optimizer=lambda parameters: None)
    assert model.columns == ()
    fit(model, pd.DataFrame(table[0], columns=list("vwxyz")), table[1])
    assert model.columns == tuple("vwxyz")


def test_an_interrupt_before_the_first_step_leaves_the_network_unchanged(table):
    model = network()
    before = state_of(model)
    with pytest.warns(UserWarning, match="Training was interrupted after epoch 0; the model is unchanged."):
        fit(model, *table, **spoiling(1, interrupt))
    assert_unchanged(model, before)


def test_an_interrupt_in_the_first_epoch_keeps_the_progress_and_the_units(table):
    model = network()
    before = copy.deepcopy(model)
    with pytest.warns(UserWarning, match="interrupted after epoch 0; the model keeps its progress"):
        fit(model, *table, **spoiling(3, interrupt))
    assert not same_weights(model, before)
    np.testing.assert_allclose(model.feature_mean, table[0].mean(axis=0), rtol=1e-6)  # float32
    assert len(history_of(model)) == 0


@pytest.mark.parametrize("epochs", [0, 2])
def test_an_interrupt_after_weights_became_infinite_keeps_the_last_finite_weights(table, epochs):
    model, batches = network(), iter(range(1, 1000))
    first = epochs * -(-N // 16) + 1

    def spoil(x, generator):
        batch = next(batches)
        return interrupt() if batch == first + 1 else x * math.nan if batch == first else x

    outcome = "keeps its progress" if epochs else "is unchanged"
    with pytest.warns(UserWarning, match=f"interrupted after epoch {epochs}; the model {outcome}"):
        fit(model, *table, epochs=5, augment=spoil)
    assert same_weights(model, fit(network(), *table, epochs=epochs, augment=lambda x, _: x) if epochs else network())


def test_an_error_undoes_its_epoch(table):
    model, per_epoch = network(), -(-N // 16)
    with pytest.raises(ZeroDivisionError):
        fit(model, *table, epochs=4, **spoiling(2 * per_epoch + 3, fault))
    assert same_weights(model, fit(network(), *table, epochs=2, augment=lambda x, _: x))
    assert len(history_of(model)) == 2


def test_an_error_in_a_callback_keeps_the_epochs_before_it(table):
    model = network()
    with pytest.raises(ZeroDivisionError):
        fit(model, *table, callbacks=fault)
    assert same_weights(model, fit(network(), *table, epochs=1))


@pytest.mark.parametrize("kind", [kind for kind in NETWORKS if kind != "residual"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"optimizer": "lion"},
        {"optimizer": lambda parameters: None},
        {"optimizer": fault},
        {"optimizer": lambda parameters: Faulty(parameters)},
    ],
)
def test_a_failed_step_leaves_the_network_unchanged(kind, wrong, table):
    model = NETWORKS[kind]()
    model.train()
    trained = model.head if kind == "behind a backbone" else model
    before = state_of(trained)
    options: dict[str, Any] = {"kl_weight": 0.1} if "Bayesian" in kind else {}
    x, y = data_for(model, table, scale=1000)
    with pytest.raises((TypeError, ValueError, ZeroDivisionError)):
        mc_train_on_batch(model, pd.DataFrame(x, columns=list("abcde")), y, **wrong, **options)
    assert_unchanged(trained, before)
    x, y = data_for(model, table)
    fresh = NETWORKS[kind]()
    for net in (model, fresh):
        mc_train_on_batch(net, x, y, **options)
    assert same_weights(model, fresh)


class Faulty(torch.optim.SGD):
    """Fails in the middle of its step."""

    def step(self, closure=None):
        with torch.no_grad():
            self.param_groups[0]["params"][0].zero_()
        raise ZeroDivisionError


@pytest.mark.parametrize("fails", [False, True])
def test_training_restores_the_global_generators_also_after_an_error(table, fails):
    def broken(row):
        raise RuntimeError("a fault of the callback")

    torch.manual_seed(8)
    np.random.seed(8)
    torch_state = torch.get_rng_state()
    numpy_state: Any = np.random.get_state()
    model = network()
    if fails:
        with pytest.raises(RuntimeError, match="a fault of the callback"):
            fit(model, *table, callbacks=broken)
    else:
        fit(model, *table, validation_split=0.2)
        mc_train_on_batch(model, *table)
    assert torch.equal(torch.get_rng_state(), torch_state)
    numpy_state_after: Any = np.random.get_state()
    assert (numpy_state_after[1] == numpy_state[1]).all()
    assert not model.training


def test_nothing_is_left_in_the_working_folder_and_nothing_is_printed(table, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    fit(network(), *table)
    assert os.listdir() == []
    fit(network(), *table, checkpoint="here")
    assert os.listdir() == ["here"]
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_progress_may_be_a_function(table):
    calls = []
    fit(network(), *table, epochs=2, progress=lambda *arguments: calls.append(arguments))
    done, total, text = calls[-1]
    assert done == total == 12  # 2 epochs of 90 inputs in batches of 16
    assert text.startswith("Epoch 2 of 2, loss ")


def test_a_bar_appears_only_on_long_runs(table, capfd):
    fit(network(), *table, progress=True)
    assert capfd.readouterr().err.strip() == ""


# Single steps ---------------------------------------------------------------------------------------------


def test_a_loop_of_the_user_learns_and_gets_the_metrics(table):
    x, y = table
    model = network()
    results = [mc_train_on_batch(model, x, y, optimizer="adam") for _ in range(150)]
    assert set(results[0]) == {"loss", "accuracy"}
    assert results[-1]["loss"] < 0.8 * results[0]["loss"]
    assert not model.training


def test_steps_are_reproducible(table):
    first, second = network(), network()
    for model in (first, second):
        torch.seed()
        for _ in range(3):
            mc_train_on_batch(model, *table)
    assert same_weights(first, second)


def losses_at_rate_0(model: nn.Module, table: tuple[Any, Any], optimizers: list[Any]) -> list[float]:
    """The loss of each step. No step changes the weights, so that only the masks differ."""
    return [mc_train_on_batch(model, *table, optimizer=optimizer)["loss"] for optimizer in optimizers]


def test_steps_have_different_masks_with_any_sequence_of_optimizers(table):
    def sgd(weights):
        return torch.optim.SGD(weights, lr=0.0)

    def adam(weights):
        return torch.optim.Adam(weights, lr=0.0)

    expected = losses_at_rate_0(network(), table, [sgd] * 4)
    assert len(set(expected)) == 4
    assert losses_at_rate_0(network(), table, [sgd, adam, sgd, adam]) == expected
    model = network()
    ready = [torch.optim.SGD(model.parameters(), lr=0.0) for _ in range(4)]
    assert losses_at_rate_0(model, table, ready) == expected


@pytest.mark.parametrize(
    "define",
    [
        lambda calls, rate: lambda weights: calls.append(1) or torch.optim.SGD(weights, lr=rate, momentum=0.9),
        lambda calls, rate: lambda weights, lr=rate: calls.append(1) or torch.optim.SGD(weights, lr=lr, momentum=0.9),
        lambda calls, rate: functools.partial(
            lambda weights, lr: calls.append(1) or torch.optim.SGD(weights, lr=lr, momentum=0.9), lr=rate
        ),
    ],
    ids=["closure", "default", "partial"],
)
def test_an_optimizer_function_defined_again_in_a_loop_keeps_its_momentum(table, define):
    once, again, calls = network(), network(), []
    optimizer = define([], 0.1)
    for _ in range(5):
        mc_train_on_batch(once, *table, optimizer=optimizer)
        mc_train_on_batch(again, *table, optimizer=define(calls, 0.1))
    assert same_weights(once, again)
    assert len(calls) == 1
    mc_train_on_batch(again, *table, optimizer=define(calls, 0.2))  # a different rate is a different optimizer
    assert len(calls) == 2


def test_an_optimizer_function_that_counts_its_calls_is_called_once(table):
    n_calls = 0

    def make(weights):
        nonlocal n_calls
        n_calls += 1
        return torch.optim.SGD(weights, lr=0.1)

    model = network()
    for _ in range(3):
        mc_train_on_batch(model, *table, optimizer=make)
    assert n_calls == 1


def test_adam_by_name_continues_adam_by_default(table):
    by_default, by_name = network(), network()
    for step in range(4):
        mc_train_on_batch(by_default, *table)
        mc_train_on_batch(by_name, *table, optimizer=None if step == 0 else "adam")
    assert same_weights(by_default, by_name)


def test_the_optimizer_is_kept_between_steps_and_is_not_saved(table, tmp_path):
    from mcdropout.files import mc_load, mc_save

    model = mc_mlp(FEATURES, LABELS, dropout=0.0)
    by_hand = copy.deepcopy(model)
    for _ in range(4):
        mc_train_on_batch(model, *table)
    mc_save(model, tmp_path / "model")
    assert same_weights(mc_load(tmp_path / "model"), model)

    by_hand.set_scales((table[0].mean(0), table[0].std(0)), None)
    optimizer = torch.optim.Adam(by_hand.parameters())  # one for all steps: its momentum must be kept
    codes = torch.tensor([LABELS.index(label) for label in table[1]])
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(by_hand(torch.from_numpy(table[0]).float()), codes).backward()
        optimizer.step()
    for a, b in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_an_epoch_whose_last_step_explodes_is_undone_and_reported(table):
    """The loss of an epoch is from before its last step."""
    for epochs in (1, 3):
        model = network(seed=2)
        fit(model, *table)
        before = state_of(model)[0]
        with pytest.raises(
            FloatingPointError, match="^The loss must stay finite; it was not in epoch 1, and the model"
        ):
            fit(model, *table, epochs=epochs, batch_size=N, optimizer=lambda weights: torch.optim.SGD(weights, 1e25))
        assert all(torch.equal(a, b) for a, b in zip(state_of(model)[0].values(), before.values(), strict=True))


def test_an_interrupt_after_a_step_that_explodes_keeps_the_weights_from_before_the_epoch(table):
    model = network(seed=2)
    fit(model, *table)
    before = state_of(model)[0]

    def explode(weights):
        return torch.optim.SGD(weights, 1e25)

    with pytest.warns(UserWarning, match="Training was interrupted after epoch 0; the model is unchanged."):
        fit(model, *table, optimizer=explode, **spoiling(2, interrupt))
    assert all(torch.isfinite(values).all() for values in state_of(model)[0].values())
    assert all(torch.equal(a, b) for a, b in zip(state_of(model)[0].values(), before.values(), strict=True))


def test_an_epoch_without_a_finite_validation_loss_is_undone_and_reported(table):
    model = Foreign()
    x, y = data_for(model, table)
    fit(model, x, y)
    before = state_of(model)[0]
    message = "^The val_loss must stay finite; it was not in epoch 1, and the model keeps its weights from before"
    with pytest.raises(FloatingPointError, match=message):
        fit(model, x, y, validation_data=(x[:3], y[:3] + 1e30))  # its square is too large for float32
    assert all(torch.equal(a, b) for a, b in zip(state_of(model)[0].values(), before.values(), strict=True))


class InTrainingAlone(Foreign):
    """A module that gives its output in training alone."""

    def forward(self, x):
        if not self.training:
            raise NotImplementedError("not in evaluation")
        return super().forward(x)


def test_a_model_that_works_in_training_alone_can_be_trained_without_validation_data(table):
    model = InTrainingAlone()
    fit(model, *data_for(model, table))
    assert len(history_of(model)) == 3


def test_a_step_without_a_finite_loss_is_reported_and_changes_nothing(table):
    model = Foreign()
    x, y = data_for(model, table)
    mc_train_on_batch(model, x, y)
    weights = copy.deepcopy(model.state_dict())
    optimizer = copy.deepcopy(vars(model)["stepper"].learner.optimizer.state_dict())
    with pytest.raises(
        FloatingPointError, match="^The loss and its gradient must be finite; they are not in this step"
    ):
        mc_train_on_batch(model, x, y * 1e30)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), weights.values(), strict=True))
    assert str(optimizer) == str(vars(model)["stepper"].learner.optimizer.state_dict())
    mc_train_on_batch(model, x, y)


class Overflowing(torch.optim.SGD):
    """An optimizer whose rate is too large for float32."""

    def step(self, closure=None):
        with torch.no_grad():
            for weights in self.param_groups[0]["params"]:
                weights.mul_(1e30).mul_(1e30)


def test_a_step_that_makes_weights_infinite_is_reported(table):
    model = network()
    before = copy.deepcopy(model)
    with pytest.raises(FloatingPointError, match="^The weights of `model` must stay finite; they did not in this step"):
        mc_train_on_batch(model, *table, optimizer=Overflowing)
    assert same_weights(model, before)


@pytest.mark.parametrize("optimizer", [5, True, [], b"adam", math.nan, ["adam"], object(), "Adam"])
def test_what_is_no_optimizer_is_refused(table, optimizer):
    for train in (fit, mc_train_on_batch):
        with pytest.raises(ValueError, match='^`optimizer` must be one of "adam", "adamw", "sgd", "rmsprop"; got .*.$'):
            train(network(), *table, optimizer=optimizer)


def test_an_optimizer_of_another_network_is_refused(table):
    optimizer = torch.optim.SGD(network().parameters(), 0.1)
    for train in (lambda: fit(network(), *table, optimizer=lambda weights: optimizer),
                  lambda: mc_train_on_batch(network(), *table, optimizer=optimizer)):  # fmt: skip
        with pytest.raises(
            ValueError, match="^`optimizer` must have parameters of `model`; got one of other parameters"
        ):
            train()


# Batch normalization ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 17])
def test_batch_normalization_of_single_inputs_is_refused_in_one_sentence(table, n):
    x, y = data_for(Foreign(), table)
    message = "^`x` must give at least two inputs for each step, because .*; got one. Use larger batches.$"
    for train in (
        lambda: fit(Foreign(), x[:n], y[:n], batch_size=1),
        lambda: mc_train_on_batch(Foreign(), x[:1], y[:1]),
    ):
        with pytest.raises(ValueError, match=message):
            train()


@pytest.mark.parametrize("make", [Foreign, lambda: mcd.mc_bayes_resnet((1, 1, 1), task="regression", filters=(3,))])
def test_a_last_single_input_joins_the_batch_before_it(table, make):
    model, sizes = make(), []
    x, y = data_for(model, table)
    x = x if isinstance(model, Foreign) else x.reshape(-1)[:N].reshape(N, 1, 1, 1)
    norm = next(layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm))
    norm.register_forward_pre_hook(lambda layer, inputs: sizes.append(len(inputs[0])) if layer.training else None)
    fit(model, x[:33], y[:33], batch_size=8, epochs=1)
    assert sizes == [8, 8, 8, 9]


@given(st.integers(1, 200), st.integers(1, 50))
def test_only_a_last_batch_of_one_changes_and_only_under_batch_normalization(n, size):
    plain = [len(part) for part in torch.arange(n).split(size)]
    assert batch_sizes(n, size, nn.Linear(1, 1)) == plain
    joined = batch_sizes(n, size, nn.BatchNorm1d(1))
    assert sum(joined) == n
    assert joined == plain if n == 1 or size == 1 or plain[-1] > 1 else joined == [*plain[:-2], size + 1]


# Refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "`epochs` must be a whole number of at least 1; got 0"),
        ({"batch_size": 2.5}, "`batch_size` must be a whole number of at least 1; got 2.5"),
        ({"batch_size": "a"}, '`batch_size` must be a whole number of at least 1; got "a"'),
        ({"batch_size": float("nan")}, "`batch_size` must be a whole number of at least 1; got nan"),
        ({"learning_rate": 0}, "`learning_rate` must be a number above 0; got 0"),
        ({"weight_decay": -1}, "`weight_decay` must be a number of at least 0; got -1"),
        (
            {"monitor": "val_los"},
            '`monitor` must be one of "loss", "accuracy", "val_loss", "val_accuracy"; got "val_los"',
        ),
        ({"monitor": ["loss"]}, '`monitor` must be one of "loss", .*; got ..loss'),
        ({"optimizer": "lion"}, '`optimizer` must be one of "adam", "adamw", "sgd", "rmsprop"; got "lion"'),
        ({"validation_split": 1}, "`validation_split` must be a number of at least 0 and below 1; got 1"),
        ({"validation_split": 0.001}, "`validation_split` must leave inputs on both sides; got 0.001 of 90"),
        ({"validation_data": 3}, r"`validation_data` must be a pair \(x, y\)"),
        ({"early_stopping": 2}, '`monitor` must be one of "loss", "accuracy"; got "val_loss". Hold inputs out'),
        ({"early_stopping": True, "monitor": "loss"}, "`early_stopping` must be a whole number of at least 1"),
        ({"reduce_lr": {"wait": 2}}, "`reduce_lr` must be a number of epochs, or a mapping with `patience`"),
        ({"class_weight": {"x": 2}}, '`class_weight` must name labels out of "u", "v", "w"; got "x"'),
        ({"class_weight": [1, 2]}, r"`class_weight` must have one weight per label \(3\); got 2"),
        ({"class_weight": "heavy"}, '`class_weight` must be one of "balanced"; got "heavy"'),
        ({"precision": "int8"}, '`precision` must be one of "float32", "bfloat16", "float16"; got "int8"'),
        ({"device": "gpu"}, '`device` must be "auto", "cpu", "cuda", "cuda:1" or the like; got "gpu"'),
        ({"seed": 0.5}, r"`seed` must be a whole number from 0 to 2\^53 - 1; got 0.5"),
        ({"progress": "yes"}, '`progress` must be true or false; got "yes"'),
        ({"checkpoint": "nowhere/at/all"}, '`checkpoint` must be in a folder that exists; got "nowhere/at/all"'),
    ],
)
def test_wrong_arguments_have_a_one_sentence_error(table, arguments, message):
    with pytest.raises(ValueError, match=message):
        fit(network(), *table, **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:, :4], y), r"`x` must have shape \(input, 5\); got \(90, 4\)"),
        (lambda x, y: (x[:0], y[:0]), r"`x` must hold at least one input; got shape \(0, 5\)"),
        (
            lambda x, y: (np.where(x == x[6, 2], np.nan, x), y),
            "got a missing value .*number 7 of 90",
        ),
        (lambda x, y: (np.where(x == x[6, 2], np.inf, x), y), "got an infinite value in input number 7 of 90"),
        (lambda x, y: (x, y[:-1]), r"`y` must be as long as `x` \(90\); got length 89"),
        (lambda x, y: (x, [*y[:-1], "z"]), '`y` must hold labels out of "u", "v", "w"; got "z" at input number 90'),
        (lambda x, y: (x, [*y[:-1], None]), "`y` must have a label for every input; got none at input number 90"),
    ],
)
def test_wrong_data_have_a_one_sentence_error(table, change, message):
    model = network()
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=message):
        fit(model, *change(*table))
    assert same_weights(model, before)


def test_an_object_that_is_not_a_model_is_refused(table):
    for model in (3, nn.Linear(FEATURES, 3)):
        with pytest.raises(TypeError, match="`model` must be a network of mc_cnn.*; got (int|Linear)"):
            fit(model, *table)


# Complete runs --------------------------------------------------------------------------------------------


def test_a_real_ctrl_c_ends_training_after_the_current_batch():
    code = """
import os, signal, threading, warnings
import numpy as np
from mcdropout.networks.plain import mc_mlp
from mcdropout.training.fit import mc_fit
x = np.random.default_rng(0).normal(size=(2000, 4))
batches, due, interrupted = [], threading.Event(), []
def interrupt():
    due.wait()
    os.kill(os.getpid(), signal.SIGINT)
    interrupted.append(len(batches))
def count(x, generator):
    batches.append(1)
    if len(batches) == 80:  # in the second epoch, because an epoch has 63 batches
        due.set()
    return x
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore SIGINT
thread = threading.Thread(target=interrupt)
thread.start()
warnings.simplefilter("ignore")
model = mc_fit(mc_mlp(4, n_outputs=2), x, (x[:, 0] > 0).astype(int), epochs=1000, batch_size=32,
               augment=count, progress=False)
thread.join()
print(len(batches) - interrupted[0], len(model.history))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    more, epochs = done.stdout.split()
    assert int(more) <= 1  # a batch may begin before the other thread counts
    assert 1 <= int(epochs) < 1000


@pytest.mark.slow
def test_eight_epochs_on_the_bundled_sample_reach_81_percent():
    data = mc_sample_data()
    model = mc_cnn((28, 28, 1), labels=data.labels)
    mc_fit(
        model, data.x_train, data.y_train,
        epochs=8, batch_size=128, validation_split=0.1, seed=1, progress=False,
    )  # fmt: skip
    with torch.no_grad():
        codes = model(torch.from_numpy(data.x_test)).argmax(1).numpy()
    assert np.mean(np.array(data.labels)[codes] == data.y_test) >= 0.81


@pytest.mark.gpu
def test_training_on_a_gpu_returns_the_model_to_the_cpu(table):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fit(network(), *table, epochs=20, learning_rate=0.01, device="cuda")
        second = fit(network(), *table, epochs=20, learning_rate=0.01, device="cuda")
    assert next(model.parameters()).device.type == "cpu"
    assert history_of(model)["accuracy"].iloc[-1] > 0.6
    assert same_weights(model, second)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"callbacks": 3}, "`callbacks` must be a function; got 3."),
        ({"callbacks": [print, "a"]}, '`callbacks` must be a function; got "a".'),
        ({"augment": 3}, "`augment` must be a function; got 3."),
        ({"class_weight": 3}, '`class_weight` must be "balanced" or weights by label; got 3.'),
        ({"class_weight": [0, 0]}, "`class_weight` must be above 0 for at least one label; got 0 for all."),
        ({"checkpoint": 3}, "`checkpoint` must be a path; got 3."),
    ],
)
def test_arguments_of_a_wrong_type_have_a_one_sentence_error(options, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        mc_fit(mc_mlp(3, labels=["a", "b"]), np.ones((8, 3)), ["a", "b"] * 4, epochs=1, progress=False, **options)


def test_a_callback_may_return_true_of_numpy():
    net = mc_fit(
        mc_mlp(3, labels=["a", "b"]),
        np.ones((8, 3)),
        ["a", "b"] * 4,
        epochs=5,
        progress=False,
        callbacks=lambda row: np.bool_(row["epoch"] == 2),
    )
    assert len(history_of(net)) == 2


# Tables with names ------------------------------------------------------------------------------------------


@pytest.fixture
def named(table):
    x, y = table
    return pd.DataFrame(x, columns=[f"feature {i}" for i in range(FEATURES)]), y


def test_columns_are_matched_by_name(named, tmp_path):
    x, y = named
    model = fit(network(), x, y)
    assert model.columns == tuple(x.columns)
    other = x[[*x.columns[2:], *x.columns[:2]]]  # applying this order twice does not restore the first order
    expected = mcd.mc_predict(model, x, 5, seed=1, progress=False).mean
    mcd.mc_save(model, tmp_path / "net.mcd")
    for net in (model, mcd.mc_load(tmp_path / "net.mcd"), copy.deepcopy(model)):
        for inputs in (other, {"x": other}, iter([other[:40], other[40:]]), x.to_numpy()):
            mean = mcd.mc_predict(net, inputs, 5, seed=1, progress=False).mean
            np.testing.assert_allclose(mean, expected, atol=1e-6, err_msg=str(type(inputs)))
    point = mcd.mc_predict_point(model, x, progress=False)
    np.testing.assert_allclose(mcd.mc_predict_point(model, other, progress=False), point, atol=1e-6)
    np.testing.assert_allclose(mcd.mc_sampler(model, other, 5, seed=1)(other).mean, expected, atol=1e-6)


def test_training_matches_columns_by_name(named):
    x, y = named
    other = x[[*x.columns[2:], *x.columns[:2]]]  # applying this order twice does not restore the first order
    expected = fit(network(), x, y, validation_data=(x, y))
    assert same_weights(fit(network(), x, y, validation_data=(other, y)), expected)
    assert same_weights(fit(fit(network(), x, y), other, y), fit(fit(network(), x, y), x, y))


def test_other_columns_are_refused(named):
    x, y = named
    model = fit(network(), x, y)
    before = copy.deepcopy(model)
    must = "`x` must have the columns that `model` was trained on, in any order; got "
    for change, got in (
        ({"feature 2": "weight"}, 'no "feature 2".'),
        ({"feature 0": "weight", "feature 4": "height"}, 'no "feature 0".'),
    ):
        for call in (mcd.mc_predict, mcd.mc_predict_point, lambda model, x, **_: fit(model, x, y)):
            with pytest.raises(ValueError, match=re.escape(must + got)):
                call(model, x.rename(columns=change), progress=False)
    with pytest.raises(ValueError, match=re.escape(must + 'also "weight".')):
        mcd.mc_predict(model, x.assign(weight=1.0), progress=False)
    assert same_weights(model, before)


def test_columns_without_names_are_matched_by_position(named):
    x, y = named
    for columns in (range(FEATURES), ["same"] * FEATURES):
        model = fit(network(), x.set_axis(columns, axis=1), y)
        assert model.columns == ()
        assert len(mcd.mc_predict(model, x, 5, seed=1, progress=False)) == len(x)


OWN_NETWORKS: dict[str, tuple[Callable[[], mcd.MCNetwork], tuple[int, ...]]] = {
    "mlp": (lambda: mcd.mc_mlp(3, ["a", "b"]), (3,)),
    "cnn": (lambda: mcd.mc_cnn((8, 8, 1), ["a", "b"]), (8, 8, 1)),
    "bayesian": (lambda: mcd.mc_bayes_mlp(3, ["a", "b"]), (3,)),
}


@pytest.mark.parametrize("name", OWN_NETWORKS)
def test_own_networks_are_trained_without_intercepting_every_call(name, monkeypatch):
    """Interception of all torch calls serves layers that others wrote; it makes a step of a small network slow."""
    build, shape = OWN_NETWORKS[name]
    network, x = build(), np.ones((4, *shape), np.float32)
    intercepted: list[OwnStream] = []
    monkeypatch.setattr(
        "mcdropout.training.step.OwnDraws", lambda stream: intercepted.append(stream) or OwnDraws(stream)
    )
    mc_fit(network, x, ["a", "b", "a", "b"], epochs=1, progress=False)
    assert not intercepted
    network.register_forward_hook(lambda *_: None)  # it may draw
    mc_fit(network, x, ["a", "b", "a", "b"], epochs=1, progress=False)
    assert intercepted
