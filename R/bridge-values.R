# Converts values between R and Python.

is_python <- function(x) {
  inherits(x, "python.builtin.object")
}

# Is `x` a Python object of this session? A pointer from a saved workspace points nowhere.
is_live <- function(x) {
  is_python(x) && !reticulate::py_is_null_xptr(x)
}

# The name of the Python class of `x`, without its module.
python_class <- function(x) {
  sub("^.*[.]", "", class(x)[[1]])
}

to_python <- function(x) {
  reticulate::r_to_py(x)
}

from_python <- function(x) {
  if (is_python(x)) reticulate::py_to_r(x) else x
}

# Wraps an R function so that Python can call it. With `convert` it gets R data, otherwise Python objects. An
# error inside it would come back as an error of Python, so the R error is stored on the way.
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

# A pandas table as a tibble, column by column: the class names that reticulate knows changed with pandas 3.
table_from_python <- function(x) {
  columns <- from_python(x$to_dict(orient = "list"))
  tibble::as_tibble(lapply(columns, vector_from_list))
}

# Turns a list into a vector, and None into NA. An empty list has no known type and becomes logical.
vector_from_list <- function(column) {
  if (is.list(column)) {
    column[vapply(column, is.null, logical(1))] <- NA
  }
  unlist(column) %||% logical()
}

# The fields of a Python dataclass as a list. Tables become tibbles, everything else becomes R data.
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

# An int of Python as a number of R. reticulate converts an int to R's integer, and a large int would change
# its value.
integer_from_python <- function(x) {
  as_integer_if_small(from_python(x$`__float__`()))
}

integer_to_python <- function(x) {
  reticulate::import_builtins(convert = FALSE)$int(x)
}

tuple_for_python <- function(parts) {
  # reticulate::tuple() would take a single list apart
  reticulate::import_builtins(convert = FALSE)$tuple(unname(parts))
}

# An array of doubles for Python. It becomes float32, the type of most draws in the core, if no digit is lost.
as_float32_if_exact <- function(x) {
  single <- reticulate::np_array(x, dtype = "float32")
  if (identical(as.vector(from_python(single)), as.vector(x))) single else reticulate::np_array(x)
}

is_none <- function(x) {
  is.null(from_python(x))
}
