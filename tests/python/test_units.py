"""Columns and values far from zero: Julian dates, time stamps, northings. Their digits are those of float64."""

import copy
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
# eighths, of which float64 holds as many about 1.7e9; float32 holds none between multiples of 128
X = np.round(RNG.normal(0, 9, (N, FEATURES)) * 8) / 8
FAR = X + np.array([1.7e9, -2460000.5, 0.0])
Y = np.round(np.stack([X.sum(axis=1), X[:, 0] - X[:, 2]], axis=1) * 8) / 8
FAR_Y = Y + np.array([1.7e9, -5e6])
MANY: dict[str, Any] = {"epochs": 4, "batch_size": 5, "seed": 1, "progress": False}
ASKED = {"seed": 3, "progress": False}
# rounding of the mean to float64, 2e-7 at 1.7e9, over a spread of 9; learnt weights carry it on
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}


def network(kind="values", **options):
    makers = {
        "values": lambda: mcd.mc_mlp(FEATURES, n_outputs=2, task="regression", hidden=(6, 4), **options),
        "own noise": lambda: mcd.mc_mlp(FEATURES, n_outputs=2, task="regression", noise="heteroscedastic", **options),
        "no noise": lambda: mcd.mc_mlp(FEATURES, n_outputs=2, task="regression", noise="none", **options),
        "Bayesian": lambda: mcd.mc_bayes_mlp(FEATURES, n_outputs=2, task="regression", hidden=6, **options),
        "made Bayesian": lambda: mcd.mc_to_bayesian(network()),
        "classes": lambda: mcd.mc_mlp(FEATURES, ["low", "mid", "high"], hidden=6, **options),
    }
    return makers[kind]()


def truth(model, y):
    return y if model.task == "regression" else np.array(model.labels)[np.digitize(X[:, 0], [-4, 4])]


def offset_of(model):
    return np.array([1.7e9, -5e6]) if model.task == "regression" else 0.0


@pytest.fixture(scope="module", params=["values", "own noise", "no noise", "Bayesian", "made Bayesian", "classes"])
def pair(request):
    """A network that learnt near zero, and one that learnt the same far off."""
    made = network(request.param)
    near, far = (mcd.mc_fit(network(request.param), x, truth(made, y), **MANY) for x, y in ((X, Y), (FAR, FAR_Y)))
    return near, far


# ---- what is learnt and predicted ----------------------------------------------------------------------------------


def test_what_is_learnt_far_from_zero_is_what_is_learnt_near_it(pair):
    near, far = pair
    for name, values in near.named_parameters():
        np.testing.assert_allclose(far.get_parameter(name).detach(), values.detach(), **CLOSE)
    pd.testing.assert_frame_equal(far.history.drop(columns="seconds"), near.history.drop(columns="seconds"), **CLOSE)


def test_predictions_far_from_zero_are_those_near_it(pair):
    near, far = pair
    one, other = (mcd.mc_predict(net, x, DRAWS, **ASKED) for net, x in ((near, X), (far, FAR)))
    offset = offset_of(near)
    for name in ("mean", "lower", "upper", "samples", "pred_lower", "pred_upper"):
        if getattr(one, name) is not None:
            np.testing.assert_allclose(getattr(other, name) - offset, getattr(one, name), rtol=1e-3, atol=1e-3)
    for name in ("std", "total_variance", "noise_variances", "mutual_information"):
        if getattr(one, name) is not None:
            np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-2, atol=1e-3)
    if near.task == "regression":
        assert other.samples is not None
        assert other.samples.dtype == np.float64
    if one.noise_variances is not None:
        np.testing.assert_allclose(other.log_density(FAR_Y), one.log_density(Y), rtol=1e-3, atol=1e-3)


def test_every_function_keeps_the_digits(pair):
    near, far = pair
    offset = offset_of(near)
    settings: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-3}
    points = [mcd.mc_predict_point(net, x, 6, progress=False) for net, x in ((near, X), (far, FAR))]
    np.testing.assert_allclose(points[1] - offset, points[0], **settings)
    one, other = (mcd.mc_sampler(net, x[:2], DRAWS, seed=3)(x) for net, x in ((near, X), (far, FAR)))
    np.testing.assert_allclose(other.mean - offset, one.mean, **settings)
    found = [
        mcd.mc_convergence(net, x, (3, DRAWS), tolerance=0.1, **ASKED).table.query("measure == 'std'")
        for net, x in ((near, X), (far, FAR))
    ]
    pd.testing.assert_frame_equal(found[1], found[0], rtol=1e-2, atol=1e-3)
    if far.history.columns.isin(["kl"]).any():
        return  # no rates to compare
    tables = [
        mcd.mc_compare_rates(net, x, truth(net, y), (0.2, 0.4), DRAWS, **ASKED)
        for net, x, y in ((near, X, Y), (far, FAR, FAR_Y))
    ]
    pd.testing.assert_frame_equal(tables[1], tables[0], rtol=1e-2, atol=1e-3)


HOLDERS = {
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


@pytest.mark.parametrize("holder", HOLDERS)
def test_whatever_holds_the_numbers_they_keep_their_digits(holder):
    far = mcd.mc_fit(network(), FAR, FAR_Y, **MANY)
    whole = mcd.mc_predict(far, FAR, DRAWS, **ASKED)
    assert len(np.unique(whole.mean[:, 0])) == N
    found = mcd.mc_predict(far, HOLDERS[holder](FAR), DRAWS, 5, **ASKED)
    assert found.samples is not None
    assert whole.samples is not None
    np.testing.assert_allclose(found.samples - whole.samples, 0, atol=1e-5)  # sums of float32 in another order
    if holder in ("array", "Fortran order", "tensor", "list", "data frame"):
        held = mcd.mc_fit(network(), HOLDERS[holder](FAR), FAR_Y, **MANY)
        assert torch.equal(held.layers.output.weight, far.layers.output.weight)


def test_whole_numbers_of_64_bits_keep_their_digits():
    stamps = (np.arange(N)[:, None] * 3 + 1_700_000_000).astype(np.int64)
    model = mcd.mc_fit(mcd.mc_mlp(1, task="regression"), stamps, np.arange(N), **MANY)
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
def test_every_way_of_training_keeps_the_digits(options: dict[str, Any], tmp_path):
    if "checkpoint" in options:
        options = {"checkpoint": tmp_path / "run"}
        mcd.mc_fit(network(), FAR, FAR_Y, **{**MANY, "epochs": 2}, **options)
    far = mcd.mc_fit(network(), FAR, FAR_Y, **MANY, **options)
    options = {name: value for name, value in options.items() if name != "checkpoint"}
    near = mcd.mc_fit(network(), X, Y, **MANY, **options)
    pd.testing.assert_frame_equal(far.history.drop(columns="seconds"), near.history.drop(columns="seconds"), **CLOSE)


def test_validation_data_keep_their_digits():
    near, far = (mcd.mc_fit(network(), x, y, validation_data=(x, y), **MANY) for x, y in ((X, Y), (FAR, FAR_Y)))
    np.testing.assert_allclose(far.history["val_rmse"], near.history["val_rmse"], rtol=1e-4)


def test_steps_of_ones_own_keep_the_digits():
    found = []
    for x, y in ((X, Y), (FAR, FAR_Y)):
        model = network()
        found.append([mcd.mc_train_on_batch(model, x[i : i + 6], y[i : i + 6]) for i in (0, 6, 0, 3)])
    np.testing.assert_allclose(pd.DataFrame(found[1]), pd.DataFrame(found[0]), rtol=1e-4)


def test_an_augmentation_gets_a_table_in_its_own_units():
    seen = []
    options: dict[str, Any] = {"augment": lambda x, generator: seen.append(x) or x}
    mcd.mc_fit(network(), FAR, FAR_Y, **{**MANY, "epochs": 1, "batch_size": N}, **options)
    assert sorted(seen[0][:, 0].tolist()) == sorted(FAR[:, 0].tolist())


def test_images_with_values_far_from_zero():
    images, found = RNG.random((N, 8, 8, 1)), []
    for y in (Y, FAR_Y):
        net = mcd.mc_fit(
            mcd.mc_cnn((8, 8, 1), n_outputs=2, task="regression", filters=3, hidden=5, dropout=0.1), images, y, **MANY
        )
        found.append(mcd.mc_predict(net, images, DRAWS, **ASKED))
    np.testing.assert_allclose(found[1].samples - [1.7e9, -5e6], found[0].samples, rtol=1e-3, atol=1e-3)


def test_values_behind_a_frozen_backbone_far_from_zero():
    torch.manual_seed(0)
    backbone, found = nn.Linear(FEATURES, 4), []
    for y in (Y, FAR_Y):
        net = mcd.mc_frozen_backbone(backbone, mcd.mc_mlp(4, n_outputs=2, task="regression", dropout=0.2))
        found.append(mcd.mc_predict(mcd.mc_fit(net, X, y, **MANY), X, DRAWS, **ASKED).samples)
    np.testing.assert_allclose(found[1] - [1.7e9, -5e6], found[0], rtol=1e-3, atol=1e-3)


def test_a_network_of_ones_own_gets_numbers_as_before():
    model = nn.Sequential(nn.Linear(FEATURES, 5), nn.Dropout(0.4), nn.Linear(5, 2))
    found = mcd.mc_predict(model, FAR, DRAWS, outputs="values", **ASKED)
    assert found.samples is not None
    assert found.samples.dtype == np.float32
    point = mcd.mc_predict_point(model.eval(), FAR, outputs="values", progress=False)
    with torch.no_grad():
        np.testing.assert_array_equal(point, model(torch.from_numpy(FAR).float()).numpy())


def test_a_part_taken_out_of_values_is_in_the_callers_units():
    model = mcd.mc_fit(network("no noise"), X, Y + 300, **MANY)
    whole = mcd.mc_predict(model, X, DRAWS, **ASKED)
    second = mcd.mc_predict(model, X, DRAWS, select=lambda out: out[:, 1:], **ASKED)
    assert second.samples is not None
    assert whole.samples is not None
    np.testing.assert_allclose(second.samples[..., 0], whole.samples[..., 1], atol=1e-4)  # float32 at 300


# ---- units ---------------------------------------------------------------------------------------------------------


def test_predicting_leaves_the_network_and_its_forward_as_they_were():
    model = mcd.mc_fit(network(), FAR, FAR_Y, **MANY)
    before, x = copy.deepcopy(model), torch.from_numpy(FAR)
    mcd.mc_predict(model, FAR, DRAWS, **ASKED)
    assert vars(model).keys() == vars(before).keys()
    assert torch.equal(model(x), before(x))
    # its outputs are float32 in the caller's units, which are 128 apart at 1.7e9
    point = mcd.mc_predict_point(model, FAR, progress=False)
    np.testing.assert_allclose(model(x)[:, :2].detach(), point, atol=128)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("constant", [0.1, 7.1, 1.7e9, -3e-20, 0.0])
def test_a_constant_column_is_no_signal(constant, dtype):
    x = X.astype(dtype)
    x[:, 1] = constant
    model = mcd.mc_fit(network("no noise"), x, Y, **MANY)
    assert model.feature_scale[1] == 1
    other = x.copy()
    other[:, 1] = np.nextafter(dtype(constant), dtype(np.inf))
    points = [mcd.mc_predict_point(model, some, progress=False) for some in (x, other)]
    step = float(np.spacing(dtype(constant)))
    np.testing.assert_allclose(points[1], points[0], atol=1e-5 + 50 * step)  # one step of the column, not one deviation


def test_a_column_of_float32_that_wavers_by_its_rounding_is_constant():
    x = X.astype(np.float32)
    x[:, 1] = np.where(np.arange(N) % 2, np.float32(0.1), np.nextafter(np.float32(0.1), np.float32(1)))
    assert mcd.mc_fit(network(), x, Y, **MANY).feature_scale[1] == 1


def test_a_network_of_float64_works_in_it():
    model = mcd.mc_fit(network(), FAR, FAR_Y, **MANY).double()
    point = mcd.mc_predict_point(model, FAR, progress=False)
    usual = mcd.mc_predict_point(mcd.mc_fit(network(), FAR, FAR_Y, **MANY), FAR, progress=False)
    np.testing.assert_allclose(point, usual, rtol=0, atol=1e-3)


# ---- files ---------------------------------------------------------------------------------------------------------


def test_a_saved_network_keeps_the_digits(pair, tmp_path):
    _, far = pair
    mcd.mc_save(far, tmp_path / "net")
    opened = mcd.mc_load(tmp_path / "net")
    one, other = (mcd.mc_predict(net, FAR, DRAWS, **ASKED) for net in (far, opened))
    np.testing.assert_array_equal(one.mean, other.mean)
    mcd.mc_save(one, tmp_path / "prediction")
    np.testing.assert_array_equal(mcd.mc_load(tmp_path / "prediction").samples, one.samples)


def test_a_network_saved_by_the_first_version_still_opens(tmp_path):
    model = mcd.mc_fit(network(), X, Y, **MANY)
    mcd.mc_save(model, tmp_path / "net")
    kind, arrays, facts = containers.read(tmp_path / "net", ("model",))
    old = {name: values for name, values in arrays.items() if not name.endswith("_rest")}
    assert len(old) == len(arrays) - 2
    containers.write(tmp_path / "old", kind, old, facts)
    opened = mcd.mc_load(tmp_path / "old")
    assert isinstance(opened, MCNetwork)
    points = [mcd.mc_predict_point(net, X, progress=False) for net in (opened, model)]
    np.testing.assert_allclose(points[0], points[1], atol=1e-4)  # its means are rounded to float32
    again = network()
    again.load_state_dict({name: values for name, values in model.state_dict().items() if name in old})
    np.testing.assert_allclose(mcd.mc_predict_point(again, X, progress=False), points[0], atol=1e-6)
