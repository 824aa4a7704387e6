#' Posterior spread: what each draw predicts
#'
#' Each dot is the prediction of one draw of the network for an input. The line is the interval of the draws
#' at `prediction$level`, the diamond is their mean. Draws in two clusters are two different answers, which a
#' mean and an interval would hide. For classes there is one panel per input, with its three most probable
#' labels. For values there is one panel per output.
#'
#' @inheritParams mc_plot_reliability
#' @param prediction (mc_prediction) A prediction with its draws.
#' @param inputs (integer vector) Positions, from 1. By default the 12 most uncertain inputs, by predictive
#'   entropy or standard deviation.
#' @return `mc_plot_draws()`: (ggplot). `mc_draws_table()`: (tibble) its numbers, one row per chosen input,
#'   label or output, and draw: `input`, `id` (if the prediction has ids), `label` (for classes) or `output`,
#'   `draw`, `value` (the label's probability, or the output in the unit of the values). Draws that were not
#'   needed because of `tolerance` have no row.
#' @export
#' @family plots
#' @examplesIf mc_python_available() && requireNamespace("ggplot2", quietly = TRUE)
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' net <- mc_fit(net, iris[1:4], iris$Species, epochs = 20, batch_size = 32, seed = 1)
#' pred <- mc_predict(net, iris[1:4], n_samples = 50, seed = 1)
#' mc_plot_draws(pred, inputs = c(71, 84, 107))
mc_plot_draws <- function(prediction, ..., inputs = NULL, path = NULL) {
  rlang::check_dots_empty()
  check_ggplot2()
  table <- unique(mc_draws_table(prediction, inputs)) # an input that is chosen twice is drawn once
  chosen <- unique(table$input)
  classes <- "label" %in% names(table)
  rows <- if (classes) draws_of_classes(prediction, chosen) else draws_of_values(prediction, chosen)
  table <- merge(table, rows, by = c("input", if (classes) "label" else "output"))
  # spreads neighbouring draws by the golden ratio, so that their dots do not overlap
  table$aside <- ((table$draw - 1) * 0.618034) %% 1 * 0.5 - 0.25
  level <- paste0(format(100 * prediction$level), " %")
  legend <- paste("in each draw (dots), their mean (diamond) and", level, "interval (line)")
  plot <- ggplot2::ggplot(table, ggplot2::aes(y = .data$place)) +
    ggplot2::geom_segment(
      ggplot2::aes(x = .data$lower, xend = .data$upper, yend = .data$place), rows,
      colour = "grey75", linewidth = 2
    ) +
    ggplot2::geom_point(
      ggplot2::aes(x = .data$value, y = .data$place + .data$aside),
      colour = main_colour, size = 1.2, alpha = 0.75, stroke = 0
    ) +
    ggplot2::geom_point(ggplot2::aes(x = .data$mean), rows, shape = 23, fill = "white", size = 2) +
    ggplot2::labs(x = paste(if (classes) "probability" else "value", legend), y = NULL) +
    chart_theme()
  if (classes) {
    plot <- plot +
      ggplot2::scale_y_reverse(breaks = NULL, expand = ggplot2::expansion(add = 0.4)) +
      ggplot2::geom_text(
        ggplot2::aes(x = -0.04, label = .data$name), rows, hjust = 1, size = 8 / ggplot2::.pt
      ) +
      ggplot2::scale_x_continuous(breaks = c(0, 0.5, 1), limits = c(-0.6, 1.02)) +
      ggplot2::facet_wrap(ggplot2::vars(.data$panel), ncol = min(3, length(chosen)))
  } else {
    plot <- plot +
      ggplot2::scale_y_reverse(
        breaks = seq_along(chosen), labels = rows$name[seq_along(chosen)],
        expand = ggplot2::expansion(add = 0.4)
      ) +
      ggplot2::facet_wrap(ggplot2::vars(.data$panel), scales = "free_x")
  }
  plot <- plot + ggplot2::theme(strip.text = ggplot2::element_text(hjust = 0, size = 8))
  size <- if (classes) {
    c(max(4.4, 2.8 * min(3, length(chosen))), 0.5 + 1.6 * ceiling(length(chosen) / 3))
  } else {
    c(max(4.6, 4.2 * length(unique(rows$panel))), 1 + 0.3 * length(chosen))
  }
  save_picture(plot, path, size[[1]], size[[2]])
}

#' @rdname mc_plot_draws
#' @export
mc_draws_table <- function(prediction, inputs = NULL) {
  python <- as_prediction(prediction)
  positions <- if (!is.null(inputs)) as.array(as_inputs(inputs, nrow(prediction)) - 1L)
  table <- table_from_python(call_core("mc_draws_table", python, positions))
  table$input <- as.integer(table$input + 1)
  if (!is.null(prediction$ids)) {
    table$id <- prediction$ids[table$input]
  }
  table
}

# The most probable labels of each chosen input: their place in the panel, mean and interval.
draws_of_classes <- function(prediction, chosen) {
  labels <- as.character(prediction$labels)
  parts <- Map(function(i, name) {
    top <- utils::head(order(-prediction$mean[i, ]), 3)
    data.frame(
      input = i, label = labels[top], name = shorten_labels(labels[top], 12, labels), place = seq_along(top),
      mean = prediction$mean[i, top], lower = prediction$lower[i, top], upper = prediction$upper[i, top],
      panel = sprintf(
        "%s: entropy %.2f nats,\n%.2f of it epistemic", name, prediction$predictive_entropy[[i]],
        prediction$mutual_information[[i]]
      )
    )
  }, chosen, input_names(prediction, chosen, 11))
  rows <- do.call(rbind, parts)
  rows$panel <- factor(rows$panel, unique(rows$panel))
  rows
}

# The outputs of the chosen inputs: their place in the panel, mean and interval.
draws_of_values <- function(prediction, chosen) {
  by_output <- function(part) output_matrix(part)[chosen, , drop = FALSE]
  mean <- by_output(prediction$mean)
  outputs <- rep(seq_len(ncol(mean)), each = length(chosen))
  names <- input_names(prediction, chosen, 9)
  data.frame(
    input = rep(chosen, ncol(mean)), output = outputs, name = rep(names, ncol(mean)),
    place = rep(seq_along(chosen), ncol(mean)), mean = as.vector(mean),
    lower = as.vector(by_output(prediction$lower)), upper = as.vector(by_output(prediction$upper)),
    panel = paste("output", outputs)
  )
}
