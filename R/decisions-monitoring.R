# Drift: whether the inputs of today are still like those of before, by how uncertain the network is.

#' Watch for drift
#'
#' A monitor is made from a reference, is shown batch after batch by `update()`, and says when new inputs
#' are no longer like the reference, and since when, by how uncertain the network is about them.
#'
#' The sequential test is a conformal test martingale. Of each new input, the rank of its uncertainty among
#' all before it, reference included, is uniform and independent of the earlier ranks for as long as nothing
#' changes, whatever the network and the measure. Against that the test bets, boldly or carefully, that
#' uncertainty is higher, lower, further out or further in than before, starting at every input with a part of
#' its capital. By Ville's inequality the capital ever reaches 1 / `false_alarm_rate` with a chance of at most
#' `false_alarm_rate`. The result is the same however the inputs are cut into batches.
#'
#' Of the inputs seen the monitor keeps only how many fell between each two neighbours of the reference; among
#' those a new one takes a place by lot. As long as nothing changes every place is as likely as any other, so
#' the promise is exact, while size and time of an update do not grow with the stream.
#'
#' Kolmogorov-Smirnov and the population stability index of each batch are exact too, and there to look at:
#' their p-values and limits are of one batch alone, and many batches exceed them sooner or later. A change
#' that leaves the distribution of uncertainty as it is cannot be seen in it; another measure may see it.
#'
#' @param reference (mc_prediction) Of inputs as they should be, that the network was not trained on; at
#'   least 20, better some hundreds.
#' @param ... Not used; what follows is given by name.
#' @param measure (string) Of uncertainty; see [mc_scores()].
#' @param false_alarm_rate (number) The chance that the sequential test ever raises an alarm while nothing
#'   changes, over the whole run, however long it is and however often it is looked at.
#' @param n_bins (count) Of the population stability index, each with as many of the reference.
#' @param seed (whole number) Decides among equals.
#' @return A list of class `mc_monitor`: `drift` (whether there was an alarm); with one `alarm_input`,
#'   `alarm_batch` (where it was raised), `since_input`, `since_batch` (where the change most probably
#'   began); `n_seen` inputs and `n_batches`; `alarm_at` (the evidence, as log10, that makes an alarm); the
#'   settings; and `batches`, a tibble with a row for each of the last 1,000 batches: `batch`, `name`, `n`
#'   inputs, `seen` in all so far, `mean` of the measure, `ks` and `ks_p_value` (Kolmogorov-Smirnov test of
#'   this batch against the reference), `psi` (population stability index) and `psi_limit` (which a batch of
#'   this size exceeds by chance once in twenty times), `log10_evidence` of the sequential test over the
#'   whole run, `drift` (whether there had been an alarm by then). `update()` returns the monitor after the
#'   batch. [mc_save()] writes it as JSON.
#' @references Vovk, Gammerman and Shafer (2022), *Algorithmic learning in a random world*, chapter 8, and
#'   Vovk et al. (2021), \doi{10.48550/arXiv.2102.10439}, for conformal test martingales. Ville (1939),
#'   *Etude critique de la notion de collectif*. Yurdakul and Naranjo (2020), *Journal of Risk Model
#'   Validation* 14, for the population stability index by chance.
#' @export
#' @family decisions
#' @examplesIf mc_python_available()
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' train <- seq(1, 150, by = 2)
#' net <- mc_fit(net, iris[train, 1:4], iris$Species[train], epochs = 20, batch_size = 32, seed = 1)
#' rest <- mc_predict(net, iris[-train, 1:4], n_samples = 100, seed = 1)
#' monitor <- mc_monitor(rest[seq(1, 75, by = 2)])
#' monitor <- update(monitor, rest[seq(2, 74, by = 2)], name = "Monday")
#' monitor
#' update(monitor, mc_predict(net, iris[-train, 1:4] / 2, seed = 1), name = "Tuesday, in inches")
mc_monitor <- function(reference, ..., measure = "predictive_entropy", false_alarm_rate = 0.01, n_bins = 10,
                       seed = 0) {
  rlang::check_dots_empty()
  monitor <- call_core(
    "mc_monitor", as_prediction(reference, "reference"),
    measure = as_names(measure),
    false_alarm_rate = as_number(false_alarm_rate, above = 0, below = 1),
    n_bins = as_count(n_bins, at_least = 2),
    seed = as_seed(seed)
  )
  monitor_from_python(monitor)
}

#' @rdname mc_monitor
#' @param object (mc_monitor) What `mc_monitor()` or `update()` returned.
#' @param prediction (mc_prediction) The next batch, of any size, by the same network.
#' @param name (string) What the batch is called, such as its date.
#' @rawNamespace S3method(stats::update,mc_monitor)
update.mc_monitor <- function(object, prediction, ..., name = NULL) {
  rlang::check_dots_empty()
  if (!is.null(name) && !rlang::is_string(name)) {
    abort_must("name", "be a string", name)
  }
  monitor <- learnt_to_python(object)
  prediction <- as_prediction(prediction)
  with_core(monitor$update(prediction, name = name))
  monitor_from_python(monitor)
}

monitor_from_python <- function(object) {
  fields <- fields_from_python(object)
  fields$labels <- unlist(fields$labels)
  fields$batches$name <- as.character(fields$batches$name)
  for (name in c("batch", "n", "seen")) {
    fields$batches[[name]] <- as.integer(fields$batches[[name]])
  }
  for (name in c("alarm_at", "drift")) {
    fields[[name]] <- from_python(object[[name]])
  }
  # what `json` has for the core
  inner <- c("log_capital", "log_best", "best_start", "edges", "counts", "highest_evidence")
  new_learnt(object, fields[setdiff(names(fields), inner)], "mc_monitor")
}
