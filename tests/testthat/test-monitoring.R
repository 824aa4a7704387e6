# Inputs of three labels whose doubt is that of `sharpness`; without chance.
doubtful <- function(sharpness) {
  scores <- outer(sharpness, c(1, -1, 0))
  samples <- exp(aperm(vapply(1:3, function(draw) scores * (1 + draw / 10), scores), c(3, 1, 2)))
  example_prediction(samples / array(apply(samples, 1:2, sum), dim(samples)))
}
sharp <- function(i) (i * 0.618) %% 1 * 4

test_that("a monitor sees a change, and says since when", {
  skip_if_no_core()
  monitor <- mc_monitor(doubtful(sharp(1:200)), false_alarm_rate = 0.05)
  expect_s3_class(monitor, "mc_monitor")
  expect_false(monitor$drift)
  expect_snapshot(monitor)
  monitor <- update(monitor, doubtful(sharp(201:300)), name = "Monday")
  expect_false(monitor$drift)
  expect_null(monitor$alarm_input)
  monitor <- update(monitor, doubtful(sharp(301:360) / 4))
  expect_true(monitor$drift)
  expect_identical(c(monitor$alarm_batch, monitor$since_batch), c(2L, 2L))
  expect_identical(monitor$batches$name, c("Monday", NA))
  expect_identical(monitor$batches$seen, c(100L, 160L))
  expect_equal(c(monitor$n_seen, monitor$n_batches), c(160, 2))
  expect_identical(monitor$batches$drift, c(FALSE, TRUE))
  expect_snapshot(monitor)
})

test_that("one batch by itself is compared as R compares it", {
  skip_if_no_core()
  before <- doubtful(sharp(1:200))
  now <- doubtful(sharp(201:270) / 2)
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
  monitor <- update(mc_monitor(doubtful(sharp(1:50)), measure = "std"), doubtful(sharp(51:60)))
  mc_save(monitor, file)
  expect_identical(mc_load(file), monitor)
  saveRDS(monitor, file)
  more <- doubtful(sharp(61:80))
  expect_identical(update(readRDS(file), more, name = "b"), update(monitor, more, name = "b"))
})

test_that("what cannot be watched is refused", {
  skip_if_no_core()
  reference <- doubtful(sharp(1:50))
  monitor <- mc_monitor(reference)
  expect_snapshot(error = TRUE, {
    mc_monitor(3)
    mc_monitor(reference[1:19])
    mc_monitor(reference, measure = "entropy")
    mc_monitor(reference, false_alarm_rate = 5)
    mc_monitor(reference, n_bins = 1)
    mc_monitor(reference, "std")
    update(monitor, 3)
    update(monitor, example_values())
    update(monitor, example_prediction(labels = c("cat", "dog", "fox")))
    update(monitor, reference, name = 3)
  })
})
