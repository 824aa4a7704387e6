# Measures the line coverage of the R package by its tests, and prints the lines that no test runs.
# Usage: Rscript tools/cover_r.R FOLDER PERCENT
# Fails if the coverage is below PERCENT.

main <- function(folder, at_least) {
  Sys.setenv(MCDROPOUT_REQUIRE_PYTHON = 1) # a test without Python fails instead of being skipped
  options(covr.rstudio_source_markers = FALSE) # would need the package rstudioapi
  coverage <- covr::package_coverage(folder, type = "tests", quiet = TRUE)
  not_run <- covr::zero_coverage(coverage)
  if (nrow(not_run) > 0) {
    cat(sprintf("%s:%d (%s)\n", not_run$filename, not_run$line, not_run$functions), sep = "")
  }
  percent <- covr::percent_coverage(coverage, by = "line")
  cat(sprintf("R coverage: %.1f %% of lines (at least %g %%)\n", percent, at_least))
  quit(status = percent < at_least)
}

arguments <- commandArgs(trailingOnly = TRUE)
main(arguments[[1]], as.numeric(arguments[[2]]))
