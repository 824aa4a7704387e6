# A prediction as a table: one row per input, one row per input and label, or one row in all.

#' @rdname mc_prediction
#' @param row.names,optional Not used. They belong to the generic function.
#' @export
as.data.frame.mc_prediction <- function(x, row.names = NULL, optional = FALSE, ...) {
  refuse_maps(x)
  if (x$task == "classification") classes_table(x) else values_table(x)
}

# Does the prediction have class probabilities with further axes, such as segmentation maps?
is_map <- function(x) {
  x$task == "classification" && length(dim(x)) > 2
}

refuse_maps <- function(x, call = rlang::caller_env()) {
  if (is_map(x)) {
    size <- paste(dim(x), collapse = ", ")
    abort_mc(
      paste0(
        "A table needs one row of probabilities per input; got shape (", size, "). `tidy()` has a row for ",
        "each place and label."
      ),
      call = call
    )
  }
}

#' @rdname mc_prediction
#' @export
as_tibble.mc_prediction <- function(x, ...) {
  tibble::as_tibble(as.data.frame(x))
}

#' @importFrom tibble as_tibble
#' @export
tibble::as_tibble

classes_table <- function(x) {
  per_input <- c(
    "confidence", "second", "margin", "predictive_entropy", "expected_entropy", "mutual_information",
    "variation_ratio"
  )
  data.frame(
    id_column(x),
    .pred_class = x$predicted,
    output_columns(x, c(.pred = "mean", .pred_lower = "lower", .pred_upper = "upper")),
    stats::setNames(unclass(x)[per_input], paste0(".", per_input)),
    check.names = FALSE
  )
}

values_table <- function(x) {
  fields <- c(
    .pred = "mean", .pred_lower = "lower", .pred_upper = "upper", .std = "std",
    .aleatoric_variance = "aleatoric_variance", .total_variance = "total_variance",
    .pred_int_lower = "pred_lower", .pred_int_upper = "pred_upper"
  )
  data.frame(id_column(x), output_columns(x, fields), check.names = FALSE)
}

# The ids, or row names, of the inputs as a column. Without them there is no column.
id_column <- function(x) {
  if (is.null(x$ids)) data.frame(row.names = seq_len(nrow(x))) else data.frame(.id = x$ids)
}

# Some fields as columns of a data frame: one column per output, named by the field and the output.
output_columns <- function(x, fields) {
  titles <- names(fields) %||% fields
  present <- fields %in% names(x)
  columns <- Map(function(field, title) {
    value <- output_matrix(unclass(x)[[field]])
    endings <- x$labels %||% if (ncol(value) > 1) seq_len(ncol(value))
    colnames(value) <- paste0(title, if (!is.null(endings)) paste0("_", endings))
    value
  }, fields[present], titles[present])
  data.frame(do.call(cbind, unname(columns)), check.names = FALSE)
}

# A matrix with one row per input and one column per output, whatever axes the outputs have.
output_matrix <- function(value) {
  matrix(value, nrow = nrow(value))[, order(output_numbers(dim(value)[-1])), drop = FALSE]
}

# The numbers of outputs with axes of these sizes, in R's order of the elements. As in Python, the last axis
# varies fastest in the numbering, so that a number means the same output in both languages.
output_numbers <- function(sizes) {
  as.vector(aperm(array(seq_len(prod(sizes)), rev(sizes))))
}

# The table that predict() returns for each `type`.
predict_columns <- function(x, type) {
  columns <- switch(type,
    class = data.frame(.pred_class = x$predicted),
    prob = ,
    numeric = output_columns(x, c(.pred = "mean")),
    conf_int = output_columns(x, c(.pred_lower = "lower", .pred_upper = "upper")),
    pred_int = output_columns(x, c(.pred_lower = "pred_lower", .pred_upper = "pred_upper"))
  )
  if (ncol(columns) == 0) {
    call <- rlang::caller_env()
    abort_mc("`type` \"pred_int\" needs a network that predicts its noise; use \"conf_int\".", call = call)
  }
  tibble::as_tibble(columns)
}

#' @rdname mc_prediction
#' @export
tidy.mc_prediction <- function(x, ...) {
  size <- dim(x)
  along_axis <- function(axis) as.vector(slice.index(unclass(x)$mean, axis))
  input <- along_axis(1)
  places <- if (is_map(x)) seq_along(size)[-c(1, length(size))] else if (length(size) > 2) seq_along(size)[-1]
  where <- stats::setNames(lapply(places, along_axis), sprintf(".axis_%d", places))
  output <- if (is.null(x$labels)) {
    rep(output_numbers(size[-1]), each = size[[1]])
  } else {
    factor(x$labels[along_axis(length(size))], x$labels)
  }
  long <- function(field) as.vector(unclass(x)[[field]])
  tibble::tibble(
    .input = input, .id = x$ids[input], !!!where, .output = output,
    .pred = long("mean"), .pred_lower = long("lower"), .pred_upper = long("upper"), .std = long("std"),
    .mcse = long("mcse")
  )
}

#' @importFrom generics tidy
#' @export
generics::tidy

#' @rdname mc_prediction
#' @export
glance.mc_prediction <- function(x, ...) {
  fields <- if (x$task == "classification") {
    c("confidence", "predictive_entropy", "expected_entropy", "mutual_information", "variation_ratio")
  } else {
    c("epistemic_variance", "aleatoric_variance", "total_variance")
  }
  fields <- intersect(fields, names(x))
  means <- stats::setNames(lapply(unclass(x)[fields], mean), sprintf("mean_%s", fields))
  settings <- unclass(x)[c("level", "seed", "masks", "seconds")]
  settings <- c(list(n_samples = max(x$n_samples)), settings)
  tibble::as_tibble(c(list(n_inputs = nrow(x), n_outputs = n_outputs(x)), means, settings))
}

#' @importFrom generics glance
#' @export
generics::glance

# for posterior ----

# The draws as random variables, one for each input and label.
#' @exportS3Method posterior::as_draws_rvars
as_draws_rvars.mc_prediction <- function(x, ...) {
  if (is.null(x$samples)) {
    abort_mc("`x` must hold its draws; predict with `keep_samples = TRUE`.")
  }
  posterior::draws_rvars(.pred = posterior::rvar(x$samples, dimnames = dimnames(x$samples)[-1]))
}

#' @exportS3Method posterior::as_draws
as_draws.mc_prediction <- function(x, ...) {
  as_draws_rvars.mc_prediction(x, ...)
}
