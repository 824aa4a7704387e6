# Pictures of scores, of data and of training as ggplot objects, with the same tables and style as in Python.

#' Pictures of scores
#'
#' `mc_plot_reliability()` shows the share of correct predictions in each bin of confidence. On the diagonal,
#' 80 % of the predictions with 80 % confidence are correct. Below the diagonal the network is too confident.
#' The size of a dot is the number of inputs. The whiskers are exact intervals at `scores$level`.
#'
#' `mc_plot_risk_coverage()` shows the error among the least uncertain inputs over their share of all inputs.
#' The further the curve lies below its right end (all inputs), the better the uncertainty finds the errors.
#' For values the risk is the squared error.
#'
#' @param scores (mc_scores) A result of [mc_scores()]. `scores$reliability` and `scores$risk_coverage` have
#'   the numbers.
#' @param ... Not used. The arguments after it are given by name.
#' @param binning (string) `"equal_width"`, or `"equal_mass"`: the same number of inputs in each bin.
#' @param measures (character vector) Measures of uncertainty to draw. By default the predictive entropy and
#'   the mutual information, for values all measures.
#' @param path (string) A file to which the picture is written as well. Its ending determines the format.
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
    ggplot2::geom_line(colour = main_colour) +
    ggplot2::geom_point(ggplot2::aes(size = .data$n), colour = main_colour) +
    ggplot2::scale_size_area(max_size = 4, name = "inputs") +
    ggplot2::coord_equal(xlim = 0:1, ylim = 0:1) +
    ggplot2::labs(x = "confidence (mean probability)", y = "accuracy (share right)") +
    chart_theme()
  save_picture(plot, path, 4.6, 3.8)
}

#' @rdname mc_plot_reliability
#' @export
mc_plot_risk_coverage <- function(scores, ..., measures = NULL, path = NULL) {
  rlang::check_dots_empty()
  check_ggplot2()
  check_scores(scores)
  known <- unique(scores$risk_coverage$measure)
  defaults <- intersect(c("predictive_entropy", "mutual_information"), known)
  measures <- measures %||% if (length(defaults) > 0) defaults else known
  if (length(measures) == 0) {
    abort_must("measures", "name at least one measure", got = "none")
  }
  for (measure in measures) {
    as_choice(measure, known, "measures")
  }
  drawn <- scores$risk_coverage[scores$risk_coverage$measure %in% measures, ]
  drawn$measure <- factor(gsub("_", " ", drawn$measure), gsub("_", " ", measures))
  top <- max(drawn$risk[drawn$coverage >= first_coverage])
  risk <- if (scores$task == "classification") "error rate" else "mean squared error"
  plot <- ggplot2::ggplot(
    drawn,
    ggplot2::aes(
      x = .data$coverage, y = .data$risk, linetype = .data$measure, colour = .data$measure
    )
  ) +
    ggplot2::geom_line() +
    ggplot2::scale_colour_manual(values = c(main_colour, rep("black", length(measures) - 1)), name = NULL) +
    ggplot2::scale_linetype_discrete(name = NULL) +
    ggplot2::coord_cartesian(xlim = 0:1, ylim = c(0, if (top > 0) 1.05 * top else 1)) +
    ggplot2::labs(
      x = "coverage (share of the inputs, least uncertain first)", y = paste(risk, "among them")
    ) +
    chart_theme()
  save_picture(plot, path, 4.6, 3.6)
}
