#' What a drift monitor saw
#'
#' Three panels over the inputs seen. The first shows the evidence of the sequential test, with the line at
#' which it raises an alarm. The second shows the mean of the measure, with the mean of the reference. The
#' third shows the population stability index, with the value that it reaches by chance. A solid line marks an
#' alarm, a dotted line the input where the change began. The numbers are in `monitor$batches`.
#'
#' @param monitor (mc_monitor) A monitor that has seen at least one batch.
#' @param ... Not used. The arguments after it are given by name.
#' @param path (string) A file to which the picture is written as well. Its ending determines the format.
#' @return (ggplot) The picture.
#' @export
#' @family plots
#' @examplesIf mc_python_available() && requireNamespace("ggplot2", quietly = TRUE)
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' pred <- mc_predict(net, iris[1:4], seed = 1)
#' monitor <- mc_monitor(pred[seq(1, 150, by = 3)])
#' monitor <- update(monitor, pred[seq(2, 150, by = 3)])
#' monitor <- update(monitor, pred[seq(3, 150, by = 3)])
#' mc_plot_drift(monitor)
mc_plot_drift <- function(monitor, ..., path = NULL) {
  rlang::check_dots_empty()
  check_ggplot2()
  if (!inherits(monitor, "mc_monitor")) {
    abort_must("monitor", "be what `mc_monitor()` returns", got = show_value(class(monitor)[[1]]))
  }
  if (nrow(monitor$batches) == 0) {
    abort_must("monitor", "have seen at least one batch", got = "none")
  }
  batches <- monitor$batches
  unit <- unit_of(monitor$measure, !is.null(monitor$labels))
  panels <- c(
    "evidence of drift (log10); dashed: alarm",
    paste0("mean ", gsub("_", " ", monitor$measure), " (", unit, "); dashed: reference"),
    "population stability index; dashed: by chance up to"
  )
  table <- data.frame(
    seen = rep(batches$seen, 3),
    panel = factor(rep(panels, each = nrow(batches)), panels),
    value = c(batches$log10_evidence, batches$mean, batches$psi),
    line = c(
      rep(c(monitor$alarm_at, mean(monitor$reference)), each = nrow(batches)), batches$psi_limit
    )
  )
  title <- if (monitor$drift) {
    paste0(
      "Drift since about input ", monitor$since_input, " (dotted); alarm at input ", monitor$alarm_input,
      " (solid)"
    )
  } else {
    paste("No drift in", max(batches$seen), "inputs")
  }
  plot <- ggplot2::ggplot(table, ggplot2::aes(x = .data$seen, y = .data$value)) +
    ggplot2::geom_vline(xintercept = monitor$alarm_input, linewidth = 0.4) +
    ggplot2::geom_vline(xintercept = monitor$since_input, linewidth = 0.4, linetype = "dotted") +
    ggplot2::geom_line(ggplot2::aes(y = .data$line), linetype = "dashed", colour = "grey55") +
    ggplot2::geom_line(colour = main_colour) +
    ggplot2::geom_point(colour = main_colour, size = 1.4) +
    ggplot2::facet_wrap(ggplot2::vars(.data$panel), ncol = 1, scales = "free_y") +
    ggplot2::expand_limits(x = 0) +
    ggplot2::labs(x = "inputs seen", y = NULL, title = title) +
    panel_theme()
  save_picture(plot, path, 7.2, 6)
}

#' How draws settle
#'
#' For each measure, the upper panel shows its mean over the inputs. The lower panel shows its Monte Carlo
#' error for one input, with the tolerance. The number of draws is on a logarithmic scale. The numbers are in
#' `convergence$table`.
#'
#' @inheritParams mc_plot_drift
#' @param convergence (mc_convergence) A result of [mc_convergence()].
#' @return (ggplot) The picture.
#' @export
#' @family plots
#' @examplesIf mc_python_available() && requireNamespace("ggplot2", quietly = TRUE)
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' mc_plot_convergence(mc_convergence(net, iris[1:4], seed = 1))
mc_plot_convergence <- function(convergence, ..., path = NULL) {
  rlang::check_dots_empty()
  check_ggplot2()
  if (!inherits(convergence, "mc_convergence")) {
    abort_must("convergence", "be what `mc_convergence()` returns", got = show_value(class(convergence)[[1]]))
  }
  numbers <- convergence$table
  measures <- unique(numbers$measure)
  units <- vapply(measures, unit_of, character(1), classes = "mutual_information" %in% measures)
  titles <- paste0(gsub("_", " ", measures), "\n(", units, ")")
  kinds <- c("mean over the inputs", "Monte Carlo error")
  table <- data.frame(
    n_samples = rep(numbers$n_samples, 2),
    measure = factor(rep(titles[match(numbers$measure, measures)], 2), titles),
    kind = factor(rep(kinds, each = nrow(numbers)), kinds),
    value = c(numbers$value, numbers$mcse)
  )
  panels <- outer(titles, kinds, function(title, kind) paste0(title, "\n", kind))
  table$panel <- factor(paste0(table$measure, "\n", table$kind), as.vector(panels))
  plot <- ggplot2::ggplot(table, ggplot2::aes(x = .data$n_samples, y = .data$value))
  caption <- NULL
  zero <- data.frame(
    panel = factor(panels[, 2], levels(table$panel)), n_samples = numbers$n_samples[[1]], value = 0
  )
  plot <- plot + ggplot2::geom_blank(data = zero)
  if (!is.null(convergence$tolerance)) {
    dashed <- data.frame(panel = factor(panels[, 2], levels(table$panel)), line = convergence$tolerance)
    plot <- plot + ggplot2::geom_hline(
      ggplot2::aes(yintercept = .data$line), dashed, linetype = "dashed", colour = "grey55"
    )
    caption <- paste0(
      "Dashed: tolerance ", format(convergence$tolerance), ". Recommended for the mean: ",
      convergence$recommended, " draws."
    )
  }
  plot <- plot +
    ggplot2::geom_line(colour = main_colour) +
    ggplot2::geom_point(colour = main_colour, size = 1.4) +
    ggplot2::facet_wrap(ggplot2::vars(.data$panel), nrow = 2, scales = "free_y") +
    ggplot2::scale_x_log10(breaks = convergence$n_samples) +
    ggplot2::labs(x = "number of draws", y = NULL, caption = caption) +
    panel_theme()
  save_picture(plot, path, 1 + 2.3 * length(measures), 4.6)
}

#' @exportS3Method ggplot2::autoplot
autoplot.mc_monitor <- function(object, ...) {
  mc_plot_drift(object, ...)
}

#' @exportS3Method ggplot2::autoplot
autoplot.mc_convergence <- function(object, ...) {
  mc_plot_convergence(object, ...)
}
