test_that("doubles are handed over as they are", {
  x <- array(as.double(1:24), c(2, 3, 4))
  expect_identical(as_rows(x), x)
})

test_that("NA among integers and truth values becomes NaN for Python", {
  x <- as_rows(matrix(c(1L, NA, 3L, 4L), 2))
  expect_identical(typeof(x), "double")
  expect_true(is.na(x[2, 1]))
  expect_identical(as_rows(matrix(c(TRUE, NA), 1))[1, ], c(1, NA))
})

test_that("a vector has one axis, also when it is of length one", {
  expect_identical(dim(as_rows(5)), 1L)
  expect_identical(dim(as_targets("a")), 1L)
})

test_that("data frames need numbers in every column", {
  expect_identical(unname(as_rows(data.frame(a = 1:2, b = c(0.5, 1)))), matrix(c(1, 2, 0.5, 1), 2))
  expect_refusal(as_rows(iris, "x"), '`x` must have numeric columns only; got "Species", which is not.')
  expect_refusal(as_rows("a", "x"), "`x` must hold numbers; got text.")
  expect_refusal(as_rows(list(1, 2), "x"), "`x` must hold numbers; got list(1, 2).")
  expect_refusal(as_rows(factor("a"), "x"), '`x` must hold numbers; got an object of class "factor".')
})

test_that("factors cross as their labels", {
  expect_identical(as.vector(as_targets(factor(c("b", "a"), levels = c("a", "b", "unused")))), c("b", "a"))
  expect_identical(as.vector(as_targets(data.frame(y = factor("b")))), "b")
  expect_refusal(
    as_targets(Sys.Date, name = "y"),
    '`y` must have a label or a number for every input; got an object of class "function".'
  )
  expect_refusal(as_targets(NULL, name = "y"), "`y` must have a label or a number for every input; got NULL.")
  expect_refusal(
    as_targets(as.Date("2026-01-01"), name = "y"),
    '`y` must have a label or a number for every input; got an object of class "Date".'
  )
})

test_that("label sets are names, whole numbers or truth values", {
  expect_identical(as_label_set(factor(c("b", "a"))), list("a", "b"))
  expect_identical(as_label_set(0:1), list(0L, 1L))
  expect_null(as_label_set(NULL))
  expect_refusal(
    as_label_set(c("a", NA)),
    "A label must be a string, a whole number or a truth value; got NA."
  )
})

test_that("labels are matched by name, whatever holds them", {
  skip_if_no_core()
  codes <- function(y, labels) {
    as.vector(from_python(call_core("for_r.labels_and_codes", as_targets(y), as_label_set(labels))[0]))
  }
  abc <- c("a", "b", "c")
  expect_equal(codes(factor(c("c", "a"), levels = c("z", "c", "a")), abc), c(2, 0))
  expect_equal(codes(c("c", "a"), abc), c(2, 0))
  expect_equal(codes(c(3, 1), c(1, 3, 5)), c(1, 0))
  expect_equal(codes(factor(c(3, 1)), c(1, 3, 5)), c(1, 0))
  expect_equal(codes(c(TRUE, FALSE, TRUE), c(FALSE, TRUE)), c(1, 0, 1))
  expect_equal(codes(rbind(c(0, 0, 1), c(1, 0, 0)), abc), c(2, 0))
  expect_equal(codes("b", abc), 1)
})

test_that("truth values are labels, also as a factor", {
  skip_if_no_core()
  train <- function(y) {
    point(mc_fit(mc_mlp(4, c(FALSE, TRUE), hidden = 8), small_x(), y, epochs = 1, seed = 1, progress = FALSE))
  }
  y <- c(TRUE, FALSE, TRUE, TRUE, FALSE, FALSE, TRUE)
  expect_identical(train(factor(y)), train(y))
  pred <- mc_predict(mc_mlp(4, c(FALSE, TRUE)), small_x(), 3, seed = 1, progress = FALSE)
  expect_identical(levels(pred$predicted), c("FALSE", "TRUE"))
  expect_identical(prediction_from_python(prediction_to_python(pred)), pred)
})

test_that("labels that are missing or unknown are named by their place", {
  skip_if_no_core()
  net <- small_net()
  y <- small_y()
  y[3] <- NA
  expect_refusal(
    mc_fit(net, small_x(), y, progress = FALSE),
    "`y` must have a label for every input; got none at input number 3."
  )
  expect_refusal(
    mc_fit(net, small_x(), c(1L, NA, 1L, 1L, 1L, 1L, 1L), progress = FALSE),
    "`y` must have a label for every input; got none at input number 2."
  )
  expect_refusal(
    mc_fit(net, small_x(), rep("d", 7), progress = FALSE),
    '`y` must hold labels out of "a", "b", "c"; got "d" at input number 1.'
  )
  expect_refusal(
    mc_fit(net, small_x(), small_y()[-1], progress = FALSE),
    "`y` must be as long as `x` (7); got length 6."
  )
})

test_that("pixels that are no numbers are named by their place", {
  skip_if_no_core()
  net <- small_net()
  x <- small_x()
  x[4, 2] <- NA
  expect_refusal(
    mc_predict(net, x),
    "`x` must hold finite numbers only; got a missing value (NA or NaN) in input number 4 of 7."
  )
  x[4, 2] <- -Inf
  expect_refusal(
    mc_predict(net, x),
    "`x` must hold finite numbers only; got an infinite value in input number 4 of 7."
  )
  x[] <- 1L
  storage.mode(x) <- "integer"
  x[5, 1] <- NA
  expect_refusal(
    mc_predict(net, x),
    "`x` must hold finite numbers only; got a missing value (NA or NaN) in input number 5 of 7."
  )
})

test_that("objects of Python are handed over as they are", {
  skip_if_no_core()
  x <- reticulate::np_array(small_x())
  expect_identical(as_rows(x), x)
  expect_identical(as_targets(x), x)
  expect_null(row_names_of(x))
  expect_identical(to_python(x), x)
  expect_identical(from_python(small_x()), small_x())
})
