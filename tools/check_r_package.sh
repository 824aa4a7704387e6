#!/usr/bin/env bash
# R CMD check --as-cran on the built package, inside the clone, without what only CRAN's own network
# can answer; then tools/judge_check.R reads the log.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

export _R_CHECK_CRAN_INCOMING_REMOTE_=false  # asks CRAN whether the name is free, and follows links
export _R_CHECK_SYSTEM_CLOCK_=false          # asks a time server
export _R_CHECK_FORCE_SUGGESTS_=false        # a machine may lack what only some tests use
# Seconds depend on what else the machine does, and torch uses several cores on purpose.
export _R_CHECK_EXAMPLE_TIMING_THRESHOLD_=60
export _R_CHECK_EXAMPLE_TIMING_CPU_TO_ELAPSED_THRESHOLD_=100 _R_CHECK_TEST_TIMING_CPU_TO_ELAPSED_THRESHOLD_=100
export MCDROPOUT_REQUIRE_PYTHON=1            # a test that finds no Python core fails: set-up has made one
export TZ=UTC

tarball="$(tools/build_r_package.sh 2>"$SETUP/build.log")" || { cat "$SETUP/build.log"; fail "R CMD build failed; the lines above say why."; }
rm -rf "$SETUP/check"
mkdir -p "$SETUP/check"
# The manual as PDF would need LaTeX; its pages are checked as text and HTML.
(cd "$SETUP/check" && R CMD check --as-cran --no-manual "$tarball") || true
Rscript tools/judge_check.R "$SETUP/check/mcdropout.Rcheck" "$SETUP/check_counts"
