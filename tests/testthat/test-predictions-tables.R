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

test_that("row names of the inputs are in every table, and key no masks", {
  skip_if_no_core()
  net <- mc_mlp(4, labels = levels(iris$Species), hidden = 8, dropout = 0.5)
  predicted <- function(x, ...) mc_predict(net, x, n_samples = 6, seed = 1, progress = FALSE, ...)
  rows <- c(143L, 7L, 66L, 120L, 2L)
  pred <- predicted(iris[rows, 1:4], masks = "per_input")
  expect_identical(pred$samples, predicted(unname(as.matrix(iris[rows, 1:4])), masks = "per_input")$samples)
  expect_identical(tibble::as_tibble(pred)$.id, rows)
  expect_identical(mc_acquire(pred, 5)$id[order(mc_acquire(pred, 5)$input)], rows)
  expect_identical(mc_draws_table(pred, 2)$id, rep(7L, 6 * 3))
  expect_identical(pred[c(4, 1)]$ids, rows[c(4, 1)])
  y <- iris$Species[rows]
  expect_identical(mc_decide(suppressWarnings(mc_triage(pred, y, budget = 0.4)), pred)$id, rows)
  expect_identical(prediction_from_python(prediction_to_python(pred))$ids, rows)
  cars <- mtcars[c("Fiat 128", "Mazda RX4", "Merc 230"), 1:4]
  expect_identical(predicted(cars)$ids, rownames(cars))
  expect_identical(predicted(as.matrix(cars))$ids, rownames(cars))
  ask <- mc_sampler(net, cars, n_samples = 3, seed = 1)
  expect_identical(ask(cars[2, ])$ids, "Mazda RX4")
  expect_identical(predicted(cars, ids = 7:9)$ids, 7:9) # given ids come before row names
  expect_null(predicted(iris[1:5, 1:4])$ids)
  parts <- rbind(predicted(iris[1:4, 1:4]), predicted(iris[5:6, 1:4]))
  expect_identical(parts$ids, 1:6)
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

# Maps of 2 x 6 places with 3 labels (or values) each, for 5 inputs from 4 draws, without random numbers.
example_maps <- function(task = "classification") {
  scores <- array(sin(1:(4 * 5 * 2 * 6 * 3)), c(4, 5, 2, 6, 3))
  mean <- apply(scores, 2:5, mean)
  fields <- list(
    task = task, mean = mean, variance = apply(scores, 2:5, var), std = apply(scores, 2:5, sd),
    lower = apply(scores, 2:5, min), upper = apply(scores, 2:5, max), mcse = apply(scores, 2:5, sd) / 2,
    samples = scores, n_samples = 4L, level = 0.95, seed = 1L, masks = "shared", engine = "vmap",
    engine_reason = "", device = "cpu", precision = "float32", seconds = 0.25
  )
  if (task == "classification") {
    fields$labels <- c("sky", "sea", "land")
    fields$confidence <- apply(mean, 1:3, max)
    fields$predictive_entropy <- fields$confidence / 2
  }
  new_mc_prediction(fields)
}

test_that("tidy() has a row per place of a map, and glance() counts its labels", {
  pred <- example_maps()
  long <- tidy(pred)
  expect_identical(nrow(long), length(pred$mean))
  expect_identical(levels(long$.output), pred$labels)
  cell <- long[long$.input == 4 & long$.axis_2 == 2 & long$.axis_3 == 5 & long$.output == "sea", ]
  expect_identical(cell$.pred, pred$mean[[4, 2, 5, 2]])
  expect_identical(cell$.std, pred$std[[4, 2, 5, 2]])
  expect_identical(tidy(pred[3:4])$.pred, long$.pred[long$.input %in% 3:4])
  expect_equal(c(glance(pred)$n_inputs, glance(pred)$n_outputs), c(5, 3))
  expect_identical(glance(pred)$mean_confidence, mean(pred$confidence))
  pred$ids <- letters[1:5]
  expect_identical(tidy(pred)$.id, letters[1:5][long$.input])
})

test_that("values with further axes are numbered as in Python, in every table", {
  pred <- example_maps("regression")
  expect_equal(glance(pred)$n_outputs, 36)
  expect_match(format(pred)[[1]], "5 inputs, 36 outputs, 4 draws")
  table <- as.data.frame(pred)
  expect_identical(table$.pred_2, pred$mean[, 1, 1, 2]) # the last axis is count_of through first
  expect_identical(table$.pred_19, pred$mean[, 2, 1, 1])
  long <- tidy(pred)
  expect_identical(long$.pred[long$.output == 19], table$.pred_19)
  cell <- long[long$.input == 2 & long$.axis_2 == 1 & long$.axis_3 == 6 & long$.axis_4 == 2, ]
  expect_identical(cell$.pred, pred$mean[[2, 1, 6, 2]])
  expect_identical(cell$.output, 17L)
})

test_that("R and Python number the values of further axes alike", {
  skip_if_no_core()
  pred <- example_maps("regression")
  table <- prediction_to_python(pred)$to_pandas()
  columns <- from_python(table$to_dict(orient = "list"))
  expect_equal(unlist(columns$mean_17), as.data.frame(pred)$.pred_17)
  expect_equal(unlist(columns$upper_2), as.data.frame(pred)$.pred_upper_2)
})

test_that("posterior takes the draws", {
  skip_if_not_installed("posterior")
  pred <- example_prediction()
  rvars <- posterior::as_draws_rvars(pred)
  expect_identical(dim(rvars$.pred), c(5L, 3L))
  expect_identical(posterior::as_draws(pred), rvars)
  expect_equal(mean(rvars$.pred), pred$mean, ignore_attr = TRUE)
  pred$samples <- NULL
  expect_refusal(
    posterior::as_draws_rvars(pred),
    "`x` must hold its draws; predict with `keep_samples = TRUE`."
  )
})
