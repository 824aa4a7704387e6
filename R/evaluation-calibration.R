# Calibrated probabilities, and sets and intervals with guaranteed coverage, learnt from labelled inputs that
# the network was not trained on.

#' Calibrate probabilities
#'
#' `mc_calibrate()` learns a temperature for the draws. The probabilities of every draw are raised to
#' 1 / temperature and scaled to sum to 1. The learnt temperature minimises the log loss of the mean over the
#' draws on these inputs. The network must not have been trained on them. A temperature above 1 lowers the
#' confidence.
#'
#' `mc_apply()` calibrates other predictions of this network. All their summaries are recomputed, and their
#' `temperature` records it. A prediction can be calibrated only once. What [mc_conformal()], [mc_triage()]
#' and [mc_monitor()] learnt at one temperature cannot be used at another.
#'
#' @param prediction (mc_prediction) A prediction of classes, with its draws. For `mc_apply()`, the prediction
#'   to apply it to.
#' @param y (factor or vector) The true label of each input.
#' @return `mc_calibrate()`: a list of class `mc_calibration` with `temperature`, `log_loss_before`,
#'   `log_loss_after`, `n_inputs`, `labels` and `curve`, the log loss at other temperatures. `mc_apply()`: the
#'   calibrated mc_prediction. For a result of [mc_conformal()], a tibble with one row per input.
#' @references Guo et al. (2017), \doi{10.48550/arXiv.1706.04599}. Scaling each draw before the mean: Rahaman
#'   and Thiery (2021), \doi{10.48550/arXiv.2007.08792}.
#' @export
#' @family evaluation
#' @examplesIf mc_python_available()
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' train <- seq(1, 150, by = 2)
#' net <- mc_fit(net, iris[train, 1:4], iris$Species[train], epochs = 20, batch_size = 32, seed = 1)
#' pred <- mc_predict(net, iris[-train, 1:4], n_samples = 100, seed = 1)
#' calibration <- mc_calibrate(pred, iris$Species[-train])
#' calibration
#' mc_apply(calibration, pred)
mc_calibrate <- function(prediction, y) {
  calibration_from_python(
    call_core("mc_calibrate", as_prediction(prediction), as_targets(y, prediction$labels))
  )
}

#' @rdname mc_calibrate
#' @param learnt (mc_calibration or mc_conformal) A result of `mc_calibrate()` or [mc_conformal()].
#' @export
mc_apply <- function(learnt, prediction) {
  if (!inherits(learnt, c("mc_calibration", "mc_conformal"))) {
    wanted <- "be what `mc_calibrate()` or `mc_conformal()` returns"
    abort_must("learnt", wanted, got = show_value(class(learnt)[[1]]))
  }
  result <- call_core("mc_apply", learnt_to_python(learnt), as_prediction(prediction))
  if (inherits(learnt, "mc_calibration")) {
    return(prediction_from_python(result))
  }
  with_ids(table_from_python(result), prediction)
}

#' Prediction sets and intervals with guaranteed coverage
#'
#' Learns sets of labels, or intervals of values, that contain the truth for at least `level` of new inputs.
#' The guarantee holds for every network. It needs inputs that the network was not trained on, and new inputs
#' from the same source in no particular order. The limit is the ceiling((n + 1) level)-th smallest
#' nonconformity of the n inputs. [mc_apply()] gives the sets or intervals of a prediction.
#'
#' @inheritParams mc_scores
#' @param prediction (mc_prediction) The prediction to learn from.
#' @param level (number) The coverage, between 0 and 1.
#' @param method (string) For classes `"lac"` (1 - probability; the smallest sets, the default), `"aps"` (the
#'   sum of the probabilities down to this label, without the randomisation) or `"raps"` (the same with
#'   `penalty` for every label after the first `n_free`). For values `"absolute"` (distance from the mean, the
#'   default), `"normalized"` (in standard deviations) or `"cqr"` (distance beyond the prediction's own
#'   interval).
#' @param by_label (flag) Does the coverage hold for the inputs of every true label, and not only for all
#'   inputs together?
#' @param penalty,n_free (number, count) Settings of `"raps"`.
#' @param allow_empty (flag) May the set be empty, if even the most probable label does not conform?
#' @return A list of class `mc_conformal`: `method`, `level`, `limits` and `n_inputs` (one, or one per label
#'   or output; a limit is `NA` if there were too few inputs for it) and the settings. [mc_apply()] gives a
#'   tibble with one row per input. For classes it has `size` and `in_{label}`: is that label in the set? For
#'   values it has `lower` and `upper`, followed by the number of the output if there are several.
#' @references Sadinle, Lei and Wasserman (2019), \doi{10.48550/arXiv.1609.00451} (lac). Romano, Sesia and
#'   Candes (2020), \doi{10.48550/arXiv.2006.02544} (aps). Angelopoulos et al. (2021),
#'   \doi{10.48550/arXiv.2009.14193} (raps). Lei et al. (2018), \doi{10.48550/arXiv.1604.04173} (values).
#'   Romano, Patterson and Candes (2019), \doi{10.48550/arXiv.1905.03222} (cqr). Vovk (2012),
#'   \doi{10.48550/arXiv.1209.2673} (by label).
#' @export
#' @family evaluation
#' @examplesIf mc_python_available()
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' train <- seq(1, 150, by = 2)
#' net <- mc_fit(net, iris[train, 1:4], iris$Species[train], epochs = 20, batch_size = 32, seed = 1)
#' pred <- mc_predict(net, iris[-train, 1:4], n_samples = 100, seed = 1)
#' sets <- mc_conformal(pred, iris$Species[-train], level = 0.9)
#' sets
#' mc_apply(sets, pred)
mc_conformal <- function(prediction, y, ..., level = 0.9, method = NULL, by_label = FALSE, penalty = 0.1,
                         n_free = 1, allow_empty = FALSE) {
  rlang::check_dots_empty()
  learnt <- call_core(
    "mc_conformal", as_prediction(prediction), as_targets(y, prediction$labels),
    level = as_number(level, above = 0, below = 1),
    method = method,
    by_label = as_flag(by_label),
    penalty = as_number(penalty, at_least = 0),
    n_free = as_count(n_free, at_least = 0),
    allow_empty = as_flag(allow_empty)
  )
  conformal_from_python(learnt)
}

# what R and the core have learnt ----

# A learnt object as R data that can be printed and saved. `json` is the text of its file, from which the core
# rebuilds the object.
new_learnt <- function(object, fields, class) {
  json <- from_python(call_core("for_r.learnt_to_text", object))
  texts <- list(words = from_python(object$words()), json = json)
  structure(c(fields, texts), class = c(class, "mc_learnt"))
}

# The core's object. Its text decides, so a field that was edited by hand would have no effect.
learnt_to_python <- function(learnt, name = rlang::caller_arg(learnt), call = rlang::caller_env()) {
  object <- call_core("for_r.learnt_from_text", learnt$json %||% "", call = call)
  fields <- unclass(learnt_from_python(object))
  fields$words <- NULL # later versions may use other words
  same <- vapply(names(fields), function(field) identical(learnt[[field]], fields[[field]]), logical(1))
  if (!all(same)) {
    abort_mc(
      paste0(
        "`", name, "` must be as it was learnt; got one whose `", names(fields)[!same][[1]],
        "` was changed by hand. Learn it again, with other arguments."
      ),
      call = call
    )
  }
  object
}

learnt_from_python <- function(object) {
  switch(python_class(object),
    MCPolicy = policy_from_python(object),
    MCCalibration = calibration_from_python(object),
    MCConformal = conformal_from_python(object),
    MCMonitor = monitor_from_python(object)
  )
}

calibration_from_python <- function(object) {
  fields <- fields_from_python(object)
  fields$labels <- unlist(fields$labels)
  new_learnt(object, fields, "mc_calibration")
}

conformal_from_python <- function(object) {
  fields <- fields_from_python(object)
  for (name in intersect(names(fields), c("labels", "limits", "n_inputs"))) {
    fields[[name]] <- vector_from_list(fields[[name]])
  }
  new_learnt(object, fields, "mc_conformal")
}

# Puts the ids, if the prediction has some, before the columns of a table with one row per input.
with_ids <- function(table, prediction) {
  if (is.null(prediction$ids)) table else tibble::as_tibble(c(list(id = prediction$ids), table))
}

#' @export
format.mc_learnt <- function(x, ...) {
  strsplit(x$words, "\n", fixed = TRUE)[[1]]
}

#' @export
print.mc_learnt <- function(x, ...) {
  cat(format(x, ...), sep = "\n")
  invisible(x)
}
