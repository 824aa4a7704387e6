# 400 inputs, and their labels: the more doubtful an input, the more often it is wrong; without chance.
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
  expect_snapshot({
    policy
    policy$promises
    mc_triage(pred, truth_of(pred), max_error = c(0.05, 0.2), tiers = 3)
    mc_triage(pred, truth_of(pred), budget = c(0.2, 0.1), tiers = 3, measure = c("std", "least_confidence"))
    mc_triage(pred, truth_of(pred),
      costs = list(error = 20, "second check" = c(0.5, 0.9), refer = 2), tiers = 3
    )
    mc_triage(
      pred, truth_of(pred), uncertainty_threshold = 0.15, measure = "std", costs = list(error = 20, refer = 2)
    )
    mc_triage(pred, truth_of(pred), by_label = list(misses = c(cat = 0.1), false_alarms = list(cat = 0.1)))
  })
})

test_that("what cannot be promised is said, with what it takes", {
  skip_if_no_core()
  pred <- triage_inputs()
  expect_snapshot(policy <- mc_triage(pred, truth_of(pred), max_error = 0.001))
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
  doubt <- pred$predictive_entropy
  referred <- ifelse(doubt <= policy$thresholds[2, ], "look", "stop")
  wanted <- ifelse(doubt <= policy$thresholds[1, ], "go", referred)
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
  expect_snapshot(error = TRUE, {
    mc_triage(pred, y)
    mc_triage(pred, y[-1], budget = 0.1)
    mc_triage(pred, rep("cat", 400), max_error = 0.1)
    mc_triage(pred, y, max_error = 5)
    mc_triage(pred, y, max_error = "a")
    mc_triage(pred, y, max_error = 0.1, confidence = 95)
    mc_triage(pred, y, max_error = 0.1, measure = "entropy")
    mc_triage(pred, y, max_error = 0.1, measure = 3)
    mc_triage(pred, y, max_error = 0.1, tiers = 3)
    mc_triage(pred, y, max_error = 0.1, tiers = 4)
    mc_triage(pred, y, max_error = 0.1, by_label = list(hits = 1))
    mc_triage(pred, y, by_label = list(misses = c(fox = 0.1)))
    mc_triage(pred, y, costs = list(error = 1))
    mc_triage(pred, y, costs = 3)
    mc_triage(pred, y, budget = 20)
    mc_triage(pred, y, uncertainty_threshold = 0.1, max_error = 0.1)
    mc_triage(example_values(), 1:5, max_error = 0.1)
    mc_decide(pred, pred)
    mc_decide(policy, example_prediction(labels = c("cat", "dog", "fox")))
  })
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
  expect_snapshot(error = TRUE, {
    mc_acquire(pred, 41)
    mc_acquire(pred, 2, by = "bald")
    mc_acquire(pred, 2.5)
  })
})
