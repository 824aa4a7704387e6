test_that("a prediction is a table with one row per input", {
  table <- tibble::as_tibble(example_prediction())
  expect_identical(nrow(table), 5L)
  expect_named(table, c(
    ".pred_class", ".pred_cat", ".pred_dog", ".pred_emu", ".pred_lower_cat", ".pred_lower_dog",
    ".pred_lower_emu", ".pred_upper_cat", ".pred_upper_dog", ".pred_upper_emu", ".confidence", ".second",
    ".margin", ".predictive_entropy", ".expected_entropy", ".mutual_information", ".variation_ratio"
  ))
  expect_s3_class(table$.pred_class, "factor")
  expect_identical(table$.pred_dog, unname(example_prediction()$mean[, "dog"]))
  expect_named(as.data.frame(example_values()), c(
    ".pred_1", ".pred_2", ".pred_lower_1", ".pred_lower_2", ".pred_upper_1", ".pred_upper_2", ".std_1",
    ".std_2", ".aleatoric_variance_1", ".aleatoric_variance_2", ".total_variance_1", ".total_variance_2",
    ".pred_int_lower_1", ".pred_int_lower_2", ".pred_int_upper_1", ".pred_int_upper_2"
  ))
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
  expect_refusal(
    posterior::as_draws_rvars(pred),
    "`x` must hold its draws; predict with `keep_samples = TRUE`."
  )
})
