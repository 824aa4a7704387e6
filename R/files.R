# What this package makes, to and from disk: files that both languages open, and that run no code when opened.

#' Write and read a model, a prediction, or what was learnt on one
#'
#' One file; R and Python open each other's. Models and predictions are in the safetensors format with the
#' description as JSON; what [mc_triage()], [mc_calibrate()], [mc_conformal()] and
#' [mc_monitor()] return is JSON throughout.
#' [saveRDS()] works for all of them as well, for R alone.
#'
#' @param object (mc_model, mc_prediction, mc_policy, mc_calibration, mc_conformal or mc_monitor) What to
#'   write.
#' @param path (string) The file. A model's name usually ends in `.safetensors`, a policy's in `.json`.
#' @return `mc_save()`: `path`, invisibly. `mc_load()`: what was written.
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
  object <- call_core("mc_load", as_path(path))
  kind <- sub("^.*[.]", "", class(object)[[1]])
  switch(kind,
    MCPrediction = prediction_from_python(object),
    MCPolicy = policy_from_python(object),
    MCCalibration = calibration_from_python(object),
    MCConformal = conformal_from_python(object),
    MCMonitor = monitor_from_python(object),
    new_mc_model(object)
  )
}

# What the core can write; R values that it cannot are named as it would name them.
as_saveable <- function(object, call = rlang::caller_env()) {
  if (inherits(object, "mc_prediction")) {
    return(prediction_to_python(object, call))
  }
  if (inherits(object, "mc_learnt")) {
    return(learnt_to_python(object, call))
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
