# Models and predictions to and from disk: files that both languages open, and that run no code when opened.

#' Write and read a model or a prediction
#'
#' One file, in the safetensors format with the description as JSON; R and Python open each other's. [saveRDS()] works
#' for both as well, for R alone.
#'
#' @param object (mc_model or mc_prediction) What to write.
#' @param path (string) The file. A model's name usually ends in `.safetensors`.
#' @return `mc_save()`: `path`, invisibly. `mc_load()`: the mc_model or mc_prediction.
#' @export
#' @examplesIf mc_python_available()
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' file <- tempfile(fileext = ".safetensors")
#' mc_save(net, file)
#' mc_load(file)
mc_save <- function(object, path) {
  whole <- if (inherits(object, "mc_prediction")) prediction_to_python(object) else as_saveable(object)
  call_core("mc_save", whole, as_path(path))
  invisible(path)
}

#' @rdname mc_save
#' @export
mc_load <- function(path) {
  object <- call_core("mc_load", as_path(path))
  if (inherits(object, "mcdropout.prediction.MCPrediction")) {
    prediction_from_python(object)
  } else {
    new_mc_model(object)
  }
}
