# Reads what R CMD check wrote: no errors, no warnings, and no notes but those named below.
# Usage: Rscript tools/judge_check.R FOLDER.Rcheck COUNTS
# Writes "passed failed skipped" to COUNTS; the check itself counts as one test.

# What is let pass when its check and all of its text fit; never an error or a warning.
known_notes <- list(
  # Names the maintainer at every first submission, whatever the package is like.
  list(check = "^CRAN incoming feasibility$", output = "^Maintainer: [^\n]*(\n+New submission)?$")
)

is_known <- function(finding) {
  finding$Status %in% c("NOTE", "Note_to_CRAN_maintainers") &&
    any(vapply(known_notes, function(known) {
      grepl(known$check, finding$Check) && grepl(known$output, trimws(finding$Output))
    }, logical(1)))
}

findings <- function(folder) {
  found <- tools::check_packages_in_dir_details(logs = file.path(folder, "00check.log"), drop_ok = TRUE)
  found <- as.data.frame(found, stringsAsFactors = FALSE)
  Filter(function(one) one$Status != "OK" && !is_known(one), split(found, seq_len(nrow(found))))
}

# R's own count, as in "Status: 1 WARNING, 2 NOTEs": some warnings have a form that `findings()` does not see.
status_line <- function(log) {
  utils::tail(c("", grep("^Status: ", readLines(log, warn = FALSE), value = TRUE)), 1)
}

n_counted <- function(status, kind) {
  found <- regmatches(status, regexec(paste0("([0-9]+) ", kind), status))[[1]]
  if (length(found) == 0) 0 else as.integer(found[[2]])
}

# testthat's last line, as in "[ FAIL 0 | WARN 0 | SKIP 1 | PASS 24 ]"; all zero where there is none.
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
    began <- grep("library\\(testthat\\)|test_check", lines)
    cat(lines[seq(max(1, began), length(lines))], sep = "\n")
  }
}

main <- function(folder, counts_file) {
  log <- file.path(folder, "00check.log")
  status <- if (file.exists(log)) status_line(log) else ""
  found <- if (nzchar(status)) findings(folder)
  tests <- testthat_counts(folder)
  clean <- nzchar(status) && length(found) == 0 && n_counted(status, "ERROR") + n_counted(status, "WARNING") == 0 &&
    n_counted(status, "NOTE") <= length(known_notes) && tests[["failed"]] == 0 && tests[["passed"]] > 0
  if (!clean || tests[["skipped"]] > 0) show_tests(folder)
  for (one in found) cat(sprintf("\n%s: %s\n%s\n", one$Status, one$Check, one$Output))
  cat(if (nzchar(status)) status else "R CMD check did not come to its end.", "\n")
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
