"""Promises of error rates: by simulation, and bounds and p-values by SciPy."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mcdropout import MCPolicy, mc_decide, mc_triage
from mcdropout.decisions.learn_then_test import binomial_p, cases_needed, least_error_free, upper_bound

LABELS = ["no", "yes"]


def threshold_of(policy: MCPolicy, tier: int = 0) -> float:
    """The threshold of a tier, for a policy with one measure."""
    row = policy.thresholds[tier]
    assert row is not None
    (threshold,) = row
    return threshold


@pytest.fixture(scope="module")
def world(classes_of):
    """`world(uncertainty, wrong, rng)`: a prediction with this predictive entropy, and labels that make these wrong."""
    template = classes_of(np.array([[[0.6, 0.4]], [[0.7, 0.3]]]), LABELS)

    def make(uncertainty, wrong, rng):
        n = len(uncertainty)
        says_yes = rng.random(n) < 0.3
        predicted = np.where(says_yes, "yes", "no")
        repeated = template[np.zeros(n, dtype=int)]
        prediction = replace(
            repeated, predictive_entropy=uncertainty, predicted=predicted, mutual_information=uncertainty**2
        )
        return prediction, np.where(wrong, np.where(says_yes, "no", "yes"), predicted)

    return make


GRID = np.linspace(0, 1, 20_001)
WORLDS = {  # chance of an error by uncertainty, which is uniform on [0, 1]
    "steep": lambda uncertainty: 0.3 * uncertainty**3,
    # the most certain inputs are wrong more often than the next ones: the promise must not need a perfect order
    "bumpy": lambda uncertainty: np.where(uncertainty < 0.1, 0.1, 0.01 + 0.3 * np.maximum(uncertainty - 0.4, 0)),
    "hopeless": lambda uncertainty: 0.08 + 0 * uncertainty,
    "in steps": lambda uncertainty: np.where(
        uncertainty <= 0.5, 0.049, 0.2
    ),  # up to 0.5 the limit is kept, by a small margin
}


def true_risk(chance, threshold):
    """Share of wrong cases among all cases with at most this uncertainty."""
    risks = np.cumsum(chance(GRID)) / np.arange(1, len(GRID) + 1)
    return np.interp(threshold, GRID, risks)


def allowed_failures(repetitions, chance):
    """The number that one in 1,000 simulations would exceed if the promise holds with equality."""
    return stats.binom.ppf(0.999, repetitions, chance)


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.filterwarnings("ignore:No threshold can promise")
def test_the_promise_is_kept_in_a_thousand_repetitions(world, name):
    # failure rate at most 1 - confidence, plus the Monte Carlo error of 1,000 repetitions
    repetitions, confidence, max_error, n = 1000, 0.9, 0.05, 600
    rng = np.random.default_rng(1)
    failures, accepted, naive_failures = 0, [], 0
    for repetition in range(repetitions):
        uncertainty = np.round(rng.random(n), 3)  # with ties
        wrong = rng.random(n) < WORLDS[name](uncertainty)
        prediction, y = world(uncertainty, wrong, rng)
        policy = mc_triage(prediction, y, max_error=max_error, confidence=confidence, seed=repetition)
        row = policy.thresholds[0]
        assert (row is None) == (policy.needed is not None) == (not policy.guaranteed)
        accepted.append(0.0 if row is None else row[0])
        failures += row is not None and true_risk(WORLDS[name], row[0]) > max_error + 1e-4  # the error of the grid
        order = np.argsort(uncertainty, kind="stable")
        fits = np.flatnonzero(np.cumsum(wrong[order]) / np.arange(1, n + 1) <= max_error)
        naive_failures += len(fits) > 0 and true_risk(WORLDS[name], uncertainty[order][fits[-1]]) > max_error + 1e-4
    assert failures <= allowed_failures(repetitions, 1 - confidence)
    if name in ("steep", "in steps"):
        # the test detects a rule without a promise: the largest share with few enough errors on these inputs
        assert naive_failures > allowed_failures(repetitions, 1 - confidence)
    if name == "steep":
        assert np.mean(accepted) > 0.5  # accepting nothing would be trivial; 0.87 would be allowed
    if name == "hopeless":
        assert np.mean(np.array(accepted) > 0) <= 0.1


@pytest.mark.filterwarnings("ignore:No threshold can promise")
def test_promises_for_two_labels_and_two_tiers_hold_at_once(world):
    repetitions, n = 200, 1500
    rng = np.random.default_rng(2)
    failures, n_promises = 0, 0
    # the errors are symmetric, so the rates of misses and false alarms of "yes" depend only on the uncertainty
    fresh_uncertainty = rng.random(200_000)
    fresh, fresh_y = world(fresh_uncertainty, rng.random(200_000) < 0.3 * fresh_uncertainty**2, rng)
    predicted, true = fresh.predicted == "yes", fresh_y == "yes"
    wrong = fresh.predicted != fresh_y
    limits = {"misses": {"yes": 0.15}, "false_alarms": {"yes": 0.06}}
    for repetition in range(repetitions):
        uncertainty = rng.random(n)
        prediction, y = world(uncertainty, rng.random(n) < 0.3 * uncertainty**2, rng)
        policy = mc_triage(
            prediction, y, max_error=[0.05, 0.08], tiers=3, confidence=0.9, by_label=limits, seed=repetition
        )
        first, second = policy.thresholds
        n_promises += first is not None
        at_first = fresh_uncertainty <= (-1 if first is None else first[0])
        up_to_second = fresh_uncertainty <= (-1 if second is None else second[0])
        kept = [
            first is None or wrong[at_first & true].mean() <= 0.15 + 0.002,  # 0.002: error of 200,000 inputs
            first is None or wrong[at_first & predicted].mean() <= 0.06 + 0.002,
            first is None or wrong[at_first].mean() <= 0.05 + 0.002,
            second is None or wrong[up_to_second].mean() <= 0.08 + 0.002,
        ]
        failures += not all(kept)
    assert failures <= allowed_failures(repetitions, 0.1)
    assert n_promises > 0.5 * repetitions


def test_the_test_inputs_do_not_influence_the_candidates(example_classes):
    # other labels of the test inputs change neither the candidate thresholds nor the start of the tests
    prediction, y = example_classes(800, sharpness=4)
    first = mc_triage(prediction, y, max_error=0.2, seed=3)
    order = np.random.default_rng(3).permutation(800)
    changed = y.copy()
    test_inputs = order[200:]
    changed[test_inputs] = changed[np.random.default_rng(9).permutation(test_inputs)]
    with pytest.warns(UserWarning, match="No threshold can promise"):
        second = mc_triage(prediction, changed, max_error=0.2, seed=3)
    np.testing.assert_array_equal(first.curve["predictive_entropy"], second.curve["predictive_entropy"])
    starts = np.flatnonzero(second.curve["level"])
    assert 1 <= len(starts) <= 2  # the tests at the starts failed, so no further step was tested
    assert (first.curve["level"].to_numpy()[starts] > 0).all()


def test_p_values_and_bounds_are_scipy_s():
    for wrong, n, limit in ((0, 59, 0.05), (3, 120, 0.04), (10, 10, 0.3), (7, 400, 0.02)):
        p = stats.binom.cdf(wrong, n, limit)
        assert binomial_p(np.array(wrong), np.array(n), limit) == pytest.approx(p, abs=1e-12)
        exact = stats.binomtest(wrong, n, alternative="less").proportion_ci(0.95, method="exact").high
        assert upper_bound(wrong, n, 0.95) == pytest.approx(exact, abs=1e-12)
    assert binomial_p(np.array(0), np.array(0), 0.1) == 1
    assert upper_bound(0, 0, 0.95) == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 30), st.integers(1, 300), st.sampled_from([0.01, 0.05, 0.2]), st.sampled_from([0.8, 0.95]))
def test_a_p_value_is_small_exactly_where_the_bound_keeps_the_limit(wrong, n, limit, confidence):
    if wrong <= n:
        p, bound = float(binomial_p(np.array(wrong), np.array(n), limit)), upper_bound(wrong, n, confidence)
        if abs(bound - limit) > 1e-9:
            assert (p <= 1 - confidence) == (bound <= limit)


@pytest.mark.parametrize(
    ("limit", "confidence", "n"), [(0.05, 0.95, 59), (0.01, 0.95, 299), (0.1, 0.9, 22), (0.5, 0.5, 1)]
)
def test_number_of_cases_needed_without_an_error(limit, confidence, n):
    assert least_error_free(limit, confidence) == n
    assert upper_bound(0, n, confidence) <= limit + 1e-12
    assert n == 1 or upper_bound(0, n - 1, confidence) > limit


def test_number_of_cases_needed_at_an_error_rate():
    n = cases_needed(0.02, 0.05, 0.95)
    assert n is not None
    assert stats.binom.cdf(round(0.02 * n), n, 0.05) == pytest.approx(0.05, abs=0.02)  # the number of errors is whole
    assert cases_needed(0.05, 0.05, 0.95) is None
    assert cases_needed(0.0, 0.05, 0.95) == 59


def test_the_promise_says_what_it_is_based_on(example_classes):
    prediction, y = example_classes(2000, sharpness=4)
    policy = mc_triage(prediction, y, max_error=0.1)
    (promise,) = policy.promises.to_dict(orient="records")
    order = np.random.default_rng(0).permutation(2000)
    test_inputs = order[500:]
    uncertainty, wrong = prediction.predictive_entropy[test_inputs], (prediction.predicted != y)[test_inputs]
    accepted = uncertainty <= threshold_of(policy)
    assert (promise["n"], promise["wrong"]) == (accepted.sum(), wrong[accepted].sum())
    assert promise["upper_bound"] <= 0.1
    assert policy.n_test == 1500
    text = repr(policy)
    assert "Promise: with 95 % confidence, at most 10 % of the accepted are wrong." in text
    assert f"{promise['wrong']} of {promise['n']} wrong" in text
    assert "rests on 1500 calibration inputs" in text
    assert policy.outcome["n"].sum() == 2000


def test_the_curve_contains_the_tests(example_classes):
    prediction, y = example_classes(1000, sharpness=4)
    policy = mc_triage(prediction, y, max_error=0.15)
    tested = policy.curve[policy.curve["level"] > 0]
    passed = tested[tested["p_value"] <= tested["level"]]
    assert passed["predictive_entropy"].max() == threshold_of(policy)
    for row in tested.itertuples():
        assert row.p_value == pytest.approx(stats.binom.cdf(row.wrong, row.n, 0.15), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 0.08), min_size=30, max_size=30))
def test_levels_are_passed_on_and_never_exceed_alpha(world, chances):
    rng = np.random.default_rng(0)
    uncertainty = rng.random(400)
    wrong = rng.random(400) < np.array(chances)[(uncertainty * 30).astype(int)]
    prediction, y = world(uncertainty, wrong, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        curve = mc_triage(prediction, y, max_error=0.1).curve
    level, passed = curve["level"].to_numpy(), (curve["p_value"] <= curve["level"]).to_numpy()
    passed_on = np.append(0, level[:-1] * passed[:-1])
    start_level = level - passed_on
    assert (start_level >= -1e-15).all()
    assert start_level.sum() == pytest.approx(0.05)
    assert (start_level > 1e-15).sum() <= 2


def test_tiers_share_the_error_probability(world):
    rng = np.random.default_rng(3)
    uncertainty = rng.random(2000)
    prediction, y = world(uncertainty, rng.random(2000) < 0.25 * uncertainty, rng)
    policy = mc_triage(prediction, y, max_error=[0.08, 0.15], tiers=3, confidence=0.9)
    assert len(policy.promises) == 2
    for promise in policy.promises.to_dict(orient="records"):
        bound = stats.beta.ppf(1 - 0.1 / 2, promise["wrong"] + 1, promise["n"] - promise["wrong"])
        assert promise["upper_bound"] == pytest.approx(bound, rel=1e-12)  # the same function
    for _, curve in policy.curve.groupby("tier"):
        assert curve["level"].max() <= 0.05 + 1e-12


def test_a_failed_promise_says_how_many_inputs_are_needed(world):
    rng = np.random.default_rng(0)
    uncertainty = rng.random(120)
    prediction, y = world(uncertainty, uncertainty > 0.8, rng)
    with pytest.warns(
        UserWarning, match="No threshold can promise that at most 1 % of the accepted are wrong"
    ) as warned:
        policy = mc_triage(prediction, y, max_error=0.01)
    assert policy.thresholds == (None,)
    assert not policy.guaranteed
    assert policy.needed is not None
    assert "at least 299 without an error are needed" in policy.needed
    assert "labelled inputs in all would be enough; there are 120" in policy.needed
    assert policy.needed in repr(policy)
    assert warned[0].filename == __file__
    table = mc_decide(policy, prediction)
    assert set(table["tier"]) == {"refer"}
    assert set(table["reason"]) == {'no threshold for "accept"'}


def test_a_failed_promise_says_if_no_number_of_inputs_is_enough(example_classes):
    prediction, y = example_classes(2000, sharpness=0.3)
    with pytest.warns(
        UserWarning, match="no number of inputs would be enough: allow more error, or train a better network"
    ):
        mc_triage(prediction, y, max_error=0.05)


def test_ten_cases_are_too_few_for_a_promise(example_classes):
    prediction, y = example_classes(10, sharpness=5)
    with pytest.warns(UserWarning, match="Of the 8 inputs used for the test, .* at least 59 without an error"):
        mc_triage(prediction, y, max_error=0.05)


@pytest.mark.filterwarnings("ignore:No threshold can promise")
def test_a_looser_promise_for_two_tiers_is_never_stricter(example_classes):
    for seed in range(12):
        prediction, y = example_classes(300, sharpness=5, seed=seed)
        policy = mc_triage(prediction, y, max_error=[0.1, 0.1], tiers=3, seed=seed)
        assert policy.thresholds[0] is None or threshold_of(policy, 1) >= threshold_of(policy, 0)


def test_all_labels_hold_their_own_limit(example_classes):
    prediction, y = example_classes(6000, n_labels=3, sharpness=5)
    policy = mc_triage(prediction, y, max_error=0.1, by_label=True)
    assert list(policy.promises["kind"]) == ["misses"] * 3
    assert policy.promises["kept"].all()
    test_inputs = np.random.default_rng(0).permutation(6000)[1500:]
    for promise in policy.promises.to_dict(orient="records"):
        of_label = y[test_inputs] == promise["label"]
        accepted = (prediction.predictive_entropy[test_inputs] <= threshold_of(policy)) & of_label
        assert promise["n"] == accepted.sum()
        assert promise["wrong"] == (prediction.predicted[test_inputs][accepted] != promise["label"]).sum()
    assert 'at most 10 % of the accepted inputs that are "label 0" are called something else' in repr(policy)


def test_a_limit_that_is_nearly_zero_is_answered(world):
    rng = np.random.default_rng(0)
    prediction, y = world(rng.random(200), np.zeros(200, dtype=bool), rng)
    assert least_error_free(1e-300, 0.95) > 10**300
    with pytest.warns(UserWarning, match="more than 1,000,000 without an error are needed"):
        policy = mc_triage(prediction, y, max_error=1e-300)
    assert not policy.guaranteed


def test_a_confidence_that_is_nearly_one_is_answered_or_refused(world):
    rng = np.random.default_rng(0)
    prediction, y = world(rng.random(2000), np.zeros(2000, dtype=bool), rng)
    assert mc_triage(prediction, y, max_error=0.2, confidence=1 - 1e-11).guaranteed
    with pytest.raises(ValueError, match="`confidence` must be at least 1e-12 below 1; got 0.9999999999999999"):
        mc_triage(prediction, y, max_error=0.2, confidence=1 - 1e-16)
