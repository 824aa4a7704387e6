# Pictures of scores, of data and of training, as ggplot objects: the same tables and look as Python's.

#' Pictures of scores
#'
#' `mc_plot_reliability()`: in each bin of confidence, how many of the predicted labels are right. On the
#' diagonal, what is said to be 80 % sure is right in 80 % of the cases; below it the network is too sure. The
#' size of the dots is the number of inputs, the whiskers are exact intervals at `scores$level`.
#'
#' `mc_plot_risk_coverage()`: the error among the least uncertain inputs, by how many of them are taken. The
#' further below the level of all inputs (right end), the better the uncertainty finds the errors. For values
#' the risk is the squared error.
#'
#' @param scores (mc_scores) What [mc_scores()] returned; `scores$reliability` and `scores$risk_coverage` have
#'   the numbers.
#' @param ... Not used; what follows is given by name.
#' @param binning (string) `"equal_width"`, or `"equal_mass"`, as many inputs in each bin.
#' @param measures (character vector) Measures of uncertainty to draw; by default the predictive entropy and
#'   the mutual information, for values all.
#' @param path (string) Also writes the picture to this file, its format by the ending.
#' @return (ggplot) The picture; its `data` has the numbers.
#' @references Guo et al. (2017), \doi{10.48550/arXiv.1706.04599}. Geifman and El-Yaniv (2017),
#'   \doi{10.48550/arXiv.1705.08500}.
#' @export
#' @family plots
#' @examplesIf mc_python_available() && requireNamespace("ggplot2", quietly = TRUE)
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' net <- mc_fit(net, iris[1:4], iris$Species, epochs = 20, batch_size = 32, seed = 1)
#' pred <- mc_predict(net, iris[1:4], n_samples = 100, seed = 1)
#' scores <- mc_scores(pred, iris$Species)
#' mc_plot_reliability(scores)
#' mc_plot_risk_coverage(scores)
mc_plot_reliability <- function(scores, ..., binning = "equal_width", path = NULL) {
  rlang::check_dots_empty()
  check_ggplot2()
  check_scores(scores)
  if (is.null(scores$reliability)) {
    abort_must("scores", "be of classes to have a reliability diagram", got = "those of values")
  }
  as_choice(binning, c("equal_width", "equal_mass"))
  bins <- scores$reliability[scores$reliability$binning == binning, ]
  plot <- ggplot2::ggplot(bins, ggplot2::aes(x = .data$confidence, y = .data$accuracy)) +
    ggplot2::geom_abline(linetype = "dashed", colour = "grey60") +
    ggplot2::geom_linerange(ggplot2::aes(ymin = .data$lower, ymax = .data$upper), linewidth = 0.4) +
    ggplot2::geom_line(colour = dark) +
    ggplot2::geom_point(ggplot2::aes(size = .data$n), colour = dark) +
    ggplot2::scale_size_area(max_size = 4, name = "inputs") +
    ggplot2::coord_equal(xlim = 0:1, ylim = 0:1) +
    ggplot2::labs(x = "confidence (mean probability)", y = "accuracy (share right)") +
    chart_theme()
  finished(plot, path, 4.6, 3.8)
}

#' @rdname mc_plot_reliability
#' @export
mc_plot_risk_coverage <- function(scores, ..., measures = NULL, path = NULL) {
  rlang::check_dots_empty()
  check_ggplot2()
  check_scores(scores)
  known <- unique(scores$risk_coverage$measure)
  usual <- intersect(c("predictive_entropy", "mutual_information"), known)
  measures <- measures %||% if (length(usual) > 0) usual else known
  if (length(measures) == 0) {
    abort_must("measures", "name at least one measure", got = "none")
  }
  for (one in measures) {
    as_choice(one, known, "measures")
  }
  drawn <- scores$risk_coverage[scores$risk_coverage$measure %in% measures, ]
  drawn$measure <- factor(gsub("_", " ", drawn$measure), gsub("_", " ", measures))
  top <- max(drawn$risk[drawn$coverage >= settled])
  risk <- if (scores$task == "classification") "error rate" else "mean squared error"
  plot <- ggplot2::ggplot(
    drawn,
    ggplot2::aes(
      x = .data$coverage, y = .data$risk, linetype = .data$measure, colour = .data$measure
    )
  ) +
    ggplot2::geom_line() +
    ggplot2::scale_colour_manual(values = c(dark, rep("black", length(measures) - 1)), name = NULL) +
    ggplot2::scale_linetype_discrete(name = NULL) +
    ggplot2::coord_cartesian(xlim = 0:1, ylim = c(0, if (top > 0) 1.05 * top else 1)) +
    ggplot2::labs(
      x = "coverage (share of the inputs, least uncertain first)", y = paste(risk, "among them")
    ) +
    chart_theme()
  finished(plot, path, 4.6, 3.6)
}
