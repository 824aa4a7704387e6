# The R object of a network. It is an environment, because training changes it in place. `weights` are the
# bytes of a model file, so that saveRDS() writes them. `python` is the live network. It is rebuilt from the
# bytes in a new session.
new_mc_model <- function(network, call = rlang::caller_env()) {
  model <- new.env(parent = emptyenv())
  class(model) <- "mc_model"
  model$python <- network
  refresh_model(model, call)
  model
}

# Updates the R fields after training.
refresh_model <- function(model, call = rlang::caller_env()) {
  network <- model$python
  model$labels <- labels_from_python(network$labels)
  model$task <- from_python(network$task)
  model$outputs <- from_python(network$outputs)
  model$input_shape <- as.integer(unlist(from_python(network$input_shape)))
  history <- network$history
  model$history <- if (is_none(history)) NULL else table_from_python(history)
  # A network with a prior, posterior or backbone of the user's own has no bytes. It lives in this session
  # alone.
  model$weights <- tryCatch(
    bytes_from_python(call_core("for_r.model_to_bytes", network, call = call)),
    mcdropout_error_argument = function(cnd) NULL
  )
  invisible(model)
}

# The live Python network for a `model` argument. A Python object is returned as it is, because the core
# checks it.
as_network <- function(model, call = rlang::caller_env()) {
  if (inherits(model, "mc_model")) {
    if (!is_live(model$python)) {
      if (is.null(model$weights)) {
        abort_mc(
          paste(
            "`model` comes from an earlier session, and no file can store its own prior, posterior or",
            "backbone; build it again."
          ),
          call = call
        )
      }
      model$python <- call_core("for_r.model_from_bytes", model$weights, call = call)
    }
    return(model$python)
  }
  if (is_live(model)) {
    return(model)
  }
  if (is_python(model)) {
    abort_mc(
      "`model` is a Python object of an earlier session and no longer exists; make it again.",
      call = call
    )
  }
  if (rlang::is_string(model) && endsWith(model, ".keras")) {
    return(path.expand(model))
  }
  abort_mc(
    paste0("`model` must be a torch module or a Keras model; got ", show_value(class(model)[[1]]), "."),
    call = call
  )
}

# The labels of a network of this package, which the fields that R shows cannot change. NULL for other
# networks, whose labels R does not know.
labels_of <- function(model) {
  if (inherits(model, "mc_model")) labels_from_python(as_network(model)$labels) else NULL
}

#' @export
format.mc_model <- function(x, ...) {
  c(
    paste0("# An mc_model for ", model_purpose(x)),
    if (length(x$input_shape) > 0) paste0("input: ", paste(x$input_shape, collapse = " x ")),
    if (!is.null(x$labels)) paste0("labels: ", first_few(x$labels)),
    if (is.null(x$history)) "not trained yet" else trained_line(x$history)
  )
}

model_purpose <- function(model) {
  switch(model$task,
    classification = paste(length(model$labels), "classes"),
    binary = "two classes",
    regression = "values"
  )
}

trained_line <- function(history) {
  if (nrow(history) == 0) {
    return("trained for less than an epoch") # the first epoch was interrupted
  }
  last <- history[nrow(history), ]
  metrics <- intersect(c("loss", "accuracy", "rmse", "val_loss", "val_accuracy", "val_rmse"), names(last))
  numbers <- vapply(last[metrics], function(value) format(value, digits = 3), character(1))
  paste0("trained for ", count_of(nrow(history), "epoch"), ": ", paste(metrics, numbers, collapse = ", "))
}

# The first `n` entries of `x` as text, with the number of the others.
first_few <- function(x, n = 10) {
  more <- length(x) - n
  paste0(paste(utils::head(x, n), collapse = ", "), if (more > 0) paste0(", ... and ", more, " more"))
}

#' @export
print.mc_model <- function(x, ...) {
  cat(format(x, ...), sep = "\n")
  invisible(x)
}
