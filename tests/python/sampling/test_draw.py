"""Draws until `tolerance` is met."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from input_models import N, Net, numbers, predict
from torch import nn

from mcdropout import MCPrediction


@pytest.fixture
def x():
    return numbers(N, 3)


def test_tolerance_stops_each_input_at_its_own_number_of_draws(x):
    result = predict(Net(), x, 400, tolerance=0.02)
    assert len(set(result.n_samples)) > 1
    assert (result.mcse.max(axis=1) <= 0.02)[result.n_samples < 400].all()
    n_finite = np.isfinite(result.samples[..., 0]).sum(axis=0)
    np.testing.assert_array_equal(n_finite, result.n_samples)
    all_draws = predict(Net(), x, 400).samples
    for i, n_drawn in enumerate(result.n_samples):
        np.testing.assert_allclose(result.samples[:n_drawn, i], all_draws[:n_drawn, i], atol=1e-6)
        mean = all_draws[:n_drawn, i].mean(axis=0, dtype=np.float64)
        np.testing.assert_allclose(result.mean[i], mean, atol=1e-6)


@pytest.mark.parametrize("masks", ["shared", "per_input"])
def test_tolerance_does_not_depend_on_other_inputs(x, masks):
    expected = predict(Net(), x, 200, tolerance=0.02, masks=masks)
    for batch_size in (1, 4):
        result = predict(Net(), x, 200, tolerance=0.02, masks=masks, batch_size=batch_size)
        np.testing.assert_array_equal(result.n_samples, expected.n_samples)
        np.testing.assert_allclose(result.mean, expected.mean, atol=1e-6)
    of_two_inputs = predict(Net(), x[[7, 2]], 200, tolerance=0.02, masks=masks, ids=[7, 2])
    np.testing.assert_array_equal(of_two_inputs.n_samples, expected[[7, 2]].n_samples)
    np.testing.assert_allclose(of_two_inputs.mean, expected[[7, 2]].mean, atol=1e-6)


def test_tolerance_works_on_streams_and_without_kept_draws(x):
    expected = predict(Net(), x, 200, tolerance=0.02)
    of_a_stream = predict(Net(), iter(torch.from_numpy(x).split(4)), 200, tolerance=0.02)
    np.testing.assert_array_equal(of_a_stream.n_samples, expected.n_samples)
    np.testing.assert_allclose(of_a_stream.samples, expected.samples, atol=1e-6)
    assert predict(Net(), x, 200, tolerance=0.02, keep_samples=False).samples is None


def test_a_tiny_tolerance_needs_all_draws_and_a_wide_one_the_fewest(x):
    assert predict(Net(), x, 50, tolerance=1e-9).n_samples.tolist() == [50] * N
    assert predict(Net(), x, 50, tolerance=10).n_samples.tolist() == [10] * N
    assert predict(Net(), x, 7, tolerance=10).n_samples.tolist() == [7] * N


def test_bad_tolerance_is_refused(x):
    with pytest.raises(ValueError, match="`tolerance` must be a number above 0; got -1"):
        predict(Net(), x, tolerance=-1)


def test_a_prediction_with_tolerance_equals_the_one_from_its_state(x):
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    result = predict(model, x, 100, tolerance=0.05, outputs="mean_log_variance")
    restored: Any = MCPrediction.from_state(*result.to_state())
    np.testing.assert_array_equal(restored.n_samples, result.n_samples)
    np.testing.assert_array_equal(restored[[3, 1]].n_samples, result.n_samples[[3, 1]])
    y = numbers(N, 1)
    n_draws = result.n_samples[4]
    draws = result.samples[:n_draws, 4].astype(np.float64)
    noise = result.noise_variances[:n_draws, 4].astype(np.float64)
    density = np.exp(-0.5 * (y[4] - draws) ** 2 / noise) / np.sqrt(2 * np.pi * noise)
    np.testing.assert_allclose(result.log_density(y)[4], np.log(density.mean(axis=0)), rtol=1e-6)
