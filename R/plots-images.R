# Checks positions among `n` inputs.
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
    words <- paste(vapply(as.list(prediction$labels), show_value, character(1)), collapse = ", ")
    got <- paste(show_value(truth[[wrong[[1]]]]), "at input number", wrong[[1]])
    abort_must(name, paste("hold labels out of", words), got = got, call = call)
  }
  truth
}

# The chosen images as rasters (height x width). Pixels outside [0, 1] are scaled to it over all chosen
# images.
as_pictures <- function(images, inputs, n, call = rlang::caller_env()) {
  pixels <- as_pixels(images, inputs, n, call)
  range <- range(pixels)
  if (range[[1]] < 0 || range[[2]] > 1) {
    pixels <- (pixels - range[[1]]) / max(diff(range), .Machine$double.eps)
  }
  lapply(seq_along(inputs), function(i) {
    picture <- array(index_axis(pixels, 1, i), dim(pixels)[-1])
    grDevices::as.raster(if (dim(picture)[[3]] == 1) picture[, , 1] else picture)
  })
}

# The pixels of the chosen images, input x height x width x channel.
as_pixels <- function(images, inputs, n, call) {
  sizes <- dim(images)
  if (!length(sizes) %in% 3:4 || length(sizes) == 4 && !sizes[[4]] %in% c(1, 3, 4)) {
    got <- if (is.null(sizes)) show_value(images) else paste0("(", paste(sizes, collapse = ", "), ")")
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
  chosen <- index_axis(images, 1, inputs)
  if (length(sizes) == 3) {
    dim(chosen) <- c(dim(chosen), 1)
  }
  chosen
}
