#' Images in folders, one folder per label
#'
#' Lists the image files. A batch of them is read, resized and turned to grey (where needed) when it is used,
#' so a folder may be larger than the memory. Use the result as `x` in [mc_fit()], [mc_predict()] and other
#' functions. A folder without subfolders gives images without labels, for prediction.
#'
#' @param path (string) The folder with one subfolder of images for each label.
#' @param ... Not used. The arguments after it are given by name.
#' @param size (integer vector) Height and width in pixels after resizing. One number gives a square.
#' @param color (string) `"grey"` or `"rgb"`.
#' @param labels (character vector) The labels in the wanted order. By default the sorted names of the
#'   subfolders.
#' @return (mc_images) A list of R data: `paths`, `y` (factor, or `NULL`), `size`, `color`. `images[i]`
#'   chooses inputs. `length(images)` and `dim(images)` are their number and shape.
#' @export
#' @family data
#' @examples
#' \dontrun{
#' images <- mc_read_images("chest_xray/train", size = c(64, 64))
#' net <- mc_cnn(dim(images)[-1], labels = levels(images$y))
#' net <- mc_fit(net, images, images$y)
#' }
mc_read_images <- function(path, ..., size = c(224, 224), color = "grey", labels = NULL) {
  rlang::check_dots_empty()
  files <- call_core(
    "for_r.read_images", as_path(path), size = each(size, as_count), color = as_choice(color, colors),
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
    labels = if (nlevels(images$y) > 1) as.list(levels(images$y)), # labels need at least two folders
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
  chosen <- tryCatch(seq_along(x$paths)[i], error = function(cnd) NA)
  if (anyNA(chosen)) {
    abort_must("i", paste("choose among the", length(x$paths), "images"), i)
  }
  new_mc_images(x$paths[chosen], if (is.null(x$y)) NULL else x$y[chosen], x$size, x$color)
}

#' @export
format.mc_images <- function(x, ...) {
  c(
    paste0("# mc_images: ", length(x), " files, to be read as ", paste(dim(x)[-1], collapse = " x ")),
    if (!is.null(x$y)) labels_line("labels: ", table(x$y))
  )
}

# A line such as "labels: cat (3), dog (2)".
labels_line <- function(title, counts) {
  paste0(title, first_few(paste0(names(counts), " (", counts, ")")))
}

#' @export
print.mc_images <- function(x, ...) {
  cat(format(x, ...), sep = "\n")
  invisible(x)
}
