test_that("a prediction prints what a reader wants first", {
  pred <- example_prediction()
  expect_snapshot({
    pred
    print(pred, n = 2)
    print(pred[1])
    print(pred[0])
    example_values()
  })
})

test_that("a summary is a few numbers", {
  expect_snapshot({
    summary(example_prediction())
    summary(example_values())
  })
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
  expect_snapshot(error = TRUE, {
    pred[6]
    pred[NA]
    pred[1:2, 1]
    pred[1:2, "cat"]
  })
})

test_that("predictions for different inputs are bound to one", {
  pred <- example_prediction()
  bound <- rbind(pred[1:2], pred[3:5])
  bound$seconds <- pred$seconds
  expect_identical(bound, pred)
  values <- example_values()
  both <- rbind(values[1:4], values[5])
  expect_identical(both$pred_int, values$pred_int)
  expect_snapshot(error = TRUE, rbind(pred, values))
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
  once <- pred
  once$temperature <- 1.23456
  expect_match(format(once, n = 0)[[1]], ", 4 draws, calibrated at temperature 1.235$")
  expect_no_match(format(pred, n = 0)[[1]], "calibrated")
  expect_equal(rbind(once[1:2], once[3])$temperature, 1.23456)
  words <- "must come from one network and the same settings"
  expect_error(rbind(once[1:2], pred[3]), words, class = "mcdropout_error")
})

test_that("a prediction goes to Python and back unchanged", {
  skip_if_no_core()
  pred <- mc_predict(small_net(), small_x(), seed = 1, progress = FALSE)
  expect_identical(prediction_from_python(prediction_to_python(pred)), pred)
  values <- mc_predict(mc_mlp(4, task = "regression"), small_x(), seed = 1, progress = FALSE)
  expect_identical(prediction_from_python(prediction_to_python(values)), values)
  one <- pred[1]
  expect_identical(prediction_from_python(prediction_to_python(one)), one)
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
