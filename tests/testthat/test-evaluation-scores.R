# True labels for the example prediction.
truth <- function() c("emu", "cat", "cat", "emu", "cat")

test_that("scores are a list of numbers and tibbles", {
  skip_if_no_core()
  scores <- mc_scores(example_prediction(), truth(), n_bins = 3)
  expect_s3_class(scores, "mc_scores")
  pred <- example_prediction()
  expect_equal(scores$accuracy, mean(as.character(pred$predicted) == truth()))
  expect_equal(scores$log_loss, -mean(log(pred$mean[cbind(1:5, match(truth(), pred$labels))])))
  expect_identical(scores$brier_halved, scores$brier / 2)
  expect_s3_class(scores$reliability, "tbl_df")
  expect_identical(scores$by_label$label, c("cat", "dog", "emu"))
  expect_identical(tibble::as_tibble(scores), scores$table)
})

test_that("scores print what a reader wants first", {
  skip_if_no_core()
  expect_prints(mc_scores(example_prediction(), truth(), n_bins = 3), c(
    "# Scores of 5 inputs",
    "accuracy         0.4000",
    "log_loss         1.0029",
    "brier            0.6098",
    "brier_halved     0.3049",
    "ece_equal_width  0.0355",
    "ece_equal_mass   0.3296",
    "classwise_ece    0.2108",
    "           measure  auroc   aupr   aurc  excess_aurc",
    "predictive_entropy 0.5000 0.6389 0.5033       0.2167",
    "  expected_entropy 0.1667 0.5333 0.8033       0.5167",
    "mutual_information 0.8333 0.9167 0.3867       0.1000",
    "   variation_ratio 0.5833 0.6444 0.5478       0.2611",
    "  least_confidence 0.5000 0.6389 0.5033       0.2167",
    "   smallest_margin 0.6667 0.8056 0.4533       0.1667",
    "               std 0.8333 0.9167 0.3867       0.1000"
  ))
  expect_prints(mc_scores(example_values(), example_values()$mean + 0.5), c(
    "# Scores of 5 inputs",
    "  measure   aurc  excess_aurc",
    "      std 0.2500       0.0000",
    "total_std 0.2500       0.0000",
    "interval  output  level  coverage  width  interval_score",
    "conf_int       1 0.9500    1.0000 6.0478          6.0478",
    "conf_int       2 0.9500    0.6000 1.0465          3.4577",
    "pred_int       1 0.9500    1.0000 8.0478          8.0478",
    "pred_int       2 0.9500    1.0000 3.0465          3.0465",
    " output   rmse    mae   crps",
    "      1 0.5000 0.5000 1.0055",
    "      2 0.5000 0.5000 0.3647",
    "The log density needs a network that estimates its noise."
  ))
})

test_that("values are scored by output", {
  skip_if_no_core()
  values <- example_values()
  y <- values$mean + rep(c(1, -2), each = 5)
  scores <- mc_scores(values, y)
  expect_equal(scores$rmse, c(1, 2))
  expect_equal(scores$mae, c(1, 2))
  expect_null(scores$log_density) # the draws tell no noise of their own
  expect_identical(dim(scores$pit), c(5L, 2L))
  expect_match(scores$notes, "estimates its noise")
  expect_identical(unique(scores$by_interval$interval), c("conf_int", "pred_int"))
})

test_that("set.seed() governs the bootstrap, and is not touched without one", {
  skip_if_no_core()
  pred <- example_prediction()
  resampled <- function() {
    set.seed(3)
    mc_scores(pred, truth(), n_resamples = 5)$table
  }
  expect_identical(resampled(), resampled())
  expect_true(all(c("lower", "upper") %in% names(resampled())))
  set.seed(3)
  before <- .Random.seed
  mc_scores(pred, truth())
  expect_identical(.Random.seed, before)
})

test_that("inside and outside have a row per measure", {
  skip_if_no_core()
  table <- mc_ood_scores(example_prediction()[1:2], example_prediction()[3:5], n_resamples = 2, seed = 1)
  expect_identical(table$measure[[1]], "predictive_entropy")
  expect_true(all(table$auroc >= 0 & table$auroc <= 1))
  expect_true("fpr_at_95_upper" %in% names(table))
})

test_that("what cannot be scored is refused", {
  skip_if_no_core()
  pred <- example_prediction()
  other <- example_prediction(labels = c("cat", "dog", "fox"))
  broken <- pred
  broken$mean[2, 1] <- NA
  expect_refusal(mc_scores(pred, truth()[-1]), "`y` must be as long as `prediction` (5); got length 4.")
  expect_refusal(
    mc_scores(pred, c("horse", truth()[-1])),
    '`y` must hold labels out of "cat", "dog", "emu"; got "horse" at input number 1.'
  )
  expect_refusal(
    mc_scores(pred, c(NA, truth()[-1])),
    "`y` must have a label for every input; got none at input number 1."
  )
  expect_refusal(
    mc_scores(broken, truth()),
    "`prediction` must hold finite numbers only; got NaN or infinity in input number 2."
  )
  expect_refusal(mc_scores(pred[0], truth()[0]), "`prediction` must have at least one input; got none.")
  expect_refusal(mc_scores(lm, truth()), '`prediction` must be what `mc_predict()` returns; got "function".')
  expect_refusal(
    mc_scores(pred, truth(), n_bins = 0),
    "`n_bins` must be a whole number of at least 1; got 0."
  )
  expect_refusal(
    mc_scores(pred, truth(), coverages = 2),
    "`coverages` must be a number above 0 and at most 1; got 2."
  )
  expect_error(mc_scores(pred, truth(), 10), "must be empty", class = "rlib_error_dots_nonempty")
  expect_refusal(mc_scores(example_values(), 1:5), "`y` must have shape (input, 2); got (5,).")
  expect_refusal(
    mc_ood_scores(pred, other),
    '`prediction_out` must have the labels of `prediction_in`, "cat", "dog", "emu"; got "cat", "dog", "fox".'
  )
  expect_refusal(
    mc_ood_scores(pred, example_values()),
    "`prediction_out` must be of the same network as `prediction_in`; got one of classes and one of values."
  )
})
