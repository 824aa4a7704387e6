# Argument checks of R, with the same sentences as python/mcdropout/checks.py.
#
# These checks find values that would be distorted on their way to Python (NA, 50 for 50L, vectors for
# scalars). The core checks everything else, and bridge-calls.R passes its sentence on. A bridge test compares
# the sentences of both languages.

# Raises an error of this package with one sentence. It uses rlang::abort(), because cli_abort() would
# interpret braces in the sentence.
abort_mc <- function(message, class = "argument", ..., call = rlang::caller_env()) {
  rlang::abort(
    message,
    class = c(paste0("mcdropout_error_", class), "mcdropout_error"),
    ...,
    call = call
  )
}

# Raises the error of most checks: the argument, what it must be, and the value it has.
abort_must <- function(name, wanted, x, ..., got = show_value(x), call = rlang::caller_env()) {
  abort_mc(paste0("`", name, "` must ", wanted, "; got ", got, "."), ..., call = call)
}

# `x` as text for a message: one line of at most 80 characters. Strings are quoted, long values are shortened.
show_value <- function(x) {
  text <- if (!is.object(x) && (is.null(x) || is.atomic(x) || is.list(x))) {
    show_plain_value(x)
  } else {
    paste0("an object of class \"", class(x)[[1]], "\"")
  }
  text <- as_one_line(text)
  size <- nchar(text)
  if (size <= 80) {
    text
  } else if (is.character(x) && length(x) == 1) { # keep both ends: a path ends in its file
    paste0(substr(text, 1, 38), "...", substr(text, size - 38, size))
  } else {
    paste0(substr(text, 1, 77), "...")
  }
}

# Valid UTF-8 in one line: escapes stand for bytes that are no letters, and for characters that end a line.
as_one_line <- function(text) {
  known <- Encoding(text) != "bytes"
  text[known] <- enc2utf8(text[known])
  Encoding(text) <- "UTF-8"
  text <- iconv(text, "UTF-8", "UTF-8", sub = "byte")
  if (!grepl("[[:cntrl:]\u2028\u2029]", text)) {
    return(text)
  }
  codes <- utf8ToInt(text)
  letters <- intToUtf8(codes, multiple = TRUE)
  escaped <- codes < 32 | (codes >= 127 & codes < 160) | codes %in% c(0x2028, 0x2029)
  short <- c("\\n", "\\r", "\\t")[match(codes[escaped], c(10, 13, 9))]
  long <- sprintf(ifelse(codes[escaped] < 256, "\\x%02x", "\\u%04x"), codes[escaped])
  letters[escaped] <- ifelse(is.na(short), long, short)
  paste(letters, collapse = "")
}

show_plain_value <- function(x) {
  if (is.character(x) && length(x) == 1 && !is.na(x)) {
    paste0("\"", as_one_line(x), "\"")
  } else if (is.numeric(x) && length(x) == 1) {
    format(as.vector(x), digits = 15, scientific = FALSE)
  } else if (is.atomic(x) && length(x) == 1) {
    if (is.na(x)) "NA" else as.character(x)
  } else {
    paste(trimws(deparse(x[seq_len(min(length(x), 80))], nlines = 3)), collapse = " ") # show_value() cuts it
  }
}

is_single_number <- function(x) {
  is.numeric(x) && length(x) == 1 && is.finite(x)
}

# A whole number of at least `at_least`. 50 counts, TRUE does not. The result is an integer if R has one that
# large.
as_count <- function(x, name = rlang::caller_arg(x), at_least = 1, call = rlang::caller_env()) {
  if (is_single_number(x) && x == trunc(x) && x >= at_least) {
    return(as_integer_if_small(x))
  }
  abort_must(name, paste("be a whole number of at least", at_least), x, call = call)
}

# Numbers beyond the range of R's integers stay doubles. Python takes both.
as_integer_if_small <- function(x) {
  if (abs(x) <= .Machine$integer.max) as.integer(x) else as.double(x)
}

# A finite number within the given bounds.
as_number <- function(x, name = rlang::caller_arg(x), above = NULL, at_least = NULL, below = NULL,
                      at_most = NULL, call = rlang::caller_env()) {
  bounds <- c("above" = above, "of at least" = at_least, "below" = below, "at most" = at_most)
  holds <- function(words, bound) bound_tests[[words]](x, bound)
  if (is_single_number(x) && all(mapply(holds, names(bounds), bounds))) {
    return(as.double(x))
  }
  words <- paste(names(bounds), bounds, collapse = " and ")
  abort_must(name, trimws(paste("be a number", words)), x, call = call)
}

bound_tests <- list("above" = `>`, "of at least" = `>=`, "below" = `<`, "at most" = `<=`)

# TRUE or FALSE, and no other value such as 1.
as_flag <- function(x, name = rlang::caller_arg(x), call = rlang::caller_env()) {
  if (is.logical(x) && length(x) == 1 && !is.na(x)) {
    return(as.vector(x))
  }
  abort_must(name, "be true or false", x, call = call)
}

# One of the strings in `choices`.
as_choice <- function(x, choices, name = rlang::caller_arg(x), call = rlang::caller_env()) {
  if (is.character(x) && length(x) == 1 && x %in% choices) {
    return(as.vector(x))
  }
  words <- paste0("\"", choices, "\"", collapse = ", ")
  abort_must(name, paste("be one of", words), x, call = call)
}

# A whole number from 0 to 2^53 - 1. NULL draws a seed from R's generator, so set.seed() determines it.
as_seed <- function(x, name = rlang::caller_arg(x), call = rlang::caller_env()) {
  if (is.null(x)) {
    return(sample.int(.Machine$integer.max, 1L))
  }
  if (is_single_number(x) && x == trunc(x) && x >= 0 && x <= max_seed) {
    return(as_integer_if_small(x))
  }
  abort_must(name, "be a whole number from 0 to 2^53 - 1", x, call = call)
}

max_seed <- 2^53 - 1 # R's doubles represent all whole numbers up to this one

# A path with "~" expanded, because Python would take "~" for the name of a folder.
as_path <- function(x, name = rlang::caller_arg(x), call = rlang::caller_env()) {
  if (rlang::is_string(x) && !is.na(x) && nzchar(x) && Encoding(x) != "bytes") {
    return(path.expand(x))
  }
  abort_must(name, "be a path", x, call = call)
}

# An optional argument: NULL stays NULL, every other value must pass `check`.
if_given <- function(x, check, name = rlang::caller_arg(x), ..., call = rlang::caller_env()) {
  if (is.null(x)) NULL else check(x, name = name, ..., call = call)
}

# One or several values that must each pass `check`. A single value stays single, because some arguments take
# one value for all.
each <- function(x, check, name = rlang::caller_arg(x), ..., call = rlang::caller_env()) {
  if (is.null(x) || length(x) == 0 && is.numeric(x)) {
    return(list())
  }
  if (length(x) == 1 || !rlang::is_vector(x)) {
    return(check(x, name = name, ..., call = call))
  }
  lapply(unname(x), check, name = name, ..., call = call)
}

# Checks that an argument is as long as another one.
check_length <- function(got, name, wanted, of, call = rlang::caller_env()) {
  if (got != wanted) {
    must <- paste0("be as long as `", of, "` (", wanted, ")")
    abort_must(name, must, got = paste("length", got), call = call)
  }
}
