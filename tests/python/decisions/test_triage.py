"""Triage: budgets and costs by trying all thresholds, decisions, files and bad input."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcdropout import MCPolicy, UnreadableFile, containers, mc_decide, mc_load, mc_save, mc_triage
from mcdropout.decisions.cases import CalibrationCases, ThresholdPath, tiers_of
from mcdropout.decisions.costs import CostTable
from mcdropout.decisions.learn_then_test import upper_bound
from mcdropout.predictions.uncertainty import CLASS_MEASURES, measured

# Budgets, costs, given thresholds -------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=4, max_size=40), st.sampled_from([0, 0.1, 0.25, 0.5, 1]))
def test_the_threshold_of_a_budget_is_the_strictest_that_keeps_it(uncertainties, budget):
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
    policy = mc_triage(prediction, y, budget=[0.2, 0.1], tiers=3, measure="mutual_information")
    np.testing.assert_array_equal(policy.outcome["n"], [700, 200, 100])
    accepted = policy.outcome.iloc[0]
    assert accepted["upper_bound"] == pytest.approx(upper_bound(accepted["wrong"], 700, 0.95))
    assert "No limit was asked for. Of inputs from this source, at most" in repr(policy)


def test_a_budget_with_a_promise_is_the_share_of_the_last_tier(example_classes):
    prediction, y = example_classes(2000, sharpness=4)
    without_budget = mc_triage(prediction, y, max_error=0.1)
    policy = mc_triage(prediction, y, max_error=0.1, budget=0.05, tiers=3)
    assert policy.thresholds[0] == without_budget.thresholds[0]
    assert policy.outcome["n"].iloc[2] == 100
    wide = mc_triage(prediction, y, max_error=0.1, budget=0.9, tiers=3)
    assert wide.thresholds[1] == wide.thresholds[0]  # an accepted input is not referred


def test_given_thresholds_and_their_mean_cost(example_classes):
    prediction, y = example_classes(500)
    policy = mc_triage(
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
    names = ["go", "look", "stop"]
    three_tiers = mc_triage(prediction, y, uncertainty_threshold=[0.1, 0.2], measure="std", tiers=names)
    assert list(three_tiers.outcome["tier"]) == names


cases_with_costs = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=9)


@settings(max_examples=60, deadline=None)
@given(cases_with_costs, st.sampled_from([0.5, 2.0, 7.0]), st.sampled_from([0.0, 0.5, 1.0]))
def test_costs_find_the_cheapest_of_all_thresholds(cases, refer, found_share):
    uncertainty = np.array([value for value, _ in cases], dtype=float)
    wrong = np.array([is_wrong for _, is_wrong in cases])
    labelled = CalibrationCases(
        np.zeros(len(uncertainty), int), wrong.astype(int), uncertainty[:, None], ("std",), ("a", "b")
    )
    costs = {"error": 5, "second check": (0.4, found_share), "refer": refer}
    cost_table = CostTable.of(costs, ("accept", "second check", "refer"), labelled)
    cheapest = cost_table.cheapest(labelled.path())

    def cost(thresholds):
        return cost_table.mean(tiers_of(uncertainty[:, None], thresholds))

    rows = [None, *((value,) for value in np.unique(uncertainty))]
    all_costs = [cost(pair) for pair in itertools.combinations_with_replacement(rows, 2)]
    assert cost(cheapest) == pytest.approx(min(all_costs))
    error_costs = [5 if is_wrong else 0 for is_wrong in wrong]
    assert cost_table.each[:, 0].tolist() == error_costs
    assert cost_table.each[:, 1].tolist() == pytest.approx([0.4 + (1 - found_share) * error for error in error_costs])


def test_a_table_of_costs_by_label(example_classes):
    prediction, y = example_classes(400, n_labels=2)
    table = np.array([[0, 1.0], [20.0, 0]])  # missing the second label costs 20
    policy = mc_triage(prediction, y, costs={"error": table, "refer": 0.5})
    assert policy.thresholds[0] is not None
    accepted = prediction.predictive_entropy <= policy.thresholds[0][0]
    true, predicted = (
        [list(prediction.labels).index(label) for label in labels] for labels in (y, prediction.predicted)
    )
    assert policy.mean_cost == pytest.approx(np.where(accepted, table[true, predicted], 0.5).mean())
    frame = pd.DataFrame(table, index=prediction.labels, columns=prediction.labels)
    assert mc_triage(prediction, y, costs={"error": frame, "refer": 0.5}).thresholds == policy.thresholds
    assert "No promise: the thresholds were chosen on these same inputs" in repr(policy)


def test_with_several_measures_no_threshold_may_be_exceeded(example_classes):
    prediction, y = example_classes(3000, sharpness=4)
    policy = mc_triage(prediction, y, max_error=0.1, measure=["mutual_information", "least_confidence"])
    table = mc_decide(policy, prediction)
    assert policy.thresholds[0] is not None
    mutual, confidence = policy.thresholds[0]
    accepted = (prediction.mutual_information <= mutual) & (1 - prediction.confidence <= confidence)
    np.testing.assert_array_equal(table["tier"] == "accept", accepted)
    referred = table[~accepted].iloc[0]
    assert "is above" in referred["reason"]
    assert policy.guaranteed


@pytest.mark.parametrize("measure", CLASS_MEASURES)
def test_every_measure_can_be_used_for_decisions(example_classes, measure):
    prediction, y = example_classes(1500, sharpness=5)
    policy = mc_triage(prediction, y, max_error=0.15, measure=measure)
    accepted = mc_decide(policy, prediction)["tier"] == "accept"
    assert accepted.sum() == policy.outcome["n"].iloc[0] > 0


# Decisions ------------------------------------------------------------------------------------------------


def test_decisions_have_a_row_per_input_with_its_reason(example_classes):
    prediction, y = example_classes(300, ids=np.array([f"case {i}" for i in range(300)]))
    policy = mc_triage(prediction, y, budget=[0.3, 0.2], tiers=3, measure="std")
    table = mc_decide(policy, prediction)
    assert list(table.columns) == ["predicted", "tier", "reason", "std"]
    assert table.index[2] == "case 2"
    (low,), (high,) = (row for row in policy.thresholds if row is not None)
    for row in table.iloc[:50].to_dict(orient="records"):
        std = row["std"]
        tier = "accept" if std <= low else "second check" if std <= high else "refer"
        assert row["tier"] == tier
        words = {
            "accept": f"is at most {low:.4g}",
            "second check": f"is above {low:.4g}",
            "refer": f"is above {high:.4g}",
        }
        assert row["reason"] == f"std {std:.4g} {words[tier]}"


def test_a_decision_depends_only_on_its_input(example_classes):
    prediction, y = example_classes(200)
    policy = mc_triage(prediction, y, budget=0.3)
    together = mc_decide(policy, prediction)["tier"].to_numpy()
    separately = [mc_decide(policy, prediction[[i]])["tier"].iloc[0] for i in range(200)]
    assert together.tolist() == separately


# Files ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:No threshold can promise")
def test_a_policy_is_the_same_after_writing_and_reading(example_classes, tmp_path):
    prediction, y = example_classes(600, sharpness=3)
    calls: list[dict[str, Any]] = [
        {"max_error": 0.1},
        {"max_error": 0.001},
        {"max_error": [0.1, 0.2], "tiers": 3, "by_label": {"misses": {"label 1": 0.3}}},
        {"budget": 0.2, "measure": ["std", "mutual_information"]},
        {"costs": {"error": 9, "refer": 1}},
        {"uncertainty_threshold": 0.3, "tiers": ["yes", "no"]},
    ]
    for arguments in calls:
        policy = mc_triage(prediction, y, **arguments)
        mc_save(policy, tmp_path / "policy.json")
        again = mc_load(tmp_path / "policy.json")
        assert isinstance(again, MCPolicy)
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
    _, _, state = containers.read(tmp_path / "policy.json", ("policy",))
    change(state)
    containers.write_text(tmp_path / "policy.json", containers.to_text("policy", state))
    with pytest.raises(UnreadableFile, match="whose parts do not fit"):
        mc_load(tmp_path / "policy.json")


@pytest.mark.parametrize("text", ["{", '{"mcdropout": 3}', "{}", '{"mcdropout": {"format": 1}}'])
def test_other_json_is_refused(tmp_path, text):
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(UnreadableFile, match="which is cut short"):
        mc_load(tmp_path / "file.json")


def test_labels_of_promises_that_are_numbers_stay_whole(classes_of, tmp_path):
    rng = np.random.default_rng(0)
    draws = rng.dirichlet([30, 1, 1], (4, 300))
    prediction = classes_of(draws, [3, 5, 8])
    y = np.where(np.arange(300) % 40 == 0, 5, 3)
    policy = mc_triage(prediction, y, max_error=0.3, by_label={"false_alarms": {3: 0.3}})
    mc_save(policy, tmp_path / "policy.json")
    for each in (policy, mc_load(tmp_path / "policy.json")):
        assert each.promises["label"].tolist() == [None, 3]
        assert isinstance(each.promises["label"][1], int)
        assert "at most 30 % of the inputs accepted as 3 are something else" in each.words()


# Bad input ------------------------------------------------------------------------------------------------


def test_bad_input_is_refused_with_one_sentence(example_classes, example_values):
    prediction, y = example_classes(40)
    other, _ = example_classes(5, n_labels=3)
    values, observed = example_values(6)
    policy = mc_triage(prediction, y, budget=0.2)
    labels = '"label 0", "label 1", "label 2", "label 3"'
    broken = replace(prediction, predictive_entropy=np.where(np.arange(40) == 4, np.nan, prediction.predictive_entropy))

    def triage(**arguments: Any):
        return lambda: mc_triage(prediction, y, **arguments)

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
        "`max_error` must have 2 numbers for 3 tiers; or `budget` sets the share of the last tier; got 1": (
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
        "`max_error` and `uncertainty_threshold` must not both be given: each of them sets the thresholds": (
            triage(max_error=0.1, uncertainty_threshold=0.2)
        ),
        "`budget` must not be given with `max_error` unless there are three tiers, where it is the share of the last "
        "tier: with two tiers, `max_error` sets the share that is referred": triage(max_error=0.1, budget=0.1),
        "`budget` must be a number of at least 0 and at most 1; got 20": triage(budget=20),
        "`budget` must have one number for each tier but the first, 2 in all, with a sum of at most 1; got [0.1]": (
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
        "`uncertainty_threshold` must have one number for each tier but the last, 2 in all, in rising order; "
        "got [0.15]": triage(uncertainty_threshold=0.15, tiers=3),
        '`uncertainty_threshold` must be a number; got "low"': triage(uncertainty_threshold="low"),
        "`measure` must be a single measure with `uncertainty_threshold`; got 2": (
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


def test_labels_that_are_numbers_may_be_given_as_text(classes_of):
    rng = np.random.default_rng(0)
    samples = rng.dirichlet([1, 1], (3, 400)).astype(np.float32)
    prediction = replace(classes_of(samples, ["0", "1"]), labels=(0, 1))
    prediction = replace(prediction, predicted=prediction.predicted.astype(int), second=prediction.second.astype(int))
    y = np.where(rng.random(400) < prediction.mean[:, 1], 1, 0)
    for label in (1, 1.0, "1"):
        policy = mc_triage(prediction, y, by_label={"misses": {label: 0.6}}, max_error=0.6)
        assert policy.promises["label"].tolist()[-1] == 1
    assert mc_decide(policy, prediction)["predicted"].tolist() == prediction.predicted.tolist()


def test_only_the_split_is_random(example_classes):
    prediction, y = example_classes(500, sharpness=4)
    before: Any = np.random.get_state()
    first, second = (mc_triage(prediction, y, max_error=0.15, seed=7).thresholds for _ in range(2))
    assert first == second
    after: Any = np.random.get_state()
    np.testing.assert_array_equal(after[1], before[1])
    assert after[2] == before[2]  # a few draws move the position alone
    assert isinstance(mc_triage(prediction, y, max_error=0.15, seed=None).seed, int)
