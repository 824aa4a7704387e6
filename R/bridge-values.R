is_python <- function(x) {
  inherits(x, "python.builtin.object")
}

# A pointer that a saved workspace brought back points nowhere.
is_live <- function(x) {
  is_python(x) && !reticulate::py_is_null_xptr(x)
}

to_python <- function(x) {
  reticulate::r_to_py(x)
}

from_python <- function(x) {
  if (is_python(x)) reticulate::py_to_r(x) else x
}

# An R function for Python to call. `convert`: it is given R data, not Python objects. An error inside it
# would reach us as Python's, so the R error is put by on the way.
as_callback <- function(f, convert = TRUE, name = rlang::caller_arg(f), call = rlang::caller_env()) {
  if (!is.function(f)) {
    abort_must(name, "be a function", f, call = call)
  }
  guarded <- function(...) {
    withCallingHandlers(f(...), error = function(cnd) session$callback_error <- cnd)
  }
  reticulate::r_to_py(guarded, convert = convert)
}

raise_callback_error <- function() {
  cnd <- session$callback_error
  session$callback_error <- NULL
  if (!is.null(cnd)) {
    rlang::cnd_signal(cnd)
  }
}

# A table of pandas as a tibble. By columns: the class names that reticulate knows changed with pandas 3.
table_from_python <- function(x) {
  columns <- from_python(x$to_dict(orient = "list"))
  tibble::as_tibble(lapply(columns, vector_from_list))
}

# What Python has as None is NA; of no entries at all, no type is known.
vector_from_list <- function(column) {
  if (is.list(column)) {
    column[vapply(column, is.null, logical(1))] <- NA
  }
  unlist(column) %||% logical()
}

# The fields of a Python dataclass as a list: tables as tibbles, all else as R data.
fields_from_python <- function(object) {
  builtins <- reticulate::import_builtins(convert = FALSE)
  names <- from_python(builtins$list(object$`__dataclass_fields__`))
  fields <- lapply(rlang::set_names(names), function(name) {
    value <- object[[name]]
    if (reticulate::py_has_attr(value, "columns")) table_from_python(value) else from_python(value)
  })
  fields[!vapply(fields, is.null, logical(1))]
}

# Python's bytes as an R raw vector.
bytes_from_python <- function(x) {
  as.raw(x)
}

# A whole number of any size: reticulate takes an int for R's integer, and a large one comes out as another
# number.
whole_from_python <- function(x) {
  as_integer_if_small(from_python(x$`__float__`()))
}

whole_to_python <- function(x) {
  reticulate::import_builtins(convert = FALSE)$int(x)
}

tuple_for_python <- function(parts) {
  # of one list alone, reticulate::tuple() would take the parts
  reticulate::import_builtins(convert = FALSE)$tuple(unname(parts))
}

# An array of doubles in Python: as float32, as most draws are held there, where that keeps every digit.
in_least_precision <- function(x) {
  single <- reticulate::np_array(x, dtype = "float32")
  if (identical(as.vector(from_python(single)), as.vector(x))) single else reticulate::np_array(x)
}

is_none <- function(x) {
  is.null(from_python(x))
}
