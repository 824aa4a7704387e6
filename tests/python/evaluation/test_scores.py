"""Scores: by hand, by scikit-learn and SciPy, by naive loops, and whatever the order of the inputs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from sklearn import metrics

from mcdropout import mc_ood_scores, mc_scores
from mcdropout.evaluation.classes import equal_mass_edges, exact_bounds
from mcdropout.evaluation.curves import (
    UncertaintyCurve,
    accuracy_at,
    aurc,
    auroc,
    average_precision,
    best_aurc,
    coverage_at,
)
from mcdropout.predictions.uncertainty import measured, measures_of

ROUNDING = 1e-9  # sums of a few thousand doubles


def scores_of(*arguments: Any, **settings: Any) -> Any:
    return mc_scores(*arguments, **settings)


@pytest.fixture(scope="module")
def scored(example_classes):
    prediction, y = example_classes(400)
    codes = np.array([prediction.labels.index(label) for label in y])
    return prediction, y, codes, mc_scores(prediction, y, n_bins=7)


# Curves of uncertainty ------------------------------------------------------------------------------------------

uncertaintys_and_errors = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30)


def curve_of(cases):
    uncertainty, wrong = (np.array(column, dtype=float) for column in zip(*cases, strict=True))
    return UncertaintyCurve.of(uncertainty, wrong), uncertainty, wrong


@settings(max_examples=60, deadline=None)
@given(uncertaintys_and_errors)
def test_auroc_and_average_precision_are_scikit_learn_s_with_ties_too(cases):
    curve, uncertainty, wrong = curve_of(cases)
    if 0 < wrong.sum() < len(wrong):
        assert auroc(curve) == pytest.approx(metrics.roc_auc_score(wrong, uncertainty), abs=ROUNDING)
        assert average_precision(curve) == pytest.approx(
            metrics.average_precision_score(wrong, uncertainty), abs=ROUNDING
        )
    else:
        assert np.isnan(auroc(curve))


def test_aurc_by_hand():
    # In order of uncertainty right, wrong, right, wrong: risks 0, 1/2, 1/3, 1/2. Best: 0, 0, 1/3, 1/2.
    curve, _, wrong = curve_of([(1, False), (2, True), (3, False), (4, True)])
    assert aurc(curve) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert best_aurc(wrong) == pytest.approx((1 / 3 + 1 / 2) / 4)


def test_aurc_of_ties_is_the_mean_over_their_orders():
    # All equally uncertain, one of three wrong: the wrong one comes first, second or third.
    curve, _, _ = curve_of([(1, True), (1, False), (1, False)])
    orders = [(1 + 1 / 2 + 1 / 3) / 3, (1 / 2 + 1 / 3) / 3, (1 / 3) / 3]
    assert aurc(curve) == pytest.approx(np.mean(orders))


@settings(max_examples=30, deadline=None)  # 300 orders each
@given(uncertaintys_and_errors)
def test_aurc_is_between_the_best_and_the_worst_order_and_near_the_mean_of_random_ones(cases):
    curve, uncertainty, wrong = curve_of(cases)
    rng = np.random.default_rng(0)
    k = np.arange(1, len(wrong) + 1)
    found = []
    for _ in range(300):
        order = np.lexsort((rng.random(len(uncertainty)), uncertainty))
        found.append((np.cumsum(wrong[order]) / k).mean())
    assert min(found) - ROUNDING <= aurc(curve) <= max(found) + ROUNDING
    # five standard errors of the mean of 300 orders, and rounding where all orders are one
    assert abs(aurc(curve) - np.mean(found)) <= 5 * np.std(found) / np.sqrt(300) + ROUNDING
    assert best_aurc(wrong) <= aurc(curve) + ROUNDING


@settings(max_examples=60, deadline=None)
@given(uncertaintys_and_errors, st.sampled_from([0.3, 0.5, 0.9, 1.0]))
def test_equally_uncertain_inputs_are_taken_together(cases, share):
    curve, uncertainty, wrong = curve_of(cases)
    coverage, accuracy, threshold = accuracy_at(curve, share)
    taken = uncertainty <= threshold
    assert taken.mean() == pytest.approx(coverage)
    assert coverage >= share - ROUNDING
    assert (uncertainty < threshold).mean() < share  # no smaller share would do
    assert accuracy == pytest.approx(1 - wrong[taken].mean())
    largest, at = coverage_at(curve, 0.25)
    allowed = [value for value in np.unique(uncertainty) if wrong[uncertainty <= value].mean() <= 0.25]
    assert largest == (pytest.approx((uncertainty <= max(allowed)).mean()) if allowed else 0)
    assert at == max(allowed) if allowed else np.isnan(at)


@pytest.mark.parametrize("share", [0.7, 0.9, 0.35])
def test_a_share_of_round_numbers_is_not_lost_to_rounding(share):
    curve = UncertaintyCurve.of(np.arange(20.0), np.zeros(20))
    assert accuracy_at(curve, share)[0] == pytest.approx(share)


# Classes --------------------------------------------------------------------------------------------------


def test_scores_of_classes_are_scikit_learn_s(scored):
    prediction, y, codes, scores = scored
    one_hot = np.eye(len(prediction.labels))[codes]
    assert scores.accuracy == pytest.approx(metrics.accuracy_score(y, prediction.predicted))
    sums = prediction.mean.sum(axis=1, keepdims=True)  # 1 to the rounding of float32, of which old scikit-learns warn
    assert scores.log_loss == pytest.approx(metrics.log_loss(y, prediction.mean / sums, labels=list(prediction.labels)))
    assert scores.brier == pytest.approx(((prediction.mean - one_hot) ** 2).sum(axis=1).mean(), abs=ROUNDING)
    by_label = scores.by_label.set_index("label")
    report: Any = metrics.classification_report(y, prediction.predicted, output_dict=True)
    for label in prediction.labels:
        assert by_label.loc[label, "sensitivity"] == pytest.approx(report[label]["recall"])
        assert by_label.loc[label, "precision"] == pytest.approx(report[label]["precision"])
        assert by_label.loc[label, "n"] == report[label]["support"]


def test_the_halved_brier_score_is_the_usual_one_for_two_labels(example_classes):
    prediction, y = example_classes(150, n_labels=2)
    usual = metrics.brier_score_loss(y == prediction.labels[1], prediction.mean[:, 1])
    scores: Any = mc_scores(prediction, y)
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
    each = [naive_calibration_error(prediction.mean[:, k], (codes == k) * 1.0, widths) for k in range(4)]
    assert scores.classwise_ece == pytest.approx(np.mean(each), abs=ROUNDING)
    np.testing.assert_allclose(scores.by_label["ece"], each, atol=ROUNDING)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 9))
def test_equal_mass_bins_keep_ties_together_and_are_never_empty(values, n_bins):
    found = np.array(values, dtype=float)
    edges = equal_mass_edges(found, n_bins)
    counts = np.bincount(np.searchsorted(edges, found, side="left"), minlength=len(edges) + 1)
    assert len(counts) <= n_bins
    assert counts.min() > 0


def test_bins_of_equal_mass_hold_as_many_each():
    edges = equal_mass_edges(np.random.default_rng(0).random(700), 7)
    np.testing.assert_array_equal(
        np.bincount(np.searchsorted(edges, np.random.default_rng(0).random(700), side="left")), np.full(7, 100)
    )


def test_reliability_tables_add_up_to_the_calibration_errors(scored):
    _, _, _, scores = scored
    for binning in ("equal_width", "equal_mass"):
        rows = scores.reliability[scores.reliability["binning"] == binning]
        assert rows["n"].sum() == 400
        gap = ((rows["confidence"] - rows["accuracy"]).abs() * rows["n"]).sum() / 400
        assert gap == pytest.approx(getattr(scores, f"ece_{binning}"), abs=ROUNDING)
        assert ((rows["from"] <= rows["confidence"]) & (rows["confidence"] <= rows["to"])).all()
        assert ((rows["lower"] <= rows["accuracy"]) & (rows["accuracy"] <= rows["upper"])).all()


def test_exact_bounds_are_scipy_s():
    for count, n in ((0, 5), (3, 9), (7, 7), (1, 400)):
        wanted = stats.binomtest(count, n).proportion_ci(0.9, method="exact")
        low, high = exact_bounds(np.array([count]), np.array([n]), 0.9)
        assert (low[0], high[0]) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


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
            taken = uncertainty <= point.threshold
            assert (point.n, point.risk) == (taken.sum(), pytest.approx(wrong[taken].mean()))
        assert curve["coverage"].iloc[-1] == 1


def test_the_order_of_the_inputs_does_not_matter(example_classes):
    prediction, y = example_classes(120, n_draws=5)  # few draws: the variation ratio has many ties
    order = np.random.default_rng(3).permutation(120)
    left, right = mc_scores(prediction, y).table, mc_scores(prediction[order], y[order]).table
    np.testing.assert_allclose(left["value"], right["value"], atol=ROUNDING)


def test_a_label_that_was_given_no_chance_costs_an_infinite_log_loss(classes_of):
    samples = np.array([[[1.0, 0.0], [0.6, 0.4]], [[1.0, 0.0], [0.7, 0.3]]])
    assert mc_scores(classes_of(samples, ["a", "b"]), ["b", "a"]).log_loss == np.inf


def test_the_bootstrap_covers_the_score_and_follows_its_seed(example_classes):
    prediction, y = example_classes(300)
    scores: Any = mc_scores(prediction, y, n_resamples=60, seed=4)
    row = scores.table[scores.table["score"] == "accuracy"].iloc[0]
    # percentiles of the bootstrap of a mean: its normal approximation, within what 60 resamples leave open
    half = stats.norm.ppf(0.975) * np.sqrt(row["value"] * (1 - row["value"]) / 300)
    assert row["upper"] - row["lower"] == pytest.approx(2 * half, rel=0.35)
    assert row["lower"] < row["value"] < row["upper"]
    again = mc_scores(prediction, y, n_resamples=60, seed=4)
    np.testing.assert_array_equal(scores.table["lower"], again.table["lower"])


def test_scores_without_an_error_have_no_auroc(classes_of):
    samples = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.8, 0.2], [0.3, 0.7]]])
    scores: Any = mc_scores(classes_of(samples, ["a", "b"]), ["a", "b"], n_resamples=3, seed=1)
    assert scores.by_measure["auroc"].isna().all()
    assert (scores.by_measure["excess_aurc"] == 0).all()


# Inside and outside ---------------------------------------------------------------------------------------


def test_scores_of_inside_and_outside_are_scikit_learn_s(example_classes):
    inside, _ = example_classes(150, sharpness=4)
    outside, _ = example_classes(80, sharpness=1, seed=1)
    table = mc_ood_scores(inside, outside).set_index("measure")
    truth = np.repeat([0, 1], [150, 80])
    for name in measures_of(inside):
        row = table.loc[name]
        known, strange = measured(inside, name), measured(outside, name)
        uncertainty = np.concatenate([known, strange])
        assert row["auroc"] == pytest.approx(metrics.roc_auc_score(truth, uncertainty))
        assert row["aupr_out"] == pytest.approx(metrics.average_precision_score(truth, uncertainty))
        assert row["aupr_in"] == pytest.approx(metrics.average_precision_score(1 - truth, -uncertainty))
        # the first threshold that lets 95 % of those from inside through
        threshold = next(value for value in np.sort(known) if (known <= value).mean() >= 0.95)
        assert row["fpr_at_95"] == pytest.approx((strange <= threshold).mean())


def test_intervals_of_inside_and_outside(example_classes):
    inside, _ = example_classes(60, sharpness=4)
    outside, _ = example_classes(50, sharpness=1, seed=1)
    table = mc_ood_scores(inside, outside, n_resamples=40, seed=1)
    assert ((table["auroc_lower"] <= table["auroc"]) & (table["auroc"] <= table["auroc_upper"])).all()


# Values ---------------------------------------------------------------------------------------------------


def test_scores_of_values(example_values):
    prediction, y = example_values(40)
    scores: Any = mc_scores(prediction, y)
    np.testing.assert_allclose(
        scores.rmse, np.sqrt(metrics.mean_squared_error(y, prediction.mean, multioutput="raw_values"))
    )
    np.testing.assert_allclose(scores.mae, metrics.mean_absolute_error(y, prediction.mean, multioutput="raw_values"))
    np.testing.assert_allclose(scores.log_density, prediction.log_density(y).mean(axis=0))
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
    found = np.zeros(y.shape)
    for i, j in np.ndindex(y.shape):

        def below(x, i=i, j=j):
            return stats.norm.cdf(x, means[:, i, j], scales[:, i, j]).mean()

        reach = np.abs(means[:, i, j] - y[i, j]).max() + 12 * scales[:, i, j].max()
        left = integrate.quad(lambda x: below(x) ** 2, y[i, j] - reach, y[i, j], limit=200)[0]
        right = integrate.quad(lambda x: (1 - below(x)) ** 2, y[i, j], y[i, j] + reach, limit=200)[0]
        found[i, j] = left + right
        assert scores_of(prediction, y).pit[i, j] == pytest.approx(below(y[i, j]), abs=ROUNDING)
    # the error that quad allows itself
    np.testing.assert_allclose(scores_of(prediction, y).crps, found.mean(axis=0), rtol=1e-6)


def test_crps_of_draws_without_noise_is_the_double_sum(example_values):
    prediction, y = example_values(30, noise=False)
    draws = prediction.samples.astype(float)
    apart = np.abs(draws - y).mean(axis=0)
    between = np.abs(draws[:, None] - draws[None]).mean(axis=(0, 1))
    scores: Any = mc_scores(prediction, y)
    np.testing.assert_allclose(scores.crps, (apart - between / 2).mean(axis=0), rtol=1e-12)
    assert scores.log_density is None
    assert "tells its noise" in scores.notes[0]


@pytest.mark.parametrize("noise", [True, False])
def test_inputs_that_took_fewer_draws_are_scored_by_those(example_values, noise):
    from dataclasses import replace

    prediction, y = example_values(5, noise=noise)
    short = prediction.samples.copy()
    short[4:, 2] = np.nan
    noises = None if not noise else np.where(np.isnan(short), np.nan, prediction.noise_variances)
    counts = np.array([7, 7, 4, 7, 7])
    ragged = replace(prediction, samples=short, noise_variances=noises, n_samples=counts)
    alone = replace(
        prediction[[2]],
        samples=short[:4, [2]],
        noise_variances=None if noises is None else noises[:4, [2]],
        n_samples=4,
    )
    others = [0, 1, 3, 4]
    whole, rest, one = scores_of(ragged, y), scores_of(prediction[others], y[others]), scores_of(alone, y[[2]])
    np.testing.assert_allclose(whole.crps, (4 * rest.crps + one.crps) / 5, rtol=1e-12)
    np.testing.assert_allclose(whole.pit[2], one.pit[0], rtol=1e-12)


def test_risk_of_values_is_the_squared_error(example_values):
    prediction, y = example_values(50)
    scores: Any = mc_scores(prediction, y, n_resamples=5, seed=1)
    curve = scores.risk_coverage[scores.risk_coverage["measure"] == "total_std"]
    assert curve["risk"].iloc[-1] == pytest.approx(((y - prediction.mean) ** 2).mean())
    assert list(scores.by_measure["measure"]) == ["std", "total_std"]
    assert {"lower", "upper"} <= set(scores.table)


def test_without_draws_the_rest_is_scored(example_values):
    from dataclasses import replace

    prediction, y = example_values(12)
    scores: Any = mc_scores(replace(prediction, samples=None, noise_variances=None), y)
    assert scores.crps is None
    assert scores.pit is None
    assert scores.rmse is not None
    assert "keep_samples" in scores.notes[0]
    assert "keep_samples" in repr(scores)


def test_one_output_may_come_as_one_axis(example_values):
    prediction, y = example_values(9)
    from dataclasses import replace

    names = ("mean", "variance", "lower", "upper", "aleatoric_variance", "total_variance", "pred_lower", "pred_upper")
    one = replace(
        prediction,
        **{name: getattr(prediction, name)[:, :1] for name in names},
        samples=prediction.samples[..., :1],
        noise_variances=prediction.noise_variances[..., :1],
    )
    np.testing.assert_array_equal(mc_scores(one, y[:, 0]).rmse, mc_scores(one, y[:, :1]).rmse)


# What comes in --------------------------------------------------------------------------------------------


def test_words_show_the_numbers(scored):
    _prediction, _y, _, scores = scored
    text = repr(scores)
    assert f"accuracy         {scores.accuracy:.4f}" in text
    assert "mutual_information" in text
    assert len(scores.to_pandas()) == len(scores.table)


def bad_calls(prediction, y, other):
    from dataclasses import replace

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
        '`prediction` must be what `mc_predict()` returns; got "list"': lambda: scores_of([1], [1]),
        "`n_bins` must be a whole number of at least 1; got 0": lambda: mc_scores(prediction, y, n_bins=0),
        "`coverages` must be a number above 0 and at most 1; got 1.5": (
            lambda: mc_scores(prediction, y, coverages=[0.5, 1.5])
        ),
        "`risks` must be a number of at least 0 and at most 1; got -1": lambda: scores_of(prediction, y, risks=-1),
        '`prediction_out` must have the labels of `prediction_in`, "label 0", "label 1", "label 2", "label 3"; got '
        '"label 0", "label 1", "label 2"': lambda: mc_ood_scores(prediction, other),
        "`prediction` must have one row of probabilities per input; got shape (20, 1, 4)": (
            lambda: mc_scores(replace(prediction, mean=prediction.mean[:, None]), y)
        ),
    }


def test_bad_input_is_named_in_one_sentence(example_classes):
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
