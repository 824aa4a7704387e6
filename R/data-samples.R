# Real data: the bundled sample and idx files.

#' The bundled real images
#'
#' A class-balanced sample of Fashion-MNIST: 6,000 training images and 1,000 test images, 28 x 28 pixels,
#' grey, ten labels. It has the first 600 (100) images of each label in the order of the full data set.
#'
#' @return (list) `x_train` and `x_test`, (double arrays) input x height x width x channel in \[0, 1];
#'   `y_train` and `y_test`, (factors) the label of each image; `labels`, (character vector) all labels.
#' @references Xiao, Rasul and Vollgraf (2017), *Fashion-MNIST*, \doi{10.48550/arXiv.1708.07747}. MIT licence.
#' @export
#' @family data
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
#' Reads the file format of the MNIST family, gzipped or not. Pixels of Fashion-MNIST are whole numbers from 0
#' to 255. Divide them by 255, and give the array a channel axis (`dim(x) <- c(dim(x), 1)`).
#'
#' @param path (string) The file.
#' @return (array) The numbers, with the shape that the file states and the inputs on the first axis. A vector
#'   if there is one axis.
#' @export
#' @family data
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
