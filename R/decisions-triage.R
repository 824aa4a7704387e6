# Triage: which predictions are accepted, which get a second check, which go to a person; and what to label
# next.

#' Which predictions to accept, and which people should see
#'
#' `mc_triage()` learns thresholds of uncertainty on labelled inputs; `mc_decide()` decides by them about new
#' predictions. Give `max_error`, `budget`, `costs` or `uncertainty_threshold`. `print()` says what the policy
#' promises, and on how many cases that rests.
#'
#' With `max_error` the promise is a learn-then-test one. It holds for any network, any measure and any number
#' accepted, if the calibration inputs were not trained on and are like those to come. A random quarter of
#' them (by `seed`) chooses thresholds and the order in which they are tested on the others, by the exact
#' binomial p-value of the errors among the accepted, from strict to lax: a strict one and the most promising
#' one have half of the chance of being wrong each, and hand it on for as long as they pass (fallback
#' procedure). Several limits hold at once. Where no threshold passes, all is referred, and a warning and the
#' policy's `needed` say what it would take.
#'
#' @param prediction (mc_prediction) Of classes: for `mc_triage()` of the inputs to learn on, for
#'   `mc_decide()` of those to decide about.
#' @param y (factor or vector) The true label of each input.
#' @param ... Not used; what follows is given by name.
#' @param max_error (numeric vector) With probability `confidence`, of the accepted cases at most this share
#'   is wrong. One number, or one per tier but the last: the second is for the cases of the first two tiers
#'   together.
#' @param confidence (number) Between 0 and 1.
#' @param measure (character vector) One or several measures of uncertainty; see [mc_scores()]. With several,
#'   an input is accepted if it exceeds none of their thresholds.
#' @param tiers (count or character vector) 2 (accept, refer), 3 (accept, second check, refer), or names of
#'   one's own.
#' @param costs (list) `list(error = 50, refer = 1)`: the cost of a wrong accepted case (or a matrix, true
#'   label by predicted) and of a case in each later tier; `"second check" = c(0.2, 0.9)` for one that finds
#'   90 % of the errors. The thresholds are those of the least mean cost; with another choice they only say
#'   what it would have cost.
#' @param budget (numeric vector) The share of the inputs that people can see, one number per tier but the
#'   first. With three tiers and one `max_error`, the share of the last tier.
#' @param by_label (flag or list) `TRUE`: `max_error` holds for the inputs of every true label. Or limits for
#'   some, `list(misses = c(fraud = 0.02), false_alarms = c(fraud = 0.1))`: misses are accepted inputs of that
#'   label that are called something else, as a share of the accepted inputs of that label; false alarms are
#'   inputs accepted as that label that are not, as a share of those accepted as it.
#' @param uncertainty_threshold (numeric vector) Thresholds of one's own, one per tier but the last, for one
#'   measure.
#' @param seed (whole number) Of the split of the calibration inputs.
#' @return `mc_triage()`: a list of class `mc_policy`: `thresholds` (matrix, tier x measure; `NA` takes none),
#'   `guaranteed` (whether every limit asked for could be promised), `promises` (tibble, one row per limit:
#'   `n` accepted test inputs, `wrong` of them, `upper_bound`, `kept`), `outcome` (tibble, one row per tier:
#'   what it does to the calibration inputs), `curve` (tibble: the thresholds that were looked at, and the
#'   levels they were tested at), `mean_cost`, `needed` and the settings. [mc_save()] writes it as JSON.
#'
#'   `mc_decide()`: a tibble with one row per input: `id` (where the prediction has ids), `predicted`, `tier`
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
#' @param policy (mc_policy) What `mc_triage()` returned.
#' @export
mc_decide <- function(policy, prediction) {
  if (!inherits(policy, "mc_policy")) {
    abort_must("policy", "be what `mc_triage()` returns", got = shown(class(policy)[[1]]))
  }
  table <- table_from_python(call_core("mc_decide", learnt_to_python(policy), as_prediction(prediction)))
  table$predicted <- prediction$predicted
  table$tier <- factor(table$tier, policy$tiers)
  with_ids(table, prediction)
}

#' Which inputs to label next
#'
#' The `n` inputs whose labels would teach the network most, the most useful first.
#'
#' The joint information of `"batchbald"` cannot be more than log(number of draws), so that 20 draws are told
#' apart by a handful of labels and what is chosen after those is chosen by chance: a warning says so; 100
#' draws or more are for batches of ten.
#'
#' Where inputs resemble each other (frames of a video, copies), single measures ask for much the same many
#' times, which may teach less than random choice does, and `"batchbald"` does not. Where every input is
#' different and all labels are as frequent, none of them is sure to beat random choice by much.
#'
#' @param prediction (mc_prediction) Of classes, for inputs without labels.
#' @param n (count) How many.
#' @param ... Not used; what follows is given by name.
#' @param by (string) A measure of uncertainty, as in [mc_scores()]: `"mutual_information"` (BALD),
#'   `"predictive_entropy"`, `"variation_ratio"` and so on; equals in the order of the inputs. Or
#'   `"batchbald"`: inputs whose labels together tell most about the network, so that a batch is not n times
#'   much the same; it needs the draws, under masks shared by all inputs.
#' @param seed (whole number) For `"batchbald"`: where a batch has more than 2,000 possible outcomes, its
#'   information is estimated on drawn ones.
#' @return (tibble) `input` (its position), `id` (where the prediction has ids), `score`: the measure; for
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

# what comes in ----

# One number or several, each within the bounds.
each_number <- function(x, name, ..., call = rlang::caller_env()) {
  each(x, as_number, name = name, ..., call = call)
}

# One or several names, or a count; the core says what they must be.
as_names <- function(x) {
  if (is_one_number(x) && x == trunc(x)) {
    return(as_integer_if_small(x))
  }
  if (length(x) == 1 && is.atomic(x) && is.na(x)) {
    return(NA_character_) # a plain NA would be Python's True
  }
  if (length(x) == 1) x else as.list(x)
}

# Numbers, pairs of numbers and a matrix, by name.
as_costs <- function(x) {
  if (is.null(names(x))) {
    return(as_names(x))
  }
  lapply(as.list(x), function(cost) {
    cost <- if (is.data.frame(cost)) as.matrix(cost) else cost
    if (is.logical(cost) && anyNA(cost)) cost + 0 else cost # a plain NA would be Python's True
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
