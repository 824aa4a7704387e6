# The only file that speaks to reticulate: finds Python, calls the core, brings back R data, errors and
# warnings.

# What lives as long as the session: the Python module, once loaded; by network, the optimizer it was given.
session <- new.env(parent = emptyenv())
session$optimizers <- new.env(parent = emptyenv())

python_packages <- c(
  "torch>=2.6", "numpy>=1.26", "pandas>=2.0.3", "scipy>=1.11", "safetensors>=0.4.3", "tqdm>=4.64"
)

# Says what Python will need; loads nothing. Called when the package is loaded.
declare_python_packages <- function() {
  reticulate::py_require(python_packages)
}

#' Is the Python core there?
#'
#' `TRUE` if a Python with the packages that mcdropout needs is found and can be loaded, which this function
#' tries. It never fails, and never has anything downloaded, as the first call of another function may
#' ([reticulate::py_require()]). For guarding examples and tests. Any other function of this package says what
#' is missing.
#'
#' @return (flag) `TRUE` or `FALSE`.
#' @export
#' @examples
#' mc_python_available()
mc_python_available <- function() {
  tryCatch(is_found() && is.environment(core()), error = function(cnd) FALSE)
}

# Whether Python is running, or there is one with torch. If so it is the one to use: reticulate would rather
# make an environment of its own than take one that nobody named.
is_found <- function() {
  if (reticulate::py_available()) {
    return(TRUE)
  }
  before <- Sys.getenv("RETICULATE_USE_MANAGED_VENV", NA)
  on.exit(if (is.na(before)) {
    Sys.unsetenv("RETICULATE_USE_MANAGED_VENV")
  } else {
    Sys.setenv(RETICULATE_USE_MANAGED_VENV = before)
  })
  Sys.setenv(RETICULATE_USE_MANAGED_VENV = "no")
  quiet <- options(show.error.messages = FALSE) # reticulate tells of every Python that it cannot look into
  on.exit(options(quiet), add = TRUE)
  found <- reticulate::py_discover_config("torch")
  !is.null(found$required_module_path) && reticulate::py_available(initialize = TRUE)
}

# loading ----

# The Python module, loaded at first use. Nothing it returns is turned into R data unasked.
core <- function(call = rlang::caller_env()) {
  session$core <- session$core %||% load_core(call)
  session$core
}

load_core <- function(call) {
  refuse_r_torch(call)
  quiet_poetry()
  folder <- system.file("python", package = "mcdropout")
  if (!file.exists(file.path(folder, "mcdropout", "__init__.py"))) {
    abort_mc(
      paste(
        "The Python core is not in this installation of the R package: `inst/python` must be a link to",
        "`python`. Where links are not supported, copy the folder `python` to `inst/python` and install",
        "again."
      ),
      class = "python", call = call
    )
  }
  module <- tryCatch(
    {
      load_torch() # the core itself would load it late
      reticulate::import_from_path("mcdropout", folder, convert = FALSE)
    },
    error = function(cnd) abort_python(cnd, call)
  )
  warn_other_version(module, call)
  module
}

# R's own linear algebra comes first where symbols are looked up, and torch would multiply matrices by it
# instead of its own: 30 times slower, and not quite the numbers that Python gets. RTLD_DEEPBIND, where there
# is one, makes it look at home first. It has no effect if torch is loaded already.
load_torch <- function() {
  sys <- reticulate::import("sys")
  os <- reticulate::import("os")
  if (reticulate::py_has_attr(os, "RTLD_DEEPBIND")) {
    flags <- sys$getdlopenflags()
    on.exit(sys$setdlopenflags(flags))
    sys$setdlopenflags(bitwOr(flags, os$RTLD_DEEPBIND))
  }
  # torch makes this folder when it trains; an R session leaves nothing outside its own
  os$environ$setdefault("TORCHINDUCTOR_CACHE_DIR", file.path(tempdir(), "torchinductor"))
  reticulate::import("torch", convert = FALSE)
}

# R's torch and Python's bring two copies of one C++ library, and the session would crash.
refuse_r_torch <- function(call) {
  if ("torch" %in% loadedNamespaces()) {
    abort_mc(
      paste(
        "R's own torch package is loaded, and Python's torch cannot run in the same session.",
        "Restart R and use mcdropout without it, or run one of them in a process of its own (`callr::r()`)."
      ),
      class = "python", call = call
    )
  }
}

# reticulate takes any pyproject.toml for Poetry's and would say that Poetry is not there.
quiet_poetry <- function() {
  here <- "pyproject.toml"
  if (file.exists(here) && !any(grepl("[tool.poetry", readLines(here, warn = FALSE), fixed = TRUE))) {
    options(reticulate.poetry.project = getOption("reticulate.poetry.project", tempdir()))
  }
}

abort_python <- function(cnd, call) {
  text <- python_sentence(cnd)
  missing <- regmatches(text, regexec("No module named '([^'.]+)", text))[[1]]
  problem <- if (length(missing) == 2) {
    paste0("Python has no package `", missing[[2]], "`.")
  } else {
    paste0("Python could not be started: ", sub("[.]?$", ".", gsub("\\s+", " ", text)))
  }
  where <- python_in_use()
  parts <- c(
    problem,
    paste0("mcdropout needs Python 3.10 or newer with ", paste(python_packages, collapse = ", "), "."),
    if (!is.null(where)) paste0("Python in use: ", where, "."),
    "Install what is missing there, or set the environment variable RETICULATE_PYTHON to a Python that has",
    "it, and restart R."
  )
  abort_mc(paste(parts, collapse = " "), class = "python", python_error = cnd, call = call)
}

# NULL where none could be started.
python_in_use <- function() {
  tryCatch(if (reticulate::py_available()) reticulate::py_config()$python, error = function(cnd) NULL)
}

# A pip-installed core that was imported before ours keeps its place in `sys.modules`.
warn_other_version <- function(module, call) {
  theirs <- tryCatch(from_python(module$`__version__`), error = function(cnd) NULL)
  ours <- as.character(utils::packageVersion("mcdropout"))
  if (!is.null(theirs) && theirs != ours) {
    warn_mc(paste0("The Python core in use is version ", theirs, ", this R package ", ours, "."), call)
  }
}

# calling ----

# Calls the core's public function `name`, or "for_r.name", a function that the core has for R alone; its errors
# and warnings become R's.
call_core <- function(name, ..., call = rlang::caller_env()) {
  list(...) # an error in an argument is the caller's, not the core's
  fun <- core_object(name, call)
  with_core(fun(...), call)
}

core_object <- function(name, call) {
  module <- core(call)
  if (startsWith(name, "for_r.")) {
    module <- reticulate::import("mcdropout.for_r", convert = FALSE)
  }
  module[[sub("for_r.", "", name, fixed = TRUE)]]
}

# Evaluates `code`, which calls Python.
with_core <- function(code, call = rlang::caller_env()) {
  settle_if_forked()
  session$callback_error <- NULL
  log <- record_warnings()
  on.exit(log$stop(), add = TRUE)
  result <- tryCatch(code, error = function(cnd) rethrow(cnd, call))
  for (text in log$stop()) {
    warn_mc(text, call)
  }
  result
}

# parallel::mclapply() forks past Python, which has to hear of it: threads that were not copied would be
# waited for.
settle_if_forked <- function() {
  if (!identical(session$pid, Sys.getpid())) {
    if (!is.null(session$pid)) {
      reticulate::import("mcdropout.for_r", convert = FALSE)$after_fork()
    }
    session$pid <- Sys.getpid()
  }
}

# Python's warnings are printed on stderr, past R: they are collected instead.
record_warnings <- function() {
  warnings <- reticulate::import("warnings", convert = FALSE)
  context <- warnings$catch_warnings(record = TRUE)
  caught <- context$`__enter__`()
  stopped <- FALSE
  stop <- function() {
    if (stopped) {
      return(character())
    }
    stopped <<- TRUE
    context$`__exit__`(NULL, NULL, NULL)
    vapply(reticulate::iterate(caught), function(one) reticulate::py_str(one$message), character(1))
  }
  list(stop = stop)
}

warn_mc <- function(message, call = rlang::caller_env()) {
  rlang::warn(message, class = "mcdropout_warning", call = call)
}

# The core's own exceptions, and R's class for each.
error_classes <- c(
  NoStochasticSites = "no_stochastic_sites",
  IdenticalDraws = "identical_draws",
  OutOfMemory = "out_of_memory",
  UnreadableFile = "unreadable_file",
  ForkedProcess = "forked_process",
  FloatingPointError = "diverged",
  ImportError = "python",
  ValueError = "argument",
  TypeError = "argument"
)

# Raises Python's error anew as one sentence. The Python error is kept beside it, not as `parent`: rlang would
# show the same sentence a second time.
rethrow <- function(cnd, call) {
  if (inherits(cnd, "mcdropout_error")) {
    rlang::cnd_signal(cnd)
  }
  raise_callback_error()
  kinds <- sub("^.*[.]", "", class(cnd))
  known <- kinds[kinds %in% names(error_classes)]
  text <- python_sentence(cnd)
  if (length(known) == 0) {
    text <- paste0("The Python core failed: ", kinds[[1]], ": ", text)
    abort_mc(text, class = "core", python_error = cnd, call = call)
  }
  abort_mc(text, class = error_classes[[known[[1]]]], python_error = cnd, call = call)
}

# What a Python error says, without its class in front and reticulate's advice behind.
python_sentence <- function(cnd) {
  exception <- attr(cnd, "py_object")
  text <- if (is.null(exception)) conditionMessage(cnd) else reticulate::py_str(exception)
  trimws(sub("Run `reticulate::py_last_error\\(\\)` for details[.]?\\s*$", "", text))
}

# data ----

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
