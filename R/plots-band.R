#' Predicted values with their intervals, and the data
#'
#' Draws values along one input. The line is the mean. The dark band is the interval of the mean over the
#' draws at `prediction$level`. It gets wider where the network has seen no data. The pale band is the
#' interval of a new observation. It is drawn if the model estimates its noise.
#'
#' @inheritParams mc_plot_reliability
#' @param prediction (mc_prediction) A prediction of values.
#' @param x (numeric vector) One number per input.
#' @param y (numeric vector or matrix) The observed values.
#' @param x_label,y_label (string) Titles of the axes, with their units.
#' @return `mc_plot_band()`: (ggplot). `mc_band_table()`: (tibble) its numbers, one row per output and input,
#'   in the order of x: `output`, `input`, `x`, `mean`, `lower`, `upper` (of the mean), `pred_lower`,
#'   `pred_upper` (of a new observation), `y`.
#' @export
#' @family plots
#' @examplesIf mc_python_available() && requireNamespace("ggplot2", quietly = TRUE)
#' net <- mc_mlp(1, n_outputs = 1, task = "regression")
#' net <- mc_fit(net, cars["speed"], cars$dist, epochs = 50, batch_size = 10, seed = 1)
#' pred <- mc_predict(net, cars["speed"], n_samples = 100, seed = 1)
#' mc_plot_band(pred, cars$speed, cars$dist,
#'   x_label = "speed (mph)", y_label = "stopping distance (ft)"
#' )
mc_plot_band <- function(prediction, x, y = NULL, ..., x_label = "x", y_label = "value", path = NULL) {
  rlang::check_dots_empty()
  check_ggplot2()
  table <- mc_band_table(prediction, x, y)
  level <- paste0(format(100 * prediction$level), " %")
  band <- function(lower, upper, words) {
    ggplot2::geom_ribbon(
      ggplot2::aes(ymin = .data[[lower]], ymax = .data[[upper]], fill = paste0(words, ", ", level))
    )
  }
  fills <- stats::setNames(c("#DCE3EA", "#8FA9C0"), paste0(c("new observation, ", "mean, "), level))
  plot <- ggplot2::ggplot(table, ggplot2::aes(x = .data$x)) +
    (if ("pred_lower" %in% names(table)) band("pred_lower", "pred_upper", "new observation")) +
    band("lower", "upper", "mean") +
    ggplot2::geom_line(ggplot2::aes(y = .data$mean), colour = main_colour, linewidth = 0.8) +
    (if ("y" %in% names(table)) ggplot2::geom_point(ggplot2::aes(y = .data$y), size = 0.8)) +
    ggplot2::scale_fill_manual(values = fills, name = NULL) +
    ggplot2::labs(x = x_label, y = y_label) +
    chart_theme()
  n_outputs <- max(table$output)
  if (n_outputs > 1) {
    plot <- plot + ggplot2::facet_wrap(
      ggplot2::vars(.data$output), scales = "free_y",
      labeller = ggplot2::as_labeller(function(output) paste("output", output))
    )
  }
  save_picture(plot, path, max(5, 3 * n_outputs), 3.6)
}

#' @rdname mc_plot_band
#' @export
mc_band_table <- function(prediction, x, y = NULL) {
  table <- table_from_python(call_core(
    "mc_band_table", as_prediction(prediction), as_rows(x),
    if (!is.null(y)) as_targets(y)
  ))
  table$input <- as.integer(table$input + 1)
  table
}
