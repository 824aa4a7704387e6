"""Scores of values: by scikit-learn, by integration, and by naive sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate, stats
from sklearn import metrics

from mcdropout import mc_scores

ROUNDING = 1e-9  # sums of a few dozen doubles


def numbers(score: np.ndarray | None) -> np.ndarray:
    """A score of values that must be there."""
    assert score is not None
    return score


def test_scores_of_values(example_values):
    prediction, y = example_values(40)
    scores = mc_scores(prediction, y)
    assert scores.by_interval is not None
    mean_squares = metrics.mean_squared_error(y, prediction.mean, multioutput="raw_values")
    np.testing.assert_allclose(numbers(scores.rmse), np.sqrt(mean_squares))
    absolute_errors = metrics.mean_absolute_error(y, prediction.mean, multioutput="raw_values")
    np.testing.assert_allclose(numbers(scores.mae), absolute_errors)
    np.testing.assert_allclose(numbers(scores.log_density), prediction.log_density(y).mean(axis=0))
    rows = scores.by_interval.set_index(["interval", "output"])
    low, high = prediction.pred_lower[:, 1], prediction.pred_upper[:, 1]
    inside = (low <= y[:, 1]) & (y[:, 1] <= high)
    missed = np.where(y[:, 1] < low, low - y[:, 1], np.where(y[:, 1] > high, y[:, 1] - high, 0))
    row = rows.loc[("pred_int", 2)]
    assert row["coverage"] == pytest.approx(inside.mean())
    assert row["width"] == pytest.approx((high - low).mean())
    assert row["interval_score"] == pytest.approx((high - low + 2 / 0.1 * missed).mean())  # level 0.9
    assert set(scores.by_interval["interval"]) == {"conf_int", "pred_int"}


def test_crps_and_pit_of_a_mixture_by_integration(example_values):
    prediction, y = example_values(3)
    means, scales = prediction.samples.astype(float), np.sqrt(prediction.noise_variances.astype(float))
    scores, crps = mc_scores(prediction, y), np.zeros(y.shape)
    for i, j in np.ndindex(y.shape):

        def below(x, i=i, j=j):
            return stats.norm.cdf(x, means[:, i, j], scales[:, i, j]).mean()

        reach = np.abs(means[:, i, j] - y[i, j]).max() + 12 * scales[:, i, j].max()
        left = integrate.quad(lambda x: below(x) ** 2, y[i, j] - reach, y[i, j], limit=200)[0]
        right = integrate.quad(lambda x: (1 - below(x)) ** 2, y[i, j], y[i, j] + reach, limit=200)[0]
        crps[i, j] = left + right
        assert numbers(scores.pit)[i, j] == pytest.approx(below(y[i, j]), abs=ROUNDING)
    np.testing.assert_allclose(numbers(scores.crps), crps.mean(axis=0), rtol=1e-6)  # the tolerance of quad


def test_crps_of_draws_without_noise_is_the_double_sum(example_values):
    prediction, y = example_values(30, noise=False)
    draws = prediction.samples.astype(float)
    to_observed = np.abs(draws - y).mean(axis=0)
    between = np.abs(draws[:, None] - draws[None]).mean(axis=(0, 1))
    scores = mc_scores(prediction, y)
    np.testing.assert_allclose(numbers(scores.crps), (to_observed - between / 2).mean(axis=0), rtol=1e-12)
    assert scores.log_density is None
    assert "estimates its noise" in scores.notes[0]


@pytest.mark.parametrize("noise", [True, False])
def test_inputs_with_fewer_draws_are_scored_by_these_draws(example_values, noise):
    prediction, y = example_values(5, noise=noise)
    short = prediction.samples.copy()
    short[4:, 2] = np.nan
    noises = None if not noise else np.where(np.isnan(short), np.nan, prediction.noise_variances)
    counts = np.array([7, 7, 4, 7, 7])
    ragged = replace(prediction, samples=short, noise_variances=noises, n_samples=counts)
    short_input = replace(
        prediction[[2]],
        samples=short[:4, [2]],
        noise_variances=None if noises is None else noises[:4, [2]],
        n_samples=4,
    )
    others = [0, 1, 3, 4]
    together, short_scores = mc_scores(ragged, y), mc_scores(short_input, y[[2]])
    mean = (4 * numbers(mc_scores(prediction[others], y[others]).crps) + numbers(short_scores.crps)) / 5
    np.testing.assert_allclose(numbers(together.crps), mean, rtol=1e-12)
    np.testing.assert_allclose(numbers(together.pit)[2], numbers(short_scores.pit)[0], rtol=1e-12)


def test_risk_of_values_is_the_squared_error(example_values):
    prediction, y = example_values(50)
    scores = mc_scores(prediction, y, n_resamples=5, seed=1)
    risk = scores.risk_coverage.loc[scores.risk_coverage["measure"] == "total_std", "risk"]
    assert risk.to_numpy()[-1] == pytest.approx(((y - prediction.mean) ** 2).mean())
    assert list(scores.by_measure["measure"]) == ["std", "total_std"]
    assert {"lower", "upper"} <= set(scores.table)


def test_without_draws_the_scores_that_need_none_are_computed(example_values):
    prediction, y = example_values(12)
    scores = mc_scores(replace(prediction, samples=None, noise_variances=None), y)
    assert scores.crps is None
    assert scores.pit is None
    assert scores.rmse is not None
    assert "keep_samples" in scores.notes[0]
    assert "keep_samples" in repr(scores)


def test_values_of_one_output_may_have_one_axis(example_values):
    prediction, y = example_values(9)
    names = ("mean", "variance", "lower", "upper", "aleatoric_variance", "total_variance", "pred_lower", "pred_upper")
    single = replace(
        prediction,
        **{name: getattr(prediction, name)[:, :1] for name in names},
        samples=prediction.samples[..., :1],
        noise_variances=prediction.noise_variances[..., :1],
    )
    np.testing.assert_array_equal(mc_scores(single, y[:, 0]).rmse, mc_scores(single, y[:, :1]).rmse)
