# Pictures of a prediction as ggplot objects, in the same style as in Python.

#' Class probabilities as bars, beside the images
#'
#' For each input, the mean probability of each class is a horizontal bar with the interval of the draws as
#' whiskers. The image is beside the bars. The bar of the predicted class is dark. The true class is bold and
#' has a diamond. If there are more than ten classes, the ten most probable classes are drawn.
#'
#' @param prediction (mc_prediction) A prediction of classes.
#' @param images (numeric array or mc_images) All images of the call of [mc_predict()], in the same order.
#' @param ... Not used. The arguments after it are given by name.
#' @param inputs (integer vector) The inputs to draw. By default the 12 inputs with the highest predictive
#'   entropy, the highest first.
#' @param truth (factor or vector) The true label of every input, if known.
#' @param path (string) A file to which the picture is written as well. Its ending determines the format.
#' @return (ggplot) The picture; its `data` has the numbers.
#' @export
#' @family plots
#' @examplesIf mc_python_available() && requireNamespace("ggplot2", quietly = TRUE)
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' net <- mc_fit(net, iris[1:4], iris$Species, epochs = 20, batch_size = 32, seed = 1)
#' pred <- mc_predict(net, iris[1:4], n_samples = 100, seed = 1)
#' mc_plot_probabilities(pred, inputs = c(1, 51, 71, 107), truth = iris$Species)
mc_plot_probabilities <- function(prediction, images = NULL, ..., inputs = NULL, truth = NULL, path = NULL) {
  rlang::check_dots_empty()
  check_ggplot2()
  check_classes(prediction)
  inputs <- if (is.null(inputs)) most_uncertain(prediction) else as_inputs(inputs, nrow(prediction))
  truth <- if_given(truth, as_truth, prediction = prediction)
  pictures <- if (!is.null(images)) as_pictures(images, inputs, nrow(prediction))
  table <- mc_probabilities_table(prediction, inputs)
  more <- list(table = table, prediction = prediction, truth = truth)
  bars <- do.call(rbind, Map(panel_bars, inputs, input_names(prediction, inputs, 20), MoreArgs = more))
  bars$panel <- factor(bars$panel, unique(bars$panel))
  plot <- probability_plot(bars, pictures, bars_caption(prediction, !is.null(truth)))
  columns <- n_columns(length(inputs))
  height <- 0.5 + (0.6 + panel_height(bars, pictures)) * ceiling(length(inputs) / columns)
  save_picture(plot, path, 0.3 + panel_width * columns, height)
}

#' The numbers of the picture of class probabilities
#'
#' Gives the numbers that [mc_plot_probabilities()] draws, one row per chosen input and label.
#'
#' @inheritParams mc_plot_probabilities
#' @return (tibble) `input` (its position), `id` (if the prediction has ids), `label` (factor), `mean`,
#'   `lower`, `upper`: the class probability and the interval of its draws. Inputs are in the chosen order,
#'   labels in the order of the model.
#' @export
#' @family plots
#' @examplesIf mc_python_available()
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' mc_probabilities_table(mc_predict(net, iris[1:4], seed = 1), inputs = 1:2)
mc_probabilities_table <- function(prediction, inputs = NULL) {
  check_classes(prediction)
  chosen <- if (is.null(inputs)) most_uncertain(prediction) else as_inputs(inputs, nrow(prediction))
  labels <- as.character(prediction$labels)
  in_rows <- function(value) as.vector(t(value[chosen, , drop = FALSE]))
  columns <- list(
    input = rep(chosen, each = length(labels)),
    id = if (!is.null(prediction$ids)) rep(prediction$ids[chosen], each = length(labels)),
    label = factor(rep(labels, length(chosen)), labels),
    mean = in_rows(prediction$mean),
    lower = in_rows(prediction$lower),
    upper = in_rows(prediction$upper)
  )
  tibble::as_tibble(columns[!vapply(columns, is.null, logical(1))])
}

#' @rdname mc_prediction
#' @exportS3Method ggplot2::autoplot
autoplot.mc_prediction <- function(object, ...) {
  if (object$task == "classification") mc_plot_probabilities(object, ...) else values_plot(object)
}

#' @rdname mc_prediction
#' @export
plot.mc_prediction <- function(x, ...) {
  check_ggplot2()
  print(autoplot.mc_prediction(x, ...))
  invisible(x)
}

# what is drawn ----

max_bars <- 10 # more bars are hard to tell apart

min_second_probability <- 0.05 # smallest probability of a second label in the title, as in "second Coat"

# The bars of one input, from top to bottom. If labels are left out, a last row without a mean stands for
# them.
panel_bars <- function(input, name, table, prediction, truth) {
  single <- prediction[input]
  # the table has the rows of an input twice if the input is chosen twice
  rows <- table[table$input == input, ][seq_along(single$labels), ]
  labels <- as.character(rows$label)
  true <- if (is.null(truth)) "" else truth[[input]]
  bars <- data.frame(
    panel = panel_title(name, single, true),
    label = labels, text = shorten_labels(labels),
    mean = rows$mean, lower = rows$lower, upper = rows$upper,
    predicted = labels == as.character(single$predicted),
    true = labels == true,
    note = ""
  )
  if (length(labels) > max_bars) {
    bars <- add_others_row(bars[order(-bars$mean), ])
  }
  bars$place <- seq_len(nrow(bars))
  bars
}

# Keeps the most probable bars, and adds a row for the labels that are left out.
add_others_row <- function(bars) {
  left_out <- utils::tail(bars, -max_bars)
  name <- count_of(nrow(left_out), "other")
  others <- data.frame(
    panel = left_out$panel[[1]], label = name, text = name,
    mean = NA_real_, lower = NA_real_, upper = NA_real_, predicted = FALSE, true = FALSE,
    note = paste(two_decimals(sum(left_out$mean)), "together")
  )
  rbind(utils::head(bars, max_bars), others)
}

# The title of the panel of one input. The uncertainty is not written as a sum, because rounded parts need not
# add up to the rounded total.
panel_title <- function(name, prediction, true) {
  short <- function(label) shorten_labels(label, among = prediction$labels)
  second <- max(prediction$mean[, as.integer(prediction$second)])
  paste0(
    short(prediction$predicted), " ", two_decimals(prediction$confidence),
    if (second >= min_second_probability) paste0(", second ", short(prediction$second)),
    "\n", name, if (nzchar(true)) paste0(", true label ", short(true)),
    "\nentropy ", two_decimals(prediction$predictive_entropy), " nats: ",
    two_decimals(prediction$expected_entropy), " aleatoric, ",
    two_decimals(prediction$mutual_information), " epistemic"
  )
}

# The names of the chosen inputs in pictures.
input_names <- function(prediction, inputs, max_chars) {
  ids <- prediction$ids
  if (is.null(ids)) paste("input", inputs) else paste("id", shorten_labels(ids[inputs], max_chars))
}

bars_caption <- function(prediction, with_truth) {
  paste0(
    "Bars: mean probability of each label over ", describe_draws(prediction), "; whiskers: their ",
    format(100 * prediction$level), " % interval. Dark: predicted.",
    if (with_truth) "\nBold, with a diamond: the true label."
  )
}

# A number with two decimals.
two_decimals <- function(x) {
  formatC(x, digits = 2, format = "f")
}

# Labels in one line each. Labels of more than `max_chars` characters lose their middle. Different labels stay
# different; `among` are all labels.
shorten_labels <- function(label, max_chars = 14, among = label) {
  in_one_line <- function(x) gsub("\\s+", " ", as.character(x))
  long <- unique(in_one_line(among))
  short <- cut_middle(long, max_chars)
  for (by_word in c(TRUE, FALSE)) {
    for (alike in split(seq_along(long), short)) {
      if (length(alike) > 1) short[alike] <- cut_middle(differing_parts(long[alike], by_word), max_chars)
    }
  }
  alike <- which(duplicated(short) | duplicated(short, fromLast = TRUE))
  if (length(alike) > 0) {
    numbers <- paste0(" #", alike)
    short[alike] <- paste0(cut_middle(long[alike], max_chars - nchar(numbers)), numbers)
  }
  short[match(in_one_line(label), long)]
}

cut_middle <- function(text, max_chars) {
  kept <- pmax(max_chars, 1) - 1
  head <- trimws(substr(text, 1, ceiling(kept / 2)), "right")
  tail <- trimws(substr(text, nchar(text) - kept %/% 2 + 1, nchar(text)), "left")
  ifelse(nchar(text) > max_chars, paste0(head, "\u2026", tail), text)
}

# Texts without their common beginning and end, by whole words or by letters.
differing_parts <- function(texts, by_word) {
  letters <- strsplit(texts, "")
  shared <- function(letters) {
    first <- seq_len(min(lengths(letters)))
    same <- Reduce(`&`, lapply(letters[-1], function(other) other[first] == letters[[1]][first]))
    n <- sum(cumprod(same))
    if (by_word) max(0, which(letters[[1]][seq_len(n)] == " ")) else n
  }
  from <- shared(letters)
  to <- min(shared(lapply(letters, rev)), min(lengths(letters)) - from)
  paste0(
    if (from > 0) "\u2026", substr(texts, from + 1, nchar(texts) - to), if (to > 0) "\u2026"
  )
}

# where it is drawn ----

# Positions across a panel, in units of probability: the picture, the labels, the bars from 0 to 1, the
# diamond.
picture_left <- -2

picture_right <- -0.95

diamond_at <- 1.06

bars_right <- 1.12

panel_width <- 3.6 # inches

# Height of a panel in inches. The picture becomes a square, and the bars have enough room.
panel_height <- function(bars, pictures) {
  max(if (!is.null(pictures)) 1.25, 0.15 * max(bars$place))
}

n_columns <- function(n) {
  min(n, 3)
}

probability_plot <- function(bars, pictures, caption) {
  n_bars <- max(bars$place)
  left <- if (is.null(pictures)) picture_right else picture_left
  plot <- ggplot2::ggplot(bars, ggplot2::aes(y = .data$place)) +
    ggplot2::geom_vline(xintercept = c(0, 0.5, 1), colour = "grey88", linewidth = 0.3) +
    bar_layers(bars) +
    ggplot2::facet_wrap(ggplot2::vars(.data$panel), ncol = n_columns(nlevels(bars$panel))) +
    ggplot2::scale_fill_manual(values = c(`FALSE` = "grey75", `TRUE` = "steelblue4"), guide = "none") +
    ggplot2::scale_x_continuous(breaks = c(0, 0.5, 1), labels = c("0", "0.5", "1")) +
    ggplot2::scale_y_reverse() +
    ggplot2::coord_cartesian(xlim = c(left, bars_right), ylim = c(n_bars + 0.5, 0.5), expand = FALSE) +
    ggplot2::labs(x = "probability", y = NULL, caption = caption) +
    probability_theme(panel_height(bars, pictures) / panel_width)
  # the width of the picture, in bars
  side <- (picture_right - picture_left) / (bars_right - picture_left) * n_bars * panel_width /
    panel_height(bars, pictures)
  for (i in seq_along(pictures)) {
    plot <- plot + picture_layer(pictures[[i]], levels(bars$panel)[[i]], levels(bars$panel), side)
  }
  plot
}

bar_layers <- function(bars) {
  drawn <- bars[!is.na(bars$mean), ]
  text_size <- 8 / ggplot2::.pt
  face <- ifelse(bars$true, "bold", "plain")
  list(
    ggplot2::geom_rect(
      ggplot2::aes(
        xmin = 0, xmax = .data$mean, ymin = .data$place - 0.375, ymax = .data$place + 0.375,
        fill = .data$predicted
      ), drawn
    ),
    # a white line behind each whisker makes it visible on a dark bar
    ggplot2::geom_segment(
      ggplot2::aes(x = .data$lower, xend = .data$upper, yend = .data$place), drawn,
      colour = "white", linewidth = 1
    ),
    ggplot2::geom_errorbarh(
      ggplot2::aes(xmin = .data$lower, xmax = .data$upper), drawn, height = 0.5, linewidth = 0.4
    ),
    ggplot2::geom_point(ggplot2::aes(x = diamond_at), bars[bars$true, ], shape = 18, size = 2.5),
    ggplot2::geom_text(
      ggplot2::aes(x = -0.04, label = .data$text), hjust = 1, size = text_size, fontface = face
    ),
    ggplot2::geom_text(ggplot2::aes(x = 0.02, label = .data$note), hjust = 0, size = text_size)
  )
}

probability_theme <- function(aspect_ratio) {
  ggplot2::theme_minimal(base_size = 10) +
    ggplot2::theme(
      panel.grid = ggplot2::element_blank(), axis.text.y = ggplot2::element_blank(),
      axis.title.x = ggplot2::element_text(hjust = 0.85, size = 8),
      strip.text = ggplot2::element_text(hjust = 0, size = 8.5),
      plot.caption = ggplot2::element_text(hjust = 0), aspect.ratio = aspect_ratio
    )
}

# A picture in a single panel, fitted into a square of the height of `side` bars. annotation_raster() would
# repeat it in every panel.
picture_layer <- function(picture, panel, panels, side) {
  sides <- dim(picture) / max(dim(picture)) # height, width
  ggplot2::layer(
    data = data.frame(panel = factor(panel, panels)),
    stat = ggplot2::StatIdentity, position = ggplot2::PositionIdentity, geom = ggplot2::GeomRasterAnn,
    inherit.aes = FALSE,
    params = list(
      raster = picture, interpolate = FALSE,
      xmin = picture_left, xmax = picture_left + sides[[2]] * (picture_right - picture_left),
      # the axis is reversed, so its numbers are negative here
      ymin = -0.5 - sides[[1]] * side, ymax = -0.5
    )
  )
}

check_classes <- function(prediction, call = rlang::caller_env()) {
  if (!inherits(prediction, "mc_prediction")) {
    got <- show_value(class(prediction)[[1]])
    abort_must("prediction", "be what `mc_predict()` returns", got = got, call = call)
  }
  if (prediction$task != "classification") {
    abort_must("prediction", "be of classes to have class probabilities", got = "one of values", call = call)
  }
  if (nrow(prediction) == 0) {
    abort_must("prediction", "have at least one input", got = "none", call = call)
  }
  check_finite(prediction$mean, "prediction", "NaN or infinity", call = call)
}

# Positions of the 12 inputs with the highest entropy, the highest first.
most_uncertain <- function(prediction) {
  utils::head(order(-prediction$predictive_entropy), 12)
}
