# Pictures of a prediction, as ggplot objects.

#' Class probabilities as bars, beside the images
#'
#' For some inputs, the mean probability of each class as a horizontal bar with the interval of the draws as
#' whiskers, and the image beside it. The bar of the predicted class is dark; a diamond marks the true one.
#'
#' @param prediction (mc_prediction) Of a classifier.
#' @param images (numeric array or mc_images) The images, as they were given to [mc_predict()]: all of them.
#' @param ... Not used; what follows is given by name.
#' @param inputs (integer vector) Which inputs; by default the 12 of the highest predictive entropy, that
#'   first.
#' @param truth (factor or vector) The true label of every input, if known.
#' @param path (string) Also writes the picture to this file, its format by the ending.
#' @return (ggplot) The picture.
#' @export
#' @examplesIf mc_python_available() && requireNamespace("ggplot2", quietly = TRUE)
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' net <- mc_fit(net, iris[1:4], iris$Species, epochs = 20, batch_size = 32, seed = 1)
#' pred <- mc_predict(net, iris[1:4], n_samples = 100, seed = 1)
#' mc_plot_probabilities(pred, inputs = c(1, 51, 71, 107), truth = iris$Species)
mc_plot_probabilities <- function(prediction, images = NULL, ..., inputs = NULL, truth = NULL, path = NULL) {
  rlang::check_dots_empty()
  rlang::check_installed("ggplot2", "to draw.")
  check_classes(prediction)
  inputs <- as_inputs(inputs, prediction)
  if (!is.null(truth)) {
    check_length(length(truth), "truth", nrow(prediction), "prediction")
  }
  pictures <- if (!is.null(images)) as_pictures(images, inputs, nrow(prediction))
  plot <- probability_plot(bars_table(prediction, inputs, truth), prediction$level, pictures)
  if (!is.null(path)) {
    columns <- n_columns(length(inputs))
    rows <- ceiling(length(inputs) / columns)
    ggplot2::ggsave(
      as_path(path), plot, width = 0.8 + 3.6 * columns, height = 0.6 + 2.2 * rows, dpi = 150,
      limitsize = FALSE
    )
  }
  plot
}

#' @rdname mc_prediction
#' @exportS3Method ggplot2::autoplot
autoplot.mc_prediction <- function(object, ...) {
  if (object$task == "classification") mc_plot_probabilities(object, ...) else values_plot(object)
}

#' @rdname mc_prediction
#' @export
plot.mc_prediction <- function(x, ...) {
  rlang::check_installed("ggplot2", "to draw.")
  print(autoplot.mc_prediction(x, ...))
  invisible(x)
}

# what is drawn ----

# One row per chosen input and label.
bars_table <- function(prediction, inputs, truth) {
  chosen <- prediction[inputs]
  labels <- as.character(prediction$labels)
  titles <- paste0(
    "input ", inputs, ": ", chosen$predicted,
    if (!is.null(truth)) paste0(", in truth ", truth[inputs]),
    "\nentropy ", number(chosen$predictive_entropy), " = ", number(chosen$expected_entropy), " aleatoric + ",
    number(chosen$mutual_information), " epistemic"
  )
  true <- if (is.null(truth)) rep(NA_character_, length(inputs)) else as.character(truth[inputs])
  each_label <- rep(labels, each = length(inputs))
  data.frame(
    panel = factor(rep(titles, length(labels)), titles),
    label = factor(each_label, rev(labels)), # the first label on top
    mean = as.vector(chosen$mean),
    lower = as.vector(chosen$lower),
    upper = as.vector(chosen$upper),
    predicted = each_label == rep(as.character(chosen$predicted), length(labels)),
    true = !is.na(true) & each_label == rep(true, length(labels))
  )
}

number <- function(x) {
  formatC(x, digits = 2, format = "f")
}

n_columns <- function(n) {
  min(n, 3)
}

# The picture stands right of the bars: from 1.1 to 2.1 where probabilities run from 0 to 1.
probability_plot <- function(bars, level, pictures) {
  n_labels <- nlevels(bars$label)
  plot <- ggplot2::ggplot(bars, ggplot2::aes(y = .data$label)) +
    ggplot2::geom_col(
      ggplot2::aes(x = .data$mean, fill = .data$predicted), width = 0.75, show.legend = FALSE
    ) +
    ggplot2::geom_errorbarh(ggplot2::aes(xmin = .data$lower, xmax = .data$upper), height = 0.4) +
    ggplot2::geom_point(ggplot2::aes(x = 1.04), data = bars[bars$true, ], shape = 18, size = 2.5) +
    ggplot2::scale_fill_manual(values = c(`FALSE` = "grey75", `TRUE` = "steelblue4")) +
    ggplot2::scale_x_continuous(breaks = c(0, 0.5, 1), limits = c(0, if (is.null(pictures)) 1.06 else 2.12)) +
    ggplot2::scale_y_discrete(drop = FALSE) +
    ggplot2::facet_wrap(ggplot2::vars(.data$panel), ncol = n_columns(nlevels(bars$panel))) +
    ggplot2::labs(x = bars_legend(level, any(bars$true)), y = NULL) +
    ggplot2::theme_minimal(base_size = 10) +
    ggplot2::theme(
      panel.grid.major.y = ggplot2::element_blank(), panel.grid.minor = ggplot2::element_blank(),
      strip.text = ggplot2::element_text(hjust = 0), axis.title.x = ggplot2::element_text(hjust = 0),
      aspect.ratio = if (is.null(pictures)) 0.6 else 0.5
    )
  for (i in seq_along(pictures)) {
    plot <- plot + picture_layer(pictures[[i]], levels(bars$panel)[[i]], levels(bars$panel), n_labels)
  }
  plot
}

bars_legend <- function(level, with_truth) {
  paste0(
    "class probability: mean and ", format(100 * level), " % interval of the draws; dark: predicted",
    if (with_truth) "; diamond: true"
  )
}

# A picture in one panel alone, as large as fits into a square: annotation_raster() would repeat it in every
# panel.
picture_layer <- function(picture, panel, panels, n_labels) {
  sides <- dim(picture) / max(dim(picture)) # height, width
  middle <- (n_labels + 1) / 2
  ggplot2::layer(
    data = data.frame(panel = factor(panel, panels)),
    stat = ggplot2::StatIdentity, position = ggplot2::PositionIdentity, geom = ggplot2::GeomRasterAnn,
    inherit.aes = FALSE,
    params = list(
      raster = picture, interpolate = FALSE,
      xmin = 1.6 - sides[[2]] / 2, xmax = 1.6 + sides[[2]] / 2,
      ymin = middle - sides[[1]] * n_labels / 2, ymax = middle + sides[[1]] * n_labels / 2
    )
  )
}

# The chosen images as rasters, height x width of colours. Pixels in [0, 1], or scaled to it over all that are
# shown.
as_pictures <- function(images, inputs, n) {
  pixels <- as_pixels(images, inputs, n)
  range <- range(pixels)
  if (range[[1]] < 0 || range[[2]] > 1) {
    pixels <- (pixels - range[[1]]) / max(diff(range), .Machine$double.eps)
  }
  channels <- if (dim(pixels)[[4]] == 1) 1 else 1:3
  lapply(seq_along(inputs), function(i) {
    grDevices::as.raster(array(along(pixels, 1, i), dim(pixels)[-1])[, , channels])
  })
}

as_pixels <- function(images, inputs, n) {
  if (!length(dim(images)) %in% 3:4 || !dim(images)[[1]] == n) {
    abort_must(
      "images", paste("be the", n, "images that were predicted, input x height x width x channel"),
      got = if (is.null(dim(images))) shown(images) else paste(dim(images), collapse = " x "),
      call = rlang::caller_env(2)
    )
  }
  if (inherits(images, "mc_images")) {
    files <- as_image_files(images[inputs])
    return(from_python(with_core(files$take(to_python(as.array(seq_along(inputs) - 1L))))))
  }
  chosen <- along(images, 1, inputs)
  if (length(dim(chosen)) == 3) {
    dim(chosen) <- c(dim(chosen), 1)
  }
  chosen
}

# Values: the mean of each input with the interval of the network's mean and, paler, that of a new
# observation.
values_plot <- function(prediction) {
  rlang::check_installed("ggplot2", "to draw.")
  points <- tidy.mc_prediction(prediction)
  plot <- ggplot2::ggplot(points, ggplot2::aes(x = .data$.input, y = .data$.pred))
  if (!is.null(prediction$pred_int)) {
    points$low <- as.vector(prediction$pred_lower)
    points$high <- as.vector(prediction$pred_upper)
    with_noise <- ggplot2::aes(ymin = .data$low, ymax = .data$high)
    plot <- plot + ggplot2::geom_linerange(with_noise, points, colour = "grey75")
  }
  plot +
    ggplot2::geom_linerange(ggplot2::aes(ymin = .data$.pred_lower, ymax = .data$.pred_upper)) +
    ggplot2::geom_point(size = 0.8) +
    ggplot2::facet_wrap(ggplot2::vars(.data$.output), scales = "free_y") +
    ggplot2::labs(x = "input", y = paste0("mean and ", format(100 * prediction$level), " % intervals")) +
    ggplot2::theme_minimal(base_size = 10)
}

# checks ----

check_classes <- function(prediction, call = rlang::caller_env()) {
  if (!inherits(prediction, "mc_prediction") || prediction$task != "classification") {
    abort_mc("`prediction` must be an mc_prediction of a classifier.", call = call)
  }
}

# Positions among the inputs, the least sure by default.
as_inputs <- function(inputs, prediction, call = rlang::caller_env()) {
  if (is.null(inputs)) {
    return(utils::head(order(-prediction$predictive_entropy), 12))
  }
  right <- is.numeric(inputs) && length(inputs) > 0 && all(inputs %in% seq_len(nrow(prediction)))
  if (!right) {
    abort_must("inputs", paste("be numbers from 1 to", nrow(prediction)), inputs, call = call)
  }
  as.integer(inputs)
}
