# Labels that the example's probabilities mostly foretell.
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
  expect_snapshot({
    mc_scores(example_prediction(), truth(), n_bins = 3)
    mc_scores(example_values(), example_values()$mean + 0.5)
  })
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
  expect_match(scores$notes, "tells its noise")
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
  expect_snapshot(error = TRUE, {
    mc_scores(pred, truth()[-1])
    mc_scores(pred, c("horse", truth()[-1]))
    mc_scores(pred, c(NA, truth()[-1]))
    mc_scores(broken, truth())
    mc_scores(pred[0], truth()[0])
    mc_scores(lm, truth())
    mc_scores(pred, truth(), n_bins = 0)
    mc_scores(pred, truth(), coverages = 2)
    mc_scores(pred, truth(), 10)
    mc_scores(example_values(), 1:5)
    mc_ood_scores(pred, other)
    mc_ood_scores(pred, example_values())
  })
})
