"""Known failures (A to J) of packages for uncertainty, each tested on a small module."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from small_models import DRAWS, Apply, numbers, predict
from torch import nn

import mcdropout as mcd
from mcdropout.variational.layer import kl_divergence_of, variational_layers

N = 7


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        yield


# ---- A, B, C: every dropout is sampled -------------------------------------------------------------------------------


def test_trap_a_the_fused_transformer_path_samples():
    layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.3, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x = numbers(N, 5, 6)
    fastpath = torch.backends.mha.get_fastpath_enabled()
    assert (predict(model, x).std > 0).all()
    assert len(mcd.mc_sites(model, x)) == 8
    padding = torch.zeros(N, 5, dtype=torch.bool)
    assert (predict(model, {"src": x, "src_key_padding_mask": padding}).std > 0).all()
    assert torch.backends.mha.get_fastpath_enabled() == fastpath


def attention():
    return Apply(lambda m, x: m.mha(x, x, x)[0], mha=nn.MultiheadAttention(6, 2, dropout=0.3, batch_first=True))


@pytest.mark.parametrize(
    "make",
    [
        attention,
        *(
            lambda kind=kind, options=options: Apply(
                lambda m, x: m.rnn(x)[0], rnn=kind(6, 5, 2, dropout=0.4, batch_first=True, **options)
            )
            for kind in (nn.LSTM, nn.GRU, nn.RNN)
            for options in ({}, {"bidirectional": True})
        ),
    ],
)
def test_trap_b_attention_and_recurrent_layers_sample_in_eval_mode(make):
    model = make().eval()
    assert predict(model, numbers(N, 5, 6), 20).std.max() > 0
    assert not any(module.training for module in model.modules())


def test_trap_c_functional_dropout_samples_and_batch_norm_does_not_change():
    model = Apply(lambda m, x: m.norm(F.dropout(x, 0.5, m.training)), norm=nn.BatchNorm1d(3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert predict(model, numbers(N, 3)).std.max() > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.get_submodule("norm").training


def test_trap_c_functional_attention_with_a_rate_samples():
    model = Apply(lambda m, x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.4 if m.training else 0.0))
    assert predict(model.eval(), numbers(N, 2, 5, 6), 20).std.max() > 0
    assert mcd.mc_sites(model, numbers(N, 2, 5, 6)).rate.tolist() == [0.4]


# ---- D, E: the state of the model does not change, and no result is stale --------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_trap_d_statistics_and_flags_do_not_change_even_after_an_error(training, fails):
    def forward(m, x):
        h = m.drop(m.norm(x))
        if fails and len(x) > 3:  # after the probe, while drawing
            raise KeyError("fails")
        return m.head(h)

    model = Apply(forward, norm=nn.BatchNorm1d(3), drop=nn.Dropout(0.5), head=nn.Linear(3, 2)).train(training)
    norm: Any = model.norm
    norm.eval()  # not all flags are equal
    norm.running_mean += 0.3
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = {name: module.training for name, module in model.named_modules()}
    if fails:
        with pytest.raises(KeyError, match="fails"):
            predict(model, numbers(N, 3))
    else:
        predict(model, numbers(N, 3))
    assert {name: module.training for name, module in model.named_modules()} == flags
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_trap_e_one_instance_under_two_names_samples_at_both():
    drop = nn.Dropout(0.5)
    model = Apply(lambda m, x: m.first(x) + 10 * m.second(x), first=drop, second=drop)
    draws = predict(model, np.ones((N, 3), dtype=np.float32), 200).samples
    assert set(np.unique(draws)) == {0.0, 2.0, 20.0, 22.0}
    assert len(mcd.mc_sites(model, numbers(N, 3))) == 2


@pytest.mark.parametrize("engine", ["folded", "loop"])
def test_trap_e_dropout_in_place_after_the_cached_prefix_samples(engine, only_engine):
    """The part before the first dropout is computed once. A dropout in place must not overwrite it."""
    only_engine(engine)
    layers = [nn.Linear(3, 6), nn.Linear(6, 4)]
    in_place, plain = (
        nn.Sequential(layers[0], nn.Dropout(0.5, inplace=inplace), layers[1]) for inplace in (True, False)
    )
    draws = predict(in_place, numbers(N, 3), 20).samples
    assert len(np.unique(draws[:, 0, 0])) > 10
    np.testing.assert_allclose(draws, predict(plain, numbers(N, 3), 20).samples, atol=1e-6)


def test_trap_e_weights_changed_between_calls_are_used():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.5, inplace=True), nn.Linear(4, 2))
    before = predict(model, numbers(N, 3)).mean
    sampler = mcd.mc_sampler(model, numbers(N, 3), DRAWS, outputs="values", seed=3)
    with torch.no_grad():
        model.get_parameter("0.weight").mul_(2)
    after = predict(model, numbers(N, 3)).mean
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(sampler(numbers(N, 3)).mean, after, atol=1e-6)


# ---- F, G, H: numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masks", ["shared", "per_input"])
def test_trap_f_batches_chunks_and_workers_change_no_number(masks, monkeypatch):
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))
    expected = predict(model, numbers(N, 3), masks=masks).samples
    for options in ({"batch_size": 1}, {"batch_size": 3}, {"workers": 3}, {"device": ["cpu", "cpu"], "batch_size": 2}):
        np.testing.assert_allclose(predict(model, numbers(N, 3), masks=masks, **options).samples, expected, atol=1e-6)
    for size in (1, 200):  # bytes: one draw of one input per chunk, or a few
        monkeypatch.setattr("mcdropout.engine.chunks.CHUNK_BYTES", size)
        np.testing.assert_allclose(predict(model, numbers(N, 3), masks=masks).samples, expected, atol=1e-6)


def test_trap_g_the_parts_of_uncertainty_add_up_and_are_never_negative():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 4))
    result = predict(model, 5 * numbers(N, 3), outputs="logits")
    np.testing.assert_allclose(
        result.expected_entropy + result.mutual_information, result.predictive_entropy, atol=1e-12
    )
    assert (result.mutual_information >= 0).all()
    values = predict(model, numbers(N, 3), outputs="mean_log_variance")
    np.testing.assert_allclose(values.variance + values.aleatoric_variance, values.total_variance, rtol=1e-12)


def test_trap_g_a_small_spread_around_a_large_mean_is_accurate():
    model = Apply(lambda m, x: 300 + 1e-2 * F.dropout(x, 0.5, m.training))
    result = predict(model, np.ones((N, 3), dtype=np.float32), 400)
    # Values of 0 and 0.02 with probability one half have the standard deviation 0.01. float32 has steps of 3e-5 at 300,
    # and the Monte Carlo error is 5 %.
    np.testing.assert_allclose(result.std, 0.01, rtol=0.15)
    np.testing.assert_allclose(result.variance, result.samples.astype(np.float64).var(axis=0, ddof=1), rtol=1e-9)


def test_trap_h_the_density_is_that_of_the_mixture():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
    result, y = predict(model, numbers(N, 3), 30, outputs="mean_log_variance"), numbers(N, 1, seed=1)
    each = stats.norm.pdf(y, result.samples, np.sqrt(result.noise_variances))
    np.testing.assert_allclose(result.log_density(y), np.log(each.mean(axis=0)), rtol=1e-6)
    averaged = stats.norm.logpdf(y, result.mean, np.sqrt(result.aleatoric_variance))
    assert np.abs(result.log_density(y) - averaged).max() > 0.01  # not the density of averaged parameters


# ---- I: draws without spread are an error ----------------------------------------------------------------------------


def test_trap_i_draws_that_are_all_the_same_are_an_error():
    with pytest.raises(mcd.IdenticalDraws, match="the same outputs in every draw"):
        predict(Apply(lambda m, x: x + 0 * F.dropout(x, 0.5, m.training)), numbers(N, 3))
    with pytest.raises(mcd.NoStochasticSites, match="no dropout"):
        predict(nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.0)), numbers(N, 3))


def test_trap_i_calls_that_the_first_inputs_did_not_show_are_named():
    def forward(m, x):
        h = F.dropout(x, 0.5, m.training)
        return F.dropout(h, 0.25, True) if len(x) == 5 else h  # a second call that the probe does not see

    with pytest.warns(UserWarning, match=r"first inputs did not show and that were left out: \[1\]"):
        predict(Apply(forward), numbers(5, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict(Apply(forward), numbers(3, 3))


# ---- J: variational layers -------------------------------------------------------------------------------------------


def plain():
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2, padding=1, padding_mode="circular", groups=2, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 9, 3),
    ).eval()


def nats(model):
    return float(kl_divergence_of(variational_layers(model).values()).detach())


def test_trap_j_the_divergence_is_the_sum_over_all_weights():
    """Compared with the closed form for normal distributions. Means over layers or weights would be far smaller."""
    network = plain()
    bayesian = mcd.mc_to_bayesian(network, posterior=mcd.mc_posterior_normal(0.05), prior=mcd.mc_prior_normal(0, 0.5))
    expected = 0.0
    for means in network.parameters():
        mean = means.detach().double()
        expected += float((math.log(0.5 / 0.05) + (0.05**2 + mean**2) / (2 * 0.25) - 0.5).sum())
    assert nats(bayesian) == pytest.approx(expected, rel=1e-4)


def test_trap_j_the_divergence_is_divided_by_the_number_of_values_once():
    net = mcd.mc_bayes_mlp(3, labels=["u", "v"], hidden=4)
    mcd.mc_fit(net, numbers(40, 3), ["u", "v"] * 20, epochs=2, batch_size=16, seed=1, progress=False)
    assert net.history is not None
    rows: list[Any] = list(net.history.itertuples())
    for row in rows:
        assert row.kl_weight == pytest.approx(1 / 40)
        assert row.loss == pytest.approx(row.nll + row.kl / 40, rel=1e-6)


@pytest.mark.parametrize("estimator", ["flipout", "reparameterization", "local_reparameterization"])
def test_trap_j_without_spread_every_estimator_equals_the_plain_network(estimator):
    network = plain()
    bayesian = mcd.mc_to_bayesian(network, posterior=mcd.mc_posterior_normal(1e-9), estimator=estimator)
    x = torch.randn(2, 4, 6, 6)
    for model in (bayesian.eval(), bayesian.train()):
        torch.testing.assert_close(model(x), network(x), rtol=0, atol=1e-6)


def test_trap_j_conversion_sets_posterior_and_prior_and_keeps_the_options_of_layers():
    network = plain()
    bayesian = mcd.mc_to_bayesian(
        network,
        prior_from_weights=True,
        posterior=mcd.mc_posterior_normal(0.7),
        prior=mcd.mc_prior_normal(5, 0.7),
    )
    # The posterior and the prior are equal and have the trained weights as means, so the divergence is 0.
    assert nats(bayesian) == pytest.approx(0, abs=1e-4)
    for name in ("stride", "padding", "padding_mode", "groups", "dilation"):
        assert getattr(bayesian[0], name) == getattr(network[0], name), name
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(bayesian(x), network(x))


def test_trap_j_layers_that_cannot_be_converted_do_not_change():
    """A recurrent layer keeps its two layers and its two directions."""
    model = Apply(
        lambda m, x: m.head(m.rnn(x)[0][:, -1]),
        rnn=nn.LSTM(3, 4, 2, dropout=0.3, bidirectional=True, batch_first=True),
        head=nn.Linear(8, 2),
    ).eval()
    bayesian: Any = mcd.mc_to_bayesian(model)
    x = torch.randn(2, 5, 3)
    assert (type(bayesian.rnn), bayesian.rnn.num_layers, bayesian.rnn.bidirectional) == (nn.LSTM, 2, True)
    torch.testing.assert_close(bayesian(x), model(x))
