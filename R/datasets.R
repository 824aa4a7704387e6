# Real data in: the bundled sample, idx files, and folders of images that are read when they are needed.

#' The bundled real images
#'
#' A class-balanced sample of Fashion-MNIST: 6,000 images to train and 1,000 to test, 28 x 28 pixels, grey,
#' ten labels; the first 600 (100) of each label in the order of the full data set.
#'
#' @return (list) `x_train` and `x_test`, (double arrays) input x height x width x channel in \[0, 1];
#'   `y_train` and `y_test`, (factors) the label of each; `labels`, (character vector) all labels.
#' @references Xiao, Rasul and Vollgraf (2017), *Fashion-MNIST*, \doi{10.48550/arXiv.1708.07747}. MIT licence.
#' @export
#' @examplesIf mc_python_available()
#' data <- mc_sample_data()
#' dim(data$x_train)
#' table(data$y_test)
mc_sample_data <- function() {
  data <- call_core("mc_sample_data")
  labels <- labels_from_python(data$labels)
  list(
    x_train = from_python(data$x_train),
    y_train = factor(as.vector(from_python(data$y_train)), labels),
    x_test = from_python(data$x_test),
    y_test = factor(as.vector(from_python(data$y_test)), labels),
    labels = labels
  )
}

#' Read an idx file
#'
#' The format of the MNIST family, gzipped or not. Pixels of Fashion-MNIST are whole numbers from 0 to 255:
#' divide by 255, and give the array a channel axis (`dim(x) <- c(dim(x), 1)`).
#'
#' @param path (string) The file.
#' @return (array) The numbers with the shape that the file states, inputs first; a vector if there is one
#'   axis.
#' @export
#' @examples
#' \dontrun{
#' x <- mc_read_idx("train-images-idx3-ubyte.gz") / 255
#' dim(x) <- c(dim(x), 1)
#' y <- mc_read_idx("train-labels-idx1-ubyte.gz")
#' }
mc_read_idx <- function(path) {
  values <- from_python(call_core("mc_read_idx", as_path(path)))
  if (length(dim(values)) == 1) as.vector(values) else values
}

#' Images in folders, one folder per label
#'
#' Lists the files; pixels are read, resized and turned to grey where needed when a batch of them is used, so
#' a folder may hold more than memory does. Use the result as `x` in [mc_fit()], [mc_predict()] and the
#' others. A folder with no folders in it gives images without labels, to predict.
#'
#' @param path (string) The folder that holds a folder of images for each label.
#' @param ... Not used; what follows is given by name.
#' @param size (integer vector) Height and width in pixels to resize to; one number for a square.
#' @param color (string) `"grey"` or `"rgb"`.
#' @param labels (character vector) The labels in the order wanted; the folders' names, sorted, by default.
#' @return (mc_images) A list of R data: `paths`, `y` (factor, or `NULL`), `size`, `color`. `images[i]`
#'   chooses inputs, `length(images)` and `dim(images)` tell how many, and of what shape.
#' @export
#' @examples
#' \dontrun{
#' images <- mc_read_images("chest_xray/train", size = c(64, 64))
#' net <- mc_cnn(dim(images)[-1], labels = levels(images$y))
#' net <- mc_fit(net, images, images$y)
#' }
mc_read_images <- function(path, ..., size = c(224, 224), color = "grey", labels = NULL) {
  rlang::check_dots_empty()
  files <- call_core(
    "mc_read_images", as_path(path), size = each(size, as_count), color = as_choice(color, colors),
    labels = if (is.null(labels)) NULL else as.list(as.character(labels))
  )
  y <- from_python(files$y)
  known <- labels_from_python(files$labels)
  new_mc_images(
    paths = as.character(unlist(from_python(files$paths))),
    y = if (is.null(y)) NULL else factor(as.vector(y), if (length(known) > 0) known else unique(y)),
    size = as.integer(unlist(from_python(files$size))),
    color = color
  )
}

colors <- c("grey", "rgb")

new_mc_images <- function(paths, y, size, color) {
  structure(list(paths = paths, y = y, size = size, color = color), class = "mc_images")
}

# The core's object for the same files.
as_image_files <- function(images, call = rlang::caller_env()) {
  call_core(
    "for_r.image_files", as.list(images$paths),
    y = if (is.null(images$y)) NULL else as.list(as.character(images$y)),
    labels = if (nlevels(images$y) > 1) as.list(levels(images$y)), # a single folder is no choice of labels
    size = as.list(images$size), color = images$color, call = call
  )
}

#' @export
length.mc_images <- function(x) {
  length(unclass(x)$paths)
}

#' @export
dim.mc_images <- function(x) {
  c(length(x), x$size, if (x$color == "rgb") 3L else 1L)
}

#' @export
`[.mc_images` <- function(x, i, ...) {
  chosen <- seq_along(x$paths)[i]
  if (anyNA(chosen)) {
    abort_must("i", paste("choose among the", length(x$paths), "images"), i)
  }
  new_mc_images(x$paths[i], if (is.null(x$y)) NULL else x$y[i], x$size, x$color)
}

#' @export
format.mc_images <- function(x, ...) {
  c(
    paste0("# mc_images: ", length(x), " files, to be read as ", paste(dim(x)[-1], collapse = " x ")),
    if (!is.null(x$y)) labels_line("labels: ", table(x$y))
  )
}

# "labels: cat (3), dog (2)"
labels_line <- function(title, counts) {
  paste0(title, shorten(paste0(names(counts), " (", counts, ")")))
}

#' @export
print.mc_images <- function(x, ...) {
  cat(format(x, ...), sep = "\n")
  invisible(x)
}
