# What R users hold to what the core takes: arrays and data frames to rows, factors and vectors to labels.
#
# Arrays of doubles cross as they are, without a copy. What R would lose on the way is settled here: NA in
# integers and truth values (as doubles they arrive as NaN, which the core names), factors (as their labels).

# Rows for the core: an array of numbers, inputs first; a data frame; images in files; or a Python object.
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
    abort_must(name, "hold numbers", got = if (is.character(x)) "text" else shown(x), call = call)
  }
  as.array(na_as_nan(x))
}

# The same for a network, which finds the columns of a data frame, or of a matrix that names them, by their
# names.
as_network_rows <- function(x, name = rlang::caller_arg(x), call = rlang::caller_env()) {
  rows <- as_rows(x, name, call)
  named <- is.data.frame(x) || (is.matrix(x) && !is.null(colnames(x)))
  if (named) call_core("for_r.rows_with_columns", rows, as.list(colnames(rows)), call = call) else rows
}

# What the rows of a data frame, a matrix or an array are called, if they have names of their own and not just
# numbers from 1; of a list of several inputs, those of the first that has them.
row_names_of <- function(x) {
  if (is_python(x)) {
    return(NULL)
  }
  if (is.list(x) && !is.object(x)) {
    return(Reduce(function(found, part) found %||% row_names_of(part), x, NULL))
  }
  names <- if (is.data.frame(x)) attr(x, "row.names") else if (is.array(x)) dimnames(x)[[1]]
  if (identical(names, seq_along(names))) NULL else names
}

# One array of rows, or several: a list goes over as a tuple, with names as a dict, and so does a list in it.
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

# Labels or values for the core, one for each input. Truth values that a factor made words are such again
# where the network's `labels` are: Python writes them otherwise.
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
  as.array(na_as_nan(in_label_order(y, labels, name, call)))
}

# One-hot rows, whose columns go by their names where they have some: Python gets them in the order of the
# labels.
in_label_order <- function(y, labels, name, call) {
  if (!is.matrix(y) || ncol(y) < 2 || is.null(colnames(y)) || is.null(labels)) {
    return(y)
  }
  if (!setequal(colnames(y), as.character(labels)) || ncol(y) != length(labels)) {
    wanted <- paste0("have columns named by the labels (", shorten(labels), ") or by nothing")
    abort_must(name, wanted, got = shorten(colnames(y)), call = call)
  }
  y[, as.character(labels), drop = FALSE]
}

as_number_matrix <- function(x, name, call) {
  is_number <- function(column) (is.numeric(column) || is.logical(column)) && !is.object(column)
  numbers <- vapply(x, is_number, logical(1))
  if (!all(numbers)) {
    strange <- shown(names(x)[!numbers][[1]])
    abort_must(name, "have numeric columns only", got = paste0(strange, ", which is not"), call = call)
  }
  as.matrix(x)
}

# Python has no NA among integers and truth values: it would see a number.
na_as_nan <- function(x) {
  if ((is.integer(x) || is.logical(x)) && anyNA(x)) {
    storage.mode(x) <- "double"
  }
  x
}

# The names of the classes, as a list: names, whole numbers or truth values. Of a factor, its levels.
as_label_set <- function(labels, name = rlang::caller_arg(labels), call = rlang::caller_env()) {
  if (is.null(labels) || is_python(labels)) {
    return(labels)
  }
  if (is.factor(labels)) {
    labels <- levels(labels)
  }
  if (!is.atomic(labels) || anyNA(labels)) {
    got <- if (is.atomic(labels)) "NA" else shown(labels)
    abort_mc(paste0("A label must be a string, a whole number or a truth value; got ", got, "."), call = call)
  }
  as.list(unname(labels))
}

labels_from_python <- function(labels) {
  unlist(from_python(labels))
}
