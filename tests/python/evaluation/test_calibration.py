"""Temperatures and conformal sets: by hand, compared with the engine's summaries, and coverage on new inputs."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mcdropout as mcd
from mcdropout import mc_apply, mc_calibrate, mc_conformal, mc_load, mc_save, mc_scores
from mcdropout.evaluation.conformal import _limits, label_nonconformity, least_inputs

SUMMARIES = [
    "mean", "variance", "lower", "upper", "confidence", "margin", "predictive_entropy", "expected_entropy",
    "mutual_information", "predictive_entropy_mcse", "expected_entropy_mcse", "mutual_information_mcse",
    "variation_ratio",
]  # fmt: skip


def log_loss(prediction: mcd.MCPrediction, y: object) -> float:
    """The log loss of a prediction of classes, in nats."""
    loss = mc_scores(prediction, y).log_loss
    assert loss is not None
    return loss


# Temperature ----------------------------------------------------------------------------------------------


def test_a_temperature_of_1_gives_the_summaries_of_the_engine(example_classes):
    prediction, y = example_classes(60)
    same = mc_apply(replace(mc_calibrate(prediction, y), temperature=1.0), prediction)
    for name in SUMMARIES:
        # float32 probabilities do not sum to exactly 1; scaling them to a sum of 1 changes them by rounding
        np.testing.assert_allclose(getattr(same, name), getattr(prediction, name), atol=2e-6, err_msg=name)
    np.testing.assert_array_equal(same.predicted, prediction.predicted)
    np.testing.assert_array_equal(same.second, prediction.second)


def test_a_temperature_by_hand(classes_of):
    # At temperature 2 the odds 16:1 become 4:1, and 4:9 become 2:3. Mean of .8 and .4: .6.
    samples = np.array([[[16 / 17, 1 / 17]], [[4 / 13, 9 / 13]]])
    prediction = classes_of(samples, ["a", "b"])
    others = np.array([[[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], [[0.8, 0.2], [0.3, 0.7], [0.7, 0.3]]])
    learnt = mc_calibrate(classes_of(others, ["a", "b"]), ["a", "b", "b"])
    calibrated = mc_apply(replace(learnt, temperature=2.0), prediction)
    np.testing.assert_allclose(calibrated.mean, [[0.6, 0.4]], atol=1e-6)
    assert calibrated.samples is not None
    assert calibrated.predicted is not None
    assert calibrated.confidence is not None
    np.testing.assert_allclose(calibrated.samples[:, 0, 0], [0.8, 0.4], atol=1e-6)
    assert calibrated.predicted[0] == "a"
    assert calibrated.confidence[0] == pytest.approx(0.6, abs=1e-6)


def test_the_temperature_minimises_the_log_loss(example_classes):
    prediction, y = example_classes(300)
    sharp = prediction.samples.astype(float) ** 3
    prediction = replace(prediction, samples=(sharp / sharp.sum(axis=-1, keepdims=True)).astype(np.float32))
    learnt = mc_calibrate(prediction, y)
    assert 2 < learnt.temperature < 4  # the draws were made three times too sharp

    def loss(temperature):
        return log_loss(mc_apply(replace(learnt, temperature=temperature), prediction), y)

    assert learnt.log_loss_after == pytest.approx(loss(learnt.temperature), abs=1e-6)
    assert learnt.log_loss_before == pytest.approx(loss(1.0), abs=1e-6)
    grid = learnt.temperature * np.geomspace(0.5, 2, 21)
    assert learnt.log_loss_after <= min(loss(temperature) for temperature in grid) + 1e-6
    curve = learnt.curve[learnt.curve["temperature"] > 0.2]  # colder draws are 0 in float32
    np.testing.assert_allclose(
        curve["log_loss"], [loss(temperature) for temperature in curve["temperature"]], atol=2e-5
    )


def test_calibration_does_not_increase_the_log_loss_of_its_own_inputs(example_classes):
    for seed in range(5):
        prediction, y = example_classes(40, seed=seed)
        learnt = mc_calibrate(prediction, y)
        assert learnt.log_loss_after <= learnt.log_loss_before


def test_calibration_improves_the_scores_of_new_inputs(example_classes):
    prediction, y = example_classes(3000)
    sharp = prediction.samples.astype(float) ** 3
    sharp = replace(prediction, samples=(sharp / sharp.sum(axis=-1, keepdims=True)).astype(np.float32))
    learnt = mc_calibrate(sharp[:1500], y[:1500])
    before, after = mc_apply(replace(learnt, temperature=1.0), sharp[1500:]), mc_apply(learnt, sharp[1500:])
    assert log_loss(after, y[1500:]) < log_loss(before, y[1500:])
    error_before, error_after = (mc_scores(p, y[1500:]).ece_equal_mass for p in (before, after))
    assert error_before is not None
    assert error_after is not None
    assert error_after < error_before / 2


def test_a_probability_that_is_0_in_float32_does_not_stop_the_search(classes_of):
    samples = np.tile([0.2, 0.8], (3, 2001, 1))
    samples[:, 0] = [1.0, 0.0]
    learnt = mc_calibrate(classes_of(samples, ["a", "b"]), ["b", *["a", "b", "b", "b", "b"] * 400])
    assert np.isfinite(learnt.log_loss_after)
    assert learnt.temperature > 1


def test_inputs_with_fewer_draws_are_calibrated_by_these_draws(example_classes):
    prediction, y = example_classes(8, n_draws=6)
    short = prediction.samples.copy()
    short[4:, 3] = np.nan
    ragged = replace(prediction, samples=short, n_samples=np.array([6, 6, 6, 4, 6, 6, 6, 6]))
    learnt = replace(mc_calibrate(prediction, y), temperature=1.7)
    calibrated, complete = mc_apply(learnt, ragged), mc_apply(learnt, prediction)
    short_input = mc_apply(learnt, replace(prediction[[3]], samples=short[:4, [3]], n_samples=4))
    for name in SUMMARIES:
        expected = getattr(complete, name).copy()
        expected[3] = getattr(short_input, name)[0]
        np.testing.assert_allclose(getattr(calibrated, name), expected, atol=1e-12, err_msg=name)
    codes = [prediction.labels.index(label) for label in y]
    probabilities = mc_apply(replace(learnt, temperature=1.0), ragged).mean[range(8), codes]
    assert mc_calibrate(ragged, y).log_loss_before == pytest.approx(-np.log(probabilities).mean(), abs=1e-6)


def test_without_an_error_the_temperature_is_not_determined(classes_of):
    samples = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.8, 0.2], [0.3, 0.7]]])
    with pytest.warns(UserWarning, match="at the end of the range that was searched.*Calibrate on more inputs"):
        learnt = mc_calibrate(classes_of(samples, ["a", "b"]), ["a", "b"])
    assert learnt.temperature < 0.1


# Conformal sets -------------------------------------------------------------------------------------------


def coverage_error(coverage: float, n: int, splits: int) -> float:
    """Standard error of the mean coverage over splits: a beta distribution (Vovk, 2012) and 200 new inputs."""
    return float(np.sqrt((coverage * (1 - coverage) / (n + 2) + coverage * (1 - coverage) / 200) / splits))


def test_nonconformity_by_hand():
    mean = np.array([[0.5, 0.2, 0.3]])
    np.testing.assert_allclose(label_nonconformity(mean, "lac", 0, 0), [[0.5, 0.8, 0.7]])
    np.testing.assert_allclose(label_nonconformity(mean, "aps", 0, 0), [[0.5, 1.0, 0.8]])
    np.testing.assert_allclose(label_nonconformity(mean, "raps", 0.1, 1), [[0.5, 1.2, 0.9]])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.sampled_from([0.5, 0.7, 0.8, 0.9, 0.95]))
def test_the_limit_is_the_order_statistic_for_finite_samples(n, level):
    exact = Fraction(str(level))
    place = -((-(n + 1) * exact.numerator) // exact.denominator)  # ceil((n + 1) level), without rounding
    (limit,) = _limits([np.arange(1.0, n + 1)], level)
    assert limit == (place if place <= n else None)
    assert (n >= least_inputs(level)) == (limit is not None)


@pytest.mark.parametrize("method", ["lac", "aps", "raps"])
def test_the_coverage_of_sets_is_the_level(example_classes, method):
    # for exchangeable inputs without ties the mean coverage over splits is k / (n + 1), k = ceil(.8 * 61) = 49
    n, splits, level = 60, 300, 0.8
    prediction, y = example_classes(2000)
    codes = np.array([prediction.labels.index(label) for label in y])
    rng = np.random.default_rng(5)
    coverages = []
    for _ in range(splits):
        order = rng.permutation(2000)
        learnt = mc_conformal(prediction[order[:n]], y[order[:n]], level=level, method=method, allow_empty=True)
        sets = mc_apply(learnt, prediction[order[n:260]]).drop(columns="size").to_numpy()
        coverages.append(sets[np.arange(200), codes[order[n:260]]].mean())
    assert abs(np.mean(coverages) - 49 / 61) < 4 * coverage_error(49 / 61, n, splits)


@pytest.mark.parametrize("method", ["lac", "aps", "raps"])
def test_the_input_at_the_limit_is_covered(example_classes, method):
    prediction, y = example_classes(60)
    sets = mc_apply(mc_conformal(prediction, y, level=0.8, method=method, allow_empty=True), prediction)
    assert sum(sets[f"in_{label}"].iloc[i] for i, label in enumerate(y)) == 49  # ceil(61 * .8), and no ties


def test_sets_cover_each_label_with_by_label(example_classes):
    prediction, y = example_classes(6000, sharpness=1.0)
    skewed = prediction.mean.copy()
    skewed[:, 0] *= 0.3  # the network predicts the first label too rarely
    skewed /= skewed.sum(axis=1, keepdims=True)
    prediction = replace(prediction, mean=skewed)
    test = mc_apply(mc_conformal(prediction[:3000], y[:3000], by_label=True), prediction[3000:])
    overall = mc_apply(mc_conformal(prediction[:3000], y[:3000]), prediction[3000:])
    for label in prediction.labels:
        has_label = y[3000:] == label
        n_calibration = (y[:3000] == label).sum()
        # four standard errors: of the limit (beta distribution) and of the new inputs
        error = np.sqrt(0.09 / n_calibration + 0.09 / has_label.sum())
        assert test.loc[has_label, f"in_{label}"].mean() > 0.9 - 4 * error
    first = y[3000:] == prediction.labels[0]
    assert overall.loc[first, "in_label 0"].mean() < 0.85  # marginal coverage does not promise more


def test_sets_are_never_empty_unless_allowed(example_classes):
    prediction, y = example_classes(400, sharpness=4)
    for method in ("lac", "aps", "raps"):
        learnt = mc_conformal(prediction, y, level=0.5, method=method)
        sets = mc_apply(learnt, prediction)
        assert sets["size"].min() >= 1
        assert (sets["size"] == sets.drop(columns="size").sum(axis=1)).all()
        assert mc_apply(replace(learnt, allow_empty=True), prediction)["size"].min() == 0


def test_too_few_inputs_give_sets_of_all_labels_and_a_warning(example_classes):
    prediction, y = example_classes(8)
    with pytest.warns(UserWarning, match="8 inputs are fewer than the 9 needed; all sets are without limit"):
        learnt = mc_conformal(prediction, y)
    assert learnt.limits == (None,)
    assert (mc_apply(learnt, prediction)["size"] == 4).all()


# Conformal intervals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["absolute", "normalized", "cqr"])
def test_the_coverage_of_intervals_is_the_level(example_values, method):
    n, splits, level = 40, 300, 0.9
    prediction, y = example_values(1500)
    rng = np.random.default_rng(6)
    coverages = []
    for _ in range(splits):
        order = rng.permutation(1500)
        learnt = mc_conformal(prediction[order[:n]], y[order[:n]], level=level, method=method)
        table = mc_apply(learnt, prediction[order[n:240]])
        truth = y[order[n:240], 1]
        coverages.append(((table["lower_2"] <= truth) & (truth <= table["upper_2"])).mean())
    assert abs(np.mean(coverages) - 37 / 41) < 4 * coverage_error(37 / 41, n, splits)  # ceil(41 * .9) = 37


def test_intervals_by_hand(example_values):
    prediction, _ = example_values(9)
    y = prediction.mean + np.arange(1, 10)[:, None]  # distances of 1 to 9
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


def test_too_few_inputs_give_infinite_intervals(example_values):
    prediction, y = example_values(5)
    with pytest.warns(UserWarning, match="5 inputs are fewer than the 9 needed; all intervals are without limit"):
        table = mc_apply(mc_conformal(prediction, y), prediction)
    assert np.isinf(table.to_numpy()).all()


# Files ----------------------------------------------------------------------------------------------------


def test_calibrations_and_limits_are_the_same_after_writing_and_reading(example_classes, example_values, tmp_path):
    prediction, y = example_classes(50)
    values, observed = example_values(30)
    with pytest.warns(UserWarning, match="fewer than"):
        by_label = mc_conformal(prediction, y, by_label=True, level=0.95)
    for learnt, input_prediction in (
        (mc_calibrate(prediction, y), prediction),
        (mc_conformal(prediction, y, method="raps"), prediction),
        (by_label, prediction),
        (mc_conformal(values, observed), values),
    ):
        mc_save(learnt, tmp_path / "learnt.json")
        again = mc_load(tmp_path / "learnt.json")
        assert isinstance(again, mcd.MCCalibration | mcd.MCConformal)
        assert str(again) == str(learnt)
        left, right = mc_apply(again, input_prediction), mc_apply(learnt, input_prediction)
        if isinstance(left, mcd.MCPrediction):
            assert isinstance(right, mcd.MCPrediction)
            np.testing.assert_array_equal(left.samples, right.samples)
        else:
            assert isinstance(right, pd.DataFrame)
            pd.testing.assert_frame_equal(left, right)


# Calibrated once ------------------------------------------------------------------------------------------


@pytest.fixture
def calibrated(example_classes):
    """A prediction, its true labels, the calibration learnt on them, and the calibrated prediction."""
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
    again = mcd.mc_load(tmp_path / "once")
    assert isinstance(again, mcd.MCPrediction)
    assert again.temperature == learnt.temperature


def test_draws_are_not_calibrated_twice(calibrated):
    _, truth, learnt, once = calibrated
    words = "`prediction` must not be calibrated; got one that is calibrated at temperature"
    for again in (lambda: mcd.mc_apply(learnt, once), lambda: mcd.mc_calibrate(once, truth)):
        with pytest.raises(ValueError, match=words):
            again()


LEARNT: dict[str, Any] = {
    "mc_conformal": (mcd.mc_conformal, mcd.mc_apply),
    "mc_triage": (lambda prediction, y: mcd.mc_triage(prediction, y, budget=0.3), mcd.mc_decide),
    "mc_monitor": (
        lambda prediction, _: mcd.mc_monitor(prediction),
        lambda learnt, prediction: learnt.update(prediction),
    ),
    "mc_ood_scores": (lambda prediction, _: prediction, mcd.mc_ood_scores),
    "mc_uncertainty_table": (
        lambda prediction, _: prediction,
        lambda first, second: mcd.mc_uncertainty_table(first, None, second),
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


def test_files_without_a_temperature_fit_any_temperature(calibrated):
    """Older files do not say whether their prediction was calibrated."""
    prediction, truth, learnt, once = calibrated
    arrays, fields = once.to_state()
    del fields["temperature"]
    old = mcd.MCPrediction.from_state(arrays, fields)
    assert old.temperature is None
    assert "calibrated" not in repr(old)
    assert mcd.mc_apply(learnt, old).temperature == learnt.temperature
    for name in ("mc_conformal", "mc_triage", "mc_monitor"):
        learn, use = LEARNT[name]
        use(learn(prediction, truth), old)
        state = learn(once, truth).to_state()
        del state["temperature"]
        use(type(learn(once, truth)).from_state(state), prediction)


def test_ids_name_the_rows(example_classes):
    prediction, y = example_classes(12, ids=np.array([f"case {i}" for i in range(12)]))
    table = mc_apply(mc_conformal(prediction, y, level=0.5), prediction)
    assert table.index[3] == "case 3"
    assert table.index.name == "id"


def test_bad_input_is_refused_with_one_sentence(example_classes, example_values):
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
        "`prediction` must be of classes, like the one learnt on; got one of values": (lambda: mc_apply(sets, values)),
        '`learnt` must be what `mc_calibrate()` or `mc_conformal()` returns; got "int"': (
            lambda: mc_apply(3, prediction)  # pyright: ignore[reportArgumentType, reportCallIssue]
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
