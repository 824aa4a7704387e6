# Saves objects of this package to files and opens them. Both languages open the files, and opening runs no
# code.

#' Write and read a model, a prediction, or what was learnt on one
#'
#' Writes one file, which both R and Python can open. Models and predictions are in the safetensors format,
#' with their description as JSON. Results of [mc_triage()], [mc_calibrate()], [mc_conformal()] and
#' [mc_monitor()] are JSON throughout. [saveRDS()] works for all of these objects as well, for R alone.
#'
#' A file has a checksum. `mc_load()` refuses a file of which a byte has changed, and warns of a file of an
#' earlier version, which has none. `mc_save()` replaces an older file in one step, when the new one is
#' complete and on the disk. The file keeps its permissions, and a symbolic link stays one.
#'
#' @param object (mc_model, mc_prediction, mc_policy, mc_calibration, mc_conformal or mc_monitor) The object
#'   to write.
#' @param path (string) The file. The name of a model file usually ends in `.safetensors`, that of a policy in
#'   `.json`.
#' @return `mc_save()`: `path`, invisibly. `mc_load()`: the object in the file.
#' @export
#' @family files
#' @examplesIf mc_python_available()
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' file <- tempfile(fileext = ".safetensors")
#' mc_save(net, file)
#' mc_load(file)
mc_save <- function(object, path) {
  call_core("mc_save", as_saveable(object), as_path(path))
  invisible(path)
}

#' @rdname mc_save
#' @export
mc_load <- function(path) {
  object <- call_core("for_r.load", as_path(path))
  if (python_class(object) == "MCPrediction") {
    return(prediction_from_python(object))
  }
  learnt_from_python(object) %||% new_mc_model(object)
}

# Converts an object to what the core can write. Other R values are refused with the class that they have.
as_saveable <- function(object, call = rlang::caller_env()) {
  if (inherits(object, "mc_prediction")) {
    return(prediction_to_python(object, call = call))
  }
  if (inherits(object, "mc_learnt")) {
    return(learnt_to_python(object, call = call))
  }
  if (inherits(object, "mc_model") || is_python(object)) {
    return(as_network(object, call))
  }
  abort_mc(
    paste0(
      "`object` must be a network of mc_cnn() or mc_mlp(), a prediction, or what was learnt on one; got ",
      class(object)[[1]], ". Save other torch modules with torch.save()."
    ),
    call = call
  )
}
