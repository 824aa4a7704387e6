"""The prepared sampler of `mc_sampler()`."""

from __future__ import annotations

import numpy as np
import pytest
from input_models import DRAWS, N, Net, numbers, predict

import mcdropout as mcd


@pytest.fixture
def x():
    return numbers(N, 3)


def test_the_prepared_sampler_gives_the_numbers_of_mc_predict(x):
    sampler = mcd.mc_sampler(Net(), x[:2], DRAWS, outputs="logits", seed=3)
    expected = predict(Net(), x)
    for part in (slice(0, 1), slice(4, 9)):
        np.testing.assert_allclose(sampler(x[part]).mean, expected.mean[part], atol=1e-6)
    assert sampler(x[:1]).samples is None


def test_the_prepared_sampler_checks_each_input(x):
    sampler = mcd.mc_sampler(Net(), x[:2], DRAWS, outputs="logits", seed=3)
    bad = x.copy()
    bad[2, 1] = np.nan
    with pytest.raises(ValueError, match="got a missing value .NA or NaN. in input number 3 of 11"):
        sampler(bad)
    assert len(sampler(x)) == N
