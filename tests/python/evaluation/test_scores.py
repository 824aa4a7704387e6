"""Scores of classes, inside and outside: by scikit-learn and SciPy, by naive loops, and in any order of the inputs."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from mcdropout import mc_ood_scores, mc_scores
from mcdropout.evaluation.classes import equal_mass_edges, exact_bounds
from mcdropout.evaluation.curves import best_aurc
from mcdropout.predictions.prediction import BY_INPUT, MCPrediction
from mcdropout.predictions.uncertainty import measured, measures_of

ROUNDING = 1e-9  # sums of a few thousand doubles


@pytest.fixture(scope="module")
def scored(example_classes):
    prediction, y = example_classes(400)
    codes = np.array([prediction.labels.index(label) for label in y])
    return prediction, y, codes, mc_scores(prediction, y, n_bins=7)


# Classes --------------------------------------------------------------------------------------------------


def test_scores_of_classes_are_those_of_scikit_learn(scored):
    prediction, y, codes, scores = scored
    one_hot = np.eye(len(prediction.labels))[codes]
    assert scores.accuracy == pytest.approx(metrics.accuracy_score(y, prediction.predicted))
    sums = prediction.mean.sum(axis=1, keepdims=True)  # 1 up to float32 rounding; old scikit-learn warns of it
    assert scores.log_loss == pytest.approx(metrics.log_loss(y, prediction.mean / sums, labels=list(prediction.labels)))
    assert scores.brier == pytest.approx(((prediction.mean - one_hot) ** 2).sum(axis=1).mean(), abs=ROUNDING)
    by_label = scores.by_label.set_index("label")
    report: Any = metrics.classification_report(y, prediction.predicted, output_dict=True)
    for label in prediction.labels:
        assert by_label.loc[label, "sensitivity"] == pytest.approx(report[label]["recall"])
        assert by_label.loc[label, "precision"] == pytest.approx(report[label]["precision"])
        assert by_label.loc[label, "n"] == report[label]["support"]


def test_the_halved_brier_score_is_the_usual_score_for_two_labels(example_classes):
    prediction, y = example_classes(150, n_labels=2)
    usual = metrics.brier_score_loss(y == prediction.labels[1], prediction.mean[:, 1])
    scores = mc_scores(prediction, y)
    assert scores.brier_halved == pytest.approx(usual, abs=ROUNDING)
    assert scores.brier == pytest.approx(2 * usual, abs=ROUNDING)


def naive_calibration_error(values, outcome, edges):
    bounds = [-np.inf, *edges, np.inf]
    total = 0.0
    for low, high in itertools.pairwise(bounds):
        inside = (values > low) & (values <= high)
        if inside.any():
            total += inside.mean() * abs(values[inside].mean() - outcome[inside].mean())
    return total


def test_calibration_errors_are_those_of_a_naive_loop(scored):
    prediction, y, codes, scores = scored
    right = (prediction.predicted == y) * 1.0
    confidence = prediction.mean.max(axis=1)
    widths = [k / 7 for k in range(1, 7)]
    assert scores.ece_equal_width == pytest.approx(naive_calibration_error(confidence, right, widths), abs=ROUNDING)
    masses = [np.sort(confidence)[int(np.ceil(400 * k / 7)) - 1] for k in range(1, 7)]
    assert scores.ece_equal_mass == pytest.approx(naive_calibration_error(confidence, right, masses), abs=ROUNDING)
    errors = [naive_calibration_error(prediction.mean[:, k], (codes == k) * 1.0, widths) for k in range(4)]
    assert scores.classwise_ece == pytest.approx(np.mean(errors), abs=ROUNDING)
    np.testing.assert_allclose(scores.by_label["ece"], errors, atol=ROUNDING)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 9))
def test_equal_mass_bins_keep_ties_together_and_are_never_empty(integers, n_bins):
    values = np.array(integers, dtype=float)
    edges = equal_mass_edges(values, n_bins)
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
    assert len(counts) <= n_bins
    assert counts.min() > 0


def test_bins_of_equal_mass_have_equal_numbers_of_values():
    values = np.random.default_rng(0).random(700)
    edges = equal_mass_edges(values, 7)
    np.testing.assert_array_equal(np.bincount(np.searchsorted(edges, values, side="left")), np.full(7, 100))


def test_reliability_tables_add_up_to_the_calibration_errors(scored):
    _, _, _, scores = scored
    for binning in ("equal_width", "equal_mass"):
        rows = scores.reliability[scores.reliability["binning"] == binning]
        assert rows["n"].sum() == 400
        gap = ((rows["confidence"] - rows["accuracy"]).abs() * rows["n"]).sum() / 400
        assert gap == pytest.approx(getattr(scores, f"ece_{binning}"), abs=ROUNDING)
        assert ((rows["from"] <= rows["confidence"]) & (rows["confidence"] <= rows["to"])).all()
        assert ((rows["lower"] <= rows["accuracy"]) & (rows["accuracy"] <= rows["upper"])).all()


def test_exact_bounds_are_those_of_scipy():
    for count, n in ((0, 5), (3, 9), (7, 7), (1, 400)):
        interval = stats.binomtest(count, n).proportion_ci(0.9, method="exact")
        low, high = exact_bounds(np.array([count]), np.array([n]), 0.9)
        assert (low[0], high[0]) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_every_measure_is_scored(scored):
    prediction, y, _, scores = scored
    wrong = prediction.predicted != y
    assert list(scores.by_measure["measure"]) == list(measures_of(prediction))
    for row in scores.by_measure.itertuples():
        uncertainty = measured(prediction, row.measure)
        assert row.auroc == pytest.approx(metrics.roc_auc_score(wrong, uncertainty))
        assert row.aupr == pytest.approx(metrics.average_precision_score(wrong, uncertainty))
        assert row.excess_aurc == pytest.approx(row.aurc - best_aurc(wrong * 1.0))
        curve = scores.risk_coverage[scores.risk_coverage["measure"] == row.measure]
        for point in curve.sample(5, random_state=0).itertuples():
            covered = uncertainty <= point.threshold
            assert (point.n, point.risk) == (covered.sum(), pytest.approx(wrong[covered].mean()))
        assert curve["coverage"].iloc[-1] == 1


def test_the_order_of_the_inputs_does_not_matter(example_classes):
    prediction, y = example_classes(120, n_draws=5)  # few draws: the variation ratio has many ties
    order = np.random.default_rng(3).permutation(120)
    left, right = mc_scores(prediction, y).table, mc_scores(prediction[order], y[order]).table
    np.testing.assert_allclose(left["value"], right["value"], atol=ROUNDING)


def test_a_true_label_of_probability_0_has_an_infinite_log_loss(classes_of):
    samples = np.array([[[1.0, 0.0], [0.6, 0.4]], [[1.0, 0.0], [0.7, 0.3]]])
    assert mc_scores(classes_of(samples, ["a", "b"]), ["b", "a"]).log_loss == np.inf


def test_the_bootstrap_covers_the_score_and_follows_its_seed(example_classes):
    prediction, y = example_classes(300)
    scores = mc_scores(prediction, y, n_resamples=60, seed=4)
    row = scores.table[scores.table["score"] == "accuracy"].iloc[0]
    # the normal approximation of the interval, with the Monte Carlo error of 60 resamples
    half = stats.norm.ppf(0.975) * np.sqrt(row["value"] * (1 - row["value"]) / 300)
    assert row["upper"] - row["lower"] == pytest.approx(2 * half, rel=0.35)
    assert row["lower"] < row["value"] < row["upper"]
    again = mc_scores(prediction, y, n_resamples=60, seed=4)
    np.testing.assert_array_equal(scores.table["lower"], again.table["lower"])


def test_scores_without_an_error_have_no_auroc(classes_of):
    samples = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.8, 0.2], [0.3, 0.7]]])
    scores = mc_scores(classes_of(samples, ["a", "b"]), ["a", "b"], n_resamples=3, seed=1)
    assert scores.by_measure["auroc"].isna().all()
    assert (scores.by_measure["excess_aurc"] == 0).all()


# Inside and outside ---------------------------------------------------------------------------------------


def test_scores_of_inside_and_outside_are_those_of_scikit_learn(example_classes):
    inside, _ = example_classes(150, sharpness=4)
    outside, _ = example_classes(80, sharpness=1, seed=1)
    table = mc_ood_scores(inside, outside).set_index("measure")
    truth = np.repeat([0, 1], [150, 80])
    for name in measures_of(inside):
        row, known, strange = table.loc[name], measured(inside, name), measured(outside, name)
        uncertainty = np.concatenate([known, strange])
        assert row["auroc"] == pytest.approx(metrics.roc_auc_score(truth, uncertainty))
        assert row["aupr_out"] == pytest.approx(metrics.average_precision_score(truth, uncertainty))
        assert row["aupr_in"] == pytest.approx(metrics.average_precision_score(1 - truth, -uncertainty))
        # the lowest threshold that 95 % of the inputs from inside pass
        threshold = next(value for value in np.sort(known) if (known <= value).mean() >= 0.95)
        assert row["fpr_at_95"] == pytest.approx((strange <= threshold).mean())


def test_intervals_of_inside_and_outside(example_classes):
    inside, _ = example_classes(60, sharpness=4)
    outside, _ = example_classes(50, sharpness=1, seed=1)
    table = mc_ood_scores(inside, outside, n_resamples=40, seed=1)
    assert ((table["auroc_lower"] <= table["auroc"]) & (table["auroc"] <= table["auroc_upper"])).all()


# Bad input ------------------------------------------------------------------------------------------------


def test_words_show_the_numbers(scored):
    _, _, _, scores = scored
    text = repr(scores)
    assert f"accuracy         {scores.accuracy:.4f}" in text
    assert "mutual_information" in text
    assert len(scores.to_pandas()) == len(scores.table)


def as_maps(prediction: MCPrediction) -> MCPrediction:
    """The same prediction with maps of one place for each input."""
    by_input = {name: value for name in BY_INPUT if (value := getattr(prediction, name)) is not None}
    return replace(prediction, samples=None, **{name: value[:, None] for name, value in by_input.items()})


def bad_calls(prediction, y, other):
    nan = prediction.mean.copy()
    nan[2, 1] = np.nan
    return {
        "`y` must be as long as `prediction` (20); got length 19": lambda: mc_scores(prediction, y[:19]),
        '`y` must hold labels out of "label 0", "label 1", "label 2", "label 3"; got "horse" at input number 1': (
            lambda: mc_scores(prediction, ["horse", *y[1:]])
        ),
        "`y` must have a label for every input; got none at input number 2": (
            lambda: mc_scores(prediction, [y[0], None, *y[2:]])
        ),
        "`prediction` must hold finite numbers only; got NaN or infinity in input number 3": (
            lambda: mc_scores(replace(prediction, mean=nan), y)
        ),
        "`prediction` must have at least one input; got none": lambda: mc_scores(prediction[:0], []),
        '`prediction` must be what `mc_predict()` returns; got "list"': (
            lambda: mc_scores([1], [1])  # pyright: ignore[reportArgumentType]
        ),
        "`n_bins` must be a whole number of at least 1; got 0": lambda: mc_scores(prediction, y, n_bins=0),
        "`coverages` must be a number above 0 and at most 1; got 1.5": (
            lambda: mc_scores(prediction, y, coverages=[0.5, 1.5])
        ),
        "`risks` must be a number of at least 0 and at most 1; got -1": (lambda: mc_scores(prediction, y, risks=-1)),
        '`prediction_out` must have the labels of `prediction_in`, "label 0", "label 1", "label 2", "label 3"; got '
        '"label 0", "label 1", "label 2"': lambda: mc_ood_scores(prediction, other),
        "`prediction` must have one row of probabilities per input; got shape (20, 1, 4)": (
            lambda: mc_scores(as_maps(prediction), y)
        ),
    }


def test_coverages_and_risks_may_be_single_numbers(example_classes):
    prediction, y = example_classes(20)
    single = mc_scores(prediction, y, coverages=0.5, risks=0.1)
    several = mc_scores(prediction, y, coverages=[0.5], risks=[0.1])
    pd.testing.assert_frame_equal(single.table, several.table)


def test_bad_input_is_refused_with_one_sentence(example_classes):
    prediction, y = example_classes(20)
    other, _ = example_classes(5, n_labels=3)
    for sentence, call in bad_calls(prediction, y, other).items():
        with pytest.raises((ValueError, TypeError)) as error:
            call()
        assert str(error.value) == f"{sentence}."


def test_values_are_checked_too(example_values, example_classes):
    prediction, y = example_values(6)
    with pytest.raises(ValueError, match=r"`y` must have shape \(input, 2\); got \(6,\)"):
        mc_scores(prediction, y[:, 0])
    with pytest.raises(ValueError, match="`y` must hold finite numbers only; got a missing value"):
        mc_scores(prediction, np.where(np.arange(12).reshape(6, 2) == 5, np.nan, y))
    with pytest.raises(ValueError, match="got one of classes and one of values"):
        mc_ood_scores(prediction, example_classes(3)[0])
