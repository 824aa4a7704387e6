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
#' @family python
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
