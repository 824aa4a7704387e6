test_that("a prediction prints what a reader wants first", {
  pred <- example_prediction()
  expect_prints(pred, c(
    "# An mc_prediction: 5 inputs, 3 labels, 4 draws",
    "  predicted confidence predictive_entropy expected_entropy mutual_information",
    "1       emu      0.492               1.04            0.814             0.2301",
    "2       emu      0.455               1.06            0.781             0.2790",
    "3       cat      0.378               1.09            1.005             0.0886",
    "4       cat      0.458               1.06            0.839             0.2245",
    "5       emu      0.395               1.07            0.768             0.3013"
  ))
  expect_prints(pred, c(
    "# An mc_prediction: 5 inputs, 3 labels, 4 draws",
    "  predicted confidence predictive_entropy expected_entropy mutual_information",
    "1       emu      0.492               1.04            0.814              0.230",
    "2       emu      0.455               1.06            0.781              0.279",
    "# ... and 3 more inputs"
  ), n = 2)
  expect_prints(pred[1], c(
    "# An mc_prediction: 1 input, 3 labels, 4 draws",
    "  predicted confidence predictive_entropy expected_entropy mutual_information",
    "1       emu      0.492               1.04            0.814               0.23"
  ))
  expect_prints(pred[0], "# An mc_prediction: 0 inputs, 3 labels, 4 draws")
  expect_prints(example_values(), c(
    "# An mc_prediction: 5 inputs, 2 outputs, 4 draws",
    "  mean_1 mean_2 std_1 std_2 lower_1 lower_2 upper_1 upper_2",
    "1   2.69   2.39  3.05 0.612   0.502    1.95    6.69    3.21",
    "2   3.18   2.28  3.28 0.613   0.409    1.79    6.85    3.08",
    "3   3.78   3.02  2.03 0.248   1.668    2.73    5.97    3.27",
    "4   4.58   2.47  2.93 0.587   0.734    1.81    6.95    3.10",
    "5   3.82   2.24  3.65 0.421   0.524    1.84    7.61    2.68",
    "  aleatoric_variance_1 aleatoric_variance_2 total_variance_1 total_variance_2",
    "1                 0.25                 0.25             9.58            0.624",
    "2                 0.25                 0.25            11.00            0.625",
    "3                 0.25                 0.25             4.36            0.311",
    "4                 0.25                 0.25             8.81            0.594",
    "5                 0.25                 0.25            13.56            0.427"
  ))
})

test_that("a summary is a few numbers", {
  expect_prints(summary(example_prediction()), c(
    "# Summary of an mc_prediction: 5 inputs, 3 labels, 4 draws",
    "                      min    q25 median   q75   max  mean",
    "confidence         0.3775 0.3948  0.455 0.458 0.492 0.435",
    "margin             0.0133 0.0573  0.137 0.163 0.223 0.119",
    "predictive_entropy 1.0441 1.0596  1.063 1.069 1.094 1.066",
    "expected_entropy   0.7682 0.7806  0.814 0.839 1.005 0.841",
    "mutual_information 0.0886 0.2245  0.230 0.279 0.301 0.225",
    "variation_ratio    0.2500 0.2500  0.500 0.500 0.500 0.400",
    "predicted: cat (2), dog (0), emu (3)",
    "shared masks, seed 1, vmap on cpu in float32, 0.25 s"
  ))
  expect_prints(summary(example_values()), c(
    "# Summary of an mc_prediction: 5 inputs, 2 outputs, 4 draws",
    "                      min   q25 median  q75   max mean",
    "mean               2.2360 2.408   2.86 3.63  4.58 3.04",
    "std                0.2479 0.593   1.32 3.02  3.65 1.74",
    "epistemic_variance 0.0614 0.352   2.24 9.14 13.31 4.74",
    "aleatoric_variance 0.2500 0.250   0.25 0.25  0.25 0.25",
    "total_variance     0.3114 0.602   2.49 9.39 13.56 4.99",
    "shared masks, seed 1, vmap on cpu in float32, 0.25 s"
  ))
})

test_that("a prediction has inputs and labels as its dimensions", {
  expect_identical(dim(example_prediction()), c(5L, 3L))
})

test_that("labels are the columns", {
  pred <- example_prediction()
  expect_identical(colnames(pred$mean), c("cat", "dog", "emu"))
  expect_identical(dimnames(pred$samples), list(NULL, NULL, c("cat", "dog", "emu")))
  expect_identical(dimnames(example_values()$conf_int), list(NULL, NULL, c("lower", "upper")))
})

test_that("inputs are chosen by number or by truth value", {
  pred <- example_prediction()
  expect_identical(pred[c(4, 2)]$mean, pred$mean[c(4, 2), ])
  expect_identical(pred[c(4, 2)]$samples, pred$samples[, c(4, 2), ])
  expect_identical(pred[-1]$predicted, pred$predicted[-1])
  expect_identical(pred[pred$confidence > 0.5]$margin, pred$margin[pred$confidence > 0.5])
  expect_identical(dim(pred[3]$samples), c(4L, 1L, 3L))
  expect_identical(pred[1:5], pred)
  expect_identical(pred[1:2, ], pred[1:2])
  expect_identical(pred[2, , drop = FALSE], pred[2])
  expect_refusal(pred[6], "`i` must choose among the 5 inputs; got 6.")
  expect_refusal(pred[NA], "`i` must choose among the 5 inputs; got NA.")
  expect_refusal(
    pred[1:2, 1],
    paste(
      "`x` must be indexed by inputs alone, as `x[i]`; got a second index. `x$mean[i, j]` has labels or",
      "outputs."
    )
  )
  expect_refusal(
    pred[1:2, "cat"],
    paste(
      "`x` must be indexed by inputs alone, as `x[i]`; got a second index. `x$mean[i, j]` has labels or",
      "outputs."
    )
  )
})

test_that("predictions for different inputs are bound to one", {
  pred <- example_prediction()
  bound <- rbind(pred[1:2], pred[3:5])
  bound$seconds <- pred$seconds
  expect_identical(bound, pred)
  values <- example_values()
  both <- rbind(values[1:4], values[5])
  expect_identical(both$pred_int, values$pred_int)
  expect_refusal(
    rbind(pred, values),
    "Predictions that are bound must come from one network and the same settings."
  )
})

test_that("inputs that took other numbers of draws are said to have", {
  pred <- example_prediction()
  described <- function(counts) {
    pred$n_samples <- counts
    format(pred, n = 0)[[1]]
  }
  expect_match(described(c(2, 4, 4, 3, 4)), ", 2 to 4 draws$")
  expect_match(described(rep(3, 5)), ", 3 draws$")
  skip_if_not_installed("ggplot2")
  pred$n_samples <- c(2, 4, 4, 3, 4)
  caption <- mc_plot_probabilities(pred)$labels$caption
  expect_match(caption, "mean probability of each label over 2 to 4 draws; whiskers", fixed = TRUE)
})

test_that("a calibrated prediction says so, and is not bound to another", {
  pred <- example_prediction()
  calibrated <- pred
  calibrated$temperature <- 1.23456
  expect_match(format(calibrated, n = 0)[[1]], ", 4 draws, calibrated at temperature 1.235$")
  expect_no_match(format(pred, n = 0)[[1]], "calibrated")
  expect_equal(rbind(calibrated[1:2], calibrated[3])$temperature, 1.23456)
  message <- "must come from one network and the same settings"
  expect_error(rbind(calibrated[1:2], pred[3]), message, class = "mcdropout_error")
})

test_that("a prediction goes to Python and back unchanged", {
  skip_if_no_core()
  pred <- mc_predict(small_net(), small_x(), seed = 1, progress = FALSE)
  expect_identical(prediction_from_python(prediction_to_python(pred)), pred)
  values <- mc_predict(mc_mlp(4, task = "regression"), small_x(), seed = 1, progress = FALSE)
  expect_identical(prediction_from_python(prediction_to_python(values)), values)
  single <- pred[1]
  expect_identical(prediction_from_python(prediction_to_python(single)), single)
})

test_that("a seed of any size comes back from Python", {
  skip_if_no_core()
  pred <- mc_predict(small_net(), small_x(), n_samples = 3, seed = 2^53 - 1, progress = FALSE)
  expect_identical(pred$seed, 2^53 - 1)
  expect_identical(prediction_from_python(prediction_to_python(pred)), pred)
})

test_that("labels that are numbers stay numbers, and are levels all the same", {
  skip_if_no_core()
  pred <- mc_predict(mc_mlp(4, n_outputs = 3), small_x(), seed = 1, progress = FALSE)
  expect_identical(pred$labels, 0:2)
  expect_identical(levels(pred$predicted), c("0", "1", "2"))
  expect_identical(prediction_from_python(prediction_to_python(pred)), pred)
})

test_that("a prediction that was edited by hand is used as it is, or refused with one sentence", {
  skip_if_no_core()
  pred <- example_prediction()
  edited <- function(field, value, prediction = pred) {
    prediction[[field]] <- value
    prediction
  }
  like <- "must be what `mc_predict()` returns; got a prediction whose parts do not fit:"
  for (case in list(
    list("mean", pred$mean * 7, "`mean` must hold numbers of at most 1.01; got"),
    list("level", 9, "`level` must be a number above 0 and below 1; got 9"),
    list("n_samples", 0L, "`n_samples` must be a whole number of at least 2; got 0."),
    list("n_samples", 5L, "`samples` must hold as many draws of each input as `n_samples` says."),
    list("confidence", NULL, "`confidence` must be given where `task` is \"classification\"; got none.")
  )) {
    wrong <- edited(case[[1]], case[[2]])
    expect_error(
      mc_acquire(wrong, 2), paste("`prediction`", like, case[[3]]),
      fixed = TRUE, class = "mcdropout_error_argument"
    )
    expect_error(mc_save(wrong, tempfile()), paste("`object`", like, case[[3]]), fixed = TRUE)
  }
  expect_refusal(
    mc_acquire(edited("std", pred$std * 2), 2, by = "std"),
    "`prediction$std` must agree with the fields that it is computed from; got other numbers."
  )
  expect_refusal(
    mc_acquire(edited("labels", rev(pred$labels)), 2),
    '`prediction` must have `labels` that are the levels of `predicted`; got c("emu", "dog", "cat").'
  )
  surer <- edited("predictive_entropy", rev(pred$predictive_entropy))
  expect_identical(
    mc_acquire(surer, 1, by = "predictive_entropy")$score, max(pred$predictive_entropy)
  )
})

test_that("arguments that do not fit a generic function are refused in one sentence", {
  pred <- example_prediction()
  for (value in list(5, "a", NULL, iris, mean, list(1))) {
    text <- paste0("`rbind()` must get predictions alone; got ", show_value(value), ".")
    expect_refusal(rbind(pred, value), text)
  }
  expect_equal(rbind(pred[1:2], pred[3], deparse.level = 0)$mean, pred[1:3]$mean)
  expect_refusal(pred[list(1)], "`i` must choose among the 5 inputs; got list(1).")
  expect_refusal(pred[mean], '`i` must choose among the 5 inputs; got an object of class "function".')
  expect_refusal(pred[c(-1, 2)], "`i` must choose among the 5 inputs; got c(-1, 2).")
  expect_refusal(print(pred, n = "a"), '`n` must be a whole number of at least 0; got "a".')
  expect_refusal(format(pred, n = -1), "`n` must be a whole number of at least 0; got -1.")
  expect_identical(format(pred, n = Inf), format(pred, n = 5))
})
