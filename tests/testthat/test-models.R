test_that("a network says what it is", {
  skip_if_no_core()
  expect_snapshot({
    mc_cnn(c(28, 28, 1), labels = c("cat", "dog", "bird"))
    mc_mlp(4, labels = factor(c("no", "yes")), task = "binary")
    mc_mlp(13, task = "regression")
  })
})

test_that("what cannot be built is refused in one sentence", {
  skip_if_no_core()
  labels <- c("a", "b", "c")
  expect_snapshot(error = TRUE, {
    mc_cnn(c(4, 4, 1), labels)
    mc_cnn(c(28, 28), labels)
    mc_cnn(c(28, 28, 1))
    mc_cnn(c(28, 28, 1), "a")
    mc_cnn(c(28, 28, 1), c("a", "a"))
    mc_cnn(c(28, 28, 1), labels, dropout = c(0.1, 0.2))
    mc_mlp(4, labels, dropout = 1)
    mc_mlp(4, labels, task = "regresion")
    mc_mlp(4, labels, hiden = 3)
  })
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

test_that("a pointer of an earlier session is made anew", {
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
  expect_snapshot(error = TRUE, {
    mc_predict(1, small_x())
    mc_predict(lm, small_x())
    mc_predict(reticulate::py_eval("'text'", convert = FALSE), small_x())
  })
})
