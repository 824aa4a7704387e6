# Inputs and their labels, without random numbers. Uncertain inputs are wrong more often.
triage_inputs <- function(n = 400) {
  sharpness <- (seq_len(n) * 0.618) %% 1 * 4
  scores <- outer(sharpness, c(1, -1, 0))
  samples <- exp(aperm(vapply(1:3, function(draw) scores * (1 + draw / 10), scores), c(3, 1, 2)))
  pred <- example_prediction(samples / array(apply(samples, 1:2, sum), dim(samples)))
  wrong <- sharpness < 1 & seq_len(n) %% 3 == 0
  structure(pred, truth = ifelse(wrong, "dog", as.character(pred$predicted)))
}
truth_of <- function(pred) attr(pred, "truth")

test_that("a policy says what it promises", {
  skip_if_no_core()
  pred <- triage_inputs()
  policy <- mc_triage(pred, truth_of(pred), max_error = 0.05)
  expect_s3_class(policy, "mc_policy")
  expect_true(policy$guaranteed)
  expect_lte(policy$promises$upper_bound, 0.05)
  expect_identical(dimnames(policy$thresholds), list("accept", "predictive_entropy"))
  expect_s3_class(policy$promises, "tbl_df")
  expect_equal(
    as.list(policy$promises),
    list(
      tier = "accept", kind = "wrong", label = NA, max_error = 0.05, n = 243L, wrong = 6L,
      upper_bound = stats::qbeta(0.95, 7, 237), kept = TRUE # Clopper and Pearson's bound
    )
  )
  like_these <- "It holds for inputs from the same source as these, not after a shift."
  expect_prints(policy, c(
    "# A triage policy, by predictive_entropy",
    "accept: predictive_entropy at most 0.8739; 81.2 % of the 400 calibration inputs, 9 of 325 wrong",
    "refer: the rest; 18.8 % of the 400 calibration inputs, 24 of 75 wrong",
    "Promise: with 95 % confidence, at most 5 % of the accepted are wrong.",
    paste(
      "It rests on 300 calibration inputs that had no part in choosing what to test: 6 of 243 wrong,",
      "bound 4.81 %."
    ),
    like_these
  ))
  expect_prints(mc_triage(pred, truth_of(pred), max_error = c(0.05, 0.2), tiers = 3), c(
    "# A triage policy, by predictive_entropy",
    "accept: predictive_entropy at most 0.8339; 79.2 % of the 400 calibration inputs, 6 of 317 wrong",
    "second check: predictive_entropy at most 1.099; 20.8 % of the 400 calibration inputs, 27 of 83 wrong",
    "refer: the rest; 0 % of the 400 calibration inputs",
    paste(
      "Promise: with 95 % confidence, at most 5 % of the accepted are wrong; at most 20 % of those up to",
      '"second check" are wrong.'
    ),
    paste(
      "It rests on 300 calibration inputs that had no part in choosing what to test: 4 of 236 wrong,",
      "bound 4.28 %; 23 of 300 wrong, bound 11.3 %."
    ),
    like_these
  ))
})

test_that("a policy by budget, by costs, by a threshold or by label says what it rests on", {
  skip_if_no_core()
  pred <- triage_inputs()
  triage <- function(...) mc_triage(pred, truth_of(pred), ...)
  expect_prints(triage(budget = c(0.2, 0.1), tiers = 3, measure = c("std", "least_confidence")), c(
    "# A triage policy, by std and least_confidence",
    paste(
      "accept: std at most 0.0237 and least_confidence at most 0.4169; 70 % of the 400 calibration inputs,",
      "9 of 280 wrong"
    ),
    paste(
      "second check: std at most 0.02499 and least_confidence at most 0.5843; 20 % of the 400 calibration",
      "inputs, 18 of 80 wrong"
    ),
    "refer: the rest; 10 % of the 400 calibration inputs, 6 of 40 wrong",
    paste(
      "No limit was asked for. Of inputs from this source, at most 5.54 % of those accepted are wrong, with",
      "95 % confidence (exact, from 280 accepted)."
    )
  ))
  expect_prints(triage(costs = list(error = 20, "second check" = c(0.5, 0.9), refer = 2), tiers = 3), c(
    "# A triage policy, by predictive_entropy",
    "accept: predictive_entropy at most 0.7481; 75 % of the 400 calibration inputs, 0 of 300 wrong",
    "second check: predictive_entropy at most 1.099; 25 % of the 400 calibration inputs, 33 of 100 wrong",
    "refer: the rest; 0 % of the 400 calibration inputs",
    paste(
      "No promise: the thresholds were chosen on these same inputs for the least mean cost, so expect a",
      "little more errors and cost on others."
    ),
    "Mean cost of a calibration input: 0.29."
  ))
  expect_prints(triage(uncertainty_threshold = 0.15, measure = "std", costs = list(error = 20, refer = 2)), c(
    "# A triage policy, by std",
    "accept: std at most 0.15; 100 % of the 400 calibration inputs, 33 of 400 wrong",
    "refer: the rest; 0 % of the 400 calibration inputs",
    paste(
      "No limit was asked for. Of inputs from this source, at most 10.9 % of those accepted are wrong, with",
      "95 % confidence (exact, from 400 accepted)."
    ),
    "Mean cost of a calibration input: 1.65."
  ))
  expect_prints(triage(by_label = list(misses = c(cat = 0.1), false_alarms = list(cat = 0.1))), c(
    "# A triage policy, by predictive_entropy",
    "accept: predictive_entropy at most 1.068; 93.8 % of the 400 calibration inputs, 25 of 375 wrong",
    "refer: the rest; 6.25 % of the 400 calibration inputs, 8 of 25 wrong",
    paste(
      'Promise: with 95 % confidence, at most 10 % of the accepted inputs that are "cat" are called',
      'something else; at most 10 % of the inputs accepted as "cat" are something else.'
    ),
    paste(
      "It rests on 300 calibration inputs that had no part in choosing what to test: 0 of 262 that are",
      '"cat" wrong, bound 1.14 %; 17 of 279 as "cat" wrong, bound 9 %.'
    ),
    "It holds for inputs from the same source as these, not after a shift."
  ))
})

test_that("what cannot be promised is said, with what it takes", {
  skip_if_no_core()
  pred <- triage_inputs()
  expect_warned(
    policy <- mc_triage(pred, truth_of(pred), max_error = 0.001),
    paste(
      "No threshold can promise that at most 0.1 % of the accepted are wrong. Of the 300 inputs used for the",
      "test, the most promising threshold accepts 228, 2 of them wrong; at least 2995 without an error are",
      "needed, or more with errors. With this error rate no number of inputs would be enough: allow more",
      "error, or train a better network."
    )
  )
  expect_true(is.na(policy$thresholds))
  expect_false(policy$guaranteed)
  expect_identical(unique(as.character(mc_decide(policy, pred)$tier)), "refer")
})

test_that("decisions have a row per input, with the reason", {
  skip_if_no_core()
  pred <- triage_inputs()
  pred$ids <- paste("case", 1:400)
  policy <- mc_triage(pred, truth_of(pred), budget = c(0.2, 0.1), tiers = c("go", "look", "stop"))
  table <- mc_decide(policy, pred)
  expect_identical(names(table), c("id", "predicted", "tier", "reason", "predictive_entropy"))
  expect_identical(levels(table$tier), c("go", "look", "stop"))
  expect_identical(table$predicted, pred$predicted)
  uncertainty <- pred$predictive_entropy
  referred <- ifelse(uncertainty <= policy$thresholds[2, ], "look", "stop")
  wanted <- ifelse(uncertainty <= policy$thresholds[1, ], "go", referred)
  expect_identical(as.character(table$tier), wanted)
  expect_lte(mean(table$tier == "stop"), 0.1)
  expect_match(table$reason[table$tier == "stop"], "^predictive_entropy [0-9.]+ is above [0-9.]+$")
})

test_that("a policy comes back from its file, and from saveRDS()", {
  skip_if_no_core()
  pred <- triage_inputs()
  file <- withr::local_tempfile(fileext = ".json")
  policy <- mc_triage(pred, truth_of(pred), max_error = 0.05, measure = c("std", "mutual_information"))
  mc_save(policy, file)
  expect_identical(mc_load(file), policy)
  saveRDS(policy, file)
  expect_identical(mc_decide(readRDS(file), pred), mc_decide(policy, pred))
})

test_that("what cannot be learnt or decided is refused", {
  skip_if_no_core()
  pred <- triage_inputs()
  y <- truth_of(pred)
  policy <- mc_triage(pred, y, budget = 0.2)
  expect_refusal(
    mc_triage(pred, y),
    "One of `max_error`, `budget`, `costs` and `uncertainty_threshold` must be given; got none."
  )
  expect_refusal(
    mc_triage(pred, y[-1], budget = 0.1),
    "`y` must be as long as `prediction` (400); got length 399."
  )
  expect_refusal(
    mc_triage(pred, rep("cat", 400), max_error = 0.1),
    '`y` must have inputs of at least two labels; got "cat" alone.'
  )
  expect_refusal(
    mc_triage(pred, y, max_error = 5),
    "`max_error` must be a number above 0 and below 1; got 5."
  )
  expect_refusal(
    mc_triage(pred, y, max_error = "a"),
    '`max_error` must be a number above 0 and below 1; got "a".'
  )
  expect_refusal(
    mc_triage(pred, y, max_error = 0.1, confidence = 95),
    "`confidence` must be a number above 0 and below 1; got 95."
  )
  expect_refusal(
    mc_triage(pred, y, max_error = 0.1, measure = "entropy"),
    paste(
      '`measure` must be one of "predictive_entropy", "expected_entropy", "mutual_information",',
      '"variation_ratio", "least_confidence", "smallest_margin", "std"; got "entropy".'
    )
  )
  expect_refusal(
    mc_triage(pred, y, max_error = 0.1, measure = 3),
    paste(
      '`measure` must be one of "predictive_entropy", "expected_entropy", "mutual_information",',
      '"variation_ratio", "least_confidence", "smallest_margin", "std"; got 3.'
    )
  )
  expect_refusal(
    mc_triage(pred, y, max_error = 0.1, tiers = 3),
    "`max_error` must have 2 numbers for 3 tiers; or `budget` sets the share of the last tier; got 1."
  )
  expect_refusal(
    mc_triage(pred, y, max_error = 0.1, tiers = 4),
    "`tiers` must be 2, 3 or at least two different names; got 4."
  )
  expect_refusal(
    mc_triage(pred, y, max_error = 0.1, by_label = list(hits = 1)),
    '`by_label` must be true, or limits by label for "misses", "false_alarms"; got "hits".'
  )
  expect_refusal(
    mc_triage(pred, y, by_label = list(misses = c(fox = 0.1))),
    '`by_label` must hold labels out of "cat", "dog", "emu"; got "fox".'
  )
  expect_refusal(
    mc_triage(pred, y, costs = list(error = 1)),
    '`costs` must have a cost for each of "error", "refer"; got "error".'
  )
  expect_refusal(
    mc_triage(pred, y, costs = 3),
    '`costs` must have a cost for each of "error", "refer"; got 3.'
  )
  expect_refusal(
    mc_triage(pred, y, budget = 20),
    "`budget` must be a number of at least 0 and at most 1; got 20."
  )
  expect_refusal(
    mc_triage(pred, y, uncertainty_threshold = 0.1, max_error = 0.1),
    "`max_error` and `uncertainty_threshold` must not both be given: each of them sets the thresholds."
  )
  expect_refusal(
    mc_triage(example_values(), 1:5, max_error = 0.1),
    "`prediction` must be of classes; got one of values; `mc_conformal()` gives intervals for values."
  )
  expect_refusal(mc_decide(pred, pred), '`policy` must be what `mc_triage()` returns; got "mc_prediction".')
  expect_refusal(
    mc_decide(policy, example_prediction(labels = c("cat", "dog", "fox"))),
    '`prediction` must have the labels of the policy, "cat", "dog", "emu"; got "cat", "dog", "fox".'
  )
})

test_that("inputs to label next go by R's positions", {
  skip_if_no_core()
  pred <- triage_inputs(40)
  table <- mc_acquire(pred, 3, by = "predictive_entropy")
  expect_identical(table$input, order(-pred$predictive_entropy)[1:3])
  expect_equal(table$score, pred$predictive_entropy[table$input])
  pred$ids <- letters[(0:39) %% 26 + 1]
  batch <- mc_acquire(pred, 4, by = "batchbald")
  expect_identical(batch$id, pred$ids[batch$input])
  expect_false(is.unsorted(batch$score))
  expect_refusal(mc_acquire(pred, 41), "`n` must be at most the number of inputs, 40; got 41.")
  expect_refusal(
    mc_acquire(pred, 2, by = "bald"),
    paste(
      '`by` must be one of "predictive_entropy", "expected_entropy", "mutual_information",',
      '"variation_ratio", "least_confidence", "smallest_margin", "std", "batchbald"; got "bald".'
    )
  )
  expect_refusal(mc_acquire(pred, 2.5), "`n` must be a whole number of at least 1; got 2.5.")
})

test_that("settings of another type reach the core, which refuses them", {
  skip_if_no_core()
  pred <- triage_inputs()
  y <- truth_of(pred)
  expect_error(
    mc_triage(pred, y, budget = 0.1, measure = NA), "`measure` must be one of",
    class = "mcdropout_error_argument"
  )
  expect_error(mc_triage(pred, y, max_error = 0.1, by_label = "cat"), class = "mcdropout_error_argument")
  by_label <- mc_triage(pred, y, max_error = 0.3, by_label = FALSE)
  expect_identical(by_label$promises, mc_triage(pred, y, max_error = 0.3)$promises)
})

test_that("costs of errors may be a data frame, and NA among them is refused", {
  skip_if_no_core()
  pred <- triage_inputs()
  costs <- matrix(c(0, 2, 1, 5, 0, 1, 3, 2, 0), 3)
  by <- function(error) mc_triage(pred, truth_of(pred), costs = list(error = error, refer = 1))
  expect_identical(by(as.data.frame(costs))$mean_cost, by(costs)$mean_cost)
  expect_error(by(NA), "got nan", class = "mcdropout_error_argument")
})
