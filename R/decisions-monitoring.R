# Drift: are new inputs still like earlier ones, judged by how uncertain the network is about them?

#' Watch for drift
#'
#' `mc_monitor()` builds a monitor from a reference. `update()` shows it one batch after another. The monitor
#' compares how uncertain the network is about the new inputs and about the reference. It says whether the new
#' inputs are still like the reference, and since when they are not.
#'
#' The sequential test is a conformal test martingale. It uses the rank of each new input's uncertainty among
#' all inputs before it, including the reference. As long as nothing changes, this rank is uniform and
#' independent of the earlier ranks, for every network and every measure. The test bets against that: it bets,
#' boldly or carefully, that uncertainty is higher, lower, further out or further in than before. At every
#' input it starts such bets with a part of its capital. By Ville's inequality the capital ever reaches
#' 1 / `false_alarm_rate` with a probability of at most `false_alarm_rate`. The result does not depend on how
#' the inputs are divided into batches.
#'
#' The monitor does not keep the inputs. It keeps how many of them fell between each two neighbours of the
#' reference. A new input gets a random rank among the inputs in its interval. As long as nothing changes,
#' every rank is equally likely, so the guarantee is exact. Size and time of an update do not grow with the
#' stream.
#'
#' The Kolmogorov-Smirnov test and the population stability index of each batch are exact too. They are for
#' information: their p-values and limits hold for a single batch, and among many batches some exceed them by
#' chance. A change that does not alter the distribution of the uncertainty cannot be detected by it. Another
#' measure may detect it.
#'
#' @param reference (mc_prediction) A prediction of normal inputs that the network was not trained on: at
#'   least 20, better some hundreds.
#' @param ... Not used. The arguments after it are given by name.
#' @param measure (string) A measure of uncertainty; see [mc_scores()].
#' @param false_alarm_rate (number) Probability that the sequential test ever raises an alarm while nothing
#'   changes, over the whole run, however long it is and however often the result is read.
#' @param n_bins (count) Number of bins of the population stability index. Each bin has the same number of
#'   inputs of the reference.
#' @param seed (whole number) Seed of the random ranks.
#' @return A list of class `mc_monitor`:
#'   * `drift`: was there an alarm? If so, `alarm_input` and `alarm_batch` say where it was raised, and
#'     `since_input` and `since_batch` say where the change most probably began.
#'   * `n_seen`, `n_batches`: numbers of inputs and batches.
#'   * `alarm_at`: the evidence, as log10, that raises an alarm.
#'   * the settings.
#'   * `batches`: a tibble with one row for each of the last 1,000 batches: `batch`, `name`, `n` inputs,
#'     `seen` inputs so far, `mean` of the measure, `ks` and `ks_p_value` (Kolmogorov-Smirnov test of this
#'     batch against the reference), `psi` (population stability index), `psi_limit` (a batch of this size
#'     exceeds it by chance once in twenty times), `log10_evidence` of the sequential test over the whole run,
#'     `drift` (had there been an alarm by then?).
#'
#'   `update()` returns the monitor after the batch. [mc_save()] writes a monitor as JSON.
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
#' new <- mc_predict(net, iris[-train, 1:4], n_samples = 100, seed = 1)
#' monitor <- mc_monitor(new[seq(1, 75, by = 2)])
#' monitor <- update(monitor, new[seq(2, 74, by = 2)], name = "Monday")
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
#' @param object (mc_monitor) A result of `mc_monitor()` or `update()`.
#' @param prediction (mc_prediction) The next batch, of any size, predicted by the same network.
#' @param name (string) Name of the batch, such as its date.
#' @rawNamespace S3method(stats::update,mc_monitor)
update.mc_monitor <- function(object, prediction, ..., name = NULL) {
  rlang::check_dots_empty()
  if (!is.null(name) && !rlang::is_string(name)) {
    abort_must("name", "be a string", name)
  }
  if (missing(prediction)) {
    abort_mc("`prediction` must be given; got nothing.")
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
  # internal state that only the core uses; `json` holds it
  internal <- c("log_capital", "log_best", "best_start", "edges", "counts", "highest_evidence")
  new_learnt(object, fields[setdiff(names(fields), internal)], "mc_monitor")
}
