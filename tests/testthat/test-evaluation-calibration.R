# A prediction of `n` inputs that predicts most labels in `attr(, "truth")` correctly, without random numbers.
many_inputs <- function(n = 120) {
  scores <- outer(seq_len(n), 1:3, function(input, label) 3 * sin(input * label + label^2))
  draws <- aperm(vapply(1:4, function(draw) scores + 0.4 * cos(draw * scores), scores), c(3, 1, 2))
  samples <- exp(draws)
  samples <- samples / array(apply(samples, 1:2, sum), dim(samples))
  pred <- example_prediction(samples)
  wrong <- seq_len(n) %% 9 == 0 # every ninth prediction is wrong
  codes <- ifelse(wrong, as.integer(pred$second), as.integer(pred$predicted))
  structure(pred, truth = pred$labels[codes])
}
truth_of <- function(pred) attr(pred, "truth")

test_that("a temperature is learnt and applied", {
  skip_if_no_core()
  pred <- many_inputs()
  learnt <- mc_calibrate(pred, truth_of(pred))
  expect_s3_class(learnt, "mc_calibration")
  expect_lt(learnt$log_loss_after, learnt$log_loss_before)
  after <- mc_scores(mc_apply(learnt, pred), truth_of(pred))$log_loss
  expect_equal(after, learnt$log_loss_after, tolerance = 1e-6)
  expect_prints(learnt, c(
    "# Calibration of the draws: temperature 1.071; the draws were too sure.",
    "Log loss 0.5138 before and 0.5128 after, on the 120 inputs it was learnt on."
  ))
})

test_that("sets and intervals are tibbles with a row per input", {
  skip_if_no_core()
  pred <- many_inputs()
  sets <- mc_conformal(pred, truth_of(pred), by_label = TRUE)
  table <- mc_apply(sets, pred)
  expect_identical(names(table), c("size", "in_cat", "in_dog", "in_emu"))
  expect_identical(as.integer(rowSums(table[-1])), as.integer(table$size))
  for (label in pred$labels) {
    expect_gte(mean(table[[paste0("in_", label)]][truth_of(pred) == label]), 0.9)
  }
  pred$ids <- paste("case", 1:120)
  expect_identical(mc_apply(sets, pred)$id, pred$ids)
  values <- example_values()
  intervals <- mc_conformal(values, values$mean + 1:5, level = 0.5)
  expect_equal(intervals$limits, c(3, 3)) # the ceiling((5 + 1) 0.5)-th of 1 to 5
  expect_equal(mc_apply(intervals, values)$upper_2, unname(values$mean[, 2]) + 3)
  expect_prints(sets, paste(
    "# Conformal sets (lac): the truth is inside for at least 90 % of new inputs of each label like the 120",
    "it was learnt on."
  ))
  like <- "of new inputs of each output like the 5 it was learnt on."
  expect_prints(
    intervals, paste("# Conformal intervals (absolute): the truth is inside for at least 50 %", like)
  )
  too_few <- "5 inputs are fewer than the 9 needed; all intervals are without limit."
  expect_warned(
    unlimited <- mc_conformal(values, values$mean + 1),
    paste("output 1:", too_few, "output 2:", too_few)
  )
  expect_prints(unlimited, c(
    paste("# Conformal intervals (absolute): the truth is inside for at least 90 %", like),
    paste("output 1:", too_few),
    paste("output 2:", too_few)
  ))
})

test_that("what was learnt comes back from its file, and from saveRDS()", {
  skip_if_no_core()
  pred <- many_inputs()
  file <- withr::local_tempfile(fileext = ".json")
  for (learnt in list(mc_calibrate(pred, truth_of(pred)), mc_conformal(pred, truth_of(pred)))) {
    expect_identical(mc_save(learnt, file), file)
    expect_identical(mc_load(file), learnt)
    saveRDS(learnt, file)
    expect_identical(mc_apply(readRDS(file), pred), mc_apply(learnt, pred))
  }
})

test_that("draws are calibrated once, and what was learnt is for their temperature", {
  skip_if_no_core()
  pred <- many_inputs()
  pred$temperature <- 1 # as mc_predict() gives it
  learnt <- mc_calibrate(pred, truth_of(pred))
  calibrated <- mc_apply(learnt, pred)
  expect_identical(calibrated$temperature, learnt$temperature)
  refused <- "mcdropout_error_argument"
  expect_error(mc_apply(learnt, calibrated), "got one that is calibrated at temperature", class = refused)
  expect_error(mc_calibrate(calibrated, truth_of(pred)), "is calibrated at temperature", class = refused)
  sets <- mc_conformal(pred, truth_of(pred))
  words <- "must be not calibrated, as the one that the conformal sets were learnt on"
  expect_error(mc_apply(sets, calibrated), words, class = refused)
  policy <- mc_triage(calibrated, truth_of(pred), budget = 0.3)
  expect_s3_class(mc_decide(policy, calibrated), "tbl_df")
  expect_error(mc_decide(policy, pred), "must be calibrated at temperature", class = refused)
  expect_error(update(mc_monitor(pred), calibrated), "must be not calibrated", class = refused)
  file <- withr::local_tempfile()
  mc_save(calibrated, file)
  expect_identical(mc_load(file)$temperature, calibrated$temperature)
})

test_that("what cannot be calibrated is refused", {
  skip_if_no_core()
  pred <- many_inputs()
  without_draws <- pred
  without_draws$samples <- NULL
  expect_refusal(
    mc_calibrate(without_draws, truth_of(pred)),
    "`prediction` must hold its draws; predict with `keep_samples` set to true."
  )
  expect_refusal(
    mc_calibrate(pred, rep("cat", 120)),
    '`y` must have inputs of at least two labels; got "cat" alone.'
  )
  expect_refusal(
    mc_calibrate(example_values(), 1:5),
    paste(
      "`prediction` must be of classes; got one of values; `mc_conformal()` calibrates the intervals of",
      "values."
    )
  )
  expect_refusal(
    mc_conformal(pred, truth_of(pred), level = 90),
    "`level` must be a number above 0 and below 1; got 90."
  )
  expect_refusal(
    mc_conformal(pred, truth_of(pred), method = "best"),
    '`method` must be one of "lac", "aps", "raps"; got "best".'
  )
  expect_refusal(
    mc_conformal(pred, truth_of(pred), by_label = NA),
    "`by_label` must be true or false; got NA."
  )
  expect_refusal(
    mc_conformal(pred, truth_of(pred)[1:3]),
    "`y` must be as long as `prediction` (120); got length 3."
  )
  expect_refusal(
    mc_conformal(example_values(), example_values()$mean, by_label = TRUE),
    "`by_label` must be false for values, which have no labels; got true."
  )
  expect_refusal(
    mc_apply(pred, pred),
    '`learnt` must be what `mc_calibrate()` or `mc_conformal()` returns; got "mc_prediction".'
  )
  expect_refusal(
    mc_apply(mc_calibrate(pred, truth_of(pred)), example_values()),
    "`prediction` must be of classes; got one of values."
  )
})

test_that("what was learnt and then edited by hand is refused", {
  skip_if_no_core()
  pred <- many_inputs()
  truth <- truth_of(pred)
  refuses <- function(code, name, field) {
    expect_refusal(code, paste0(
      "`", name, "` must be as it was learnt; got one whose `", field, "` was changed by hand. ",
      "Learn it again, with other arguments."
    ))
  }
  policy <- mc_triage(pred, truth, budget = 0.2)
  policy$thresholds[] <- 0
  refuses(mc_decide(policy, pred), "policy", "thresholds")
  refuses(mc_save(policy, tempfile()), "object", "thresholds")
  policy <- mc_triage(pred, truth, budget = 0.2)
  policy$outcome$wrong[[1]] <- 0L
  refuses(mc_report(pred, policy = policy, path = tempfile(fileext = ".html")), "policy", "outcome")
  policy$outcome <- NULL
  refuses(mc_decide(policy, pred), "policy", "outcome")
  calibration <- mc_calibrate(pred, truth)
  calibration$temperature <- -1
  refuses(mc_apply(calibration, pred), "learnt", "temperature")
  sets <- mc_conformal(pred, truth)
  sets$limits <- 2
  refuses(mc_apply(sets, pred), "learnt", "limits")
  monitor <- mc_monitor(pred)
  monitor$false_alarm_rate <- 0.5
  refuses(update(monitor, pred), "object", "false_alarm_rate")
  page <- tempfile(fileext = ".html")
  refuses(mc_report(pred, monitor = monitor, path = page), "monitor", "false_alarm_rate")
  sets <- mc_conformal(pred, truth)
  sets$note <- "of Monday" # what is added is no part of it
  expect_identical(nrow(mc_apply(sets, pred)), 120L)
  sets$json <- sub("0.9", "7", sets$json, fixed = TRUE)
  expect_error(mc_apply(sets, pred), class = "mcdropout_error_unreadable_file")
})
