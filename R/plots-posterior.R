#' Posterior spread of the weights of a Bayesian network
#'
#' The left panel shows the posterior standard deviations of the weights of each variational layer, on a
#' logarithmic scale. The dot is their median, the thick line contains the middle half of the weights, and the
#' thin line contains 90 % of them. The upright stroke is the standard deviation of the prior, where the data
#' have taught nothing. The right panel shows the weights of each layer that are most surely not zero: the dot
#' is the mean, the line is the middle `level` of the posterior. [mc_posterior_table()] and
#' [mc_weights_table()] give the numbers.
#'
#' @inheritParams mc_plot_reliability
#' @inheritParams mc_posterior_table
#' @param model (mc_model or torch module) A network with variational layers.
#' @return (ggplot) The picture.
#' @export
#' @family plots
#' @examplesIf mc_python_available() && requireNamespace("ggplot2", quietly = TRUE)
#' net <- mc_bayes_mlp(4, labels = levels(iris$Species))
#' net <- mc_fit(net, iris[1:4], iris$Species, epochs = 20, batch_size = 32, seed = 1)
#' mc_plot_posterior(net, n_weights = 5)
mc_plot_posterior <- function(model, ..., n_weights = 8, level = 0.95, path = NULL) {
  rlang::check_dots_empty()
  check_ggplot2()
  layers <- mc_posterior_table(model)
  weights <- mc_weights_table(model, n_weights = n_weights, level = level)
  kinds <- c(
    "posterior standard deviation of the weights, log10\n(stroke: of the prior)",
    paste0("weight: mean and ", format(100 * level), " % of its posterior")
  )
  of_weights <- paste(weights$layer, weights$weight)
  in_rows <- function(names) factor(names, rev(c(layers$layer, of_weights))) # the first row is at the top
  layers$panel <- factor(kinds[[1]], kinds)
  layers$row <- in_rows(layers$layer)
  layers$prior_std[!is.finite(layers$prior_std)] <- NA
  weights$panel <- factor(kinds[[2]], kinds)
  weights$row <- in_rows(of_weights)
  segment <- function(low, high, table, width) {
    ggplot2::geom_segment(
      ggplot2::aes(x = .data[[low]], xend = .data[[high]], yend = .data$row), table,
      colour = main_colour, linewidth = width
    )
  }
  deviations <- grep("std_", names(layers), value = TRUE)
  layers[c(deviations, "prior_std")] <- log10(layers[c(deviations, "prior_std")])
  plot <- ggplot2::ggplot(mapping = ggplot2::aes(y = .data$row)) +
    segment("std_5", "std_95", layers, 0.5) +
    segment("std_25", "std_75", layers, 2) +
    ggplot2::geom_point(ggplot2::aes(x = .data$std_50), layers, shape = 21, fill = "white") +
    ggplot2::geom_text(ggplot2::aes(x = .data$prior_std), layers, label = "|", na.rm = TRUE, size = 4) +
    ggplot2::geom_vline(ggplot2::aes(xintercept = 0), weights[1, "panel"], colour = "grey75") +
    # sets the rows of both panels at once: otherwise each panel is sorted alphabetically
    ggplot2::scale_y_discrete(limits = function(rows) levels(layers$row)[levels(layers$row) %in% rows]) +
    segment("lower", "upper", weights, 0.5) +
    ggplot2::geom_point(ggplot2::aes(x = .data$mean), weights, size = 0.9) +
    ggplot2::facet_wrap(ggplot2::vars(.data$panel), scales = "free", strip.position = "bottom") +
    ggplot2::labs(x = NULL, y = NULL) +
    chart_theme() +
    ggplot2::theme(strip.placement = "outside", axis.text.y = ggplot2::element_text(size = 7))
  save_picture(plot, path, 8.6, max(2.6, 0.9 + 0.16 * (nrow(weights) + nrow(layers))))
}
