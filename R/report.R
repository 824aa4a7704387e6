# A report of a prediction as one HTML page.

#' A report of a prediction, as one page for the browser
#'
#' Writes one HTML file that needs no network and no other file. It has a summary, the scores (with `y`), the
#' policy in words and the tier of each input, the state of a monitor, and the review queue. The queue shows
#' every input with its image and its most probable labels as bars with the interval of the draws. The most
#' uncertain input comes first. The queue can be filtered by tier, label and name.
#'
#' The page is made for screens, phones and paper. It prints the cards that are shown, at first the `n_shown`
#' most uncertain, and says how many are left out. Names of labels and files are shown as text and never run
#' as code.
#'
#' @param prediction (mc_prediction) The prediction to report.
#' @param images (numeric array or mc_images) All predicted images. The page has them as thumbnails.
#' @param y (factor or vector, or numeric matrix) The true label of each input, or the observed values.
#' @param policy (mc_policy) A result of [mc_triage()].
#' @param ... Not used. The arguments after it are given by name.
#' @param path (string) The file to write. It ends in `.html`.
#' @param monitor (mc_monitor) A monitor for drift, whose printed text is shown.
#' @param measure (string) The measure of uncertainty that sorts the queue. By default the first measure of
#'   the policy, else the predictive entropy; for values the standard deviation, with the noise if the model
#'   estimates it.
#' @param title (string) Title of the page.
#' @param n_shown (count) Number of cards that are shown at first, and that each press of the button adds.
#' @return (string) The path, invisibly.
#' @export
#' @family report
#' @examplesIf mc_python_available() && reticulate::py_module_available("jinja2")
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' net <- mc_fit(net, iris[1:4], iris$Species, epochs = 20, batch_size = 32, seed = 1)
#' pred <- mc_predict(net, iris[1:4], n_samples = 100, seed = 1)
#' path <- tempfile(fileext = ".html")
#' mc_report(pred, y = iris$Species, path = path)
#' if (interactive()) browseURL(path)
mc_report <- function(prediction, images = NULL, y = NULL, policy = NULL, ..., path, monitor = NULL,
                      measure = NULL, title = "How sure the predictions are", n_shown = 100) {
  rlang::check_dots_empty()
  if (missing(path)) {
    abort_mc("`path` must be given; got nothing.")
  }
  if (!is.null(policy) && !inherits(policy, "mc_policy")) {
    abort_must("policy", "be what `mc_triage()` returns", got = show_value(class(policy)[[1]]))
  }
  path <- as_path(path)
  if (!rlang::is_string(title)) {
    abort_must("title", "be text", title)
  }
  call_core(
    "for_r.report", as_prediction(prediction), if_given(images, as_rows),
    if (!is.null(y)) as_targets(y, prediction$labels),
    if (!is.null(policy)) learnt_to_python(policy),
    path = path, monitor = as_monitor_words(monitor), measure = measure, title = title,
    n_shown = as_count(n_shown)
  )
  invisible(path)
}

# The text that a monitor prints.
as_monitor_words <- function(monitor, call = rlang::caller_env()) {
  if (is.null(monitor)) {
    return(NULL)
  }
  if (!inherits(monitor, "mc_monitor")) {
    got <- show_value(class(monitor)[[1]])
    abort_must("monitor", "be what `mc_monitor()` returns", got = got, call = call)
  }
  from_python(learnt_to_python(monitor, call = call)$words())
}
