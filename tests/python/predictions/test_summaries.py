"""Every summary by hand on a small case, by a property over many, and against another implementation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from mcdropout.predictions.summaries import (
    entropy,
    entropy_parts,
    mean_and_variance,
    mixture_quantile,
    quantiles,
    standard_error,
    summarise_classes,
    summarise_values,
    variation_ratio,
)

DRAWS, INPUTS, LABELS = 4, 3, 5  # all different, so that an exchange of axes fails


@st.composite
def probabilities(draw):
    weights = draw(arrays(np.float64, (DRAWS, INPUTS, LABELS), elements=st.sampled_from([0.0, 1e-12, 0.1, 1.0, 3.0])))
    weights[..., 0] += weights.sum(axis=-1) == 0  # a row of zeros is not a distribution
    return torch.from_numpy(weights / weights.sum(axis=-1, keepdims=True))


def one_input(*draws):
    """Draws of a single input: (draw, 1, label)."""
    return torch.tensor(draws, dtype=torch.float64)[:, None, :]


def test_equal_undecided_draws_have_only_aleatoric_uncertainty():
    parts = entropy_parts(one_input([0.5, 0.5], [0.5, 0.5], [0.5, 0.5]))
    assert parts["predictive_entropy"].item() == pytest.approx(0.693147, abs=5e-7)  # log 2
    assert parts["expected_entropy"].item() == pytest.approx(0.693147, abs=5e-7)
    assert parts["mutual_information"].item() == 0


def test_draws_that_disagree_have_mostly_epistemic_uncertainty():
    # Mean p = (.4, .6): H = .673012. H(.9, .1) = .325083 twice and H(.2, .8) = .500402: mean H = .383523.
    parts = entropy_parts(one_input([0.9, 0.1], [0.2, 0.8], [0.1, 0.9]))
    assert parts["predictive_entropy"].item() == pytest.approx(0.673012, abs=5e-7)
    assert parts["expected_entropy"].item() == pytest.approx(0.383523, abs=5e-7)
    assert parts["mutual_information"].item() == pytest.approx(0.289489, abs=5e-7)


def test_mutual_information_by_hand():
    # p = (.5, .5) and (1, 0). Mean (.75, .25): H = .562335. Mean H = .5 log 2 = .346574. Neither term is 0.
    parts = entropy_parts(one_input([0.5, 0.5], [1.0, 0.0]))
    assert parts["mutual_information"].item() == pytest.approx(0.215762, abs=5e-7)


def test_probabilities_of_exactly_0_and_1_give_no_nan():
    summary = summarise_classes(one_input([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]), 0.95)
    assert all(bool(value.isfinite().all()) for value in summary.values())
    assert entropy(torch.tensor([1.0, 0.0, 0.0])).item() == 0


@settings(max_examples=100, deadline=None)
@given(probabilities())
def test_parts_add_up_and_stay_within_their_bounds(draws):
    parts = entropy_parts(draws)
    total = parts["expected_entropy"] + parts["mutual_information"]
    # Rounding of sums of 20 terms below 2 each in float64.
    torch.testing.assert_close(total, parts["predictive_entropy"], rtol=0, atol=1e-14)
    assert (parts["mutual_information"] >= 0).all()
    assert (parts["mutual_information"] <= np.log(min(DRAWS, LABELS)) + 1e-14).all()
    assert (parts["predictive_entropy"] <= np.log(LABELS) + 1e-14).all()


@settings(max_examples=50, deadline=None)
@given(probabilities())
def test_entropies_equal_those_of_scipy(draws):
    parts = entropy_parts(draws)
    p = draws.numpy()
    np.testing.assert_allclose(parts["predictive_entropy"], stats.entropy(p.mean(axis=0), axis=-1), atol=1e-13)
    np.testing.assert_allclose(parts["expected_entropy"], stats.entropy(p, axis=-1).mean(axis=0), atol=1e-13)


def test_the_order_of_draws_and_of_labels_does_not_matter():
    draws = torch.rand(7, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).softmax(dim=-1)
    for changed in (draws.flip(0), draws[..., [3, 1, 0, 4, 2]]):
        for name, value in entropy_parts(draws).items():
            torch.testing.assert_close(entropy_parts(changed)[name], value, rtol=1e-12, atol=1e-14)


def test_mean_and_variance_by_hand():
    mean, variance = mean_and_variance(torch.tensor([1.0, 2.0, 4.0])[:, None, None])
    assert mean.item() == pytest.approx(7 / 3, abs=1e-15)
    assert variance.item() == pytest.approx(7 / 3, abs=1e-14)  # (16 + 1 + 25) / 9 / 2


def test_variance_of_values_near_300_is_right():
    values = 300 + 0.01 * torch.randn(2000, 3, 2, generator=torch.Generator().manual_seed(0))  # float32
    variance = mean_and_variance(values)[1].numpy()
    np.testing.assert_allclose(variance, np.var(values.double().numpy(), axis=0, ddof=1), rtol=1e-12)
    # The true variance is 1e-4. Its estimate has a relative error of sqrt(2 / 1999) = 3.2 %; 15 % are 4.7 of these.
    # The steps of float32 at 300, 3e-5, add a variance of (3e-5)^2 / 12, a hundred-thousandth of 1e-4.
    np.testing.assert_allclose(variance, 1e-4, rtol=0.15)


@settings(max_examples=100, deadline=None)
@given(
    arrays(np.float32, st.tuples(st.integers(2, 30), st.just(2), st.just(3)), elements=st.floats(-10, 10, width=32)),
    st.floats(0.001, 0.999),
)
def test_quantiles_are_type_7(draws, probability):
    (actual,) = quantiles(torch.from_numpy(draws), [probability])
    expected = np.quantile(draws.astype(np.float64), probability, axis=0, method="linear")
    np.testing.assert_allclose(actual, expected, rtol=1e-13, atol=1e-13)


def test_quantile_by_hand():
    # 5 draws, p = .1: position .4 between the smallest (1) and the next (3).
    (quantile,) = quantiles(torch.tensor([9.0, 3.0, 1.0, 27.0, 81.0])[:, None, None], [0.1])
    assert quantile.item() == pytest.approx(1.8, abs=1e-15)


def test_variation_ratio_by_hand():
    # Votes of input 1: 0, 0, 1, 2: half are not for 0. Input 2: all for 1.
    votes = torch.eye(3)[torch.tensor([[0, 1], [0, 1], [1, 1], [2, 1]])]
    assert variation_ratio(votes).tolist() == [0.5, 0.0]


@pytest.mark.parametrize("name", ["predictive_entropy", "expected_entropy", "mutual_information"])
def test_monte_carlo_errors_equal_the_spread_over_repetitions(name):
    generator = torch.Generator().manual_seed(3)
    repetitions, n_draws = 4000, 200
    noise = torch.randn(n_draws, repetitions, 4, dtype=torch.float64, generator=generator)
    # Not symmetric in the labels: at the uniform distribution the entropy has slope 0, and the delta method gives 0.
    draws = (1.5 * noise + torch.tensor([2.0, 0.5, 0.0, -1.0])).softmax(dim=-1)
    parts = entropy_parts(draws)  # every "input" is a repetition of the same prediction
    observed, estimated = parts[name].std().item(), parts[f"{name}_mcse"].mean().item()
    # A standard deviation over 4,000 repetitions has a relative error of 1.1 %, the delta method one of 1/200.
    assert estimated == pytest.approx(observed, rel=0.06)


def test_standard_error_by_hand():
    assert standard_error(torch.tensor([1.0, 2.0, 4.0])).item() == pytest.approx(np.sqrt(7 / 9), abs=1e-14)


def test_total_variance_is_the_variance_of_the_mixture():
    means = torch.tensor([[[1.0]], [[4.0]]], dtype=torch.float64)
    noise = torch.tensor([[[0.25]], [[1.0]]], dtype=torch.float64)
    summary = summarise_values(means, noise, 0.9)
    # E[noise] = .625; variance of (1, 4) with n - 1 = 4.5.
    assert summary["aleatoric_variance"].item() == pytest.approx(0.625, abs=1e-15)
    assert summary["total_variance"].item() == pytest.approx(5.125, abs=1e-14)


def test_prediction_interval_inverts_the_mixture():
    generator = torch.Generator().manual_seed(5)
    means = torch.randn(6, 4, 2, dtype=torch.float64, generator=generator) * 3
    noise = torch.rand(6, 4, 2, dtype=torch.float64, generator=generator) + 0.01
    for probability in (0.025, 0.5, 0.975):
        quantile = mixture_quantile(means, noise, probability).numpy()
        probability_below = stats.norm.cdf(quantile, means.numpy(), np.sqrt(noise.numpy())).mean(axis=0)
        np.testing.assert_allclose(probability_below, probability, atol=1e-13)


def test_prediction_interval_of_equal_normals_is_that_of_the_normal():
    draws = torch.full((3, 1, 1), 2.0, dtype=torch.float64)
    summary = summarise_values(draws, torch.full_like(draws, 4.0), 0.95)
    assert summary["pred_upper"].item() == pytest.approx(2 + 2 * 1.959963985, abs=1e-8)
    assert summary["upper"].item() == 2.0  # the means have no spread, so the two intervals differ


def test_classes_are_ranked_by_their_mean():
    summary = summarise_classes(one_input([0.1, 0.7, 0.2], [0.2, 0.3, 0.5]), 0.95)
    assert (summary["predicted"].item(), summary["second"].item()) == (1, 2)
    assert summary["confidence"].item() == pytest.approx(0.5, abs=1e-15)
    assert summary["margin"].item() == pytest.approx(0.15, abs=1e-15)
