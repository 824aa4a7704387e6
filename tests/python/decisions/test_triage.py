"""Triage: the promise by simulation, the bounds by SciPy, budgets and costs by trying all, files, and what is said."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mcdropout import UnreadableFile, mc_decide, mc_load, mc_save, mc_triage
from mcdropout.decisions.cases import CalibrationCases, ThresholdPath, tiers_of
from mcdropout.decisions.costs import CostTable
from mcdropout.decisions.learn_then_test import _needed_accepted, binomial_p, least_error_free, upper_bound
from mcdropout.predictions.uncertainty import CLASS_MEASURES, measured

LABELS = ["no", "yes"]


@pytest.fixture(scope="module")
def world(classes_of):
    """`world(uncertainty, wrong)`: a prediction with that predictive entropy, and labels that make those wrong."""
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


# The promise ----------------------------------------------------------------------------------------------

GRID = np.linspace(0, 1, 20_001)
WORLDS = {  # chance of an error by uncertainty, which is uniform on [0, 1]
    "steep": lambda uncertainty: 0.3 * uncertainty**3,
    # the most certain are wrong more often than those after them: nothing may hang on the order being right
    "bumpy": lambda uncertainty: np.where(uncertainty < 0.1, 0.1, 0.01 + 0.3 * np.maximum(uncertainty - 0.4, 0)),
    "hopeless": lambda uncertainty: 0.08 + 0 * uncertainty,
    "in steps": lambda uncertainty: np.where(uncertainty <= 0.5, 0.049, 0.2),  # the limit is just kept up to 0.5
}


def true_risk(chance, threshold):
    """Share of wrong cases among all that have at most this uncertainty."""
    risks = np.cumsum(chance(GRID)) / np.arange(1, len(GRID) + 1)
    return np.interp(threshold, GRID, risks)


def allowed_failures(repetitions, chance):
    """One in 1,000 simulations of a promise that is only just kept would have more."""
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
        policy: Any = mc_triage(prediction, y, max_error=max_error, confidence=confidence, seed=repetition)
        row = policy.thresholds[0]
        assert (row is None) == (policy.needed is not None) == (not policy.guaranteed)
        accepted.append(0.0 if row is None else row[0])
        failures += row is not None and true_risk(WORLDS[name], row[0]) > max_error + 1e-4  # the grid's own error
        order = np.argsort(uncertainty, kind="stable")
        fits = np.flatnonzero(np.cumsum(wrong[order]) / np.arange(1, n + 1) <= max_error)
        naive_failures += len(fits) > 0 and true_risk(WORLDS[name], uncertainty[order][fits[-1]]) > max_error + 1e-4
    assert failures <= allowed_failures(repetitions, 1 - confidence)
    if name in ("steep", "in steps"):
        # what keeps no promise is found out: the largest share whose errors happen to be few enough
        assert naive_failures > allowed_failures(repetitions, 1 - confidence)
    if name == "steep":
        assert np.mean(accepted) > 0.5  # it is no promise to accept nothing; 0.87 would be allowed
    if name == "hopeless":
        assert np.mean(np.array(accepted) > 0) <= 0.1


@pytest.mark.filterwarnings("ignore:No threshold can promise")
def test_promises_for_two_labels_and_two_tiers_hold_at_once(world):
    repetitions, n = 200, 1500
    rng = np.random.default_rng(2)
    failures, made = 0, 0
    # of "yes" said or true: by symmetry of the errors, misses and false alarms are functions of the uncertainty alone
    fresh_uncertainty = rng.random(200_000)
    fresh, fresh_y = world(fresh_uncertainty, rng.random(200_000) < 0.3 * fresh_uncertainty**2, rng)
    said, true = fresh.predicted == "yes", fresh_y == "yes"
    wrong = fresh.predicted != fresh_y
    limits = {"misses": {"yes": 0.15}, "false_alarms": {"yes": 0.06}}
    for repetition in range(repetitions):
        uncertainty = rng.random(n)
        prediction, y = world(uncertainty, rng.random(n) < 0.3 * uncertainty**2, rng)
        policy: Any = mc_triage(
            prediction, y, max_error=[0.05, 0.08], tiers=3, confidence=0.9, by_label=limits, seed=repetition
        )
        first, second = policy.thresholds
        made += first is not None
        at_first = fresh_uncertainty <= (-1 if first is None else first[0])
        up_to_second = fresh_uncertainty <= (-1 if second is None else second[0])
        kept = [
            first is None or wrong[at_first & true].mean() <= 0.15 + 0.002,  # 0.002: what 200,000 leave open
            first is None or wrong[at_first & said].mean() <= 0.06 + 0.002,
            first is None or wrong[at_first].mean() <= 0.05 + 0.002,
            second is None or wrong[up_to_second].mean() <= 0.08 + 0.002,
        ]
        failures += not all(kept)
    assert failures <= allowed_failures(repetitions, 0.1)
    assert made > 0.5 * repetitions


def test_the_test_inputs_had_no_part_in_choosing(example_classes):
    # other labels for the inputs that are kept for the test change neither the candidates nor where testing starts
    prediction, y = example_classes(800, sharpness=4)
    first = mc_triage(prediction, y, max_error=0.2, seed=3)
    order = np.random.default_rng(3).permutation(800)
    changed = y.copy()
    kept = order[200:]
    changed[kept] = changed[np.random.default_rng(9).permutation(kept)]
    with pytest.warns(UserWarning, match="No threshold can promise"):
        second = mc_triage(prediction, changed, max_error=0.2, seed=3)
    np.testing.assert_array_equal(first.curve["predictive_entropy"], second.curve["predictive_entropy"])
    starts = np.flatnonzero(second.curve["level"])
    assert 1 <= len(starts) <= 2  # both starts failed, and nothing was tested after them
    assert (first.curve["level"].to_numpy()[starts] > 0).all()


def test_p_values_and_bounds_are_scipy_s():
    for wrong, n, limit in ((0, 59, 0.05), (3, 120, 0.04), (10, 10, 0.3), (7, 400, 0.02)):
        wanted = stats.binom.cdf(wrong, n, limit)
        assert binomial_p(np.array(wrong), np.array(n), limit) == pytest.approx(wanted, abs=1e-12)
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
def test_how_many_without_an_error(limit, confidence, n):
    assert least_error_free(limit, confidence) == n
    assert upper_bound(0, n, confidence) <= limit + 1e-12
    assert n == 1 or upper_bound(0, n - 1, confidence) > limit


def test_how_many_at_an_error_rate():
    n = _needed_accepted(0.02, 0.05, 0.95)
    assert n is not None
    assert stats.binom.cdf(round(0.02 * n), n, 0.05) == pytest.approx(0.05, abs=0.02)  # in steps of whole errors
    assert _needed_accepted(0.05, 0.05, 0.95) is None
    assert _needed_accepted(0.0, 0.05, 0.95) == 59


def test_the_promise_says_what_it_rests_on(example_classes):
    prediction, y = example_classes(2000, sharpness=4)
    policy: Any = mc_triage(prediction, y, max_error=0.1)
    (promise,) = policy.promises.to_dict(orient="records")
    order = np.random.default_rng(0).permutation(2000)
    kept = order[500:]
    uncertainty, wrong = prediction.predictive_entropy[kept], (prediction.predicted != y)[kept]
    accepted = uncertainty <= policy.thresholds[0][0]
    assert (promise["n"], promise["wrong"]) == (accepted.sum(), wrong[accepted].sum())
    assert promise["upper_bound"] <= 0.1
    assert policy.n_test == 1500
    text = repr(policy)
    assert "Promise: with 95 % confidence, at most 10 % of the accepted are wrong." in text
    assert f"{promise['wrong']} of {promise['n']} wrong" in text
    assert "rests on 1500 calibration inputs" in text
    assert policy.outcome["n"].sum() == 2000


def test_the_curve_is_what_was_tested(example_classes):
    prediction, y = example_classes(1000, sharpness=4)
    policy: Any = mc_triage(prediction, y, max_error=0.15)
    tested = policy.curve[policy.curve["level"] > 0]
    passed = tested[tested["p_value"] <= tested["level"]]
    assert passed["predictive_entropy"].max() == policy.thresholds[0][0]
    for row in tested.itertuples():
        assert row.p_value == pytest.approx(stats.binom.cdf(row.wrong, row.n, 0.15), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 0.08), min_size=30, max_size=30))
def test_levels_are_handed_on_and_never_add_up_to_more_than_there_is(world, chances):
    rng = np.random.default_rng(0)
    uncertainty = rng.random(400)
    wrong = rng.random(400) < np.array(chances)[(uncertainty * 30).astype(int)]
    prediction, y = world(uncertainty, wrong, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        curve = mc_triage(prediction, y, max_error=0.1).curve
    level, passed = curve["level"].to_numpy(), (curve["p_value"] <= curve["level"]).to_numpy()
    handed_on = np.append(0, level[:-1] * passed[:-1])
    own = level - handed_on
    assert (own >= -1e-15).all()
    assert own.sum() == pytest.approx(0.05)
    assert (own > 1e-15).sum() <= 2


def test_tiers_share_the_chance_of_being_wrong(world):
    rng = np.random.default_rng(3)
    uncertainty = rng.random(2000)
    prediction, y = world(uncertainty, rng.random(2000) < 0.25 * uncertainty, rng)
    policy: Any = mc_triage(prediction, y, max_error=[0.08, 0.15], tiers=3, confidence=0.9)
    assert len(policy.promises) == 2
    rows: list[Any] = list(policy.promises.itertuples())
    for row in rows:
        bound = stats.beta.ppf(1 - 0.1 / 2, row.wrong + 1, row.n - row.wrong)
        assert row.upper_bound == pytest.approx(bound, rel=1e-12)  # the same function
    for _, curve in policy.curve.groupby("tier"):
        assert curve["level"].max() <= 0.05 + 1e-12


def test_what_cannot_be_promised_is_said_with_what_it_takes(world):
    rng = np.random.default_rng(0)
    uncertainty = rng.random(120)
    prediction, y = world(uncertainty, uncertainty > 0.8, rng)
    with pytest.warns(UserWarning, match="No threshold can promise that at most 1 % of the accepted are wrong") as said:
        policy: Any = mc_triage(prediction, y, max_error=0.01)
    assert policy.thresholds == (None,)
    assert not policy.guaranteed
    assert "at least 299 without an error" in policy.needed
    assert "labelled inputs in all would do; there are 120" in policy.needed
    assert policy.needed in repr(policy)
    assert said[0].filename == __file__
    table = mc_decide(policy, prediction)
    assert set(table["tier"]) == {"refer"}
    assert set(table["reason"]) == {'no threshold for "accept"'}


def test_where_no_number_of_inputs_would_do_it_says_so(example_classes):
    prediction, y = example_classes(2000, sharpness=0.3)
    with pytest.warns(UserWarning, match="no number of inputs would do: allow more error, or train a better network"):
        mc_triage(prediction, y, max_error=0.05)


def test_ten_cases_promise_nothing(example_classes):
    prediction, y = example_classes(10, sharpness=5)
    with pytest.warns(UserWarning, match="of the 8 inputs kept for the test, .* at least 59 without an error"):
        mc_triage(prediction, y, max_error=0.05)


@pytest.mark.filterwarnings("ignore:No threshold can promise")
def test_a_looser_promise_for_two_tiers_is_never_stricter(example_classes):
    for seed in range(12):
        prediction, y = example_classes(300, sharpness=5, seed=seed)
        first, second = mc_triage(prediction, y, max_error=[0.1, 0.1], tiers=3, seed=seed).thresholds
        assert first is None or (second is not None and second[0] >= first[0])


def test_all_labels_hold_their_own_limit(example_classes):
    prediction, y = example_classes(6000, n_labels=3, sharpness=5)
    policy: Any = mc_triage(prediction, y, max_error=0.1, by_label=True)
    assert list(policy.promises["kind"]) == ["misses"] * 3
    assert policy.promises["kept"].all()
    promises: list[Any] = list(policy.promises.itertuples())
    for promise in promises:
        kept = np.random.default_rng(0).permutation(6000)[1500:]
        accepted = (prediction.predictive_entropy[kept] <= policy.thresholds[0][0]) & (y[kept] == promise.label)
        assert promise.n == accepted.sum()
        assert promise.wrong == (prediction.predicted[kept][accepted] != promise.label).sum()
    assert 'at most 10 % of the accepted inputs that are "label 0" are called something else' in repr(policy)


# Budgets, costs, thresholds of one's own ------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=4, max_size=40), st.sampled_from([0, 0.1, 0.25, 0.5, 1]))
def test_a_budget_is_never_overdrawn_and_no_stricter_threshold_keeps_it(uncertainties, budget):
    uncertainty = np.array(uncertainties, dtype=float)
    path = ThresholdPath.through(np.unique(uncertainty)[:, None], uncertainty[:, None])
    row = path.within(budget)
    if row is None:
        assert budget == 1
        return
    assert (uncertainty > row[0]).mean() <= budget + 1e-9
    stricter = uncertainty[uncertainty < row[0]]
    assert len(stricter) == 0 or (uncertainty > stricter.max()).mean() > budget


def test_a_budget_for_two_tiers(example_classes):
    prediction, y = example_classes(1000)
    policy: Any = mc_triage(prediction, y, budget=[0.2, 0.1], tiers=3, measure="mutual_information")
    np.testing.assert_array_equal(policy.outcome["n"], [700, 200, 100])
    accepted = policy.outcome.iloc[0]
    assert accepted["upper_bound"] == pytest.approx(upper_bound(accepted["wrong"], 700, 0.95))
    assert "No limit was asked for. Of inputs from this source, at most" in repr(policy)


def test_a_budget_beside_a_promise_is_the_last_tier(example_classes):
    prediction, y = example_classes(2000, sharpness=4)
    alone = mc_triage(prediction, y, max_error=0.1)
    policy: Any = mc_triage(prediction, y, max_error=0.1, budget=0.05, tiers=3)
    assert policy.thresholds[0] == alone.thresholds[0]
    assert policy.outcome["n"].iloc[2] == 100
    wide = mc_triage(prediction, y, max_error=0.1, budget=0.9, tiers=3)
    assert wide.thresholds[1] == wide.thresholds[0]  # what is accepted is not referred


def test_thresholds_of_one_s_own_and_what_they_would_have_cost(example_classes):
    prediction, y = example_classes(500)
    policy: Any = mc_triage(
        prediction, y, uncertainty_threshold=0.15, measure="std", costs={"error": 50, "refer": 2}, confidence=0.9
    )
    uncertainty, wrong = measured(prediction, "std"), prediction.predicted != y
    accepted = uncertainty <= 0.15
    assert policy.outcome["n"].tolist() == [accepted.sum(), (~accepted).sum()]
    assert policy.mean_cost == pytest.approx((50 * wrong[accepted].sum() + 2 * (~accepted).sum()) / 500)
    assert policy.outcome["upper_bound"].iloc[0] == pytest.approx(
        upper_bound(wrong[accepted].sum(), accepted.sum(), 0.9)
    )
    assert f"Mean cost of a calibration input: {policy.mean_cost:.4g}" in repr(policy)
    three = mc_triage(prediction, y, uncertainty_threshold=[0.1, 0.2], measure="std", tiers=["go", "look", "stop"])
    assert list(three.outcome["tier"]) == ["go", "look", "stop"]


cases_with_costs = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=9)


@settings(max_examples=60, deadline=None)
@given(cases_with_costs, st.sampled_from([0.5, 2.0, 7.0]), st.sampled_from([0.0, 0.5, 1.0]))
def test_costs_find_the_cheapest_of_all_thresholds(cases, refer, found):

    uncertainty = np.array([one for one, _ in cases], dtype=float)
    wrong = np.array([one for _, one in cases])
    labelled = CalibrationCases(
        np.zeros(len(uncertainty), int), wrong.astype(int), uncertainty[:, None], ("std",), ("a", "b")
    )
    costs = {"error": 5, "second check": (0.4, found), "refer": refer}
    prices = CostTable.of(costs, ("accept", "second check", "refer"), labelled)
    chosen = prices.cheapest(labelled.path(), labelled)

    def cost(thresholds):
        return prices.mean(tiers_of(uncertainty[:, None], thresholds))

    rows = [None, *((value,) for value in np.unique(uncertainty))]
    every = [cost(pair) for pair in itertools.combinations_with_replacement(rows, 2)]
    assert cost(chosen) == pytest.approx(min(every))
    by_hand = [0 if not bad else 5 for bad in wrong]
    assert prices.each[:, 0].tolist() == by_hand
    assert prices.each[:, 1].tolist() == pytest.approx([0.4 + (1 - found) * one for one in by_hand])


def test_a_table_of_costs_by_label(example_classes):
    prediction, y = example_classes(400, n_labels=2)
    table = np.array([[0, 1.0], [20.0, 0]])  # to overlook the second label costs 20
    policy: Any = mc_triage(prediction, y, costs={"error": table, "refer": 0.5})
    accepted = prediction.predictive_entropy <= policy.thresholds[0][0]
    true, said = ([list(prediction.labels).index(one) for one in some] for some in (y, prediction.predicted))
    wanted = np.where(accepted, table[true, said], 0.5).mean()
    assert policy.mean_cost == pytest.approx(wanted)
    frame = pd.DataFrame(table, index=prediction.labels, columns=prediction.labels)
    assert mc_triage(prediction, y, costs={"error": frame, "refer": 0.5}).thresholds == policy.thresholds
    assert "No promise: the thresholds were chosen on these same inputs" in repr(policy)


def test_several_measures_accept_what_exceeds_none(example_classes):
    prediction, y = example_classes(3000, sharpness=4)
    policy: Any = mc_triage(prediction, y, max_error=0.1, measure=["mutual_information", "least_confidence"])
    table = mc_decide(policy, prediction)
    mutual, confidence = policy.thresholds[0]
    inside = (prediction.mutual_information <= mutual) & (1 - prediction.confidence <= confidence)
    np.testing.assert_array_equal(table["tier"] == "accept", inside)
    referred = table[~inside].iloc[0]
    assert "is above" in referred["reason"]
    assert policy.guaranteed


@pytest.mark.parametrize("measure", CLASS_MEASURES)
def test_every_measure_can_be_decided_by(example_classes, measure):
    prediction, y = example_classes(1500, sharpness=5)
    policy: Any = mc_triage(prediction, y, max_error=0.15, measure=measure)
    accepted = mc_decide(policy, prediction)["tier"] == "accept"
    assert accepted.sum() == policy.outcome["n"].iloc[0] > 0


# Decisions ------------------------------------------------------------------------------------------------


def test_decisions_have_a_row_per_input_with_its_reason(example_classes):
    prediction, y = example_classes(300, ids=np.array([f"case {i}" for i in range(300)]))
    policy: Any = mc_triage(prediction, y, budget=[0.3, 0.2], tiers=3, measure="std")
    table = mc_decide(policy, prediction)
    assert list(table.columns) == ["predicted", "tier", "reason", "std"]
    assert table.index[2] == "case 2"
    low, high = policy.thresholds[0][0], policy.thresholds[1][0]
    for row in table.iloc[:50].itertuples():
        wanted = "accept" if row.std <= low else "second check" if row.std <= high else "refer"
        assert row.tier == wanted
        words = {
            "accept": f"is at most {low:.4g}",
            "second check": f"is above {low:.4g}",
            "refer": f"is above {high:.4g}",
        }
        assert row.reason == f"std {row.std:.4g} {words[wanted]}"


def test_a_decision_depends_on_its_input_alone(example_classes):
    prediction, y = example_classes(200)
    policy: Any = mc_triage(prediction, y, budget=0.3)
    together = mc_decide(policy, prediction)["tier"].to_numpy()
    apart = [mc_decide(policy, prediction[[i]])["tier"].iloc[0] for i in range(200)]
    assert together.tolist() == apart


# Files ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:No threshold can promise")
def test_a_policy_comes_back_from_its_file(example_classes, tmp_path):
    prediction, y = example_classes(600, sharpness=3)
    for arguments in (
        {"max_error": 0.1},
        {"max_error": 0.001},
        {"max_error": [0.1, 0.2], "tiers": 3, "by_label": {"misses": {"label 1": 0.3}}},
        {"budget": 0.2, "measure": ["std", "mutual_information"]},
        {"costs": {"error": 9, "refer": 1}},
        {"uncertainty_threshold": 0.3, "tiers": ["yes", "no"]},
    ):
        settings: Any = arguments
        policy: Any = mc_triage(prediction, y, **settings)
        mc_save(policy, tmp_path / "policy.json")
        again = mc_load(tmp_path / "policy.json")
        assert repr(again) == repr(policy)
        assert again.thresholds == policy.thresholds
        assert again.guaranteed == policy.guaranteed
        for name in ("outcome", "promises", "curve"):
            pd.testing.assert_frame_equal(getattr(again, name), getattr(policy, name), check_dtype=False)
        pd.testing.assert_frame_equal(mc_decide(again, prediction), mc_decide(policy, prediction))
        content = json.loads((tmp_path / "policy.json").read_text())
        assert content["mcdropout"]["kind"] == "policy"


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("measures"),
        lambda state: state.update(thresholds=[[1, 2]]),
        lambda state: state.update(thresholds=[["a"]]),
        lambda state: state.update(surprise=1),
        lambda state: state.update(tiers=3),
    ],
)
def test_a_policy_whose_parts_do_not_fit_is_refused(example_classes, tmp_path, change):
    prediction, y = example_classes(50)
    mc_save(mc_triage(prediction, y, budget=0.2), tmp_path / "policy.json")
    state = json.loads((tmp_path / "policy.json").read_text())
    change(state)
    (tmp_path / "policy.json").write_text(json.dumps(state))
    with pytest.raises(UnreadableFile, match="whose parts do not fit"):
        mc_load(tmp_path / "policy.json")


@pytest.mark.parametrize("text", ["{", '{"mcdropout": 3}', "{}", '{"mcdropout": {"format": 1}}'])
def test_other_json_is_refused(tmp_path, text):
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(UnreadableFile, match="which is cut short"):
        mc_load(tmp_path / "file.json")


# What comes in --------------------------------------------------------------------------------------------


def test_bad_input_is_named_in_one_sentence(example_classes, example_values):
    prediction, y = example_classes(40)
    other, _ = example_classes(5, n_labels=3)
    values, observed = example_values(6)
    policy: Any = mc_triage(prediction, y, budget=0.2)
    labels = '"label 0", "label 1", "label 2", "label 3"'
    broken = replace(prediction, predictive_entropy=np.where(np.arange(40) == 4, np.nan, prediction.predictive_entropy))

    def triage(**settings):
        return lambda: mc_triage(prediction, y, **settings)

    for sentence, call in {
        "`y` must be as long as `prediction` (40); got length 39": lambda: mc_triage(prediction, y[:39], budget=0.1),
        f'`y` must hold labels out of {labels}; got "cat" at input number 1': (
            lambda: mc_triage(prediction, ["cat", *y[1:]], budget=0.1)
        ),
        '`y` must have inputs of at least two labels; got "label 2" alone': (
            lambda: mc_triage(prediction, ["label 2"] * 40, max_error=0.1)
        ),
        "`prediction` must hold finite numbers only; got NaN or infinity in input number 5": (
            lambda: mc_triage(broken, y, budget=0.1)
        ),
        "`max_error` must be a number above 0 and below 1; got 5": triage(max_error=5),
        "`max_error` must be a number above 0 and below 1; got 0": triage(max_error=[0, 0.1], tiers=3),
        "`confidence` must be a number above 0 and below 1; got 95": triage(max_error=0.1, confidence=95),
        "`max_error` must have 2 numbers for 3 tiers; or `budget` says what share the last takes; got 1": (
            triage(max_error=0.1, tiers=3)
        ),
        "`max_error` must have one number for 2 tiers; got 2": triage(max_error=[0.1, 0.2]),
        "`max_error` must not fall from tier to tier; got [0.2, 0.1]": triage(max_error=[0.2, 0.1], tiers=3),
        '`measure` must be one of "predictive_entropy", "expected_entropy", "mutual_information", "variation_ratio", '
        '"least_confidence", "smallest_margin", "std"; got "entropy"': triage(max_error=0.1, measure="entropy"),
        "`measure` must all be different; got ['std', 'std']": triage(max_error=0.1, measure=["std", "std"]),
        "`measure` must name at least one measure; got none": triage(max_error=0.1, measure=[]),
        "`tiers` must be 2, 3 or at least two different names; got 4": triage(max_error=0.1, tiers=4),
        "`tiers` must be 2, 3 or at least two different names; got ['a', 'a']": triage(max_error=0.1, tiers=["a", "a"]),
        "One of `max_error`, `budget`, `costs` and `uncertainty_threshold` must be given; got none": triage(),
        "`max_error` and `uncertainty_threshold` must not both be given: each alone sets the thresholds": (
            triage(max_error=0.1, uncertainty_threshold=0.2)
        ),
        "`budget` must not be given beside `max_error` but for three tiers, where it is the share of the last: with "
        "two, the limit alone says what must be referred": triage(max_error=0.1, budget=0.1),
        "`budget` must be a number of at least 0 and at most 1; got 20": triage(budget=20),
        "`budget` must have 2 numbers that sum to at most 1, one per tier but the first; got [0.1]": (
            triage(budget=0.1, tiers=3)
        ),
        '`costs` must have a cost for each of "error", "refer"; got "error"': triage(costs={"error": 1}),
        '`costs` must have a cost for each of "error", "refer"; got 3': triage(costs=3),
        '`costs["refer"]` must be a number of at least 0; got -1': triage(costs={"error": 1, "refer": -1}),
        '`costs["refer"]` must be a number of at least 0 and at most 1; got 2': triage(
            costs={"error": 1, "refer": (1, 2)}
        ),
        '`costs["error"]` must be a number of at least 0; got "much"': triage(costs={"error": "much", "refer": 1}),
        '`costs["error"]` must be a number or a table of 4 x 4 numbers, true label by predicted; got [1, 2]': (
            triage(costs={"error": [1, 2], "refer": 1})
        ),
        '`by_label` must be true, or limits by label for "misses", "false_alarms"; got "hits"': (
            triage(by_label={"hits": 1})
        ),
        '`by_label` must have a limit for each label of "misses"; got 0.1': triage(by_label={"misses": 0.1}),
        f'`by_label` must hold labels out of {labels}; got "cat"': triage(by_label={"misses": {"cat": 0.1}}),
        "`by_label` must be a number above 0 and below 1; got 7": triage(by_label={"misses": {"label 1": 7}}),
        "`max_error` must be given with `by_label` set to true; got none": triage(by_label=True),
        "`uncertainty_threshold` must have 2 rising numbers for 3 tiers; got [0.15]": (
            triage(uncertainty_threshold=0.15, tiers=3)
        ),
        '`uncertainty_threshold` must be a number; got "low"': triage(uncertainty_threshold="low"),
        "`measure` must be one with `uncertainty_threshold`; got 2": (
            triage(uncertainty_threshold=0.1, measure=["std", "mutual_information"])
        ),
        "`prediction` must be of classes; got one of values; `mc_conformal()` gives intervals for values": (
            lambda: mc_triage(values, observed, max_error=0.1)
        ),
        f'`prediction` must have the labels of the policy, {labels}; got "label 0", "label 1", "label 2"': (
            lambda: mc_decide(policy, other)
        ),
        "`prediction` must be of classes; got one of values": lambda: mc_decide(policy, values),
        '`policy` must be what `mc_triage()` returns; got "int"': lambda: mc_decide(3, prediction),  # pyright: ignore[reportArgumentType]
    }.items():
        with pytest.raises((ValueError, TypeError)) as error:
            call()
        assert str(error.value) == f"{sentence}."


def test_labels_that_are_numbers_are_found_as_either_language_writes_them(classes_of):
    rng = np.random.default_rng(0)
    samples = rng.dirichlet([1, 1], (3, 400)).astype(np.float32)
    prediction = replace(classes_of(samples, ["0", "1"]), labels=(0, 1))
    prediction = replace(prediction, predicted=prediction.predicted.astype(int), second=prediction.second.astype(int))
    y = np.where(rng.random(400) < prediction.mean[:, 1], 1, 0)
    for label in (1, 1.0, "1"):
        policy: Any = mc_triage(prediction, y, by_label={"misses": {label: 0.6}}, max_error=0.6)
        assert policy.promises["label"].tolist()[-1] == 1
    assert mc_decide(policy, prediction)["predicted"].tolist() == prediction.predicted.tolist()


def test_nothing_random_but_the_split(example_classes):
    prediction, y = example_classes(500, sharpness=4)
    before: Any = np.random.get_state()
    same = [mc_triage(prediction, y, max_error=0.15, seed=7).thresholds for _ in range(2)]
    assert same[0] == same[1]
    after: Any = np.random.get_state()
    np.testing.assert_array_equal(after[1], before[1])
    seed = mc_triage(prediction, y, max_error=0.15, seed=None).seed
    assert seed is not None
    assert math.isfinite(seed)
