test_that("a prediction is a table with one row per input", {
  table <- tibble::as_tibble(example_prediction())
  expect_identical(nrow(table), 5L)
  expect_snapshot(names(table))
  expect_s3_class(table$.pred_class, "factor")
  expect_identical(table$.pred_dog, unname(example_prediction()$mean[, "dog"]))
  expect_snapshot(names(as.data.frame(example_values())))
  expect_identical(as.data.frame(example_values())$.pred_int_upper_2, example_values()$pred_upper[, 2])
})

test_that("ids that were given are a column", {
  pred <- example_prediction()
  pred$ids <- letters[1:5]
  expect_identical(as.data.frame(pred)$.id, letters[1:5])
})

test_that("tidy() has one row per input and label, glance() one", {
  pred <- example_prediction()
  long <- tidy(pred)
  expect_identical(nrow(long), 15L)
  row <- long[long$.input == 2 & long$.output == "emu", ]
  expect_identical(row$.pred, pred$mean[[2, "emu"]])
  expect_identical(row$.pred_upper, pred$upper[[2, "emu"]])
  expect_identical(nrow(glance(pred)), 1L)
  expect_identical(glance(pred)$mean_mutual_information, mean(pred$mutual_information))
  expect_identical(nrow(tidy(example_values())), 10L)
})

test_that("posterior takes the draws", {
  skip_if_not_installed("posterior")
  pred <- example_prediction()
  rvars <- posterior::as_draws_rvars(pred)
  expect_identical(dim(rvars$.pred), c(5L, 3L))
  expect_equal(mean(rvars$.pred), pred$mean, ignore_attr = TRUE)
  pred$samples <- NULL
  expect_snapshot(error = TRUE, posterior::as_draws_rvars(pred))
})
