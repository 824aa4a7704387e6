"""Temperatures and conformal sets: by hand, against the engine's own summaries, and their coverage on fresh data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mcdropout as mcd
from mcdropout import mc_apply, mc_calibrate, mc_conformal, mc_load, mc_save, mc_scores
from mcdropout.evaluation.conformal import label_nonconformity, least_inputs

SUMMARIES = [
    "mean", "variance", "lower", "upper", "confidence", "margin", "predictive_entropy", "expected_entropy",
    "mutual_information", "predictive_entropy_mcse", "expected_entropy_mcse", "mutual_information_mcse",
    "variation_ratio",
]  # fmt: skip


# Temperature ----------------------------------------------------------------------------------------------


def test_a_temperature_of_1_gives_the_summaries_of_the_engine(example_classes):
    prediction, y = example_classes(60)
    same = mc_apply(replace(mc_calibrate(prediction, y), temperature=1.0), prediction)
    for name in SUMMARIES:
        # probabilities in float32 do not sum to exactly 1; scaling them to do so moves them by its rounding
        np.testing.assert_allclose(getattr(same, name), getattr(prediction, name), atol=2e-6, err_msg=name)
    np.testing.assert_array_equal(same.predicted, prediction.predicted)
    np.testing.assert_array_equal(same.second, prediction.second)


def test_a_temperature_by_hand(classes_of):
    # At temperature 2 the odds 16:1 become 4:1, and 4:9 become 2:3. Mean of .8 and .4: .6.
    samples = np.array([[[16 / 17, 1 / 17]], [[4 / 13, 9 / 13]]])
    prediction = classes_of(samples, ["a", "b"])
    others = np.array([[[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], [[0.8, 0.2], [0.3, 0.7], [0.7, 0.3]]])
    learnt = mc_calibrate(classes_of(others, ["a", "b"]), ["a", "b", "b"])
    calibrated: Any = mc_apply(replace(learnt, temperature=2.0), prediction)
    np.testing.assert_allclose(calibrated.mean, [[0.6, 0.4]], atol=1e-6)
    np.testing.assert_allclose(calibrated.samples[:, 0, 0], [0.8, 0.4], atol=1e-6)
    assert calibrated.predicted[0] == "a"
    assert calibrated.confidence[0] == pytest.approx(0.6, abs=1e-6)


def test_the_temperature_has_the_least_log_loss(example_classes):
    prediction, y = example_classes(300)
    sharp = prediction.samples.astype(float) ** 3
    prediction = replace(prediction, samples=(sharp / sharp.sum(axis=-1, keepdims=True)).astype(np.float32))
    learnt = mc_calibrate(prediction, y)
    assert 2 < learnt.temperature < 4  # the draws were made three times too sharp

    def loss(temperature) -> float:
        log_loss = mc_scores(mc_apply(replace(learnt, temperature=temperature), prediction), y).log_loss
        assert log_loss is not None
        return log_loss

    assert learnt.log_loss_after == pytest.approx(loss(learnt.temperature), abs=1e-6)
    assert learnt.log_loss_before == pytest.approx(loss(1.0), abs=1e-6)
    grid = learnt.temperature * np.geomspace(0.5, 2, 21)
    assert learnt.log_loss_after <= min(loss(one) for one in grid) + 1e-6
    curve = learnt.curve[learnt.curve["temperature"] > 0.2]  # colder draws are 0 in float32
    np.testing.assert_allclose(curve["log_loss"], [loss(one) for one in curve["temperature"]], atol=2e-5)


def test_calibration_never_does_worse_where_it_learns(example_classes):
    for seed in range(5):
        prediction, y = example_classes(40, seed=seed)
        learnt = mc_calibrate(prediction, y)
        assert learnt.log_loss_after <= learnt.log_loss_before


def test_calibration_helps_on_fresh_inputs(example_classes):
    prediction, y = example_classes(3000)
    sharp = prediction.samples.astype(float) ** 3
    sharp = replace(prediction, samples=(sharp / sharp.sum(axis=-1, keepdims=True)).astype(np.float32))
    learnt = mc_calibrate(sharp[:1500], y[:1500])
    before = mc_scores(mc_apply(replace(learnt, temperature=1.0), sharp[1500:]), y[1500:])
    after = mc_scores(mc_apply(learnt, sharp[1500:]), y[1500:])
    assert after.log_loss is not None
    assert before.log_loss is not None
    assert after.ece_equal_mass is not None
    assert before.ece_equal_mass is not None
    assert after.log_loss < before.log_loss
    assert after.ece_equal_mass < before.ece_equal_mass / 2


def test_a_probability_that_float32_made_0_does_not_end_the_search(classes_of):
    samples = np.tile([0.2, 0.8], (3, 2001, 1))
    samples[:, 0] = [1.0, 0.0]
    learnt = mc_calibrate(classes_of(samples, ["a", "b"]), ["b", *["a", "b", "b", "b", "b"] * 400])
    assert np.isfinite(learnt.log_loss_after)
    assert learnt.temperature > 1


def test_inputs_that_took_fewer_draws_are_calibrated_by_those(example_classes):
    prediction, y = example_classes(8, n_draws=6)
    short = prediction.samples.copy()
    short[4:, 3] = np.nan
    ragged = replace(prediction, samples=short, n_samples=np.array([6, 6, 6, 4, 6, 6, 6, 6]))
    learnt = replace(mc_calibrate(prediction, y), temperature=1.7)
    found, alone = mc_apply(learnt, ragged), mc_apply(learnt, replace(prediction[[3]], samples=short[:4, [3]]))
    whole = mc_apply(learnt, prediction)
    for name in SUMMARIES:
        wanted = getattr(whole, name).copy()
        wanted[3] = getattr(alone, name)[0]
        np.testing.assert_allclose(getattr(found, name), wanted, atol=1e-12, err_msg=name)
    assert mc_calibrate(ragged, y).log_loss_before == pytest.approx(
        -np.log(mc_apply(replace(learnt, temperature=1.0), ragged).mean)[
            range(8), [prediction.labels.index(one) for one in y]
        ].mean(),
        abs=1e-6,
    )


def test_without_an_error_the_temperature_is_not_told(classes_of):
    samples = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.8, 0.2], [0.3, 0.7]]])
    with pytest.warns(UserWarning, match="at the end of what was searched.*Calibrate on more inputs"):
        learnt = mc_calibrate(classes_of(samples, ["a", "b"]), ["a", "b"])
    assert learnt.temperature < 0.1


# Conformal sets -------------------------------------------------------------------------------------------


def test_nonconformity_by_hand():
    mean = np.array([[0.5, 0.2, 0.3]])
    np.testing.assert_allclose(label_nonconformity(mean, "lac", 0, 0), [[0.5, 0.8, 0.7]])
    np.testing.assert_allclose(label_nonconformity(mean, "aps", 0, 0), [[0.5, 1.0, 0.8]])
    np.testing.assert_allclose(label_nonconformity(mean, "raps", 0.1, 1), [[0.5, 1.2, 0.9]])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.sampled_from([0.5, 0.7, 0.8, 0.9, 0.95]))
def test_the_limit_is_the_order_statistic_that_the_finite_sample_asks_for(n, level):
    from fractions import Fraction

    from mcdropout.evaluation.conformal import _limits

    exact = Fraction(str(level))
    place = -((-(n + 1) * exact.numerator) // exact.denominator)  # ceil((n + 1) level), without rounding
    (limit,) = _limits([np.arange(1.0, n + 1)], level)
    assert limit == (place if place <= n else None)
    assert (n >= least_inputs(level)) == (limit is not None)


@pytest.mark.parametrize("method", ["lac", "aps", "raps"])
def test_sets_hold_the_truth_as_often_as_they_say(example_classes, method):
    # With exchangeable inputs and no ties, coverage averages k / (n + 1), k = ceil(.8 * 61) = 49, over splits.
    n, splits, level = 60, 300, 0.8
    prediction, y = example_classes(2000)
    codes = np.array([prediction.labels.index(label) for label in y])
    rng = np.random.default_rng(5)
    found = []
    for _ in range(splits):
        order = rng.permutation(2000)
        learnt = mc_conformal(prediction[order[:n]], y[order[:n]], level=level, method=method, allow_empty=True)
        sets = mc_apply(learnt, prediction[order[n:260]]).drop(columns="size").to_numpy()
        found.append(sets[np.arange(200), codes[order[n:260]]].mean())
    # of one split: a beta distribution (Vovk, 2012), and 200 fresh inputs; four standard errors over the splits
    wanted = 49 / 61
    error = np.sqrt((wanted * (1 - wanted) / 62 + wanted * (1 - wanted) / 200) / splits)
    assert abs(np.mean(found) - wanted) < 4 * error


@pytest.mark.parametrize("method", ["lac", "aps", "raps"])
def test_the_input_at_the_limit_is_covered(example_classes, method):
    prediction, y = example_classes(60)
    sets = mc_apply(mc_conformal(prediction, y, level=0.8, method=method, allow_empty=True), prediction)
    assert sum(sets[f"in_{label}"].iloc[i] for i, label in enumerate(y)) == 49  # ceil(61 * .8), and no ties


def test_sets_cover_each_label_where_asked_to(example_classes):
    prediction, y = example_classes(6000, sharpness=1.0)
    skewed = prediction.mean.copy()
    skewed[:, 0] *= 0.3  # the network overlooks the first label
    skewed /= skewed.sum(axis=1, keepdims=True)
    prediction = replace(prediction, mean=skewed)
    test = mc_apply(mc_conformal(prediction[:3000], y[:3000], by_label=True), prediction[3000:])
    overall = mc_apply(mc_conformal(prediction[:3000], y[:3000]), prediction[3000:])
    for label in prediction.labels:
        those = y[3000:] == label
        n_calibration = (y[:3000] == label).sum()
        # the limit's own spread (beta distribution) and that of the fresh inputs; four of each together
        spread = np.sqrt(0.09 / n_calibration + 0.09 / those.sum())
        assert test.loc[those, f"in_{label}"].mean() > 0.9 - 4 * spread
    first = y[3000:] == prediction.labels[0]
    assert overall.loc[first, "in_label 0"].mean() < 0.85  # what marginal coverage does not promise


def test_sets_are_never_empty_unless_allowed(example_classes):
    prediction, y = example_classes(400, sharpness=4)
    for method in ("lac", "aps", "raps"):
        learnt = mc_conformal(prediction, y, level=0.5, method=method)
        sets = mc_apply(learnt, prediction)
        assert sets["size"].min() >= 1
        assert (sets["size"] == sets.drop(columns="size").sum(axis=1)).all()
        assert mc_apply(replace(learnt, allow_empty=True), prediction)["size"].min() == 0


def test_too_few_inputs_give_sets_of_everything_and_say_so(example_classes):
    prediction, y = example_classes(8)
    with pytest.warns(UserWarning, match="8 inputs are fewer than the 9 it takes; all sets are without limit"):
        learnt = mc_conformal(prediction, y)
    assert learnt.limits == (None,)
    assert (mc_apply(learnt, prediction)["size"] == 4).all()


# Conformal intervals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["absolute", "normalized", "cqr"])
def test_intervals_hold_the_truth_as_often_as_they_say(example_values, method):
    n, splits, level = 40, 300, 0.9
    prediction, y = example_values(1500)
    rng = np.random.default_rng(6)
    found = []
    for _ in range(splits):
        order = rng.permutation(1500)
        learnt = mc_conformal(prediction[order[:n]], y[order[:n]], level=level, method=method)
        table = mc_apply(learnt, prediction[order[n:240]])
        truth = y[order[n:240], 1]
        found.append(((table["lower_2"] <= truth) & (truth <= table["upper_2"])).mean())
    wanted = 37 / 41  # ceil(41 * .9) = 37
    error = np.sqrt((wanted * (1 - wanted) / 42 + wanted * (1 - wanted) / 200) / splits)
    assert abs(np.mean(found) - wanted) < 4 * error


def test_intervals_by_hand(example_values):
    prediction, _ = example_values(9)
    y = prediction.mean + np.arange(1, 10)[:, None]  # out by 1 to 9
    learnt = mc_conformal(prediction, y, level=0.8)  # ceil(10 * .8) = 8
    assert learnt.limits == pytest.approx((8, 8), rel=1e-7)
    table = mc_apply(learnt, prediction)
    np.testing.assert_allclose(table["lower_1"], prediction.mean[:, 0] - 8)
    np.testing.assert_allclose(table["upper_2"], prediction.mean[:, 1] + 8)
    normalized = mc_conformal(prediction, prediction.mean + 3 * np.sqrt(prediction.total_variance), method="normalized")
    assert normalized.limits == pytest.approx((3, 3), rel=1e-7)
    beyond = mc_conformal(prediction, prediction.pred_upper + 0.5, level=0.8, method="cqr")
    assert beyond.limits == pytest.approx((0.5, 0.5), rel=1e-7)
    np.testing.assert_allclose(mc_apply(beyond, prediction)["lower_1"], prediction.pred_lower[:, 0] - 0.5)


def test_too_few_inputs_give_the_whole_line(example_values):
    prediction, y = example_values(5)
    with pytest.warns(UserWarning, match="5 inputs are fewer than the 9 it takes; all intervals are without limit"):
        table = mc_apply(mc_conformal(prediction, y), prediction)
    assert np.isinf(table.to_numpy()).all()


# Files and what comes in ----------------------------------------------------------------------------------


def test_what_was_learnt_comes_back_from_its_file(example_classes, example_values, tmp_path):
    prediction, y = example_classes(50)
    values, observed = example_values(30)
    with pytest.warns(UserWarning, match="fewer than"):
        by_label = mc_conformal(prediction, y, by_label=True, level=0.95)
    for learnt, given_to in (
        (mc_calibrate(prediction, y), prediction),
        (mc_conformal(prediction, y, method="raps"), prediction),
        (by_label, prediction),
        (mc_conformal(values, observed), values),
    ):
        mc_save(learnt, tmp_path / "learnt.json")
        again = mc_load(tmp_path / "learnt.json")
        assert str(again) == str(learnt)
        found, wanted = mc_apply(again, given_to), mc_apply(learnt, given_to)
        if isinstance(wanted, pd.DataFrame):
            pd.testing.assert_frame_equal(found, wanted)
        else:
            np.testing.assert_array_equal(found.samples, wanted.samples)


# Calibrated once ------------------------------------------------------------------------------------------


@pytest.fixture
def calibrated(example_classes):
    """A prediction as drawn, its truth, what was learnt of them, and the prediction calibrated."""
    prediction, truth = example_classes(60, seed=9)
    learnt = mcd.mc_calibrate(prediction, truth)
    return prediction, truth, learnt, mcd.mc_apply(learnt, prediction)


def test_a_calibrated_prediction_says_so(calibrated, tmp_path):
    prediction, _, learnt, once = calibrated
    assert (prediction.temperature, once.temperature) == (1, learnt.temperature)
    assert once[3:5].temperature == learnt.temperature
    assert f"calibrated at temperature {learnt.temperature:.4g}" in repr(once)
    assert "calibrated" not in repr(prediction)
    mcd.mc_save(once, tmp_path / "once")
    assert mcd.mc_load(tmp_path / "once").temperature == learnt.temperature


def test_draws_are_not_calibrated_twice(calibrated):
    _, truth, learnt, once = calibrated
    words = "`prediction` must be as `mc_predict\\(\\)` gave it; got one that is calibrated already, at temperature"
    for again in (lambda: mcd.mc_apply(learnt, once), lambda: mcd.mc_calibrate(once, truth)):
        with pytest.raises(ValueError, match=words):
            again()


LEARNT = {
    "mc_conformal": (mcd.mc_conformal, mcd.mc_apply),
    "mc_triage": (lambda prediction, y: mcd.mc_triage(prediction, y, budget=0.3), mcd.mc_decide),
    "mc_monitor": (lambda prediction, _: mcd.mc_monitor(prediction), lambda learnt, one: learnt.update(one)),
    "mc_ood_scores": (lambda prediction, _: prediction, mcd.mc_ood_scores),
    "mc_uncertainty_table": (
        lambda prediction, _: prediction,
        lambda *two: mcd.mc_uncertainty_table(two[0], None, two[1]),
    ),
}


@pytest.mark.parametrize("name", LEARNT)
def test_what_was_learnt_at_one_temperature_is_not_used_at_another(calibrated, name):
    prediction, truth, learnt, once = calibrated
    learn, use = LEARNT[name]
    use(learn(once, truth), once)
    at = f"calibrated at temperature {learnt.temperature:.4g} by `mc_apply\\(\\)`"
    with pytest.raises(ValueError, match=f"must be not calibrated, as .*; got one that is {at}"):
        use(learn(prediction, truth), once)
    with pytest.raises(ValueError, match=f"must be {at}, as .*; got one that is not calibrated"):
        use(learn(once, truth), prediction)


def test_files_from_before_are_taken_at_any_temperature(calibrated):
    """Of them nobody knows whether they were calibrated."""
    prediction, truth, learnt, once = calibrated
    arrays, rest = once.to_state()
    del rest["temperature"]
    old = mcd.MCPrediction.from_state(arrays, rest)
    assert old.temperature is None
    assert "calibrated" not in repr(old)
    assert mcd.mc_apply(learnt, old).temperature == learnt.temperature
    for name in ("mc_conformal", "mc_triage", "mc_monitor"):
        learn, use = LEARNT[name]
        use(learn(prediction, truth), old)
        state = learn(once, truth).to_state()
        del state["temperature"]
        use(type(learn(once, truth)).from_state(state), prediction)


def test_ids_are_the_rows(example_classes):
    prediction, y = example_classes(12, ids=np.array([f"case {i}" for i in range(12)]))
    table = mc_apply(mc_conformal(prediction, y, level=0.5), prediction)
    assert table.index[3] == "case 3"
    assert table.index.name == "id"


def test_bad_input_is_named_in_one_sentence(example_classes, example_values):
    prediction, y = example_classes(20)
    other, _ = example_classes(5, n_labels=3)
    values, observed = example_values(20)
    learnt, sets = mc_calibrate(prediction, y), mc_conformal(prediction, y, level=0.5)
    for sentence, call in {
        '`y` must have inputs of at least two labels; got "label 2" alone': (
            lambda: mc_conformal(prediction, ["label 2"] * 20)
        ),
        '`y` must have inputs of at least two labels; got "label 1" alone': (
            lambda: mc_calibrate(prediction, ["label 1"] * 20)
        ),
        "`prediction` must be of classes; got one of values; `mc_conformal()` calibrates the intervals of values": (
            lambda: mc_calibrate(values, observed)
        ),
        "`prediction` must hold its draws; predict with `keep_samples` set to true": (
            lambda: mc_calibrate(replace(prediction, samples=None), y)
        ),
        "`y` must be as long as `prediction` (20); got length 3": lambda: mc_conformal(prediction, y[:3]),
        "`level` must be a number above 0 and below 1; got 90": lambda: mc_conformal(prediction, y, level=90),
        '`method` must be one of "lac", "aps", "raps"; got "cqr"': lambda: mc_conformal(prediction, y, method="cqr"),
        '`method` must be one of "absolute", "normalized", "cqr"; got "lac"': (
            lambda: mc_conformal(values, observed, method="lac")
        ),
        "`by_label` must be false for values, which have no labels; got true": (
            lambda: mc_conformal(values, observed, by_label=True)
        ),
        '`prediction` must have the labels of the calibration, "label 0", "label 1", "label 2", "label 3"; got '
        '"label 0", "label 1", "label 2"': lambda: mc_apply(learnt, other),
        '`prediction` must have the labels of the conformal sets, "label 0", "label 1", "label 2", "label 3"; got '
        '"label 0", "label 1", "label 2"': lambda: mc_apply(sets, other),
        "`prediction` must be of classes, as what was learnt is; got one of the other kind": (
            lambda: mc_apply(sets, values)
        ),
        '`learnt` must be what `mc_calibrate()` or `mc_conformal()` returns; got "int"': lambda: mc_apply(
            3,  # pyright: ignore
            prediction,
        ),
        '`prediction` must have a spread above 0 for every input with `method` "normalized"; got 0 at input number 1. '
        'Use "absolute"': (
            lambda: mc_conformal(
                replace(values, total_variance=None, variance=values.variance * 0), observed, method="normalized"
            )
        ),
    }.items():
        with pytest.raises((ValueError, TypeError)) as error:
            call()
        assert str(error.value) == f"{sentence}."
