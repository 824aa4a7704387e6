# Finds Python and loads the core. Only the files bridge-*.R call reticulate.

# What lives as long as the R session: the Python module, once it is loaded, and the optimizer of each
# network.
session <- new.env(parent = emptyenv())

session$optimizers <- new.env(parent = emptyenv())

python_packages <- c(
  "torch>=2.6", "numpy>=1.26", "pandas>=2.0.3", "scipy>=1.11", "safetensors>=0.4.3", "tqdm>=4.64"
)

# Declares the Python packages that the core needs, when the package is loaded. Starts no Python.
declare_python_packages <- function() {
  reticulate::py_require(python_packages)
}

#' Is the Python core available?
#'
#' Looks for a Python with the packages that mcdropout needs, and tries to load it. This function never fails
#' and never downloads anything. The first call of another function may download packages
#' ([reticulate::py_require()]). Use it to guard examples and tests. Every other function of this package says
#' what is missing.
#'
#' @return (flag) `TRUE` if the Python core can be used.
#' @export
#' @family python
#' @examples
#' mc_python_available()
mc_python_available <- function() {
  tryCatch(python_is_found() && is.environment(core()), error = function(cnd) FALSE)
}

# Is Python running, or is there a Python with torch? If there is one, it is used. reticulate would otherwise
# create an environment of its own, unless a Python is named.
python_is_found <- function() {
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
  quiet <- options(show.error.messages = FALSE) # reticulate reports every Python that it cannot inspect
  on.exit(options(quiet), add = TRUE)
  config <- reticulate::py_discover_config("torch")
  !is.null(config$required_module_path) && reticulate::py_available(initialize = TRUE)
}

# loading ----

# Returns the Python module, which is loaded at the first use. Its results stay Python objects.
core <- function(call = rlang::caller_env()) {
  session$core <- session$core %||% load_core(call)
  session$core
}

load_core <- function(call, folder = system.file("python", package = "mcdropout")) {
  refuse_r_torch(call)
  quiet_poetry()
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
      load_torch() # before the core, which loads torch late
      reticulate::import_from_path("mcdropout", folder, convert = FALSE)
    },
    error = function(cnd) abort_python(cnd, call)
  )
  warn_other_version(module, call)
  module
}

# R's linear algebra comes first in the search for symbols, and torch would use it to multiply matrices. That
# is 30 times slower, and the numbers differ slightly from those in Python. Where RTLD_DEEPBIND exists, it
# makes torch search its own symbols first. It has no effect if torch is loaded already.
load_torch <- function() {
  sys <- reticulate::import("sys")
  os <- reticulate::import("os")
  if (reticulate::py_has_attr(os, "RTLD_DEEPBIND")) {
    flags <- sys$getdlopenflags()
    on.exit(sys$setdlopenflags(flags))
    sys$setdlopenflags(bitwOr(flags, os$RTLD_DEEPBIND))
  }
  # torch creates this folder when it trains; an R session must leave nothing outside its temporary folder
  os$environ$setdefault("TORCHINDUCTOR_CACHE_DIR", file.path(tempdir(), "torchinductor"))
  reticulate::import("torch", convert = FALSE)
}

# R's torch and Python's torch load two copies of one C++ library, and the session would crash.
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

# reticulate takes every pyproject.toml for one of Poetry, and would report that Poetry is missing.
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

# The path of the running Python, or NULL where none could be started.
python_in_use <- function() {
  tryCatch(if (reticulate::py_available()) reticulate::py_config()$python, error = function(cnd) NULL)
}

# A core that pip installed, and that was imported before this one, keeps its place in `sys.modules`.
warn_other_version <- function(module, call) {
  core_version <- tryCatch(from_python(module$`__version__`), error = function(cnd) NULL)
  r_version <- as.character(utils::packageVersion("mcdropout"))
  if (!is.null(core_version) && core_version != r_version) {
    text <- "The Python core in use is version %s, this R package is version %s."
    warn_mc(sprintf(text, core_version, r_version), call)
  }
}
