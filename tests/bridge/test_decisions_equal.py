"""Scores, calibration and decisions: functions of base R give the same numbers, and both languages read each file."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

import mcdropout as mcd

ROUNDING = 1e-9  # sums of a few hundred doubles in another order
DRAWS_ROUNDING = 1e-6  # numbers computed from draws, which are stored in single precision

MAKE = """
    set.seed(7)
    n <- 300
    x <- matrix(rnorm(4 * n), n)
    y <- factor(c("cat", "dog", "emu"))[max.col(cbind(x[, 1], x[, 2], 0) + 0.3 * rnorm(3 * n))]
    net <- mc_mlp(4, labels = levels(y), hidden = 32, dropout = 0.2, seed = 1)
    net <- mc_fit(net, x[1:100, ], y[1:100], epochs = 60, batch_size = 10, seed = 1, progress = FALSE)
    pred <- mc_predict(net, x[101:n, ], n_samples = 10, seed = 2, progress = FALSE)
    truth <- y[101:n]
    wrong <- pred$predicted != truth
    uncertainties <- list(
      predictive_entropy = pred$predictive_entropy, expected_entropy = pred$expected_entropy,
      mutual_information = pred$mutual_information, variation_ratio = pred$variation_ratio,
      least_confidence = 1 - pred$confidence, smallest_margin = 1 - pred$margin,
      std = pred$std[cbind(1:200, as.integer(pred$predicted))]
    )
    scores <- mc_scores(pred, truth, n_bins = 5)
    settled <- mc_convergence(net, x[1:40, ], c(5, 12, 30), tolerance = 0.03, seed = 4, progress = FALSE)
    full <- mc_predict(net, x[1:40, ], n_samples = 30, seed = 4, progress = FALSE)$samples
    of_counts <- function(f) unlist(lapply(c(5, 12, 30), function(k) f(full[1:k, , ])))
    calls <- max.col(apply(full, 2:3, mean), "first") # the predicted label, from all draws
    of_calls <- function(values) values[cbind(1:40, calls)]
    row_of <- function(name) settled$table[settled$table$measure == name, ]
    entropy <- function(p) -sum(ifelse(p > 0, p * log(p), 0))
    total <- function(draws) apply(apply(draws, 2:3, mean), 1, entropy)
    expected <- function(draws) colMeans(apply(draws, 1:2, entropy))
    error <- function(draws) apply(draws, 2:3, sd) / sqrt(nrow(draws))
    root_mean_square <- function(values) sqrt(mean(values^2))
    fresh <- function(rate) mc_mlp(4, labels = levels(y), hidden = 6, dropout = rate, seed = 1)
    rates <- mc_compare_rates(
      fresh, x[1:50, ], y[1:50], rates = c(0.2, 0.6, 0.4), n_samples = 8, seed = 5, progress = FALSE
    )
    sampled <- mc_compare_rates(
      fresh(0.3), x[1:50, ], y[1:50], rates = c(0.2, 0.6, 0.4), n_samples = 8, seed = 5, progress = FALSE
    )
    at_rates <- lapply(c(0.2, 0.6, 0.4), function(rate) {
      mc_predict(fresh(rate), x[1:50, ], n_samples = 8, seed = 5, progress = FALSE)
    })
    losses <- sapply(at_rates, function(pred) -log(pred$mean[cbind(1:50, as.integer(y[1:50]))]))
    watched <- update(mc_monitor(pred[1:120], measure = "std", n_bins = 6), pred[121:200])$batches
    values_net <- mc_mlp(4, task = "regression", hidden = 6, dropout = 0.3, noise = "heteroscedastic", seed = 1)
    values_net <- mc_fit(values_net, x[1:50, ], x[1:50, 1], epochs = 5, seed = 1, progress = FALSE)
    guessed <- mc_predict(values_net, x[51:150, ], n_samples = 10, seed = 1, progress = FALSE)
    seen <- x[51:150, 1]
"""


@pytest.fixture(scope="module")
def r(robjects: ModuleType) -> Callable[[str], np.ndarray]:
    """R's answer to R code, on one prediction of 200 inputs and 10 draws."""
    robjects.r(MAKE)
    return lambda code: np.asarray(robjects.r(code)).copy()


# The number of the package, and the code that computes it from the prediction with functions of base R or loops.
IN_R = {
    "scores$accuracy": "1 - mean(wrong)",
    "scores$log_loss": "-mean(log(pred$mean[cbind(1:200, as.integer(truth))]))",
    "scores$brier": "mean(rowSums((pred$mean - diag(3)[as.integer(truth), ])^2))",
    "scores$ece_equal_width": """{
        bin <- cut(pred$confidence, 0:5 / 5)
        gaps <- tapply(pred$confidence - !wrong, bin, sum)
        sum(abs(gaps), na.rm = TRUE) / 200
    }""",
    "scores$ece_equal_mass": """{
        edges <- unique(sort(pred$confidence)[40 * 1:4])
        bin <- cut(pred$confidence, c(-Inf, edges, Inf))
        sum(abs(tapply(pred$confidence - !wrong, bin, sum)), na.rm = TRUE) / 200
    }""",
    "scores$classwise_ece": """mean(sapply(1:3, function(k) {
        gaps <- tapply(pred$mean[, k] - (as.integer(truth) == k), cut(pred$mean[, k], 0:5 / 5), sum)
        sum(abs(gaps), na.rm = TRUE) / 200
    }))""",
    # Mann and Whitney's statistic over the number of pairs
    "scores$by_measure$auroc": """sapply(uncertainties, function(uncertainty) {
        statistic <- suppressWarnings(wilcox.test(uncertainty[wrong], uncertainty[!wrong]))$statistic
        statistic / (sum(wrong) * sum(!wrong))
    })""",
    "scores$by_measure$aupr": """sapply(uncertainties, function(uncertainty) {
        total <- 0
        n_wrong <- 0
        for (value in sort(unique(uncertainty), decreasing = TRUE)) {
          above <- uncertainty >= value
          total <- total + (sum(wrong[above]) - n_wrong) * mean(wrong[above])
          n_wrong <- sum(wrong[above])
        }
        total / sum(wrong)
    })""",
    # the expected errors among the first k inputs; inputs of equal uncertainty may have any order
    "scores$by_measure$aurc": """sapply(uncertainties, function(uncertainty) {
        share <- ave(as.numeric(wrong), uncertainty)
        mean(cumsum(share[order(uncertainty)]) / 1:200)
    })""",
    "scores$by_measure$excess_aurc": """sapply(uncertainties, function(uncertainty) {
        share <- ave(as.numeric(wrong), uncertainty)
        mean(cumsum(share[order(uncertainty)]) / 1:200) - mean(cumsum(sort(wrong)) / 1:200)
    })""",
    "scores$at_coverage$accuracy": """unlist(lapply(uncertainties, function(uncertainty) {
        sapply(c(0.8, 0.9, 0.95), function(share) 1 - mean(wrong[uncertainty <= sort(uncertainty)[round(share * 200)]]))
    }))""",
    "scores$at_risk$coverage": """unlist(lapply(uncertainties, function(uncertainty) {
        sapply(c(0.01, 0.05), function(risk) {
          fits <- sapply(uncertainty, function(value) mean(wrong[uncertainty <= value]) <= risk)
          if (any(fits)) mean(uncertainty <= max(uncertainty[fits])) else 0
        })
    }))""",
    "scores$reliability$upper[1]": """{
        first <- scores$reliability[1, ]
        binom.test(round(first$accuracy * first$n), first$n)$conf.int[2]
    }""",
    "scores$by_label$sensitivity": "tapply(!wrong, truth, mean)",
    "mc_ood_scores(pred[1:120], pred[121:200])$auroc": """sapply(uncertainties, function(uncertainty) {
        suppressWarnings(wilcox.test(uncertainty[121:200], uncertainty[1:120]))$statistic / (120 * 80)
    })""",
    "mc_ood_scores(pred[1:120], pred[121:200])$fpr_at_95": """sapply(uncertainties, function(uncertainty) {
        mean(uncertainty[121:200] <= sort(uncertainty[1:120])[ceiling(0.95 * 120)])
    })""",
    # average precision: the precision at each outside input; equal uncertainties count together
    "mc_ood_scores(pred[1:120], pred[121:200])$aupr_out": """sapply(uncertainties, function(uncertainty) {
        outside <- 1:200 > 120
        values <- sort(unique(uncertainty), decreasing = TRUE)
        recall <- sapply(values, function(value) mean(uncertainty[outside] >= value))
        precision <- sapply(values, function(value) mean(outside[uncertainty >= value]))
        sum(diff(c(0, recall)) * precision)
    })""",
    "mc_conformal(pred, truth, level = 0.8, method = 'raps', penalty = 0.05, n_free = 1)$limits": """{
        of_truth <- pred$mean[cbind(1:200, as.integer(truth))]
        rank <- rowSums(pred$mean >= of_truth)
        sort(rowSums(pred$mean * (pred$mean >= of_truth)) + 0.05 * pmax(rank - 1, 0))[ceiling(201 * 0.8)]
    }""",
    "mc_conformal(guessed, seen, level = 0.8)$limits": "sort(abs(seen - guessed$mean))[ceiling(101 * 0.8)]",
    "mc_conformal(guessed, seen, level = 0.8, method = 'normalized')$limits": """{
        sort(abs(seen - guessed$mean) / sqrt(guessed$total_variance))[ceiling(101 * 0.8)]
    }""",
    "mc_conformal(guessed, seen, level = 0.8, method = 'cqr')$limits": """{
        sort(pmax(guessed$pred_lower - seen, seen - guessed$pred_upper))[ceiling(101 * 0.8)]
    }""",
    "row_of('mean')$value": "of_counts(function(draws) mean(of_calls(apply(draws, 2:3, mean))))",
    "row_of('mean')$mcse": "of_counts(function(draws) root_mean_square(apply(error(draws), 1, max)))",
    "row_of('mean')$settled": "of_counts(function(draws) mean(apply(error(draws), 1, max) <= 0.03))",
    "row_of('mean')$difference": """{
        last <- of_calls(apply(full, 2:3, mean))
        of_counts(function(draws) root_mean_square(of_calls(apply(draws, 2:3, mean)) - last))
    }""",
    "row_of('std')$value": "of_counts(function(draws) mean(of_calls(apply(draws, 2:3, sd))))",
    "row_of('predictive_entropy')$value": "of_counts(function(draws) mean(total(draws)))",
    "row_of('expected_entropy')$value": "of_counts(function(draws) mean(expected(draws)))",
    "row_of('expected_entropy')$mcse": """of_counts(function(draws) {
        root_mean_square(apply(apply(draws, 1:2, entropy), 2, sd) / sqrt(nrow(draws)))
    })""",
    "row_of('mutual_information')$value": "of_counts(function(draws) mean(total(draws) - expected(draws)))",
    "settled$recommended": """{
        enough <- ceiling((apply(apply(full, 2:3, sd), 1, max) / 0.03)^2)
        quantile(pmax(enough, 2), 0.95, type = 1)
    }""",
    "settled$needed$n_samples_for_all[1]": "max(2, ceiling(max(apply(full, 2:3, sd) / 0.03)^2))",
    "rates$loss": "colMeans(losses)",
    "rates$difference": "colMeans(losses) - min(colMeans(losses))",
    "rates$difference_se": """{
        best <- losses[, which.min(colMeans(losses))]
        apply(losses - best, 2, sd) / sqrt(50)
    }""",
    "rates$accuracy": "sapply(at_rates, function(pred) mean(pred$predicted == y[1:50]))",
    "rates$spread": "sapply(at_rates, function(pred) mean(pred$mutual_information))",
    "rates$best": "colMeans(losses) == min(colMeans(losses))",
    "sampled$loss": "colMeans(losses)",  # the same weights, sampled at each rate
    "watched$ks": "suppressWarnings("
    "ks.test(uncertainties$std[1:120], uncertainties$std[121:200], exact = FALSE))$statistic",
    "watched$psi": """{
        edges <- sort(uncertainties$std[1:120])[20 * 1:5]
        counts <- function(values) tabulate(findInterval(values, edges, left.open = TRUE) + 1, 6)
        share <- function(values) (counts(values) + 0.5) / (length(values) + 3)
        now <- share(uncertainties$std[121:200])
        before <- share(uncertainties$std[1:120])
        sum((now - before) * log(now / before))
    }""",
    "watched$psi_limit": "qchisq(0.95, 5) * (1 / 120 + 1 / 80)",
    "mc_acquire(pred, 9)$input": "order(-pred$mutual_information)[1:9]",
    "mc_acquire(pred, 9, by = 'smallest_margin')$score": "sort(1 - pred$margin, decreasing = TRUE)[1:9]",
    # the information of two labels about the network, for every input beside the first
    "mc_acquire(pred, 2, by = 'batchbald')$score": """{
        draws <- pred$samples
        first <- which.max(pred$mutual_information)
        joint <- sapply(1:200, function(i) {
          outers <- sapply(1:10, function(draw) outer(draws[draw, first, ], draws[draw, i, ]))
          entropy(rowMeans(outers)) - mean(apply(draws[, first, ], 1, entropy)) - mean(apply(draws[, i, ], 1, entropy))
        })
        c(pred$mutual_information[first], max(joint[-first]))
    }""",
    "mc_conformal(pred, truth, level = 0.8)$limits": """{
        sort(1 - pred$mean[cbind(1:200, as.integer(truth))])[ceiling(201 * 0.8)]
    }""",
    "mc_conformal(pred, truth, level = 0.8, method = 'aps')$limits": """{
        of_truth <- pred$mean[cbind(1:200, as.integer(truth))]
        sort(rowSums(pred$mean * (pred$mean >= of_truth)))[ceiling(201 * 0.8)]
    }""",
    "mc_conformal(pred, truth, level = 0.8, by_label = TRUE)$limits": """{
        tapply(1 - pred$mean[cbind(1:200, as.integer(truth))], truth, function(scores) {
          sort(scores)[ceiling((length(scores) + 1) * 0.8)]
        })
    }""",
    "mc_triage(pred, truth, budget = 0.25)$thresholds": "sort(pred$predictive_entropy)[150]",
    "mc_triage(pred, truth, budget = 0.25)$outcome$upper_bound[1]": """{
        accepted <- pred$predictive_entropy <= sort(pred$predictive_entropy)[150]
        binom.test(sum(wrong[accepted]), 150, alternative = "less")$conf.int[2]
    }""",
    "mc_triage(pred, truth, costs = list(error = 9, refer = 1))$mean_cost": """{
        cost <- function(value) mean(ifelse(pred$predictive_entropy <= value, 9 * wrong, 1))
        min(sapply(c(-1, pred$predictive_entropy), cost))
    }""",
}


@pytest.mark.parametrize("code", IN_R)
def test_functions_of_base_r_give_the_same_numbers(code, r):
    atol = DRAWS_ROUNDING if code.startswith(("row_of", "rates", "sampled", "mc_acquire")) else ROUNDING
    np.testing.assert_allclose(r(code).ravel(), r(IN_R[code]).ravel(), rtol=0, atol=atol)


def test_the_optimiser_of_r_finds_the_same_temperature(r):
    temperature, loss = r("unlist(unclass(mc_calibrate(pred, truth))[c('temperature', 'log_loss_after')])")
    temperature_in_r, loss_in_r = r("""{
        loss <- function(temperature) {
          draws <- pred$samples^(1 / temperature)
          draws <- draws / array(apply(draws, 1:2, sum), dim(draws))
          -mean(log(apply(draws, 2:3, mean)[cbind(1:200, as.integer(truth))]))
        }
        best <- optimize(loss, c(0.1, 10))
        c(best$minimum, best$objective)
    }""")
    assert loss == pytest.approx(loss_in_r, abs=1e-6)  # draws in float32
    assert temperature == pytest.approx(temperature_in_r, abs=0.02)  # flat optimum; optimize() stops within 0.002


def test_the_integral_of_r_is_the_crps(r):
    crps = r("""{
        net <- mc_mlp(4, task = "regression", hidden = 6, dropout = 0.3, seed = 1)
        net <- mc_fit(net, x[1:50, ], x[1:50, 1] + 0.3 * x[1:50, 2], epochs = 5, seed = 1, progress = FALSE)
        values <- mc_predict(net, x[51:53, ], n_samples = 4, seed = 1, progress = FALSE)
        mc_scores(values, x[51:53, 1])$crps
    }""")
    integral = r("""mean(sapply(1:3, function(i) {
        below <- function(q) sapply(q, function(value) {
          mean(pnorm(value, values$samples[, i, 1], sqrt(values$noise_variances[, i, 1])))
        })
        y <- x[50 + i, 1]
        integrate(function(q) below(q)^2, -Inf, y, rel.tol = 1e-8)$value +
          integrate(function(q) (1 - below(q))^2, y, Inf, rel.tol = 1e-8)$value
    }))""")
    np.testing.assert_allclose(crps, integral, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:No threshold can promise")
def test_the_p_values_of_the_curve_are_binomial(r):
    r("policy <- mc_triage(pred, truth, max_error = 0.25, confidence = 0.9)")
    p_values = r("policy$curve$p_value[policy$curve$n > 0]")
    binomial = r("with(policy$curve[policy$curve$n > 0, ], pbinom(wrong, n, 0.25))")
    np.testing.assert_allclose(p_values, binomial, atol=1e-12)


SETTINGS = [
    "max_error = 0.25, confidence = 0.9",
    "max_error = c(0.2, 0.4), tiers = 3, measure = c('std', 'predictive_entropy')",
    "budget = c(0.2, 0.1), tiers = c('go', 'look', 'stop')",
    "costs = list(error = matrix(c(0, 1, 2, 3, 0, 1, 1, 5, 0), 3), refer = 0.3)",
    "uncertainty_threshold = 0.15, measure = 'std'",
    "max_error = 0.5, by_label = list(misses = c(dog = 0.6), false_alarms = c(cat = 0.6))",
]
IN_PYTHON = [
    {"max_error": 0.25, "confidence": 0.9},
    {"max_error": [0.2, 0.4], "tiers": 3, "measure": ["std", "predictive_entropy"]},
    {"budget": [0.2, 0.1], "tiers": ["go", "look", "stop"]},
    {"costs": {"error": np.array([[0, 3, 1], [1, 0, 5], [2, 1, 0]]), "refer": 0.3}},
    {"uncertainty_threshold": 0.15, "measure": "std"},
    {"max_error": 0.5, "by_label": {"misses": {"dog": 0.6}, "false_alarms": {"cat": 0.6}}},
]


@pytest.mark.filterwarnings("ignore:No threshold can promise")
@pytest.mark.parametrize("case", range(len(SETTINGS)))
def test_both_languages_learn_the_same_policy_and_write_the_same_file(case, robjects, r, tmp_path):
    robjects.r(f"""
        mc_save(pred, "{tmp_path / "pred.safetensors"}")
        policy <- suppressWarnings(mc_triage(pred, truth, {SETTINGS[case]}))
        mc_save(policy, "{tmp_path / "r.json"}")
    """)
    prediction = mcd.mc_load(tmp_path / "pred.safetensors")
    assert isinstance(prediction, mcd.MCPrediction)
    policy = mcd.mc_triage(prediction, list(robjects.r("as.character(truth)")), **IN_PYTHON[case])
    mcd.mc_save(policy, tmp_path / "python.json")
    assert (tmp_path / "python.json").read_text() == (tmp_path / "r.json").read_text()
    tiers = list(robjects.r(f'as.character(mc_decide(mc_load("{tmp_path / "python.json"}"), pred)$tier)'))
    assert tiers == mcd.mc_decide(policy, prediction)["tier"].tolist()
    assert "\n".join(robjects.r("format(policy)")) == repr(policy)


def test_a_calibration_and_prediction_sets_are_read_from_the_files_of_r(robjects, r, tmp_path):
    robjects.r(f"""
        mc_save(pred, "{tmp_path / "pred.safetensors"}")
        mc_save(mc_calibrate(pred, truth), "{tmp_path / "calibration.json"}")
        mc_save(mc_conformal(pred, truth, by_label = TRUE), "{tmp_path / "sets.json"}")
    """)
    prediction = mcd.mc_load(tmp_path / "pred.safetensors")
    assert isinstance(prediction, mcd.MCPrediction)
    calibration, conformal = mcd.mc_load(tmp_path / "calibration.json"), mcd.mc_load(tmp_path / "sets.json")
    assert isinstance(calibration, mcd.MCCalibration)
    assert isinstance(conformal, mcd.MCConformal)
    calibrated = mcd.mc_apply(calibration, prediction)
    np.testing.assert_array_equal(calibrated.mean, r("mc_apply(mc_calibrate(pred, truth), pred)$mean"))
    sets = mcd.mc_apply(conformal, prediction)
    assert isinstance(sets, pd.DataFrame)
    np.testing.assert_array_equal(sets["size"], r("mc_apply(mc_conformal(pred, truth, by_label = TRUE), pred)$size"))


def test_both_languages_acquire_the_same_inputs(robjects, r, tmp_path):
    robjects.r(f'mc_save(pred, "{tmp_path / "pred.safetensors"}")')
    prediction = mcd.mc_load(tmp_path / "pred.safetensors")
    assert isinstance(prediction, mcd.MCPrediction)
    for by in ("mutual_information", "batchbald"):
        acquired = mcd.mc_acquire(prediction, 6, by=by)["input"].to_numpy() + 1
        np.testing.assert_array_equal(acquired, r(f'mc_acquire(pred, 6, by = "{by}")$input'))


def test_both_languages_write_the_same_monitor_and_continue_that_of_the_other(robjects, r, tmp_path):
    robjects.r(f"""
        mc_save(pred, "{tmp_path / "pred.safetensors"}")
        monitor <- mc_monitor(pred[1:60], measure = "mutual_information", false_alarm_rate = 0.2)
        monitor <- update(monitor, pred[61:100], name = "first")
        mc_save(monitor, "{tmp_path / "r.json"}")
    """)
    prediction = mcd.mc_load(tmp_path / "pred.safetensors")
    assert isinstance(prediction, mcd.MCPrediction)
    monitor = mcd.mc_monitor(prediction[:60], measure="mutual_information", false_alarm_rate=0.2)
    mcd.mc_save(monitor.update(prediction[60:100], name="first"), tmp_path / "python.json")
    assert (tmp_path / "python.json").read_text() == (tmp_path / "r.json").read_text()
    continued = mcd.mc_load(tmp_path / "r.json")
    assert isinstance(continued, mcd.MCMonitor)
    mcd.mc_save(continued.update(prediction[100:]), tmp_path / "python.json")
    printed = list(
        robjects.r(f"""
        monitor <- update(mc_load("{tmp_path / "r.json"}"), pred[101:200])
        mc_save(monitor, "{tmp_path / "r.json"}")
        format(monitor)
    """)
    )
    assert (tmp_path / "python.json").read_text() == (tmp_path / "r.json").read_text()
    assert "\n".join(printed) == repr(continued)
