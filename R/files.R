# Models and predictions to and from disk: files that both languages open, and that run no code when opened.

#' Write and read a model or a prediction
#'
#' One file, in the safetensors format with the description as JSON; R and Python open each other's.
#' [saveRDS()] works for both as well, for R alone.
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

# What the core can write; R values that it cannot are named as it would name them.
as_saveable <- function(object, call = rlang::caller_env()) {
  if (inherits(object, "mc_model") || is_python(object)) {
    return(as_network(object, call))
  }
  abort_mc(
    paste0(
      "`object` must be a network of mc_cnn() or mc_mlp(), or a prediction; got ", class(object)[[1]],
      ". Save other torch modules with torch.save()."
    ),
    call = call
  )
}
