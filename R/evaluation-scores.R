# Compares a prediction with the truth: its accuracy, its calibration, and how well its uncertainty finds its
# errors.

#' How good a prediction is, and whether its uncertainty finds its errors
#'
#' `mc_scores()` compares a prediction with the truth. It gives the accuracy and log loss, the calibration of
#' the probabilities, and how well each measure of uncertainty finds the errors. `mc_ood_scores()` says how
#' well uncertainty separates inputs like the training inputs (in) from other inputs (out).
#'
#' All measures of uncertainty are larger for more uncertainty. For classes they are `predictive_entropy`,
#' `expected_entropy`, `mutual_information` (nats), `variation_ratio`, `least_confidence` (1 - confidence),
#' `smallest_margin` (1 - margin) and `std` (standard deviation of the predicted label's probability). For
#' values they are `std` and `total_std` (with the noise). Equally uncertain inputs are treated as a group, so
#' the order of the inputs does not matter.
#'
#' @param prediction,prediction_in,prediction_out (mc_prediction) The predictions to score.
#' @param y (factor or vector, or numeric matrix) The true label of each input, or the observed values.
#' @param ... Not used. The arguments after it are given by name.
#' @param n_bins (count) Number of bins of the reliability diagrams. A bin contains values above its lower
#'   edge and up to its upper edge.
#' @param coverages (numeric vector) Shares of the inputs, the least uncertain inputs first, for which the
#'   accuracy is computed.
#' @param risks (numeric vector) Error rates for which the largest coverage is computed.
#' @param n_resamples (count) Number of bootstrap resamples of the inputs. 0 gives no intervals.
#' @param level (number) Level of the intervals, between 0 and 1.
#' @param seed (whole number) Seed of the bootstrap. `NULL` draws one from R's generator.
#' @return `mc_scores()`: a list of class `mc_scores`.
#'
#'   For classes, single numbers: `accuracy`; `log_loss` (mean, in nats); `brier` (summed over the labels, 0
#'   to 2) and `brier_halved` (the usual score for two labels); `ece_equal_width`, `ece_equal_mass` (expected
#'   calibration error of the predicted label); `classwise_ece` (calibration error of each label's
#'   probability, mean over the labels). Tibbles: `by_measure` (`auroc`, `aupr`; `aurc`, the mean over k of
#'   the error rate among the k least uncertain inputs; `excess_aurc`, the excess of `aurc` over the value of
#'   a measure that puts all errors last), `at_coverage`, `at_risk`, `by_label`, `reliability`,
#'   `risk_coverage`.
#'
#'   For values, one number per output: `rmse` and `mae`; `log_density` and `crps` of the mixture of all
#'   draws, which need the draws. `by_interval` has coverage, width and interval score of `conf_int`
#'   and `pred_int`. `pit` has the shape of the mean. The risk in `risk_coverage` is the squared error.
#'
#'   `table`, also `as_tibble()`, has every number in a row: `score`, `of` (measure or output), `at`
#'   (coverage, risk or level), `value`, and with `n_resamples` also `lower` and `upper`.
#'
#'   `mc_ood_scores()`: a tibble with one row per measure. `auroc` is the probability that an input from
#'   outside is more uncertain than one from inside. `aupr_in` and `aupr_out` are the average precisions of
#'   finding the inputs from inside or from outside. `fpr_at_95` is the share of the inputs from outside that
#'   pass a threshold which 95 % of the inputs from inside pass. With `n_resamples` each score has its
#'   `_lower` and `_upper`.
#' @references Guo et al. (2017), \doi{10.48550/arXiv.1706.04599}, and Nixon et al. (2019),
#'   \doi{10.48550/arXiv.1904.01685}, for calibration errors. Geifman, Uziel and El-Yaniv (2019),
#'   \doi{10.48550/arXiv.1805.08206}, for the area under the risk-coverage curve. Gneiting and Raftery (2007),
#'   \doi{10.1198/016214506000001437}, for CRPS and interval score. Hendrycks and Gimpel (2017),
#'   \doi{10.48550/arXiv.1610.02136}, for inside and outside.
#' @export
#' @family evaluation
#' @examplesIf mc_python_available()
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' net <- mc_fit(net, iris[1:4], iris$Species, epochs = 20, batch_size = 32, seed = 1)
#' pred <- mc_predict(net, iris[1:4], n_samples = 100, seed = 1)
#' scores <- mc_scores(pred, iris$Species)
#' scores
#' scores$reliability
#' mc_ood_scores(pred, mc_predict(net, 3 * iris[1:4], n_samples = 100, seed = 1))
mc_scores <- function(prediction, y, ..., n_bins = 15, coverages = c(0.8, 0.9, 0.95), risks = c(0.01, 0.05),
                      n_resamples = 0, level = 0.95, seed = NULL) {
  rlang::check_dots_empty()
  n_resamples <- as_count(n_resamples, at_least = 0)
  scores <- call_core(
    "mc_scores", as_prediction(prediction), as_targets(y, prediction$labels),
    n_bins = as_count(n_bins),
    coverages = each(coverages, as_number, above = 0, at_most = 1),
    risks = each(risks, as_number, at_least = 0, at_most = 1),
    n_resamples = n_resamples,
    level = as_number(level, above = 0, below = 1),
    seed = if (n_resamples > 0) as_seed(seed) else if_given(seed, as_seed)
  )
  fields <- fields_from_python(scores)
  for (name in intersect(names(fields), c("rmse", "mae", "log_density", "crps"))) {
    fields[[name]] <- as.vector(fields[[name]])
  }
  fields$notes <- as.character(unlist(fields$notes))
  structure(c(fields, words = from_python(scores$words())), class = "mc_scores")
}

#' @rdname mc_scores
#' @export
mc_ood_scores <- function(prediction_in, prediction_out, ..., n_resamples = 0, level = 0.95, seed = NULL) {
  rlang::check_dots_empty()
  n_resamples <- as_count(n_resamples, at_least = 0)
  table <- call_core(
    "mc_ood_scores", as_prediction(prediction_in), as_prediction(prediction_out),
    n_resamples = n_resamples,
    level = as_number(level, above = 0, below = 1),
    seed = if (n_resamples > 0) as_seed(seed) else if_given(seed, as_seed)
  )
  table_from_python(table)
}

#' @export
format.mc_scores <- function(x, ...) {
  strsplit(x$words, "\n", fixed = TRUE)[[1]]
}

#' @export
print.mc_scores <- function(x, ...) {
  cat(format(x, ...), sep = "\n")
  invisible(x)
}

#' @rdname mc_scores
#' @param x (mc_scores) A result of `mc_scores()`.
#' @export
as_tibble.mc_scores <- function(x, ...) {
  x$table
}
