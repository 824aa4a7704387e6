# Calls the core's public function `name`. A name such as "for_r.report" is a function that the core keeps for
# R alone. Errors and warnings of Python become errors and warnings of R.
call_core <- function(name, ..., call = rlang::caller_env()) {
  arguments <- list(...) # evaluated first: an error in an argument is not an error of the core
  check_text(arguments, call)
  fun <- core_object(name, call)
  with_core(fun(...), call)
}

# Refuses text that is not in the encoding that R states for it: reticulate would end the R session.
check_text <- function(x, call) {
  if (is.list(x)) {
    lapply(c(list(names(x)), unclass(x)), check_text, call)
  } else if (is.character(x)) {
    marked <- Encoding(x)
    wrong <- which(marked == "bytes" | (marked == "UTF-8" & !validUTF8(x)))
    if (length(wrong) > 0) {
      abort_mc(paste0("Text must be in the encoding that R states for it; got ", show_value(x[[wrong[[1]]]]),
        ". Read it in its own encoding, or convert it by `iconv()`."), call = call)
    }
  }
}

core_object <- function(name, call) {
  module <- core(call)
  if (startsWith(name, "for_r.")) {
    module <- reticulate::import("mcdropout.for_r", convert = FALSE)
  }
  module[[sub("for_r.", "", name, fixed = TRUE)]]
}

# Evaluates `code`, which calls Python, and turns its errors and warnings into those of R.
with_core <- function(code, call = rlang::caller_env()) {
  tell_python_of_fork()
  session$callback_error <- NULL
  log <- record_warnings()
  on.exit(log$stop(), add = TRUE)
  result <- tryCatch(code, error = function(cnd) rethrow(cnd, call))
  for (text in log$stop()) {
    warn_mc(text, call)
  }
  result
}

# parallel::mclapply() forks without telling Python. Python has to be told: otherwise it waits for threads
# that the fork did not copy.
tell_python_of_fork <- function() {
  if (!identical(session$pid, Sys.getpid())) {
    if (!is.null(session$pid)) {
      reticulate::import("mcdropout.for_r", convert = FALSE)$after_fork()
    }
    session$pid <- Sys.getpid()
  }
}

# Collects Python's warnings, which Python would print on stderr without R's knowledge.
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
    vapply(reticulate::iterate(caught), function(record) reticulate::py_str(record$message), character(1))
  }
  list(stop = stop)
}

warn_mc <- function(message, call = rlang::caller_env()) {
  rlang::warn(message, class = "mcdropout_warning", call = call)
}

# The core's own exceptions, with R's class for each.
error_classes <- c(
  NoStochasticSites = "no_stochastic_sites",
  IdenticalDraws = "identical_draws",
  OutOfMemory = "out_of_memory",
  MemoryError = "out_of_memory",
  UnreadableFile = "unreadable_file",
  ForkedProcess = "forked_process",
  FloatingPointError = "diverged",
  ImportError = "python",
  ValueError = "argument",
  TypeError = "argument"
)

# Raises a Python error as an R error of one sentence. The Python error becomes a field of the condition, not
# its `parent`, because rlang would then show the same sentence twice.
rethrow <- function(cnd, call) {
  if (inherits(cnd, "mcdropout_error")) {
    rlang::cnd_signal(cnd)
  }
  raise_callback_error()
  kinds <- sub("^.*[.]", "", class(cnd))
  known <- kinds[kinds %in% names(error_classes)]
  text <- python_sentence(cnd)
  if (any(c("UnicodeDecodeError", "UnicodeEncodeError") %in% kinds) || grepl("\"bytes\" encoding", text)) {
    abort_mc("Strings must be valid text; got one whose bytes do not fit its encoding.", call = call)
  }
  if (text == "" && "MemoryError" %in% kinds) {
    text <- "Python ran out of memory."
  }
  if (length(known) == 0) {
    text <- paste0("The Python core failed: ", kinds[[1]], ": ", text)
    abort_mc(text, class = "core", python_error = cnd, call = call)
  }
  abort_mc(text, class = error_classes[[known[[1]]]], python_error = cnd, call = call)
}

# The sentence of a Python error, without its class before it and without reticulate's advice after it.
python_sentence <- function(cnd) {
  exception <- attr(cnd, "py_object")
  text <- if (is.null(exception)) conditionMessage(cnd) else reticulate::py_str(exception)
  trimws(sub("Run `reticulate::py_last_error\\(\\)` for details[.]?\\s*$", "", text))
}
