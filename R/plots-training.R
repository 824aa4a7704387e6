#' Pictures of the data: how many of each label, and what they look like
#'
#' `mc_plot_balance()` shows the number of inputs with each label. If there are more than 60 labels, it shows
#' the most frequent ones. `mc_plot_images()` draws a grid of images, each with its number and, if there are
#' `titles`, its title.
#'
#' @inheritParams mc_plot_reliability
#' @param y (factor or vector) The label of each input.
#' @param labels (character vector) All possible labels. By default those of `y`.
#' @param images (numeric array or mc_images) Images as for [mc_plot_probabilities()].
#' @param titles (factor or vector) One title per image.
#' @param inputs (integer vector) The images to draw. By default the first 40.
#' @return The plots: (ggplot). `mc_balance_table()`: (tibble) `label`, `n`, `share`.
#' @export
#' @family plots
#' @examplesIf mc_python_available() && requireNamespace("ggplot2", quietly = TRUE)
#' data <- mc_sample_data()
#' mc_plot_balance(data$y_test)
#' mc_plot_images(data$x_test, data$y_test, inputs = 1:16)
mc_plot_balance <- function(y, labels = NULL, ..., path = NULL) {
  rlang::check_dots_empty()
  check_ggplot2()
  table <- mc_balance_table(y, labels)
  drawn <- table
  if (nrow(table) > 60) {
    drawn <- table[sort(utils::head(order(-table$n), 60)), ]
  }
  drawn$place <- seq_len(nrow(drawn))
  drawn$text <- sprintf(" %s (%.1f %%)", format(drawn$n, big.mark = ",", trim = TRUE), 100 * drawn$share)
  plot <- ggplot2::ggplot(drawn, ggplot2::aes(x = .data$n, y = .data$place)) +
    ggplot2::geom_col(orientation = "y", width = 0.75, fill = main_colour) +
    ggplot2::geom_text(ggplot2::aes(label = .data$text), hjust = 0, size = 8 / ggplot2::.pt) +
    ggplot2::scale_y_reverse(breaks = drawn$place, labels = shorten_labels(drawn$label)) +
    ggplot2::scale_x_continuous(expand = ggplot2::expansion(c(0, 0.35))) +
    ggplot2::labs(x = paste0("inputs, of ", format(sum(table$n), big.mark = ",")), y = NULL) +
    chart_theme() +
    ggplot2::theme(panel.grid.major.y = ggplot2::element_blank())
  save_picture(plot, path, 4.6, 0.8 + 0.22 * nrow(drawn))
}

#' @rdname mc_plot_balance
#' @export
mc_balance_table <- function(y, labels = NULL) {
  if (is.null(labels) && is.factor(y)) {
    labels <- levels(y)
  }
  table_from_python(call_core("mc_balance_table", as_targets(y, labels), as_label_set(labels)))
}

#' @rdname mc_plot_balance
#' @export
mc_plot_images <- function(images, titles = NULL, ..., inputs = NULL, path = NULL) {
  rlang::check_dots_empty()
  check_ggplot2()
  n <- dim(images)[[1]] %||% length(images)
  inputs <- if (is.null(inputs)) seq_len(min(n, 40)) else as_inputs(inputs, n)
  pictures <- as_pictures(images, inputs, n)
  if (!is.null(titles)) {
    check_length(length(titles), "titles", n, "images")
  }
  captions <- if (is.null(titles)) inputs else paste0(inputs, ": ", shorten_labels(titles[inputs], 9))
  panels <- paste(seq_along(inputs)) # an image may be chosen twice
  data <- data.frame(panel = factor(panels, panels), input = inputs)
  plot <- ggplot2::ggplot(data) +
    ggplot2::geom_blank(ggplot2::aes(x = 0, y = 0)) +
    ggplot2::facet_wrap(
      ggplot2::vars(.data$panel), ncol = min(8, length(inputs)),
      labeller = ggplot2::as_labeller(stats::setNames(as.character(captions), panels))
    ) +
    ggplot2::coord_equal(xlim = 0:1, ylim = 0:1, expand = FALSE) +
    ggplot2::theme_void(base_size = 9) +
    ggplot2::theme(
      strip.text = ggplot2::element_text(hjust = 0, size = 8), panel.spacing = ggplot2::unit(3, "pt")
    )
  for (i in seq_along(pictures)) {
    plot <- plot + square_picture(pictures[[i]], data$panel[[i]])
  }
  rows <- ceiling(length(inputs) / 8)
  save_picture(plot, path, 1.1 * min(8, length(inputs)), 1.4 * rows)
}

# A picture in the upper left corner of the unit square of its own panel.
square_picture <- function(picture, panel) {
  sides <- dim(picture) / max(dim(picture)) # height, width
  ggplot2::layer(
    data = data.frame(panel = panel), stat = ggplot2::StatIdentity,
    position = ggplot2::PositionIdentity, geom = ggplot2::GeomRasterAnn, inherit.aes = FALSE,
    params = list(
      raster = picture, interpolate = FALSE, xmin = 0, xmax = sides[[2]], ymin = 1 - sides[[1]], ymax = 1
    )
  )
}

#' Training history
#'
#' Draws loss and metric of each epoch, for the training inputs and for the validation inputs.
#'
#' @inheritParams mc_plot_reliability
#' @param model (mc_model or data frame) A result of [mc_fit()], or its `history`, which has the numbers.
#' @return (ggplot) The picture.
#' @export
#' @family plots
#' @examplesIf mc_python_available() && requireNamespace("ggplot2", quietly = TRUE)
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' net <- mc_fit(net, iris[1:4], iris$Species,
#'   epochs = 20, batch_size = 32, validation_split = 0.2, seed = 1
#' )
#' mc_plot_history(net)
mc_plot_history <- function(model, ..., path = NULL) {
  rlang::check_dots_empty()
  check_ggplot2()
  history <- if (is.data.frame(model)) model else if (inherits(model, "mc_model")) model$history
  if (!is.data.frame(history) || is.null(history$loss) || nrow(history) == 0) {
    got <- paste(show_value(class(model)[[1]]), "without a history")
    abort_must("model", "be trained by `mc_fit()`", got = got)
  }
  units <- c(loss = "loss", accuracy = "accuracy (share right)", rmse = "RMSE (unit of y)")
  known <- intersect(names(units), names(history))
  curve <- function(name, inputs, column) {
    if (!is.null(history[[column]])) {
      data.frame(epoch = history$epoch, what = units[[name]], inputs = inputs, value = history[[column]])
    }
  }
  parts <- lapply(known, function(name) {
    rbind(curve(name, "training", name), curve(name, "validation", paste0("val_", name)))
  })
  table <- do.call(rbind, parts)
  table$what <- factor(table$what, units[known])
  plot <- ggplot2::ggplot(
    table,
    ggplot2::aes(
      x = .data$epoch, y = .data$value, linetype = .data$inputs, shape = .data$inputs, colour = .data$inputs
    )
  ) +
    ggplot2::geom_line() +
    ggplot2::geom_point(size = 1.2) +
    ggplot2::facet_wrap(ggplot2::vars(.data$what), scales = "free_y", strip.position = "left") +
    ggplot2::scale_colour_manual(values = c(main_colour, "black"), name = NULL) +
    ggplot2::scale_linetype_discrete(name = NULL) +
    ggplot2::scale_shape_discrete(name = NULL) +
    ggplot2::scale_x_continuous(breaks = function(limits) {
      breaks <- pretty(limits)
      breaks[breaks == round(breaks)]
    }) +
    ggplot2::labs(x = "epoch", y = NULL) +
    chart_theme() +
    ggplot2::theme(strip.placement = "outside")
  save_picture(plot, path, 3.4 * length(known) + 0.4, 3.2)
}
