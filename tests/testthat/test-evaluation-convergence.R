test_that("draws settle as those of predictions with as many", {
  skip_if_no_core()
  net <- small_net(dropout = 0.3)
  convergence <- mc_convergence(net, small_x(), c(5, 20), seed = 3, progress = FALSE)
  expect_s3_class(convergence, "mc_convergence")
  expect_identical(convergence$n_samples, c(5L, 20L))
  last <- mc_predict(net, small_x(), 20, seed = 3, progress = FALSE)
  predicted <- cbind(1:7, as.integer(last$predicted))
  table <- convergence$table[convergence$table$n_samples == 20, ]
  wanted <- c(
    mean(last$mean[predicted]), mean(last$std[predicted]), mean(last$predictive_entropy),
    mean(last$expected_entropy), mean(last$mutual_information)
  )
  expect_equal(table$value, wanted, tolerance = 1e-6) # draws are float32
  needed <- ceiling(apply(last$std, 1, max)^2 / 0.01^2 - 1e-9)
  expect_equal(convergence$needed$n_samples_for_all[[1]], max(2, needed))
  expect_equal(convergence$recommended, convergence$needed$n_samples[[1]])
  expect_match(format(convergence)[[1]], "# How 20 draws settle, over 7 inputs", fixed = TRUE)
  expect_prints(convergence, format(convergence))
  expect_refusal(
    mc_convergence(net, small_x(), c(20, 10), progress = FALSE),
    "`n_samples` must be rising numbers of draws; got [20, 10]."
  )
  expect_refusal(
    mc_convergence(net, small_x(), 1, progress = FALSE),
    "`n_samples` must be a whole number of at least 2; got 1."
  )
  expect_refusal(
    mc_convergence(net, small_x(), tolerance = 0, progress = FALSE),
    "`tolerance` must be a number above 0; got 0."
  )
})

test_that("rates are compared, by sampling or fitting again", {
  skip_if_no_core()
  net <- small_net(dropout = 0.3)
  table <- mc_compare_rates(net, small_x(), small_y(), c(0.3, 0.5), seed = 3, progress = FALSE)
  pred <- mc_predict(net, small_x(), seed = 3, progress = FALSE)
  loss <- -log(pred$mean[cbind(1:7, as.integer(small_y()))])
  expect_equal(table$loss[[1]], mean(loss), tolerance = 1e-6) # draws are float32
  expect_identical(table$best, table$loss == min(table$loss))
  rates <- NULL
  again <- mc_compare_rates(
    function(rate) {
      rates <<- c(rates, rate)
      small_net(dropout = rate)
    },
    small_x(), small_y(), c(0.3, 0.5), seed = 3, progress = FALSE
  )
  expect_identical(rates, c(0.3, 0.5))
  expect_equal(again$loss, table$loss, tolerance = 1e-6) # untrained: the rate is all that differs
  expect_refusal(
    mc_compare_rates(net, small_x(), small_y(), c(0.1, 1)),
    "`rates` must be a number above 0 and below 1; got 1."
  )
  expect_refusal(
    mc_compare_rates(net, small_x(), small_y()[-1], 0.1, progress = FALSE),
    "`y` must be as long as `x` (7); got length 6."
  )
  expect_refusal(
    mc_compare_rates(function(rate) stop("no"), small_x(), small_y(), 0.1, progress = FALSE),
    "no",
    "simpleError"
  )
  expect_refusal(
    mc_compare_rates(function(rate) 3, small_x(), small_y(), 0.1, progress = FALSE),
    '`model` must be a torch module or a Keras model; got "numeric".'
  )
})

test_that("rates that say nothing are warned of", {
  skip_if_no_core()
  expect_warning(mc_sites(small_net(dropout = 0.05), small_x()), "under 0.1", class = "mcdropout_warning")
  expect_no_warning(mc_sites(small_net(dropout = 0.25), small_x()))
})

test_that("pictures of drift and convergence have the numbers of their tables", {
  skip_if_no_core()
  skip_if_not_installed("ggplot2")
  net <- small_net(dropout = 0.3)
  convergence <- mc_convergence(net, small_x(), c(5, 10, 20), seed = 3, progress = FALSE)
  file <- withr::local_tempfile(fileext = ".png")
  plot <- mc_plot_convergence(convergence, path = file)
  expect_gt(file.size(file), 10000)
  expect_equal(plot$data$value, c(convergence$table$value, convergence$table$mcse))
  x <- matrix(sin(1:800), 200, 4)
  pred <- mc_predict(net, x, seed = 1, progress = FALSE)
  monitor <- mc_monitor(pred[1:60])
  expect_error(mc_plot_drift(monitor), "`monitor` must have seen at least one batch; got none.", fixed = TRUE)
  monitor <- update(update(monitor, pred[61:120]), pred[rep(which.max(pred$predictive_entropy), 60)])
  expect_true(monitor$drift)
  plot <- mc_plot_drift(monitor, path = file)
  wanted <- unlist(monitor$batches[c("log10_evidence", "mean", "psi")], use.names = FALSE)
  expect_equal(plot$data$value, wanted)
  expect_s3_class(ggplot2::autoplot(monitor), "ggplot")
  expect_identical(ggplot2::autoplot(convergence)$data, mc_plot_convergence(convergence)$data)
  quiet <- update(mc_monitor(pred[1:60]), pred[61:70])
  expect_identical(mc_plot_drift(quiet)$labels$title, "No drift in 10 inputs")
  expect_error(mc_plot_drift(3), "`monitor` must be what `mc_monitor()` returns", fixed = TRUE)
  expect_error(mc_plot_convergence(3), "`convergence` must be what `mc_convergence()` returns", fixed = TRUE)
})

test_that("the convergence of values is drawn in their unit", {
  skip_if_no_core()
  skip_if_not_installed("ggplot2")
  net <- mc_mlp(4, task = "regression", hidden = 8, dropout = 0.3)
  convergence <- mc_convergence(net, small_x(), c(5, 10), seed = 3, progress = FALSE)
  expect_match(levels(mc_plot_convergence(convergence)$data$measure), "(units of the values)", fixed = TRUE)
})
