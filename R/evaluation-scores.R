# A prediction held against the truth: how good it is, how honest its probabilities are, what its uncertainty
# is worth.

#' How good a prediction is, and whether its uncertainty finds its errors
#'
#' `mc_scores()` holds a prediction against the truth: accuracy and log loss, whether the probabilities are
#' honest, and how well each measure of uncertainty tells the errors. `mc_ood_scores()` says how well
#' uncertainty tells inputs like those learnt from (in) and others (out) apart.
#'
#' The measures of uncertainty, larger for more: `predictive_entropy`, `expected_entropy`,
#' `mutual_information` (nats), `variation_ratio`, `least_confidence` (1 - confidence), `smallest_margin` (1 -
#' margin), `std` (standard deviation of the predicted label's probability); for values `std` and `total_std`
#' (with the noise). Inputs that are equally uncertain are taken together, so nothing depends on the order of
#' the inputs.
#'
#' @param prediction,prediction_in,prediction_out (mc_prediction) What to score.
#' @param y (factor or vector, or numeric matrix) The true label of each input, or the values observed.
#' @param ... Not used; what follows is given by name.
#' @param n_bins (count) Bins of the reliability diagrams. A bin holds what is above its lower and up to its
#'   upper edge.
#' @param coverages (numeric vector) Shares of the inputs, the least uncertain first, whose accuracy is asked
#'   for.
#' @param risks (numeric vector) Error rates for which the largest share is asked for.
#' @param n_resamples (count) Resamples of the bootstrap over the inputs; 0 for no intervals.
#' @param level (number) Of the intervals, between 0 and 1.
#' @param seed (whole number) Of the bootstrap; `NULL` draws one from R's generator.
#' @return `mc_scores()`: a list of class `mc_scores`.
#'
#'   For classes, one number each: `accuracy`; `log_loss` (mean, in nats); `brier` (summed over the labels, 0
#'   to 2) and `brier_halved` (for two labels the usual one); `ece_equal_width`, `ece_equal_mass` (expected
#'   calibration error of the predicted label), `classwise_ece` (mean over the labels of the error of each
#'   label's probability). Tibbles: `by_measure` (`auroc`, `aupr`, `aurc`: the mean over k of the error rate
#'   among the k least uncertain inputs, and `excess_aurc`, over that of a measure which puts all errors
#'   last), `at_coverage`, `at_risk`, `by_label`, `reliability`, `risk_coverage`.
#'
#'   For values, one number per output: `rmse`, `mae`, `log_density` and `crps` of the whole mixture of the
#'   draws, so they need the draws. `by_interval`: coverage, width and interval score of `conf_int` and
#'   `pred_int`; `pit` has the shape of the mean; the risk of `risk_coverage` is the squared error.
#'
#'   `table`, also `as_tibble()`, has every number in a row: `score`, `of` (measure or output), `at`
#'   (coverage, risk or level), `value`, and with `n_resamples` `lower` and `upper`.
#'
#'   `mc_ood_scores()`: a tibble with one row per measure. `auroc`: chance that an input from outside is the
#'   more uncertain of two; `aupr_in`, `aupr_out`: average precision of finding those from inside, or from
#'   outside; `fpr_at_95`: share of those from outside that pass where 95 % of those from inside do. With
#'   `n_resamples` each has its `_lower` and `_upper`.
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
#' @param x (mc_scores) Scores.
#' @export
as_tibble.mc_scores <- function(x, ...) {
  x$table
}
