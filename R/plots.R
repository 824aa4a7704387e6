# Pictures of a prediction, as ggplot objects: the same look as Python's.

#' Class probabilities as bars, beside the images
#'
#' For some inputs, the mean probability of each class as a horizontal bar with the interval of the draws as
#' whiskers, and the image beside it. The bar of the predicted class is dark; the true one is bold, with a
#' diamond. Of more than ten classes, the ten most probable are drawn.
#'
#' @param prediction (mc_prediction) Of a classifier.
#' @param images (numeric array or mc_images) The images, as they were given to [mc_predict()]: all of them.
#' @param ... Not used; what follows is given by name.
#' @param inputs (integer vector) Which inputs; by default the 12 of the highest predictive entropy, that
#'   first.
#' @param truth (factor or vector) The true label of every input, if known.
#' @param path (string) Also writes the picture to this file, its format by the ending.
#' @return (ggplot) The picture; its `data` has the numbers.
#' @export
#' @examplesIf mc_python_available() && requireNamespace("ggplot2", quietly = TRUE)
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' net <- mc_fit(net, iris[1:4], iris$Species, epochs = 20, batch_size = 32, seed = 1)
#' pred <- mc_predict(net, iris[1:4], n_samples = 100, seed = 1)
#' mc_plot_probabilities(pred, inputs = c(1, 51, 71, 107), truth = iris$Species)
mc_plot_probabilities <- function(prediction, images = NULL, ..., inputs = NULL, truth = NULL, path = NULL) {
  rlang::check_dots_empty()
  check_ggplot2()
  check_classes(prediction)
  inputs <- if (is.null(inputs)) least_sure(prediction) else as_inputs(inputs, nrow(prediction))
  truth <- if_given(truth, as_truth, prediction = prediction)
  pictures <- if (!is.null(images)) as_pictures(images, inputs, nrow(prediction))
  table <- mc_probabilities_table(prediction, inputs)
  more <- list(table = table, prediction = prediction, truth = truth)
  bars <- do.call(rbind, Map(panel_bars, inputs, input_names(prediction, inputs, 20), MoreArgs = more))
  bars$panel <- factor(bars$panel, unique(bars$panel))
  plot <- probability_plot(bars, pictures, bars_caption(prediction, !is.null(truth)))
  if (!is.null(path)) {
    columns <- n_columns(length(inputs))
    height <- 0.5 + (0.6 + panel_height(bars, pictures)) * ceiling(length(inputs) / columns)
    ggplot2::ggsave(
      as_picture_path(path), plot, width = 0.3 + panel_width * columns, height = height, dpi = 150,
      limitsize = FALSE, bg = "white"
    )
    return(invisible(plot)) # a script would draw it once more, into Rplots.pdf
  }
  plot
}

#' The numbers of the picture
#'
#' What [mc_plot_probabilities()] draws, one row per chosen input and label.
#'
#' @inheritParams mc_plot_probabilities
#' @return (tibble) `input` (its position), `id` (where the prediction has ids), `label` (factor), `mean`,
#'   `lower`, `upper`: the class probability and the interval of its draws. Inputs in the order chosen, labels
#'   in the model's.
#' @export
#' @examplesIf mc_python_available()
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' mc_probabilities_table(mc_predict(net, iris[1:4], seed = 1), inputs = 1:2)
mc_probabilities_table <- function(prediction, inputs = NULL) {
  check_classes(prediction)
  chosen <- if (is.null(inputs)) least_sure(prediction) else as_inputs(inputs, nrow(prediction))
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

most_bars <- 10 # more are hard to tell apart at a glance
worth_naming <- 0.05 # "perhaps Coat": from one chance in twenty on

# The bars of one input, from top to bottom; a last one without a mean stands for the labels that are left
# out.
panel_bars <- function(input, name, table, prediction, truth) {
  one <- prediction[input]
  own <- table[table$input == input, ][seq_along(one$labels), ] # once, should the input be asked for twice
  labels <- as.character(own$label)
  true <- if (is.null(truth)) "" else truth[[input]]
  bars <- data.frame(
    panel = panel_title(name, one, true),
    label = labels, shown = shortened(labels),
    mean = own$mean, lower = own$lower, upper = own$upper,
    predicted = labels == as.character(one$predicted),
    true = labels == true,
    note = ""
  )
  if (length(labels) > most_bars) {
    bars <- with_others(bars[order(-bars$mean), ])
  }
  bars$place <- seq_len(nrow(bars))
  bars
}

with_others <- function(bars) {
  left <- utils::tail(bars, -most_bars)
  others <- data.frame(
    panel = left$panel[[1]], label = counted(nrow(left), "other"), shown = counted(nrow(left), "other"),
    mean = NA_real_, lower = NA_real_, upper = NA_real_, predicted = FALSE, true = FALSE,
    note = paste(number(sum(left$mean)), "together")
  )
  rbind(utils::head(bars, most_bars), others)
}

# Uncertainty not as a sum: rounded parts need not add up to the rounded total.
panel_title <- function(name, one, true) {
  short <- function(label) shortened(label, among = one$labels)
  second <- max(one$mean[, as.integer(one$second)])
  paste0(
    short(one$predicted), " ", number(one$confidence),
    if (second >= worth_naming) paste0(", perhaps ", short(one$second)),
    "\n", name, if (nzchar(true)) paste0(", in truth ", short(true)),
    "\nentropy ", number(one$predictive_entropy), " nats: ", number(one$expected_entropy), " aleatoric, ",
    number(one$mutual_information), " epistemic"
  )
}

# What pictures call the chosen inputs.
input_names <- function(prediction, inputs, most) {
  ids <- prediction$ids
  if (is.null(ids)) paste("input", inputs) else paste("id", shortened(ids[inputs], most))
}

bars_caption <- function(prediction, with_truth) {
  paste0(
    "Bars: mean probability of each label over ", describe_draws(prediction), "; whiskers: their ",
    format(100 * prediction$level), " % interval. Dark: predicted.",
    if (with_truth) "\nBold, with a diamond: in truth."
  )
}

number <- function(x) {
  formatC(x, digits = 2, format = "f")
}

# Labels in one line each, those without their middle that are wider than there is room for. Different ones
# stay different: `among` are all that there are.
shortened <- function(label, most = 14, among = label) {
  in_one_line <- function(x) gsub("\\s+", " ", as.character(x))
  long <- unique(in_one_line(among))
  short <- without_middle(long, most)
  for (by_word in c(TRUE, FALSE)) {
    for (alike in split(seq_along(long), short)) {
      if (length(alike) > 1) short[alike] <- without_middle(what_differs(long[alike], by_word), most)
    }
  }
  alike <- which(duplicated(short) | duplicated(short, fromLast = TRUE))
  if (length(alike) > 0) {
    numbers <- paste0(" #", alike)
    short[alike] <- paste0(without_middle(long[alike], most - nchar(numbers)), numbers)
  }
  short[match(in_one_line(label), long)]
}

without_middle <- function(text, most) {
  kept <- pmax(most, 1) - 1
  head <- trimws(substr(text, 1, ceiling(kept / 2)), "right")
  tail <- trimws(substr(text, nchar(text) - kept %/% 2 + 1, nchar(text)), "left")
  ifelse(nchar(text) > most, paste0(head, "\u2026", tail), text)
}

# Texts without what all of them begin and end with; by whole words, or to the letter.
what_differs <- function(texts, by_word) {
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

# Across a panel, in units of probability: the picture, the labels, the bars from 0 to 1, the diamond.
picture_left <- -2
picture_right <- -0.95
diamond_at <- 1.06
bars_right <- 1.12
panel_width <- 3.6 # inches

# In inches, so that the picture is a square and the bars have room.
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
  # how many bars are as high as the picture is wide
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
    # a white line below, so that a whisker shows on a dark bar
    ggplot2::geom_segment(
      ggplot2::aes(x = .data$lower, xend = .data$upper, yend = .data$place), drawn,
      colour = "white", linewidth = 1
    ),
    ggplot2::geom_errorbarh(
      ggplot2::aes(xmin = .data$lower, xmax = .data$upper), drawn, height = 0.5, linewidth = 0.4
    ),
    ggplot2::geom_point(ggplot2::aes(x = diamond_at), bars[bars$true, ], shape = 18, size = 2.5),
    ggplot2::geom_text(
      ggplot2::aes(x = -0.04, label = .data$shown), hjust = 1, size = text_size, fontface = face
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

# A picture in one panel alone, fitted into a square that is `side` bars high: annotation_raster() would
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
      # the axis is turned over, so its numbers are negative here
      ymin = -0.5 - sides[[1]] * side, ymax = -0.5
    )
  )
}

# Values: the mean of each input with the interval of the network's mean and, paler, that of a new
# observation.
values_plot <- function(prediction) {
  check_ggplot2()
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

# what comes in ----

check_ggplot2 <- function() {
  rlang::check_installed("ggplot2", "to draw.", version = "3.4.0")
}

# Of a kind that ggplot2 writes, and in a folder that exists.
as_picture_path <- function(path, call = rlang::caller_env()) {
  path <- as_path(path, "path", call)
  kinds <- c("bmp", "eps", "jpeg", "jpg", "pdf", "png", "ps", "svg", "tex", "tiff")
  if (!tolower(tools::file_ext(path)) %in% kinds) {
    abort_must("path", paste0("end in one of .", paste(kinds, collapse = ", .")), path, call = call)
  }
  if (!dir.exists(dirname(path))) {
    abort_must("path", "be in a folder that exists", path, call = call)
  }
  path
}

check_classes <- function(prediction, call = rlang::caller_env()) {
  if (!inherits(prediction, "mc_prediction")) {
    got <- shown(class(prediction)[[1]])
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

check_finite <- function(x, name, what, end = "", call = rlang::caller_env()) {
  strange <- which(!is.finite(x))
  if (length(strange) > 0) {
    input <- min((strange - 1) %% (dim(x) %||% length(x))[[1]] + 1)
    got <- paste0(what, " in input number ", input, end)
    abort_must(name, "hold finite numbers only", got = got, call = call)
  }
}

# Positions of the inputs of the highest entropy, that first.
least_sure <- function(prediction) {
  utils::head(order(-prediction$predictive_entropy), 12)
}

# Positions among `n` inputs.
as_inputs <- function(inputs, n, call = rlang::caller_env()) {
  if (length(inputs) == 0) {
    abort_must("inputs", "name at least one input", got = "none", call = call)
  }
  wrong <- if (is.numeric(inputs)) inputs[!inputs %in% seq_len(n)] else inputs
  if (length(wrong) > 0) {
    abort_must("inputs", paste("be positions from 1 to", n), wrong[[1]], call = call)
  }
  as.integer(inputs)
}

# The true label of every input, as text.
as_truth <- function(truth, name, prediction, call = rlang::caller_env()) {
  check_length(length(truth), name, nrow(prediction), "prediction", call)
  truth <- as.character(truth)
  if (anyNA(truth)) {
    got <- paste("none at input number", which(is.na(truth))[[1]])
    abort_must(name, "have a label for every input", got = got, call = call)
  }
  wrong <- which(!truth %in% as.character(prediction$labels))
  if (length(wrong) > 0) {
    words <- paste(vapply(as.list(prediction$labels), shown, character(1)), collapse = ", ")
    got <- paste(shown(truth[[wrong[[1]]]]), "at input number", wrong[[1]])
    abort_must(name, paste("hold labels out of", words), got = got, call = call)
  }
  truth
}

# The chosen images as rasters, height x width of colours. Pixels in [0, 1], or scaled to it over all shown.
as_pictures <- function(images, inputs, n, call = rlang::caller_env()) {
  pixels <- as_pixels(images, inputs, n, call)
  range <- range(pixels)
  if (range[[1]] < 0 || range[[2]] > 1) {
    pixels <- (pixels - range[[1]]) / max(diff(range), .Machine$double.eps)
  }
  lapply(seq_along(inputs), function(i) {
    picture <- array(along(pixels, 1, i), dim(pixels)[-1])
    grDevices::as.raster(if (dim(picture)[[3]] == 1) picture[, , 1] else picture)
  })
}

as_pixels <- function(images, inputs, n, call) {
  sizes <- dim(images)
  if (!length(sizes) %in% 3:4 || length(sizes) == 4 && !sizes[[4]] %in% c(1, 3, 4)) {
    got <- if (is.null(sizes)) shown(images) else paste0("(", paste(sizes, collapse = ", "), ")")
    shapes <- "have shape (input, height, width) or (input, height, width, channel) with 1, 3 or 4 channels"
    abort_must("images", shapes, got = got, call = call)
  }
  if (!is.null(n)) {
    check_length(sizes[[1]], "images", n, "prediction", call)
  }
  if (inherits(images, "mc_images")) {
    files <- as_image_files(images[inputs], call)
    return(from_python(with_core(files$take(as.array(seq_along(inputs) - 1L)), call)))
  }
  check_finite(images, "images", "NaN", paste(" of", sizes[[1]]), call)
  chosen <- along(images, 1, inputs)
  if (length(sizes) == 3) {
    dim(chosen) <- c(dim(chosen), 1)
  }
  chosen
}

# drift, and how draws settle ----

#' What a drift monitor saw
#'
#' From top to bottom, over the inputs seen: the evidence of the sequential test, with the line that makes an
#' alarm; the mean of the measure, with that of the reference; the population stability index, with what it
#' reaches by chance. Where there was an alarm, a solid line marks it and a dotted one where the change began.
#' Its numbers are `monitor$batches`.
#'
#' @param monitor (mc_monitor) That has seen at least one batch.
#' @param ... Not used; what follows is given by name.
#' @param path (string) Also writes the picture to this file, its format by the ending.
#' @return (ggplot) The picture.
#' @export
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
    abort_must("monitor", "be what `mc_monitor()` returns", got = shown(class(monitor)[[1]]))
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
    ggplot2::geom_line(colour = "steelblue4") +
    ggplot2::geom_point(colour = "steelblue4", size = 1.4) +
    ggplot2::facet_wrap(ggplot2::vars(.data$panel), ncol = 1, scales = "free_y") +
    ggplot2::expand_limits(x = 0) +
    ggplot2::labs(x = "inputs seen", y = NULL, title = title) +
    settling_theme()
  saved_plot(plot, path, 7.2, 6)
}

#' How draws settle
#'
#' Above each measure, its mean over the inputs; below its Monte Carlo error for one input, with the
#' tolerance. The number of draws is on a logarithmic scale. Its numbers are `convergence$table`.
#'
#' @inheritParams mc_plot_drift
#' @param convergence (mc_convergence) What [mc_convergence()] returned.
#' @return (ggplot) The picture.
#' @export
#' @examplesIf mc_python_available() && requireNamespace("ggplot2", quietly = TRUE)
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' mc_plot_convergence(mc_convergence(net, iris[1:4], seed = 1))
mc_plot_convergence <- function(convergence, ..., path = NULL) {
  rlang::check_dots_empty()
  check_ggplot2()
  if (!inherits(convergence, "mc_convergence")) {
    abort_must("convergence", "be what `mc_convergence()` returns", got = shown(class(convergence)[[1]]))
  }
  own <- convergence$table
  measures <- unique(own$measure)
  units <- vapply(measures, unit_of, character(1), classes = "mutual_information" %in% measures)
  titles <- paste0(gsub("_", " ", measures), "\n(", units, ")")
  kinds <- c("mean over the inputs", "Monte Carlo error")
  table <- data.frame(
    n_samples = rep(own$n_samples, 2),
    measure = factor(rep(titles[match(own$measure, measures)], 2), titles),
    kind = factor(rep(kinds, each = nrow(own)), kinds),
    value = c(own$value, own$mcse)
  )
  panels <- outer(titles, kinds, function(title, kind) paste0(title, "\n", kind))
  table$panel <- factor(paste0(table$measure, "\n", table$kind), as.vector(panels))
  plot <- ggplot2::ggplot(table, ggplot2::aes(x = .data$n_samples, y = .data$value))
  caption <- NULL
  zero <- data.frame(
    panel = factor(panels[, 2], levels(table$panel)), n_samples = own$n_samples[[1]], value = 0
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
    ggplot2::geom_line(colour = "steelblue4") +
    ggplot2::geom_point(colour = "steelblue4", size = 1.4) +
    ggplot2::facet_wrap(ggplot2::vars(.data$panel), nrow = 2, scales = "free_y") +
    ggplot2::scale_x_log10(breaks = convergence$n_samples) +
    ggplot2::labs(x = "number of draws", y = NULL, caption = caption) +
    settling_theme()
  saved_plot(plot, path, 1 + 2.3 * length(measures), 4.6)
}

#' @exportS3Method ggplot2::autoplot
autoplot.mc_monitor <- function(object, ...) {
  mc_plot_drift(object, ...)
}

#' @exportS3Method ggplot2::autoplot
autoplot.mc_convergence <- function(object, ...) {
  mc_plot_convergence(object, ...)
}

unit_of <- function(measure, classes) {
  known <- c(
    predictive_entropy = "nats", expected_entropy = "nats", mutual_information = "nats",
    variation_ratio = "share of draws"
  )
  if (measure %in% names(known)) known[[measure]] else if (classes) "probability" else "units of the values"
}

settling_theme <- function() {
  ggplot2::theme_minimal(base_size = 10) +
    ggplot2::theme(
      panel.grid.minor = ggplot2::element_blank(), strip.text = ggplot2::element_text(hjust = 0, size = 8.5),
      plot.title = ggplot2::element_text(size = 10, face = "bold"),
      plot.caption = ggplot2::element_text(hjust = 0)
    )
}

# Drawn on a screen by printing it, or into a file.
saved_plot <- function(plot, path, width, height) {
  if (is.null(path)) {
    return(plot)
  }
  ggplot2::ggsave(as_picture_path(path), plot, width = width, height = height, dpi = 150, bg = "white")
  invisible(plot)
}
