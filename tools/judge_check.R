# Reads the log of R CMD check. It fails on errors, on warnings, and on notes that are not listed below.
# Usage: Rscript tools/judge_check.R FOLDER.Rcheck COUNTS
# Writes "passed failed skipped" to COUNTS; the check itself counts as one test.

# A note is accepted if its check and its whole text match. Errors and warnings are never accepted.
known_notes <- list(
  # CRAN reports the maintainer at every first submission.
  list(check = "^CRAN incoming feasibility$", output = "^Maintainer: [^\n]*(\n+New submission)?$")
)

is_known <- function(finding) {
  finding$Status %in% c("NOTE", "Note_to_CRAN_maintainers") &&
    any(vapply(known_notes, function(known) {
      grepl(known$check, finding$Check) && grepl(known$output, trimws(finding$Output))
    }, logical(1)))
}

findings <- function(folder) {
  details <- tools::check_packages_in_dir_details(logs = file.path(folder, "00check.log"), drop_ok = TRUE)
  details <- as.data.frame(details, stringsAsFactors = FALSE)
  Filter(function(row) row$Status != "OK" && !is_known(row), split(details, seq_len(nrow(details))))
}

# The count by R, for example "Status: 1 WARNING, 2 NOTEs". `findings()` misses some forms of warnings.
status_line <- function(log) {
  utils::tail(c("", grep("^Status: ", readLines(log, warn = FALSE), value = TRUE)), 1)
}

n_counted <- function(status, kind) {
  groups <- regmatches(status, regexec(paste0("([0-9]+) ", kind), status))[[1]]
  if (length(groups) == 0) 0 else as.integer(groups[[2]])
}

# The last line of testthat, for example "[ FAIL 0 | WARN 0 | SKIP 1 | PASS 24 ]". Without it all are 0.
testthat_counts <- function(folder) {
  logs <- Sys.glob(file.path(folder, "tests", "testthat.Rout*"))
  lines <- unlist(lapply(logs, readLines, warn = FALSE))
  last <- utils::tail(grep("^\\[ FAIL \\d+ \\| WARN", lines, value = TRUE), 1)
  if (length(last) == 0) {
    return(c(failed = 0, warned = 0, skipped = 0, passed = 0))
  }
  numbers <- as.integer(regmatches(last, gregexpr("[0-9]+", last))[[1]])
  stats::setNames(numbers, c("failed", "warned", "skipped", "passed"))
}

show_tests <- function(folder) {
  for (log in Sys.glob(file.path(folder, "tests", "testthat.Rout*"))) {
    lines <- readLines(log, warn = FALSE)
    starts <- grep("library\\(testthat\\)|test_check", lines)
    cat(lines[seq(max(1, starts), length(lines))], sep = "\n")
  }
}

main <- function(folder, counts_file) {
  log <- file.path(folder, "00check.log")
  status <- if (file.exists(log)) status_line(log) else ""
  unaccepted <- if (nzchar(status)) findings(folder)
  tests <- testthat_counts(folder)
  clean <- nzchar(status) && length(unaccepted) == 0 && n_counted(status, "ERROR") + n_counted(status, "WARNING") == 0 &&
    n_counted(status, "NOTE") <= length(known_notes) && tests[["failed"]] == 0 && tests[["passed"]] > 0
  if (!clean || tests[["skipped"]] > 0) show_tests(folder)
  for (finding in unaccepted) {
    cat(sprintf("\n%s: %s\n%s\n", finding$Status, finding$Check, finding$Output))
  }
  cat(if (nzchar(status)) status else "R CMD check did not finish.", "\n")
  if (tests[["passed"]] == 0) cat("testthat ran no test.\n")
  cat(sprintf(
    "R CMD check: %s; testthat: %d passed, %d failed, %d skipped\n",
    if (clean) "clean" else "not clean", tests[["passed"]], tests[["failed"]], tests[["skipped"]]
  ))
  cat(tests[["passed"]] + clean, tests[["failed"]] + !clean, tests[["skipped"]], "\n", file = counts_file)
  quit(status = !clean)
}

arguments <- commandArgs(trailingOnly = TRUE)
main(arguments[[1]], arguments[[2]])
