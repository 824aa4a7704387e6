# Triage: which predictions are accepted, which get a second check, and which go to a person. Acquisition:
# which inputs are labelled next.

#' Which predictions to accept, and which people should see
#'
#' `mc_triage()` learns thresholds of uncertainty from labelled inputs. `mc_decide()` applies them to new
#' predictions. Give `max_error`, `budget`, `costs` or `uncertainty_threshold`. `print()` shows what the
#' policy guarantees, and on how many cases the guarantee rests.
#'
#' With `max_error` the guarantee follows the learn-then-test method. It holds for every network, every
#' measure and every number of accepted inputs, if the calibration inputs were not used in training and are
#' like the new inputs. A random quarter of them (by `seed`) is used to choose thresholds and the order of
#' their tests. The other inputs test each threshold with the exact binomial p-value of the errors among the
#' accepted inputs, from strict to lax. A strict threshold and the most promising one each get half of the
#' allowed error probability, and pass it on as long as the tests succeed (fallback procedure). Several limits
#' hold at the same time. If no threshold passes, all inputs are referred. A warning and the policy's `needed`
#' then say how many inputs would be needed.
#'
#' @param prediction (mc_prediction) A prediction of classes. `mc_triage()` learns from its inputs,
#'   `mc_decide()` decides about them.
#' @param y (factor or vector) The true label of each input.
#' @param ... Not used. The arguments after it are given by name.
#' @param max_error (numeric vector) Largest share of wrong cases among the accepted cases, which holds with
#'   probability `confidence`. One number, or one for each tier but the last: the second number is for the
#'   cases of the first two tiers together.
#' @param confidence (number) Probability between 0 and 1.
#' @param measure (character vector) One or several measures of uncertainty; see [mc_scores()]. With several
#'   measures, an input is accepted if it exceeds none of their thresholds.
#' @param tiers (count or character vector) 2 (accept, refer), 3 (accept, second check, refer), or your own
#'   names of the tiers.
#' @param costs (list) `list(error = 50, refer = 1)`: the cost of a wrong accepted case (or a matrix, true
#'   label by predicted label) and of a case in each later tier. `"second check" = c(0.2, 0.9)` is a check
#'   with cost 0.2 that finds 90 % of the errors. The thresholds minimise the mean cost. If other arguments
#'   set the thresholds, the costs are only used to report the mean cost.
#' @param budget (numeric vector) Share of the inputs that people can see, one number for each tier but the
#'   first. With three tiers and one `max_error`, it is the share of the last tier.
#' @param by_label (flag or list) `TRUE`: `max_error` holds for the inputs of every true label. Or limits for
#'   some labels, `list(misses = c(fraud = 0.02), false_alarms = c(fraud = 0.1))`. A miss is an accepted input
#'   of this label that is predicted as another label; its share is of the accepted inputs of this label. A
#'   false alarm is an input that is accepted as this label but has another label; its share is of the inputs
#'   accepted as this label.
#' @param uncertainty_threshold (numeric vector) Your own thresholds for a single measure, one for each tier
#'   but the last.
#' @param seed (whole number) Seed of the split of the calibration inputs.
#' @return `mc_triage()`: a list of class `mc_policy`. [mc_save()] writes it as JSON.
#'   * `thresholds`: matrix, tier x measure. `NA` accepts no input.
#'   * `guaranteed`: are all requested limits guaranteed?
#'   * `promises`: tibble, one row per limit: `n` accepted test inputs, `wrong` of them, `upper_bound`,
#'     `kept`.
#'   * `outcome`: tibble, one row per tier: what it does to the calibration inputs.
#'   * `curve`: tibble: the thresholds that were considered, and the levels of their tests.
#'   * `mean_cost`, `needed` and the settings.
#'
#'   `mc_decide()`: a tibble with one row per input: `id` (if the prediction has ids), `predicted`, `tier`
#'   (factors), `reason` in words, and the uncertainty by each measure.
#' @references Angelopoulos et al. (2021), *Learn then test*, \doi{10.48550/arXiv.2110.01052}.
#'   Laufer-Goldshtein et al. (2023), \doi{10.48550/arXiv.2210.07913}, for ordering by a part of the data.
#'   Wiens and Dmitrienko (2005), *Journal of Biopharmaceutical Statistics* 15, for the fallback procedure.
#'   Geifman and El-Yaniv (2017), \doi{10.48550/arXiv.1705.08500}, for selective risk.
#' @export
#' @family decisions
#' @examplesIf mc_python_available()
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' train <- seq(1, 150, by = 2)
#' net <- mc_fit(net, iris[train, 1:4], iris$Species[train], epochs = 20, batch_size = 32, seed = 1)
#' pred <- mc_predict(net, iris[-train, 1:4], n_samples = 100, seed = 1)
#' policy <- mc_triage(pred, iris$Species[-train], max_error = 0.15, confidence = 0.9)
#' policy
#' mc_decide(policy, pred)
#' mc_triage(pred, iris$Species[-train], uncertainty_threshold = 0.15, measure = "std")
mc_triage <- function(prediction, y, ..., max_error = NULL, confidence = 0.95, measure = "predictive_entropy",
                      tiers = 2, costs = NULL, budget = NULL, by_label = NULL, uncertainty_threshold = NULL,
                      seed = 0) {
  rlang::check_dots_empty()
  policy <- call_core(
    "mc_triage", as_prediction(prediction), as_targets(y, prediction$labels),
    max_error = if_given(max_error, each_number, above = 0, below = 1),
    confidence = as_number(confidence, above = 0, below = 1),
    measure = as_names(measure),
    tiers = as_names(tiers),
    costs = if (!is.null(costs)) as_costs(costs),
    budget = if_given(budget, each_number, at_least = 0, at_most = 1),
    by_label = as_label_limits(by_label),
    uncertainty_threshold = if_given(uncertainty_threshold, each_number),
    seed = as_seed(seed)
  )
  policy_from_python(policy)
}

#' @rdname mc_triage
#' @param policy (mc_policy) A result of `mc_triage()`.
#' @export
mc_decide <- function(policy, prediction) {
  if (!inherits(policy, "mc_policy")) {
    abort_must("policy", "be what `mc_triage()` returns", got = show_value(class(policy)[[1]]))
  }
  table <- table_from_python(call_core("mc_decide", learnt_to_python(policy), as_prediction(prediction)))
  table$predicted <- prediction$predicted
  table$tier <- factor(table$tier, policy$tiers)
  with_ids(table, prediction)
}

#' Which inputs to label next
#'
#' Finds the `n` inputs whose labels would teach the network most, the most useful input first.
#'
#' The joint information of `"batchbald"` cannot exceed log(number of draws). A few labels are enough to tell
#' 20 draws apart, and any further inputs are then chosen by chance. A warning says so. Use 100 draws or more
#' for batches of ten.
#'
#' Where inputs resemble each other (frames of a video, copies), single measures choose many similar inputs,
#' which may teach less than a random choice. `"batchbald"` avoids that. Where all inputs are different and
#' all labels equally frequent, no method is certain to be much better than a random choice.
#'
#' @param prediction (mc_prediction) A prediction of classes, for inputs without labels.
#' @param n (count) Number of inputs to choose.
#' @param ... Not used. The arguments after it are given by name.
#' @param by (string) A measure of uncertainty, as in [mc_scores()]: `"mutual_information"` (BALD),
#'   `"predictive_entropy"`, `"variation_ratio"` and so on. Inputs with equal values keep their order. Or
#'   `"batchbald"`: the inputs whose labels together tell most about the network, so that a batch does not
#'   contain n similar inputs. It needs the draws, with masks shared by all inputs.
#' @param seed (whole number) Seed for `"batchbald"`. If a batch has more than 2,000 possible outcomes, its
#'   information is estimated from a random sample of them.
#' @return (tibble) `input` (its position), `id` (if the prediction has ids) and `score`: the measure, or for
#'   `"batchbald"` the information, in nats, of the batch up to this input about the network.
#' @references Houlsby et al. (2011), \doi{10.48550/arXiv.1112.5745} (BALD). Kirsch, van Amersfoort and Gal
#'   (2019), \doi{10.48550/arXiv.1906.08158} (BatchBALD).
#' @export
#' @family decisions
#' @examplesIf mc_python_available()
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' labelled <- c(1:5, 51:55, 101:105)
#' net <- mc_fit(net, iris[labelled, 1:4], iris$Species[labelled],
#'   epochs = 30, batch_size = 5, seed = 1
#' )
#' pool <- mc_predict(net, iris[-labelled, 1:4], n_samples = 50, seed = 1)
#' mc_acquire(pool, 5)
#' mc_acquire(pool, 5, by = "batchbald")
mc_acquire <- function(prediction, n, ..., by = "mutual_information", seed = 0) {
  rlang::check_dots_empty()
  table <- call_core(
    "mc_acquire", as_prediction(prediction), as_count(n), by = as_names(by), seed = as_seed(seed)
  )
  table <- table_from_python(table)
  table$input <- as.integer(table$input + 1)
  if (!is.null(prediction$ids)) {
    table$id <- prediction$ids[table$input]
  }
  table
}

# from Python ----

policy_from_python <- function(object) {
  fields <- fields_from_python(object)
  for (name in c("tiers", "measures", "labels")) {
    fields[[name]] <- unlist(fields[[name]])
  }
  rows <- lapply(fields$thresholds, function(row) {
    if (is.null(row)) rep(NA_real_, length(fields$measures)) else as.double(unlist(row))
  })
  tiers <- utils::head(fields$tiers, -1)
  fields$thresholds <- matrix(
    unlist(rows), nrow = length(tiers), byrow = TRUE, dimnames = list(tiers, fields$measures)
  )
  fields$guaranteed <- from_python(object$guaranteed)
  new_learnt(object, fields, "mc_policy")
}

# arguments ----

# One number or several numbers, each within the bounds.
each_number <- function(x, name, ..., call = rlang::caller_env()) {
  each(x, as_number, name = name, ..., call = call)
}

# One or several names, or a count. The core checks them.
as_names <- function(x) {
  if (is_single_number(x) && x == trunc(x)) {
    return(as_integer_if_small(x))
  }
  if (length(x) == 1 && is.atomic(x) && is.na(x)) {
    return(NA_character_) # a logical NA would become True in Python
  }
  if (length(x) == 1) x else as.list(x)
}

# Costs by name: numbers, pairs of numbers, and a matrix.
as_costs <- function(x) {
  if (is.null(names(x))) {
    return(as_names(x))
  }
  lapply(as.list(x), function(cost) {
    cost <- if (is.data.frame(cost)) as.matrix(cost) else cost
    if (is.logical(cost) && anyNA(cost)) cost + 0 else cost # a logical NA would become True in Python
  })
}

# Limits by label: a named vector or list for each kind of error.
as_label_limits <- function(x, call = rlang::caller_env()) {
  if (is.logical(x)) {
    return(as_flag(x, "by_label", call))
  }
  if (!is.list(x)) {
    return(x)
  }
  lapply(x, function(limits) if (is.null(names(limits))) limits else as.list(limits))
}
