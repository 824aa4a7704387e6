# Measures which lines of the R package its tests run, and prints the functions with lines that none runs.
# Usage: Rscript tools/cover_r.R FOLDER PERCENT
# Fails where fewer than PERCENT of the lines are run.

main <- function(folder, at_least) {
  Sys.setenv(MCDROPOUT_REQUIRE_PYTHON = 1) # a test that finds no Python core fails
  options(covr.rstudio_source_markers = FALSE) # asks for a package that the list of lines can do without
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
