"""Curves of uncertainty: by hand, by scikit-learn, and by random orders of the inputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from mcdropout.evaluation.curves import (
    UncertaintyCurve,
    accuracy_at,
    aurc,
    auroc,
    average_precision,
    best_aurc,
    coverage_at,
)

ROUNDING = 1e-9  # sums of a few dozen doubles

uncertainties_and_errors = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30)


def curve_of(cases):
    uncertainty, wrong = (np.array(column, dtype=float) for column in zip(*cases, strict=True))
    return UncertaintyCurve.of(uncertainty, wrong), uncertainty, wrong


@settings(max_examples=60, deadline=None)
@given(uncertainties_and_errors)
def test_auroc_and_average_precision_are_those_of_scikit_learn(cases):
    curve, uncertainty, wrong = curve_of(cases)
    if 0 < wrong.sum() < len(wrong):
        assert auroc(curve) == pytest.approx(metrics.roc_auc_score(wrong, uncertainty), abs=ROUNDING)
        assert average_precision(curve) == pytest.approx(
            metrics.average_precision_score(wrong, uncertainty), abs=ROUNDING
        )
    else:
        assert np.isnan(auroc(curve))


def test_aurc_by_hand():
    # in order of uncertainty right, wrong, right, wrong: risks 0, 1/2, 1/3, 1/2; best order: 0, 0, 1/3, 1/2
    curve, _, wrong = curve_of([(1, False), (2, True), (3, False), (4, True)])
    assert aurc(curve) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert best_aurc(wrong) == pytest.approx((1 / 3 + 1 / 2) / 4)


def test_aurc_of_ties_is_the_mean_over_their_orders():
    # three equally uncertain inputs: the wrong one is first, second or third
    curve, _, _ = curve_of([(1, True), (1, False), (1, False)])
    orders = [(1 + 1 / 2 + 1 / 3) / 3, (1 / 2 + 1 / 3) / 3, (1 / 3) / 3]
    assert aurc(curve) == pytest.approx(np.mean(orders))


@settings(max_examples=30, deadline=None)  # 300 orders each
@given(uncertainties_and_errors)
def test_aurc_is_near_the_mean_of_random_orders_and_not_below_the_best(cases):
    curve, uncertainty, wrong = curve_of(cases)
    rng = np.random.default_rng(0)
    k = np.arange(1, len(wrong) + 1)
    areas = []
    for _ in range(300):
        order = np.lexsort((rng.random(len(uncertainty)), uncertainty))
        areas.append((np.cumsum(wrong[order]) / k).mean())
    assert min(areas) - ROUNDING <= aurc(curve) <= max(areas) + ROUNDING
    # five standard errors of the mean of 300 orders, and rounding if all orders have the same area
    assert abs(aurc(curve) - np.mean(areas)) <= 5 * np.std(areas) / np.sqrt(300) + ROUNDING
    assert best_aurc(wrong) <= aurc(curve) + ROUNDING


@settings(max_examples=60, deadline=None)
@given(uncertainties_and_errors, st.sampled_from([0.3, 0.5, 0.9, 1.0]))
def test_equally_uncertain_inputs_are_treated_as_a_group(cases, share):
    curve, uncertainty, wrong = curve_of(cases)
    coverage, accuracy, threshold = accuracy_at(curve, share)
    covered = uncertainty <= threshold
    assert covered.mean() == pytest.approx(coverage)
    assert coverage >= share - ROUNDING
    assert (uncertainty < threshold).mean() < share  # no smaller share is large enough
    assert accuracy == pytest.approx(1 - wrong[covered].mean())
    largest, largest_threshold = coverage_at(curve, 0.25)
    allowed = [value for value in np.unique(uncertainty) if wrong[uncertainty <= value].mean() <= 0.25]
    assert largest == (pytest.approx((uncertainty <= max(allowed)).mean()) if allowed else 0)
    assert largest_threshold == max(allowed) if allowed else np.isnan(largest_threshold)


@pytest.mark.parametrize("share", [0.7, 0.9, 0.35])
def test_rounding_does_not_change_a_share_of_round_numbers(share):
    curve = UncertaintyCurve.of(np.arange(20.0), np.zeros(20))
    assert accuracy_at(curve, share)[0] == pytest.approx(share)
