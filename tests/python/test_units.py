"""Columns and values far from zero, such as Julian dates, time stamps and northings, keep the digits of float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mcdropout as mcd
from mcdropout import containers
from mcdropout.networks.network import MCNetwork

N, FEATURES, DRAWS = 23, 3, 7
RNG = np.random.default_rng(0)
# Multiples of 1/8: float64 represents them exactly at 1.7e9, where float32 represents only multiples of 128.
X = np.round(RNG.normal(0, 9, (N, FEATURES)) * 8) / 8
FAR = X + np.array([1.7e9, -2460000.5, 0.0])
Y = np.round(np.stack([X.sum(axis=1), X[:, 0] - X[:, 2]], axis=1) * 8) / 8
FAR_Y = Y + np.array([1.7e9, -5e6])
TRAINING: dict[str, Any] = {"epochs": 4, "batch_size": 5, "seed": 1, "progress": False}
SAMPLING: dict[str, Any] = {"seed": 3, "progress": False}


def network(kind: str = "values") -> mcd.MCNetwork:
    regression: dict[str, Any] = {"n_outputs": 2, "task": "regression"}
    if kind == "Bayesian":
        return mcd.mc_bayes_mlp(FEATURES, hidden=6, **regression)
    if kind == "converted to Bayesian":
        return mcd.mc_to_bayesian(network())
    if kind == "classes":
        return mcd.mc_mlp(FEATURES, ["low", "mid", "high"], hidden=6)
    if kind == "values":
        return mcd.mc_mlp(FEATURES, hidden=(6, 4), **regression)
    noise = {"predicted noise": "heteroscedastic", "no noise": "none"}[kind]
    return mcd.mc_mlp(FEATURES, noise=noise, **regression)


def targets_for(model, y):
    return y if model.task == "regression" else np.array(model.labels)[np.digitize(X[:, 0], [-4, 4])]


def offset_of(model):
    return np.array([1.7e9, -5e6]) if model.task == "regression" else 0.0


def assert_close(actual: Any, expected: Any, rtol: float = 1e-3, atol: float = 1e-3) -> None:
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def assert_same_histories(far: Any, near: Any) -> None:
    """Equal but for the seconds and for rounding.

    The mean is rounded to float64: by 2e-7 at 1.7e9, over a spread of 9. The learnt weights amplify this error.
    """
    histories = (network.history.drop(columns="seconds") for network in (far, near))
    pd.testing.assert_frame_equal(next(histories), next(histories), rtol=1e-4, atol=1e-4)


@pytest.fixture(
    scope="module",
    params=["values", "predicted noise", "no noise", "Bayesian", "converted to Bayesian", "classes"],
)
def pair(request):
    """Two networks: one trained on data near zero, the other on the same data shifted far from zero."""

    def trained(x, y):
        model = network(request.param)
        return mcd.mc_fit(model, x, targets_for(model, y), **TRAINING)

    return trained(X, Y), trained(FAR, FAR_Y)


# ---- training and prediction ---------------------------------------------------------------------------------------


def test_training_far_from_zero_equals_training_near_zero(pair):
    near, far = pair
    for name, weights in near.named_parameters():
        assert_close(far.get_parameter(name).detach(), weights.detach(), rtol=1e-4, atol=1e-4)
    assert_same_histories(far, near)


def test_predictions_far_from_zero_equal_predictions_near_zero(pair):
    near, far = pair
    prediction, far_prediction = (mcd.mc_predict(model, x, DRAWS, **SAMPLING) for model, x in ((near, X), (far, FAR)))
    offset = offset_of(near)
    for name in ("mean", "lower", "upper", "samples", "pred_lower", "pred_upper"):
        if getattr(prediction, name) is not None:
            assert_close(getattr(far_prediction, name) - offset, getattr(prediction, name))
    for name in ("std", "total_variance", "noise_variances", "mutual_information"):
        if getattr(prediction, name) is not None:
            assert_close(getattr(far_prediction, name), getattr(prediction, name), rtol=1e-2)
    if near.task == "regression":
        assert far_prediction.samples is not None
        assert far_prediction.samples.dtype == np.float64
    if prediction.noise_variances is not None:
        assert_close(far_prediction.log_density(FAR_Y), prediction.log_density(Y))


def test_every_function_keeps_the_digits(pair):
    near, far = pair
    offset = offset_of(near)
    near_and_far = ((near, X), (far, FAR))
    point, far_point = (mcd.mc_predict_point(model, x, 6, progress=False) for model, x in near_and_far)
    assert_close(far_point - offset, point)
    sampled, far_sampled = (mcd.mc_sampler(model, x[:2], DRAWS, seed=3)(x) for model, x in near_and_far)
    assert_close(far_sampled.mean - offset, sampled.mean)
    table, far_table = (
        mcd.mc_convergence(model, x, (3, DRAWS), tolerance=0.1, **SAMPLING).table.query("measure == 'std'")
        for model, x in near_and_far
    )
    pd.testing.assert_frame_equal(far_table, table, rtol=1e-2, atol=1e-3)
    if far.history.columns.isin(["kl"]).any():
        return  # a Bayesian network has no dropout rates to compare
    rates, far_rates = (
        mcd.mc_compare_rates(model, x, targets_for(model, y), (0.2, 0.4), DRAWS, **SAMPLING)
        for model, x, y in ((near, X, Y), (far, FAR, FAR_Y))
    )
    pd.testing.assert_frame_equal(far_rates, rates, rtol=1e-2, atol=1e-3)


CONTAINERS: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda x: x,
    "Fortran order": np.asfortranarray,
    "tensor": torch.from_numpy,
    "list": np.ndarray.tolist,
    "data frame": pd.DataFrame,
    "loader": lambda x: DataLoader(TensorDataset(torch.from_numpy(x)), batch_size=4),
    "data set": lambda x: TensorDataset(torch.from_numpy(x)),
    "iterator": lambda x: iter(torch.from_numpy(x).split(6)),
    "iterator of arrays": lambda x: iter(np.array_split(x, 3)),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_numbers_in_every_container_keep_their_digits(container):
    of_an_array = mcd.mc_fit(network(), FAR, FAR_Y, **TRAINING)
    expected = mcd.mc_predict(of_an_array, FAR, DRAWS, **SAMPLING)
    assert len(np.unique(expected.mean[:, 0])) == N
    prediction = mcd.mc_predict(of_an_array, CONTAINERS[container](FAR), DRAWS, 5, **SAMPLING)
    assert prediction.samples is not None
    assert expected.samples is not None
    np.testing.assert_allclose(prediction.samples - expected.samples, 0, atol=1e-5)  # another order of float32 sums
    if container in ("array", "Fortran order", "tensor", "list", "data frame"):
        of_the_container = mcd.mc_fit(network(), CONTAINERS[container](FAR), FAR_Y, **TRAINING)
        weights = (model.get_parameter("layers.output.weight") for model in (of_the_container, of_an_array))
        assert torch.equal(*weights)


def test_int64_time_stamps_keep_their_digits():
    stamps = (np.arange(N)[:, None] * 3 + 1_700_000_000).astype(np.int64)
    model = mcd.mc_fit(mcd.mc_mlp(1, task="regression"), stamps, np.arange(N), **TRAINING)
    assert len(np.unique(mcd.mc_predict_point(model, stamps, progress=False))) == N


@pytest.mark.parametrize(
    "options",
    [
        {"validation_split": 0.3, "early_stopping": 2, "reduce_lr": 1},
        {"augment": lambda x, generator: x + torch.rand(x.shape, generator=generator, dtype=torch.float64)},
        {"optimizer": "sgd", "learning_rate": 0.01},
        {"checkpoint": "run"},
    ],
)
def test_every_option_of_training_keeps_the_digits(options, tmp_path):
    if "checkpoint" in options:
        options = {"checkpoint": tmp_path / "run"}
        mcd.mc_fit(network(), FAR, FAR_Y, **{**TRAINING, "epochs": 2}, **options)
    far = mcd.mc_fit(network(), FAR, FAR_Y, **TRAINING, **options)
    options = {name: value for name, value in options.items() if name != "checkpoint"}
    near = mcd.mc_fit(network(), X, Y, **TRAINING, **options)
    assert_same_histories(far, near)


def test_validation_data_keep_their_digits():
    near, far = (
        mcd.mc_fit(network(), x, y, validation_data=(x, y), **TRAINING).history for x, y in ((X, Y), (FAR, FAR_Y))
    )
    assert near is not None
    assert far is not None
    np.testing.assert_allclose(far["val_rmse"], near["val_rmse"], rtol=1e-4)


def test_steps_on_batches_keep_the_digits():
    def steps(x, y):
        model = network()
        return pd.DataFrame([mcd.mc_train_on_batch(model, x[i : i + 6], y[i : i + 6]) for i in (0, 6, 0, 3)])

    np.testing.assert_allclose(steps(FAR, FAR_Y), steps(X, Y), rtol=1e-4)


def test_an_augmentation_receives_a_table_in_the_callers_units():
    batches = []

    def keep(x, generator):
        batches.append(x)
        return x

    mcd.mc_fit(network(), FAR, FAR_Y, **{**TRAINING, "epochs": 1, "batch_size": N}, augment=keep)
    assert sorted(batches[0][:, 0].tolist()) == sorted(FAR[:, 0].tolist())


def draws_of(model, x, y) -> np.ndarray:
    """The draws of a network after training."""
    samples = mcd.mc_predict(mcd.mc_fit(model, x, y, **TRAINING), x, DRAWS, **SAMPLING).samples
    assert samples is not None
    return samples


def test_images_with_values_far_from_zero():
    images = RNG.random((N, 8, 8, 1))
    near, far = (
        draws_of(mcd.mc_cnn((8, 8, 1), n_outputs=2, task="regression", filters=3, hidden=5, dropout=0.1), images, y)
        for y in (Y, FAR_Y)
    )
    assert_close(far - [1.7e9, -5e6], near)


def test_values_far_from_zero_with_a_frozen_backbone():
    torch.manual_seed(0)
    backbone = nn.Linear(FEATURES, 4)
    near, far = (
        draws_of(mcd.mc_frozen_backbone(backbone, mcd.mc_mlp(4, n_outputs=2, task="regression", dropout=0.2)), X, y)
        for y in (Y, FAR_Y)
    )
    assert_close(far - [1.7e9, -5e6], near)


def test_a_foreign_network_receives_float32_inputs():
    model = nn.Sequential(nn.Linear(FEATURES, 5), nn.Dropout(0.4), nn.Linear(5, 2))
    prediction = mcd.mc_predict(model, FAR, DRAWS, outputs="values", **SAMPLING)
    assert prediction.samples is not None
    assert prediction.samples.dtype == np.float32
    point = mcd.mc_predict_point(model.eval(), FAR, outputs="values", progress=False)
    with torch.no_grad():
        np.testing.assert_array_equal(point, model(torch.from_numpy(FAR).float()).numpy())


def test_selected_values_are_in_the_callers_units():
    model = mcd.mc_fit(network("no noise"), X, Y + 300, **TRAINING)
    all_values = mcd.mc_predict(model, X, DRAWS, **SAMPLING).samples
    second_value = mcd.mc_predict(model, X, DRAWS, select=lambda out: out[:, 1:], **SAMPLING).samples
    assert all_values is not None
    assert second_value is not None
    np.testing.assert_allclose(second_value[..., 0], all_values[..., 1], atol=1e-4)  # float32 at 300


# ---- units ---------------------------------------------------------------------------------------------------------


def test_predicting_does_not_change_the_network_or_its_forward():
    model = mcd.mc_fit(network(), FAR, FAR_Y, **TRAINING)
    before, x = copy.deepcopy(model), torch.from_numpy(FAR)
    mcd.mc_predict(model, FAR, DRAWS, **SAMPLING)
    assert vars(model).keys() == vars(before).keys()
    assert torch.equal(model(x), before(x))
    # forward returns float32 in the caller's units; float32 numbers are 128 apart at 1.7e9
    point = mcd.mc_predict_point(model, FAR, progress=False)
    np.testing.assert_allclose(model(x)[:, :2].detach(), point, atol=128)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("constant", [0.1, 7.1, 1.7e9, -3e-20, 0.0])
def test_a_constant_column_has_scale_1(constant, dtype):
    x = X.astype(dtype)
    x[:, 1] = constant
    model = mcd.mc_fit(network("no noise"), x, Y, **TRAINING)
    assert model.feature_scale[1] == 1
    next_x = x.copy()
    next_x[:, 1] = np.nextafter(dtype(constant), dtype(np.inf))
    point, next_point = (mcd.mc_predict_point(model, inputs, progress=False) for inputs in (x, next_x))
    step = float(np.spacing(dtype(constant)))
    # the prediction changes by one step of the column, not by one standard deviation
    np.testing.assert_allclose(next_point, point, atol=1e-5 + 50 * step)


def test_a_float32_column_that_varies_only_by_rounding_is_constant():
    x = X.astype(np.float32)
    x[:, 1] = np.where(np.arange(N) % 2, np.float32(0.1), np.nextafter(np.float32(0.1), np.float32(1)))
    assert mcd.mc_fit(network(), x, Y, **TRAINING).feature_scale[1] == 1


def test_a_float64_network_predicts_the_same_values():
    model = mcd.mc_fit(network(), FAR, FAR_Y, **TRAINING).double()
    point = mcd.mc_predict_point(model, FAR, progress=False)
    of_float32 = mcd.mc_predict_point(mcd.mc_fit(network(), FAR, FAR_Y, **TRAINING), FAR, progress=False)
    np.testing.assert_allclose(point, of_float32, rtol=0, atol=1e-3)


# ---- files ---------------------------------------------------------------------------------------------------------


def test_a_saved_network_keeps_the_digits(pair, tmp_path):
    _, far = pair
    mcd.mc_save(far, tmp_path / "net")
    prediction, of_the_file = (
        mcd.mc_predict(model, FAR, DRAWS, **SAMPLING) for model in (far, mcd.mc_load(tmp_path / "net"))
    )
    np.testing.assert_array_equal(prediction.mean, of_the_file.mean)
    mcd.mc_save(prediction, tmp_path / "prediction")
    loaded = mcd.mc_load(tmp_path / "prediction")
    assert isinstance(loaded, mcd.MCPrediction)
    np.testing.assert_array_equal(loaded.samples, prediction.samples)


def test_a_network_saved_by_the_first_version_still_loads(tmp_path):
    model = mcd.mc_fit(network(), X, Y, **TRAINING)
    mcd.mc_save(model, tmp_path / "net")
    kind, arrays, facts = containers.read(tmp_path / "net", ("model",))
    old_arrays = {name: values for name, values in arrays.items() if not name.endswith("_rest")}
    assert len(old_arrays) == len(arrays) - 2
    containers.write(tmp_path / "old", kind, old_arrays, facts)
    loaded = mcd.mc_load(tmp_path / "old")
    assert isinstance(loaded, MCNetwork)
    of_the_file, point = (mcd.mc_predict_point(network, X, progress=False) for network in (loaded, model))
    np.testing.assert_allclose(of_the_file, point, atol=1e-4)  # the old file has means rounded to float32
    of_the_state = network()
    of_the_state.load_state_dict({name: values for name, values in model.state_dict().items() if name in old_arrays})
    np.testing.assert_allclose(mcd.mc_predict_point(of_the_state, X, progress=False), of_the_file, atol=1e-6)
