test_that("a network says what it is", {
  skip_if_no_core()
  expect_prints(
    mc_cnn(c(28, 28, 1), labels = c("cat", "dog", "bird")),
    c("# An mc_model for 3 classes", "input: 28 x 28 x 1", "labels: cat, dog, bird", "not trained yet")
  )
  expect_prints(
    mc_mlp(4, labels = factor(c("no", "yes")), task = "binary"),
    c("# An mc_model for two classes", "input: 4", "labels: no, yes", "not trained yet")
  )
  expect_prints(
    mc_mlp(13, task = "regression"),
    c("# An mc_model for values", "input: 13", "not trained yet")
  )
})

test_that("what cannot be built is refused in one sentence", {
  skip_if_no_core()
  labels <- c("a", "b", "c")
  expect_refusal(
    mc_cnn(c(4, 4, 1), labels),
    paste(
      "`input_shape` must be large enough for 2 convolutions with `kernel_size` 3; got (4, 4, 1), which",
      "leaves 4 - 2 = 2, 2 / 2 = 1, 1 - 2 = -1 on its shorter side. Use larger images, fewer `filters`",
      "or a smaller `kernel_size`."
    )
  )
  expect_refusal(
    mc_cnn(c(28, 28), labels),
    paste(
      "`input_shape` must be three whole numbers (height, width, channel); got (28, 28). Grey images",
      "have 1 channel, colour images 3."
    )
  )
  expect_refusal(
    mc_cnn(c(28, 28, 1)),
    paste(
      "`labels` must name the classes; got nothing. Give `labels`, or `n_outputs` for classes 0, 1, ...,",
      'or `task` = "regression" for values.'
    )
  )
  expect_refusal(mc_cnn(c(28, 28, 1), "a"), "`labels` must be a list of at least two labels; got ['a'].")
  expect_refusal(mc_cnn(c(28, 28, 1), c("a", "a")), '`labels` must all be different; got "a" more than once.')
  expect_refusal(
    mc_cnn(c(28, 28, 1), labels, dropout = c(0.1, 0.2)),
    "`dropout` must be one rate, or one per layer of `filters` and `hidden` together (3); got 2 rates."
  )
  expect_refusal(
    mc_mlp(4, labels, dropout = 1),
    "`dropout` must be a number of at least 0 and below 1; got 1."
  )
  expect_refusal(
    mc_mlp(4, labels, task = "regresion"),
    '`task` must be one of "classification", "binary", "regression"; got "regresion".'
  )
  expect_error(mc_mlp(4, labels, hiden = 3), "must be empty", class = "rlib_error_dots_nonempty")
})

test_that("saveRDS() writes the trained weights", {
  skip_if_no_core()
  net <- mc_fit(small_net(), small_x(), small_y(), epochs = 2, seed = 1, progress = FALSE)
  file <- withr::local_tempfile()
  saveRDS(net, file)
  again <- readRDS(file)
  expect_identical(
    mc_predict(again, small_x(), seed = 1, progress = FALSE)$samples,
    mc_predict(net, small_x(), seed = 1, progress = FALSE)$samples
  )
  expect_identical(again$history, net$history)
  expect_identical(format(again), format(net))
})

test_that("the Python network is rebuilt in a new session", {
  skip_if_no_core()
  net <- small_net()
  before <- mc_predict_point(net, small_x(), progress = FALSE)
  net <- unserialize(serialize(net, NULL))
  expect_false(is_live(net$python))
  expect_identical(mc_predict_point(net, small_x(), progress = FALSE), before)
  expect_true(is_live(net$python))
})

test_that("what is not a model is refused", {
  skip_if_no_core()
  expect_refusal(mc_predict(1, small_x()), '`model` must be a torch module or a Keras model; got "numeric".')
  expect_refusal(
    mc_predict(lm, small_x()),
    '`model` must be a torch module or a Keras model; got "function".'
  )
  expect_refusal(
    mc_predict(reticulate::py_eval("'text'", convert = FALSE), small_x()),
    '`model` must be a torch module or a Keras model; got "str".'
  )
})

test_that("a Python object of an earlier session is refused, a .keras file is left to the core", {
  skip_if_no_core()
  gone <- unserialize(serialize(as_network(small_net()), NULL))
  expect_refusal(
    as_network(gone),
    "`model` is a Python object of an earlier session and no longer exists; make it again."
  )
  expect_identical(as_network("~/net.keras"), path.expand("~/net.keras"))
})

test_that("labels that are edited by hand do not rename the columns of predictions", {
  skip_if_no_core()
  net <- mc_mlp(4, labels = c("no", "yes"), seed = 1)
  net$labels <- rev(net$labels)
  expect_identical(colnames(mc_predict_point(net, iris[1:3, 1:4])), c("no", "yes"))
})
