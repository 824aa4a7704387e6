# Converts what R users have into what the core takes: arrays and data frames into rows, factors and vectors
# into labels.
#
# Arrays of doubles are passed without a copy. Two kinds of values are converted first, because Python would
# lose them: NA in integers and logicals (they become doubles, so that NA arrives as NaN, which the core
# reports), and factors (they become their labels).

# Rows for the core: an array of numbers with the inputs on the first axis, a data frame, image files, or a
# Python object.
as_rows <- function(x, name = rlang::caller_arg(x), call = rlang::caller_env()) {
  if (inherits(x, "mc_images")) {
    return(as_image_files(x, call = call))
  }
  if (is_python(x)) {
    return(x)
  }
  if (is.data.frame(x)) {
    x <- as_number_matrix(x, name, call)
  }
  if (!(is.numeric(x) || is.logical(x)) || is.object(x)) {
    abort_must(name, "hold numbers", got = if (is.character(x)) "text" else show_value(x), call = call)
  }
  as.array(na_as_nan(x))
}

# Rows for a network. A network finds the columns of a data frame, or of a matrix with column names, by their
# names.
as_network_rows <- function(x, name = rlang::caller_arg(x), call = rlang::caller_env()) {
  rows <- as_rows(x, name, call)
  named <- is.data.frame(x) || (is.matrix(x) && !is.null(colnames(x)))
  if (named) call_core("for_r.rows_with_columns", rows, as.list(colnames(rows)), call = call) else rows
}

# The row names of a data frame, matrix or array, unless they are just numbers from 1. For a list of several
# inputs, the row names of the first input that has some.
row_names_of <- function(x) {
  if (is_python(x)) {
    return(NULL)
  }
  if (is.list(x) && !is.object(x)) {
    return(Reduce(function(names, part) names %||% row_names_of(part), x, NULL))
  }
  names <- if (is.data.frame(x)) attr(x, "row.names") else if (is.array(x)) dimnames(x)[[1]]
  if (identical(names, seq_along(names))) NULL else names
}

# One array of rows, or several: a list becomes a tuple, a named list becomes a dict, also inside another
# list.
as_model_inputs <- function(x, name = rlang::caller_arg(x), call = rlang::caller_env()) {
  if (!is.list(x) || is.object(x)) {
    return(as_network_rows(x, name, call))
  }
  if (!is.null(names(x)) && any(names(x) == "")) {
    abort_must(name, "have names for all of its parts or for none", names(x), call = call)
  }
  parts <- lapply(x, function(part) if (is.null(part)) NULL else as_model_inputs(part, name, call))
  if (is.null(names(x))) tuple_for_python(parts) else parts
}

# Labels or values for the core, one per input. If the `labels` of the network are logical, a factor becomes
# logical again, because Python writes these words differently.
as_targets <- function(y, labels = NULL, name = rlang::caller_arg(y), call = rlang::caller_env()) {
  if (is_python(y)) {
    return(y)
  }
  if (is.data.frame(y)) {
    y <- if (ncol(y) == 1) y[[1]] else as_number_matrix(y, name, call)
  }
  if (is.factor(y)) {
    y <- as.character(y)
  }
  if (is.logical(labels) && all(y %in% c("TRUE", "FALSE", NA))) {
    y <- as.logical(y)
  }
  if (!is.atomic(y) || is.null(y) || is.object(y)) {
    abort_must(name, "have a label or a number for every input", y, call = call)
  }
  as.array(na_as_nan(order_one_hot(y, labels, name, call)))
}

# Puts the columns of one-hot rows into the order of the labels, if the columns have names.
order_one_hot <- function(y, labels, name, call) {
  if (!is.matrix(y) || ncol(y) < 2 || is.null(colnames(y)) || is.null(labels)) {
    return(y)
  }
  if (!setequal(colnames(y), as.character(labels)) || ncol(y) != length(labels)) {
    wanted <- paste0("have columns named by the labels (", first_few(labels), ") or by nothing")
    abort_must(name, wanted, got = first_few(colnames(y)), call = call)
  }
  y[, as.character(labels), drop = FALSE]
}

as_number_matrix <- function(x, name, call) {
  is_number <- function(column) (is.numeric(column) || is.logical(column)) && !is.object(column)
  numbers <- vapply(x, is_number, logical(1))
  if (!all(numbers)) {
    column <- show_value(names(x)[!numbers][[1]])
    abort_must(name, "have numeric columns only", got = paste0(column, ", which is not"), call = call)
  }
  as.matrix(x)
}

# Python has no NA for integers and logicals: it would read a number. Doubles carry NA as NaN.
na_as_nan <- function(x) {
  if ((is.integer(x) || is.logical(x)) && anyNA(x)) {
    storage.mode(x) <- "double"
  }
  x
}

# The names of the classes as a list of strings, whole numbers or logicals. For a factor, its levels.
as_label_set <- function(labels, name = rlang::caller_arg(labels), call = rlang::caller_env()) {
  if (is.null(labels) || is_python(labels)) {
    return(labels)
  }
  if (is.factor(labels)) {
    labels <- levels(labels)
  }
  if (!is.atomic(labels) || anyNA(labels)) {
    got <- if (is.atomic(labels)) "NA" else show_value(labels)
    abort_mc(paste0("A label must be a string, a whole number or a truth value; got ", got, "."), call = call)
  }
  as.list(unname(labels))
}

labels_from_python <- function(labels) {
  unlist(from_python(labels))
}
