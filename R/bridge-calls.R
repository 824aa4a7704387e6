# Calls the core's public function `name`, or "for_r.name", a function that the core has for R alone; its
# errors and warnings become R's.
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
