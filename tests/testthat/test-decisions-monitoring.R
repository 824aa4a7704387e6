# Predictions of three labels, less uncertain for larger `sharpness`, without random numbers.
uncertain <- function(sharpness) {
  scores <- outer(sharpness, c(1, -1, 0))
  samples <- exp(aperm(vapply(1:3, function(draw) scores * (1 + draw / 10), scores), c(3, 1, 2)))
  example_prediction(samples / array(apply(samples, 1:2, sum), dim(samples)))
}
sharp <- function(i) (i * 0.618) %% 1 * 4

test_that("a monitor sees a change, and says since when", {
  skip_if_no_core()
  monitor <- mc_monitor(uncertain(sharp(1:200)), false_alarm_rate = 0.05)
  expect_s3_class(monitor, "mc_monitor")
  expect_false(monitor$drift)
  expect_prints(monitor, c(
    "# A drift monitor of predictive_entropy, against 200 reference inputs",
    "Seen: 0 inputs in 0 batches.",
    paste(
      "No drift: the highest evidence at the end of a batch was 10^0.00; an alarm needs 10^1.30. While",
      "nothing changes, the probability of ever having an alarm is at most 5 %."
    )
  ))
  monitor <- update(monitor, uncertain(sharp(201:300)), name = "Monday")
  expect_false(monitor$drift)
  expect_null(monitor$alarm_input)
  expect_refusal(update(monitor), "`prediction` must be given; got nothing.")
  monitor <- update(monitor, uncertain(sharp(301:360) / 4))
  expect_true(monitor$drift)
  expect_identical(c(monitor$alarm_batch, monitor$since_batch), c(2L, 2L))
  expect_identical(monitor$batches$name, c("Monday", NA))
  expect_identical(monitor$batches$seen, c(100L, 160L))
  expect_equal(c(monitor$n_seen, monitor$n_batches), c(160, 2))
  expect_identical(monitor$batches$drift, c(FALSE, TRUE))
  expect_prints(monitor, c(
    "# A drift monitor of predictive_entropy, against 200 reference inputs",
    "Seen: 160 inputs in 2 batches.",
    paste(
      "Last batch: 60 inputs, mean 0.9669 (reference 0.448); Kolmogorov-Smirnov 0.750 (p 2.8e-27),",
      "population stability index 2.453 (by chance up to 0.367)."
    ),
    "DRIFT: alarm at input 124, in batch 2; since about input 101, in batch 2.",
    "While nothing changes, the probability of an alarm in the whole run is at most 5 %."
  ))
})

test_that("one batch by itself is compared as R compares it", {
  skip_if_no_core()
  before <- uncertain(sharp(1:200))
  now <- uncertain(sharp(201:270) / 2)
  row <- update(mc_monitor(before, n_bins = 5), now)$batches
  theirs <- suppressWarnings(ks.test(before$predictive_entropy, now$predictive_entropy, exact = FALSE))
  expect_equal(row$ks, unname(theirs$statistic))
  expect_equal(row$mean, mean(now$predictive_entropy))
  edges <- sort(before$predictive_entropy)[c(40, 80, 120, 160)]
  share <- function(x) (tabulate(findInterval(x, edges, left.open = TRUE) + 1, 5) + 0.5) / (length(x) + 2.5)
  p <- share(before$predictive_entropy)
  q <- share(now$predictive_entropy)
  expect_equal(row$psi, sum((q - p) * log(q / p)))
  expect_equal(row$psi_limit, qchisq(0.95, 4) * (1 / 200 + 1 / 70))
})

test_that("a monitor goes on from its file, and from saveRDS()", {
  skip_if_no_core()
  file <- withr::local_tempfile(fileext = ".json")
  monitor <- update(mc_monitor(uncertain(sharp(1:50)), measure = "std"), uncertain(sharp(51:60)))
  mc_save(monitor, file)
  expect_identical(mc_load(file), monitor)
  saveRDS(monitor, file)
  more <- uncertain(sharp(61:80))
  expect_identical(update(readRDS(file), more, name = "b"), update(monitor, more, name = "b"))
})

test_that("what cannot be watched is refused", {
  skip_if_no_core()
  reference <- uncertain(sharp(1:50))
  monitor <- mc_monitor(reference)
  expect_refusal(mc_monitor(3), '`reference` must be what `mc_predict()` returns; got "numeric".')
  expect_refusal(mc_monitor(reference[1:19]), "`reference` must have at least 20 inputs; got 19.")
  expect_refusal(
    mc_monitor(reference, measure = "entropy"),
    paste(
      '`measure` must be one of "predictive_entropy", "expected_entropy", "mutual_information",',
      '"variation_ratio", "least_confidence", "smallest_margin", "std"; got "entropy".'
    )
  )
  expect_refusal(
    mc_monitor(reference, false_alarm_rate = 5),
    "`false_alarm_rate` must be a number above 0 and below 1; got 5."
  )
  expect_refusal(mc_monitor(reference, n_bins = 1), "`n_bins` must be a whole number of at least 2; got 1.")
  expect_error(mc_monitor(reference, "std"), "must be empty", class = "rlib_error_dots_nonempty")
  expect_refusal(update(monitor, 3), '`prediction` must be what `mc_predict()` returns; got "numeric".')
  expect_refusal(
    update(monitor, example_values()),
    "`prediction` must be of classes, like the reference; got one of values."
  )
  expect_refusal(
    update(monitor, example_prediction(labels = c("cat", "dog", "fox"))),
    '`prediction` must have the labels of the reference, "cat", "dog", "emu"; got "cat", "dog", "fox".'
  )
  expect_refusal(update(monitor, reference, name = 3), "`name` must be a string; got 3.")
})
