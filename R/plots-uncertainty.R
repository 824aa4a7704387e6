#' Histograms of the uncertainty
#'
#' Draws the uncertainty of correct and wrong predictions (`y`), or of inputs from inside and outside
#' (`prediction_out`). Each group is drawn as shares of its own inputs, so that a small group can be compared
#' with a large one. The less the histograms overlap, the better the uncertainty separates the groups.
#'
#' @inheritParams mc_plot_reliability
#' @param prediction,prediction_out (mc_prediction) A prediction, and a prediction of inputs that are unlike
#'   the training inputs.
#' @param y (factor or vector) The true label of each input.
#' @param measure (string) A measure as in [mc_scores()]. By default the predictive entropy; for values the
#'   standard deviation, with the noise if the model estimates it.
#' @param n_bins (count) Number of bins of equal width.
#' @return `mc_plot_uncertainty()`: (ggplot). `mc_uncertainty_table()`: (tibble) its numbers, one row per
#'   group and bin: `measure`, `group` (`"right"` and `"wrong"`, `"in"` and `"out"`, or `"all"`), `from`,
#'   `to`, `n`, `share` (of the group). A bin contains values above `from` and up to `to`, the first bin also
#'   its `from`.
#' @export
#' @family plots
#' @examplesIf mc_python_available() && requireNamespace("ggplot2", quietly = TRUE)
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' net <- mc_fit(net, iris[1:4], iris$Species, epochs = 20, batch_size = 32, seed = 1)
#' pred <- mc_predict(net, iris[1:4], n_samples = 100, seed = 1)
#' mc_plot_uncertainty(pred, iris$Species)
mc_plot_uncertainty <- function(prediction, y = NULL, prediction_out = NULL, ..., measure = NULL,
                                n_bins = 30, path = NULL) {
  rlang::check_dots_empty()
  check_ggplot2()
  table <- mc_uncertainty_table(prediction, y, prediction_out, measure = measure, n_bins = n_bins)
  counts <- tapply(table$n, factor(table$group, unique(table$group)), sum)
  table$group <- factor(
    paste0(table$group, " (", counts[table$group], ")"), paste0(names(counts), " (", counts, ")")
  )
  groups <- levels(table$group)
  plot <- ggplot2::ggplot(table) +
    ggplot2::geom_rect(
      ggplot2::aes(
        xmin = .data$from, xmax = .data$to, ymin = 0, ymax = .data$share, fill = .data$group,
        colour = .data$group
      ),
      linewidth = 0.4
    ) +
    ggplot2::scale_fill_manual(values = c("grey75", NA)[seq_along(groups)], na.value = NA, name = NULL) +
    ggplot2::scale_colour_manual(values = c("grey75", "black")[seq_along(groups)], name = NULL) +
    ggplot2::labs(x = label_of(table$measure[[1]]), y = "share of the group") +
    chart_theme()
  save_picture(plot, path, 4.6, 3.4)
}

#' @rdname mc_plot_uncertainty
#' @export
mc_uncertainty_table <- function(prediction, y = NULL, prediction_out = NULL, ..., measure = NULL,
                                 n_bins = 30) {
  rlang::check_dots_empty()
  table_from_python(call_core(
    "mc_uncertainty_table", as_prediction(prediction),
    if (!is.null(y)) as_targets(y, prediction$labels),
    if_given(prediction_out, as_prediction),
    measure = measure, n_bins = as_count(n_bins)
  ))
}
