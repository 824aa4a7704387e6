"""Bayesian networks of this package: construction, training, files and history."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.distributions import Laplace, Normal

import mcdropout as mcd
from mcdropout.networks.bayesian import ResidualBlock
from mcdropout.variational.layer import variational_layers

RNG = np.random.default_rng(0)
IMAGES = RNG.random((40, 9, 8, 2)).astype(np.float32)
TABLE = RNG.normal(size=(60, 3)).astype(np.float32)
LABELS = ["cat", "dog", "bird"]
IMAGE_CODES = [LABELS[i % 3] for i in range(40)]
TABLE_CODES = [LABELS[i] for i in (TABLE @ RNG.normal(size=(3, 3))).argmax(axis=1)]


def cnn(**options: Any) -> mcd.MCNetwork:
    options = {"filters": (4, 5), "hidden": (6,)} | options
    return mcd.mc_bayes_cnn((9, 8, 2), LABELS, **options)


def resnet(**options: Any) -> mcd.MCNetwork:
    options = {"filters": (4, 4, 5)} | options
    return mcd.mc_bayes_resnet((9, 8, 2), LABELS, **options)


def mlp(**options: Any) -> mcd.MCNetwork:
    options = {"hidden": (7,)} | options
    return mcd.mc_bayes_mlp(3, LABELS, **options)


MAKERS = {"cnn": (cnn, IMAGES, IMAGE_CODES), "resnet": (resnet, IMAGES, IMAGE_CODES), "mlp": (mlp, TABLE, TABLE_CODES)}


def fitted(net: mcd.MCNetwork, x=TABLE, y: Any = TABLE_CODES, **options: Any) -> mcd.MCNetwork:
    return mcd.mc_fit(net, x, y, **({"epochs": 2, "batch_size": 16, "seed": 1, "progress": False} | options))


def history_of(net: mcd.MCNetwork) -> pd.DataFrame:
    assert net.history is not None
    return net.history


@pytest.mark.parametrize("name", MAKERS)
def test_networks_learn_predict_and_are_loaded_from_a_file(name, tmp_path):
    make, x, y = MAKERS[name]
    net = fitted(make(prior=mcd.mc_prior_student_t(0, 0.5), posterior=mcd.mc_posterior_normal(0.1)), x, y)
    mcd.mc_save(net, tmp_path / "net")
    loaded: Any = mcd.mc_load(tmp_path / "net")
    before = mcd.mc_predict(net, x, 8, seed=1, progress=False)
    after = mcd.mc_predict(loaded, x, 8, seed=1, progress=False)
    np.testing.assert_array_equal(after.samples, before.samples)
    pd.testing.assert_frame_equal(loaded.history, history_of(net))
    assert before.engine == "folded"
    assert before.variance.max() > 0
    assert after.predicted is not None
    assert set(after.predicted) <= set(LABELS)
    torch.manual_seed(0)
    table = mcd.mc_posterior_table(net)
    torch.manual_seed(0)
    pd.testing.assert_frame_equal(mcd.mc_posterior_table(loaded), table)


def test_the_convolutional_network_is_the_plain_one_without_dropout():
    plain, bayes = mcd.mc_cnn((9, 8, 2), LABELS, filters=(4, 5), hidden=(6,), dropout=0), cnn()
    # a sampling convolution adds its products in another order
    np.testing.assert_allclose(
        mcd.mc_predict_point(bayes, IMAGES, progress=False),
        mcd.mc_predict_point(plain, IMAGES, progress=False),
        rtol=0,
        atol=1e-6,
    )
    assert list(variational_layers(bayes)) == ["layers.conv1", "layers.conv2", "layers.dense1", "layers.output"]
    table = mcd.mc_posterior_table(bayes)
    assert (table["n_parameters"] == 2 * table["n_weights"]).all()
    assert table["n_weights"].tolist() == [4 * 2 * 9 + 4, 5 * 4 * 9 + 5, 5 * 6 + 6, 6 * 3 + 3]


def test_the_tables_of_the_posterior_are_its_means_and_deviations():
    net = mcd.mc_bayes_mlp(4, LABELS, hidden=(5,), prior=mcd.mc_prior_laplace(0, 0.5), seed=3)
    layer: Any = variational_layers(net)["layers.dense1"]
    with torch.no_grad():
        layer.weight_rho.uniform_(-4, 0, generator=torch.Generator().manual_seed(1))
        mean = torch.cat([layer.weight_mean.flatten(), layer.bias_mean]).double().numpy()
        std = torch.nn.functional.softplus(torch.cat([layer.weight_rho.flatten(), layer.bias_rho])).double().numpy()
    row = mcd.mc_posterior_table(net).iloc[0]
    for share in (5, 25, 50, 75, 95):
        assert row[f"std_{share}"] == pytest.approx(np.quantile(std, share / 100), rel=1e-6)  # float32
    assert row["prior_std"] == pytest.approx(np.sqrt(2) * 0.5, rel=1e-6)  # of a Laplace distribution
    order = np.argsort(-np.abs(mean) / std)
    table = mcd.mc_weights_table(net, n_weights=7, level=0.9)
    rows = table[table["layer"] == "layers.dense1"]
    assert len(rows) == 7
    np.testing.assert_allclose(rows["mean"], mean[order[:7]], rtol=1e-6)
    np.testing.assert_allclose(rows["std"], std[order[:7]], rtol=1e-6)
    z = 1.6448536269514722  # the 0.95 quantile of the normal distribution
    np.testing.assert_allclose(rows["lower"], mean[order[:7]] - z * std[order[:7]], rtol=1e-5)
    np.testing.assert_allclose(rows["upper"], mean[order[:7]] + z * std[order[:7]], rtol=1e-5)
    names = [f"weight[{i // 4}, {i % 4}]" if i < 20 else f"bias[{i - 20}]" for i in order[:7]]
    assert rows["weight"].tolist() == names
    assert len(mcd.mc_weights_table(net, n_weights=1000)) == 25 + 18  # at most all weights


def test_a_prior_without_a_deviation_has_none_in_the_table():
    for prior in (mcd.mc_prior_cauchy(0, 1), mcd.mc_prior_horseshoe(0, 1)):
        deviations = mcd.mc_posterior_table(mcd.mc_bayes_mlp(2, LABELS, hidden=2, prior=prior))["prior_std"]
        assert not np.isfinite(deviations).any()
        mcd.mc_plot_posterior(mcd.mc_bayes_mlp(2, LABELS, hidden=2, prior=prior))


def test_the_residual_network_has_blocks_with_shortcuts_where_channels_change():
    net = resnet()
    blocks = [layer for layer in net.modules() if isinstance(layer, ResidualBlock)]
    assert [len(list(block.shortcut)) for block in blocks] == [2, 0, 2]
    assert [block.pool.kernel_size for block in blocks] == [(2, 2), (2, 2), (2, 2)]
    assert type(blocks[0].activation1) is nn.SiLU
    assert mcd.mc_predict_point(mcd.mc_bayes_resnet((2, 1, 1), LABELS), np.zeros((3, 2, 1, 1))).shape == (3, 3)
    block = blocks[1].eval()
    x = torch.randn(2, 4, 4, 4)
    with torch.no_grad():  # a block by hand
        h = block.conv2(block.activation1(block.norm1(block.conv1(x))))
        by_hand = nn.functional.max_pool2d(nn.functional.silu(block.norm2(h) + x), 2)
        torch.testing.assert_close(block(x), by_hand)


@pytest.mark.parametrize(("noise", "task"), [("none", "regression"), ("heteroscedastic", "regression")])
def test_networks_of_values_learn(noise, task):
    y = TABLE @ np.array([[1.0, 2.0], [0.0, 1.0], [3.0, 0.0]]) * 100 + 5000
    net = fitted(mcd.mc_bayes_mlp(3, task=task, n_outputs=2, noise=noise), y=y, epochs=20)
    prediction = mcd.mc_predict(net, TABLE, 10, seed=1, progress=False)
    assert prediction.mean.shape == (60, 2)
    # the loss is a mean over inputs and outputs, so the KL term is divided by their product
    assert history_of(net)["kl_weight"].iloc[0] == pytest.approx(1 / 120)


def test_the_logistic_layers_of_the_experiment_have_14_and_27_parameters():
    full = mcd.mc_posterior_multivariate_normal(scale=math.log(2), mean=0)
    binary = mcd.mc_bayes_mlp(3, ["no", "yes"], task="binary", hidden=(), posterior=full)
    softmax = mcd.mc_bayes_mlp(2, [0, 1], hidden=(), posterior=full)
    assert mcd.mc_posterior_table(binary)["n_parameters"].tolist() == [14]
    assert mcd.mc_posterior_table(softmax)["n_parameters"].tolist() == [27]
    assert mcd.mc_posterior_table(softmax)["variance"].item() == pytest.approx(math.log(2) ** 2)


# ---- the loss -------------------------------------------------------------------------------------------------


def test_the_history_has_likelihood_divergence_and_their_sum():
    history = history_of(fitted(mlp(), epochs=4, validation_split=0.2))
    assert list(history) == [
        *("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "nll", "kl", "kl_weight"),
        *("std_dense1", "std_output", "learning_rate", "seconds"),
    ]
    np.testing.assert_allclose(history["loss"], history["nll"] + history["kl_weight"] * history["kl"], rtol=1e-5)
    assert (history["kl_weight"] == 1 / 48).all()
    assert (np.diff(history["kl"]) < 0).all()


def test_a_shifted_prior_adds_two_nats_for_each_weight():
    """A prior two standard deviations away from the means adds 2^2 / 2 nats for each weight."""
    rows = []
    for loc in (0.0, 2.0):
        start = mcd.mc_posterior_normal(0.1, mean=0)
        net = fitted(mlp(prior=mcd.mc_prior_normal(loc, 1), posterior=start), epochs=1, learning_rate=1e-12)
        rows.append(history_of(net).iloc[0])
    n_weights = 3 * 7 + 7 + 7 * 3 + 3
    assert rows[1]["kl"] - rows[0]["kl"] == pytest.approx(2 * n_weights, rel=1e-5)
    assert rows[1]["loss"] - rows[0]["loss"] == pytest.approx(2 * n_weights / 60, rel=1e-4)
    assert rows[1]["nll"] == pytest.approx(rows[0]["nll"], rel=1e-6)


@pytest.mark.parametrize(
    ("kl_weight", "expected"),
    [
        ("1/N", [1 / 60] * 4),
        (0.25, [0.25] * 4),
        (0, [0] * 4),
        ({"warm_up": 2}, [1 / 120, 1 / 60, 1 / 60, 1 / 60]),
        ({"warm_up": 4, "weight": 1}, [0.25, 0.5, 0.75, 1]),
        (lambda epoch: 0.1 * epoch, [0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_the_kl_weight_is_a_number_or_a_schedule(kl_weight, expected):
    history = history_of(fitted(mlp(), epochs=4, kl_weight=kl_weight))
    np.testing.assert_allclose(history["kl_weight"], expected, rtol=1e-12)
    np.testing.assert_allclose(history["loss"], history["nll"] + history["kl_weight"] * history["kl"], rtol=1e-5)


def test_a_larger_kl_weight_keeps_the_posterior_wider():
    def last_spread(weight):
        return history_of(fitted(mlp(), epochs=60, learning_rate=0.01, kl_weight=weight)).iloc[-1]["std_output"]

    spreads = [last_spread(weight) for weight in (0, 1 / 600, 1 / 60, 1)]
    assert spreads == sorted(spreads)


def test_weight_decay_does_not_change_the_spread():
    with_decay = fitted(mlp(), optimizer="sgd", learning_rate=1e-9, weight_decay=1e6, kl_weight=0)
    assert history_of(with_decay)["std_output"].iloc[-1] == pytest.approx(0.05, rel=1e-3)


def test_a_run_resumed_from_its_checkpoint_gives_the_same_weights(tmp_path):
    uninterrupted = fitted(mlp(), epochs=4, checkpoint=tmp_path / "uninterrupted")
    fitted(mlp(), epochs=2, checkpoint=tmp_path / "resumed")
    resumed = fitted(mlp(), epochs=4, checkpoint=tmp_path / "resumed")
    for expected, weights in zip(uninterrupted.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(weights, expected)
    with pytest.raises(ValueError, match="made with another `kl_weight`"):
        fitted(mlp(), epochs=5, checkpoint=tmp_path / "resumed", kl_weight=0.5)


def test_single_steps_need_the_kl_weight():
    net = mlp()
    with pytest.raises(ValueError, match=r"`kl_weight` must be given for a network with variational layers"):
        mcd.mc_train_on_batch(net, TABLE, TABLE_CODES)
    step = mcd.mc_train_on_batch(net, TABLE, TABLE_CODES, kl_weight=1 / 60)
    assert list(step) == ["loss", "accuracy", "nll", "kl"]
    assert step["loss"] == pytest.approx(step["nll"] + step["kl"] / 60, rel=1e-5)


def test_the_history_of_plain_networks_has_no_kl_columns():
    assert list(history_of(fitted(mcd.mc_mlp(3, LABELS)))) == ["epoch", "loss", "accuracy", "learning_rate", "seconds"]


@pytest.mark.parametrize("estimator", ["reparameterization", "local_reparameterization", "flipout"])
def test_every_estimator_learns(estimator):
    net = fitted(mlp(estimator=estimator), epochs=150, learning_rate=0.01, batch_size=60)
    assert history_of(net)["accuracy"].iloc[-1] > 0.8


def test_lower_precision_learns():
    net = fitted(cnn(), IMAGES, IMAGE_CODES, precision="bfloat16")
    assert np.isfinite(history_of(net)["loss"]).all()


# ---- conversion -----------------------------------------------------------------------------------------------


def test_a_trained_network_becomes_bayesian_and_is_loaded_from_a_file(tmp_path):
    plain = fitted(mcd.mc_mlp(3, LABELS, hidden=(7, 6)), epochs=5)
    bayesian = mcd.mc_to_bayesian(plain, layers=["dense2", "output"], prior_from_weights=True)
    np.testing.assert_array_equal(
        mcd.mc_predict_point(bayesian, TABLE, progress=False), mcd.mc_predict_point(plain, TABLE, progress=False)
    )
    sites = mcd.mc_sites(bayesian, TABLE)
    assert sites["operation"].tolist() == ["dropout", "weight_draw", "dropout", "weight_draw"]
    fitted(bayesian)
    mcd.mc_save(bayesian, tmp_path / "made")
    loaded: Any = mcd.mc_load(tmp_path / "made")
    expected = mcd.mc_predict(bayesian, TABLE, 8, seed=1, progress=False).samples
    np.testing.assert_array_equal(mcd.mc_predict(loaded, TABLE, 8, seed=1, progress=False).samples, expected)
    pd.testing.assert_frame_equal(mcd.mc_posterior_table(loaded), mcd.mc_posterior_table(bayesian))
    assert not variational_layers(plain)


# ---- wrong arguments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"posterior": mcd.mc_posterior_custom(Laplace)},
        {"prior": mcd.mc_prior_custom(Normal(torch.tensor(0.0), torch.tensor(1.0)))},
    ],
    ids=["posterior", "prior"],
)
def test_functions_of_the_user_are_not_written_to_files(options, tmp_path):
    net = fitted(mlp(**options))
    assert mcd.mc_predict(net, TABLE, 4, seed=1, progress=False).variance.max() > 0
    with pytest.raises(ValueError, match=r"^`object` has a (prior|posterior) that is a .* of your own, which mc_save"):
        mcd.mc_save(net, tmp_path / "net")
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (-1, "`kl_weight` must be a number of at least 0; got -1."),
        (math.nan, "`kl_weight` must be a number of at least 0; got nan."),
        ("N", '`kl_weight` must be one of "1/N"; got "N".'),
        (lambda epoch: -epoch, "`kl_weight` must be a number of at least 0; got -1."),
        ({"warm_up": 0}, "`kl_weight's warm_up` must be a whole number of at least 1; got 0."),
        ({"warm_up": 2, "weight": -1}, "`kl_weight` must be a number of at least 0; got -1."),
        (
            {"warm_up": 2, "weight": {"warm_up": 3}},
            "`kl_weight's weight` must be \"1/N\" or a number; got {'warm_up': 3}.",
        ),
        (
            {"epochs": 3},
            "`kl_weight` must have `warm_up` and perhaps `weight` where it is a mapping; got {'epochs': 3}.",
        ),
    ],
)
def test_a_wrong_kl_weight_is_refused(weight, message):
    net = mlp()
    before = {name: values.clone() for name, values in net.state_dict().items()}
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the whole sentence is compared)
        fitted(net, kl_weight=weight)
    assert str(error.value) == message
    assert all(torch.equal(values, before[name]) for name, values in net.state_dict().items() if "scale" not in name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cnn(prior=1), "`prior` must be made by one of the mc_prior_...() functions; got 1."),
        (lambda: resnet(filters=()), "`filters` must hold at least one whole number; got none."),
        (lambda: mcd.mc_bayes_resnet((9, 8), LABELS), None),
        (lambda: mlp(posterior=mcd.mc_posterior_multivariate_normal(), estimator="flipout"), None),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match="^`") as error:
        make()
    assert message is None or str(error.value) == message


def test_single_steps_train_a_network_that_became_bayesian_after_other_steps():
    y = np.array(["a", "b"])[(TABLE[:, 0] > 0).astype(int)]
    plain = mcd.mc_mlp(3, ["a", "b"])
    mcd.mc_train_on_batch(plain, TABLE, y)
    model: Any = mcd.mc_to_bayesian(plain)
    before = model.layers.output.weight_mean.detach().clone()
    assert "kl" in mcd.mc_train_on_batch(model, TABLE, y, kl_weight=1 / 60)
    assert not torch.equal(model.layers.output.weight_mean, before)
