# Pictures of scores, of data and of training, as ggplot objects: the same tables and look as Python's.

#' Pictures of scores
#'
#' `mc_plot_reliability()`: in each bin of confidence, how many of the predicted labels are right. On the
#' diagonal, what is said to be 80 % sure is right in 80 % of the cases; below it the network is too sure. The
#' size of the dots is the number of inputs, the whiskers are exact intervals at `scores$level`.
#'
#' `mc_plot_risk_coverage()`: the error among the least doubtful inputs, by how many of them are taken. The
#' further below the level of all inputs (right end), the better the doubt finds the errors. For values the
#' risk is the squared error.
#'
#' @param scores (mc_scores) What [mc_scores()] returned; `scores$reliability` and `scores$risk_coverage` have
#'   the numbers.
#' @param ... Not used; what follows is given by name.
#' @param binning (string) `"equal_width"`, or `"equal_mass"`, as many inputs in each bin.
#' @param measures (character vector) Measures of doubt to draw; by default the predictive entropy and the
#'   mutual information, for values all.
#' @param path (string) Also writes the picture to this file, its format by the ending.
#' @return (ggplot) The picture; its `data` has the numbers.
#' @references Guo et al. (2017), \doi{10.48550/arXiv.1706.04599}. Geifman and El-Yaniv (2017),
#'   \doi{10.48550/arXiv.1705.08500}.
#' @export
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
      x = "coverage (share of the inputs, least doubtful first)", y = paste(risk, "among them")
    ) +
    chart_theme()
  finished(plot, path, 4.6, 3.6)
}

#' Histograms of the doubt
#'
#' Of right and wrong predictions (`y`), or of inputs from inside and outside (`prediction_out`). Each group
#' is drawn as shares of its own inputs, so that a small one can be compared with a large one; the less they
#' overlap, the better the doubt tells them apart.
#'
#' @inheritParams mc_plot_reliability
#' @param prediction,prediction_out (mc_prediction) Of inputs; of others, like none that were learnt from.
#' @param y (factor or vector) The true label of each input.
#' @param measure (string) As in [mc_scores()]; by default the predictive entropy, for values the standard
#'   deviation with the noise where the model tells it.
#' @param n_bins (count) Bins, of equal width.
#' @return `mc_plot_uncertainty()`: (ggplot). `mc_uncertainty_table()`: (tibble) its numbers, one row per
#'   group and bin: `measure`, `group` (`"right"` and `"wrong"`, `"in"` and `"out"`, or `"all"`), `from`,
#'   `to`, `n`,
#'   `share` (of the group). A bin holds what is above `from` and up to `to`, the first one also its `from`.
#' @export
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
    ggplot2::labs(x = measure_units[[table$measure[[1]]]], y = "share of the group") +
    chart_theme()
  finished(plot, path, 4.6, 3.4)
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

#' Posterior spread: what each draw predicts
#'
#' Each dot is what one draw of the network predicts for an input; the line is the interval of the draws at
#' `prediction$level`, the diamond their mean. Draws in two clumps are two opinions that a mean and an
#' interval would hide. For classes one panel per input, with its three most probable labels; for values one
#' panel per output.
#'
#' @inheritParams mc_plot_reliability
#' @param prediction (mc_prediction) That holds its draws.
#' @param inputs (integer vector) Positions, from 1; by default the 12 most doubtful, by predictive entropy or
#'   standard deviation.
#' @return `mc_plot_draws()`: (ggplot). `mc_draws_table()`: (tibble) its numbers, one row per chosen input,
#'   label or output, and draw: `input`, `id` (where the prediction has ids), `label` (of classes) or
#'   `output`, `draw`, `value` (the label's probability, or the output in the unit of the values). Draws
#'   that `tolerance` has saved are left out.
#' @export
#' @examplesIf mc_python_available() && requireNamespace("ggplot2", quietly = TRUE)
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' net <- mc_fit(net, iris[1:4], iris$Species, epochs = 20, batch_size = 32, seed = 1)
#' pred <- mc_predict(net, iris[1:4], n_samples = 50, seed = 1)
#' mc_plot_draws(pred, inputs = c(71, 84, 107))
mc_plot_draws <- function(prediction, ..., inputs = NULL, path = NULL) {
  rlang::check_dots_empty()
  check_ggplot2()
  table <- unique(mc_draws_table(prediction, inputs)) # an input asked for twice is shown once
  chosen <- unique(table$input)
  classes <- "label" %in% names(table)
  rows <- if (classes) draws_of_classes(prediction, chosen) else draws_of_values(prediction, chosen)
  table <- merge(table, rows, by = c("input", if (classes) "label" else "output"))
  table$aside <- ((table$draw - 1) * 0.618034) %% 1 * 0.5 - 0.25
  level <- paste0(format(100 * prediction$level), " %")
  words <- paste("in each draw (dots), their mean (diamond) and", level, "interval (line)")
  plot <- ggplot2::ggplot(table, ggplot2::aes(y = .data$place)) +
    ggplot2::geom_segment(
      ggplot2::aes(x = .data$lower, xend = .data$upper, yend = .data$place), rows,
      colour = "grey75", linewidth = 2
    ) +
    ggplot2::geom_point(
      ggplot2::aes(x = .data$value, y = .data$place + .data$aside),
      colour = dark, size = 1.2, alpha = 0.75, stroke = 0
    ) +
    ggplot2::geom_point(ggplot2::aes(x = .data$mean), rows, shape = 23, fill = "white", size = 2) +
    ggplot2::labs(x = paste(if (classes) "probability" else "value", words), y = NULL) +
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
  finished(plot, path, size[[1]], size[[2]])
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

# Of each chosen input its most probable labels: where they are drawn, their mean and interval.
draws_of_classes <- function(prediction, chosen) {
  labels <- as.character(prediction$labels)
  parts <- Map(function(i, name) {
    top <- utils::head(order(-prediction$mean[i, ]), 3)
    data.frame(
      input = i, label = labels[top], name = shortened(labels[top], 12, labels), place = seq_along(top),
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

draws_of_values <- function(prediction, chosen) {
  by_output <- function(part) in_columns(part)[chosen, , drop = FALSE]
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

#' Posterior spread of the weights of a Bayesian network
#'
#' On the left, for each variational layer, how large the posterior standard deviations of its weights are:
#' the dot is the median, the thick line holds the middle half of the weights, the thin one 90 % of them,
#' and the upright stroke is the standard deviation of the prior, where the data have taught nothing; on a
#' logarithmic scale. On the right, the weights of each layer that are most surely not zero: the dot is the
#' mean, the line the middle `level` of the posterior. [mc_posterior_table()] and [mc_weights_table()] give
#' the numbers.
#'
#' @inheritParams mc_plot_reliability
#' @inheritParams mc_posterior_table
#' @param model (mc_model or torch module) A network with variational layers.
#' @return (ggplot) The picture.
#' @export
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
  in_rows <- function(names) factor(names, rev(c(layers$layer, of_weights))) # the first on top
  layers$panel <- factor(kinds[[1]], kinds)
  layers$row <- in_rows(layers$layer)
  layers$prior_std[!is.finite(layers$prior_std)] <- NA
  weights$panel <- factor(kinds[[2]], kinds)
  weights$row <- in_rows(of_weights)
  segment <- function(low, high, table, width) {
    ggplot2::geom_segment(
      ggplot2::aes(x = .data[[low]], xend = .data[[high]], yend = .data$row), table,
      colour = dark, linewidth = width
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
    # both panels' rows at once: each alone would be sorted by the alphabet
    ggplot2::scale_y_discrete(limits = function(rows) levels(layers$row)[levels(layers$row) %in% rows]) +
    segment("lower", "upper", weights, 0.5) +
    ggplot2::geom_point(ggplot2::aes(x = .data$mean), weights, size = 0.9) +
    ggplot2::facet_wrap(ggplot2::vars(.data$panel), scales = "free", strip.position = "bottom") +
    ggplot2::labs(x = NULL, y = NULL) +
    chart_theme() +
    ggplot2::theme(strip.placement = "outside", axis.text.y = ggplot2::element_text(size = 7))
  finished(plot, path, 8.6, max(2.6, 0.9 + 0.16 * (nrow(weights) + nrow(layers))))
}

#' Predicted values with their bands, and the data
#'
#' Values along one input. The line is the mean; the dark band the interval of the mean over the draws at
#' `prediction$level`, which widens where the network has seen nothing; the pale band that of a new
#' observation, where the model tells its noise.
#'
#' @inheritParams mc_plot_reliability
#' @param prediction (mc_prediction) Of values.
#' @param x (numeric vector) One number per input.
#' @param y (numeric vector or matrix) What was observed.
#' @param x_label,y_label (string) What the axes are called, with their units.
#' @return `mc_plot_band()`: (ggplot). `mc_band_table()`: (tibble) its numbers, one row per output and input,
#'   the inputs in order of x: `output`, `input`, `x`, `mean`, `lower`, `upper` (of the mean), `pred_lower`,
#'   `pred_upper` (of a new observation), `y`.
#' @export
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
    ggplot2::geom_line(ggplot2::aes(y = .data$mean), colour = dark, linewidth = 0.8) +
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
  finished(plot, path, max(5, 3 * n_outputs), 3.6)
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

#' Pictures of the data: how many of each label, and what they look like
#'
#' `mc_plot_balance()` shows how many inputs each label has; of more than 60 labels, the most frequent.
#' `mc_plot_images()` is a grid of images, each with its number, and its title where there are any.
#'
#' @inheritParams mc_plot_reliability
#' @param y (factor or vector) The label of each input.
#' @param labels (character vector) All labels that there are; by default those of `y`.
#' @param images (numeric array or mc_images) As for [mc_plot_probabilities()].
#' @param titles (factor or vector) One per image.
#' @param inputs (integer vector) Which images; by default the first 40.
#' @return The plots: (ggplot). `mc_balance_table()`: (tibble) `label`, `n`, `share`.
#' @export
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
  drawn$words <- sprintf(" %s (%.1f %%)", format(drawn$n, big.mark = ",", trim = TRUE), 100 * drawn$share)
  plot <- ggplot2::ggplot(drawn, ggplot2::aes(x = .data$n, y = .data$place)) +
    ggplot2::geom_col(orientation = "y", width = 0.75, fill = dark) +
    ggplot2::geom_text(ggplot2::aes(label = .data$words), hjust = 0, size = 8 / ggplot2::.pt) +
    ggplot2::scale_y_reverse(breaks = drawn$place, labels = shortened(drawn$label)) +
    ggplot2::scale_x_continuous(expand = ggplot2::expansion(c(0, 0.35))) +
    ggplot2::labs(x = paste0("inputs, of ", format(sum(table$n), big.mark = ",")), y = NULL) +
    chart_theme() +
    ggplot2::theme(panel.grid.major.y = ggplot2::element_blank())
  finished(plot, path, 4.6, 0.8 + 0.22 * nrow(drawn))
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
  words <- if (is.null(titles)) inputs else paste0(inputs, ": ", shortened(titles[inputs], 9))
  panels <- paste(seq_along(inputs)) # an image may be asked for twice
  data <- data.frame(panel = factor(panels, panels), input = inputs)
  plot <- ggplot2::ggplot(data) +
    ggplot2::geom_blank(ggplot2::aes(x = 0, y = 0)) +
    ggplot2::facet_wrap(
      ggplot2::vars(.data$panel), ncol = min(8, length(inputs)),
      labeller = ggplot2::as_labeller(stats::setNames(as.character(words), panels))
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
  finished(plot, path, 1.1 * min(8, length(inputs)), 1.4 * rows)
}

# A picture in the upper left of its own panel's unit square.
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
#' Loss and metric, epoch by epoch, of the training inputs and of those kept for validation.
#'
#' @inheritParams mc_plot_reliability
#' @param model (mc_model or data frame) What [mc_fit()] returned, or its `history`, which has the numbers.
#' @return (ggplot) The picture.
#' @export
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
    got <- paste(shown(class(model)[[1]]), "without a history")
    abort_must("model", "be trained by `mc_fit()`", got = got)
  }
  units <- c(loss = "loss", accuracy = "accuracy (share right)", rmse = "RMSE (unit of y)")
  known <- intersect(names(units), names(history))
  one <- function(name, inputs, column) {
    if (!is.null(history[[column]])) {
      data.frame(epoch = history$epoch, what = units[[name]], inputs = inputs, value = history[[column]])
    }
  }
  parts <- lapply(known, function(name) {
    rbind(one(name, "training", name), one(name, "validation", paste0("val_", name)))
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
    ggplot2::scale_colour_manual(values = c(dark, "black"), name = NULL) +
    ggplot2::scale_linetype_discrete(name = NULL) +
    ggplot2::scale_shape_discrete(name = NULL) +
    ggplot2::scale_x_continuous(breaks = function(limits) {
      breaks <- pretty(limits)
      breaks[breaks == round(breaks)]
    }) +
    ggplot2::labs(x = "epoch", y = NULL) +
    chart_theme() +
    ggplot2::theme(strip.placement = "outside")
  finished(plot, path, 3.4 * length(known) + 0.4, 3.2)
}

# how it is drawn ----

dark <- "steelblue4"
settled <- 0.05 # coverage from which on the axis has room for the risk: of the first few it may be anything

measure_units <- c(
  predictive_entropy = "predictive entropy (nats)", expected_entropy = "expected entropy (nats)",
  mutual_information = "mutual information (nats)", variation_ratio = "variation ratio (share of the draws)",
  least_confidence = "1 - confidence (probability)", smallest_margin = "1 - margin (probability)",
  std = "standard deviation", total_std = "standard deviation with noise"
)

chart_theme <- function() {
  ggplot2::theme_minimal(base_size = 10) +
    ggplot2::theme(
      panel.grid.minor = ggplot2::element_blank(), legend.position = "bottom",
      axis.title = ggplot2::element_text(size = 9)
    )
}

# A script would draw it once more, into Rplots.pdf.
finished <- function(plot, path, width, height, call = rlang::caller_env()) {
  if (is.null(path)) {
    return(plot)
  }
  path <- as_picture_path(path, call)
  ggplot2::ggsave(path, plot, width = width, height = height, dpi = 150, limitsize = FALSE, bg = "white")
  invisible(plot)
}

check_scores <- function(scores, call = rlang::caller_env()) {
  if (!inherits(scores, "mc_scores")) {
    abort_must("scores", "be what `mc_scores()` returns", got = shown(class(scores)[[1]]), call = call)
  }
}
