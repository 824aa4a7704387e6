truth <- function() c("emu", "cat", "cat", "emu", "cat")
example_scores <- function() mc_scores(example_prediction(), truth(), n_bins = 3)
layer_of <- function(plot, number) ggplot2::layer_data(plot, number)

test_that("the reliability diagram shows the accuracy of each bin", {
  skip_if_no_core()
  skip_if_not_installed("ggplot2")
  scores <- example_scores()
  plot <- mc_plot_reliability(scores)
  bins <- scores$reliability[scores$reliability$binning == "equal_width", ]
  expect_equal(plot$data, bins)
  expect_equal(layer_of(plot, 4)$y, bins$accuracy)
  expect_equal(layer_of(plot, 2)$ymin, bins$lower)
  expect_setequal(mc_plot_reliability(scores, binning = "equal_mass")$data$binning, "equal_mass")
})

test_that("risk-coverage curves are those of the scores", {
  skip_if_no_core()
  skip_if_not_installed("ggplot2")
  scores <- example_scores()
  plot <- mc_plot_risk_coverage(scores, measures = "std")
  expect_equal(plot$data$risk, scores$risk_coverage$risk[scores$risk_coverage$measure == "std"])
  expect_length(unique(mc_plot_risk_coverage(scores)$data$measure), 2)
})

test_that("histograms count every input once", {
  skip_if_no_core()
  skip_if_not_installed("ggplot2")
  pred <- example_prediction()
  table <- mc_uncertainty_table(pred, truth(), n_bins = 4)
  wrong <- sum(as.character(pred$predicted) != truth())
  expect_equal(as.vector(tapply(table$n, table$group, sum)[c("right", "wrong")]), c(5 - wrong, wrong))
  plot <- mc_plot_uncertainty(pred, truth(), n_bins = 4)
  expect_equal(layer_of(plot, 1)$ymax, table$share)
  expect_setequal(mc_uncertainty_table(pred[1:2], prediction_out = pred[3:5])$group, c("in", "out"))
})

test_that("draws are shown for the chosen inputs, count_of from 1", {
  skip_if_no_core()
  skip_if_not_installed("ggplot2")
  pred <- example_prediction()
  table <- mc_draws_table(pred, c(4, 2))
  expect_identical(table$input, rep(c(4L, 2L), each = 12))
  expect_equal(table$value[table$input == 2 & table$label == "dog"], pred$samples[, 2, 2], tolerance = 1e-6)
  expect_identical(unique(mc_draws_table(pred)$input), order(-pred$predictive_entropy))
  plot <- mc_plot_draws(pred, inputs = c(4, 2))
  expect_setequal(layer_of(plot, 2)$x, mc_draws_table(pred, c(4, 2))$value)
  expect_equal(sort(layer_of(plot, 3)$x), sort(as.vector(pred$mean[c(2, 4), ])))
  values <- mc_plot_draws(example_values(), inputs = 3)
  expect_setequal(unique(layer_of(values, 2)$x), mc_draws_table(example_values(), 3)$value)
})

test_that("the posterior of the weights is drawn from its tables", {
  skip_if_no_core()
  skip_if_not_installed("ggplot2")
  net <- mc_bayes_mlp(4, labels = c("a", "b"), hidden = 3)
  weights <- mc_weights_table(net, n_weights = 2)
  expect_true(all(grepl("^(weight\\[[1-3], [1-4]\\]|bias\\[[1-3]\\])$", weights$weight)))
  plot <- mc_plot_posterior(net, n_weights = 2)
  expect_equal(sort(layer_of(plot, 7)$x), sort(weights$mean))
  expect_equal(layer_of(plot, 3)$x, log10(mc_posterior_table(net)$std_50))
  expect_equal(layer_of(plot, 4)$x, c(0, 0))
})

test_that("bands follow x, inputs count_of from 1", {
  skip_if_no_core()
  skip_if_not_installed("ggplot2")
  values <- example_values()
  table <- mc_band_table(values, 5:1, values$mean + 1)
  expect_identical(table$input, rep(5:1, 2))
  expect_equal(table$mean, as.vector(values$mean[5:1, ]))
  expect_equal(table$y, table$mean + 1)
  plot <- mc_plot_band(values, 5:1, values$mean + 1, x_label = "speed (km/h)")
  expect_s3_class(plot, "ggplot")
  expect_identical(plot$labels$x, "speed (km/h)")
})

test_that("the balance counts every level, with or without inputs", {
  skip_if_no_core()
  skip_if_not_installed("ggplot2")
  table <- mc_balance_table(factor(c("b", "a", "b"), c("a", "b", "c")))
  expect_identical(table$label, c("a", "b", "c"))
  expect_equal(table$n, c(1, 2, 0))
  expect_equal(table$share, c(1, 2, 0) / 3)
  expect_equal(layer_of(mc_plot_balance(c("b", "a", "b")), 1)$x, c(1, 2))
})

test_that("the grid has the images that were chosen", {
  skip_if_not_installed("ggplot2")
  images <- array(seq(0, 1, length.out = 3 * 4 * 5), c(3, 4, 5))
  plot <- mc_plot_images(images, c("x", "y", "z"), inputs = c(3, 1))
  expect_identical(plot$data$input, c(3L, 1L))
  expect_identical(plot$layers[[2]]$geom_params$raster, grDevices::as.raster(images[3, , ]))
  expect_s3_class(ggplot2::ggplotGrob(plot), "gtable")
})

test_that("the history has training and validation", {
  skip_if_not_installed("ggplot2")
  history <- data.frame(epoch = 1:2, loss = 2:1, val_loss = c(2.5, 1.5), accuracy = c(0.5, 0.7))
  data <- mc_plot_history(history)$data
  expect_identical(data$value, c(2, 1, 2.5, 1.5, 0.5, 0.7))
  expect_identical(data$inputs, rep(c("training", "validation", "training"), each = 2))
})

test_that("a trained network brings its history", {
  skip_if_not_installed("ggplot2")
  skip_if_no_core()
  net <- mc_mlp(4, labels = levels(iris$Species))
  net <- mc_fit(net, iris[1:4], iris$Species, epochs = 2, seed = 1, progress = FALSE)
  expect_identical(mc_plot_history(net)$data, mc_plot_history(net$history)$data)
})

test_that("pictures are written where a path is given", {
  skip_if_not_installed("ggplot2")
  path <- withr::local_tempfile(fileext = ".png")
  expect_invisible(mc_plot_history(data.frame(epoch = 1:2, loss = 2:1), path = path))
  expect_gt(file.size(path), 1000)
})

test_that("what cannot be drawn is refused", {
  skip_if_no_core()
  skip_if_not_installed("ggplot2")
  scores <- example_scores()
  pred <- example_prediction()
  expect_refusal(mc_plot_reliability(3), '`scores` must be what `mc_scores()` returns; got "numeric".')
  expect_refusal(
    mc_plot_reliability(mc_scores(example_values(), example_values()$mean)),
    "`scores` must be of classes to have a reliability diagram; got those of values."
  )
  expect_refusal(
    mc_plot_reliability(scores, binning = "none"),
    '`binning` must be one of "equal_width", "equal_mass"; got "none".'
  )
  expect_refusal(
    mc_plot_risk_coverage(scores, measures = "uncertainty"),
    paste(
      '`measures` must be one of "predictive_entropy", "expected_entropy", "mutual_information",',
      '"variation_ratio", "least_confidence", "smallest_margin", "std"; got "uncertainty".'
    )
  )
  expect_refusal(
    mc_plot_risk_coverage(scores, measures = character()),
    "`measures` must name at least one measure; got none."
  )
  expect_refusal(
    mc_plot_uncertainty(pred, truth(), pred),
    "`y` and `prediction_out` must not both be given: each of them defines two groups."
  )
  expect_refusal(
    mc_plot_band(pred, 1:5),
    "`prediction` must be of values to be drawn as a band; got one of classes."
  )
  expect_refusal(
    mc_plot_band(example_values(), 1:3),
    "`x` must be as long as `prediction` (5); got length 3."
  )
  expect_refusal(
    mc_plot_images(array(0, c(3, 4, 4)), "a"),
    "`titles` must be as long as `images` (3); got length 1."
  )
  expect_refusal(
    mc_plot_images(array(0, c(3, 4, 4)), inputs = 4),
    "`inputs` must be positions from 1 to 3; got 4."
  )
  expect_refusal(
    mc_plot_history(3),
    '`model` must be trained by `mc_fit()`; got "numeric" without a history.'
  )
})

test_that("a histogram of the standard deviation has no unit of its own", {
  skip_if_no_core()
  skip_if_not_installed("ggplot2")
  plot <- mc_plot_uncertainty(example_values(), measure = "std", n_bins = 3)
  expect_identical(plot$labels$x, "standard deviation")
  expect_identical(mc_plot_uncertainty(example_prediction())$labels$x, "predictive entropy (nats)")
})

test_that("of more than 60 labels the most frequent are drawn, in their order", {
  skip_if_no_core()
  skip_if_not_installed("ggplot2")
  y <- rep(1:63, times = c(1, rep(2, 60), 1, 3))
  expect_identical(mc_plot_balance(y)$data$label, c(2:61, 63L)[-60])
})
