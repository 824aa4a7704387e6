#!/usr/bin/env bash
# Runs R CMD check --as-cran on the built package, inside the clone, without the checks that need CRAN's network.
# Then tools/judge_check.R reads the log.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

export _R_CHECK_CRAN_INCOMING_REMOTE_=false  # would ask CRAN whether the name is free, and follow links
export _R_CHECK_SYSTEM_CLOCK_=false          # would ask a time server
export _R_CHECK_FORCE_SUGGESTS_=false        # a machine may lack packages that only some tests use
# Run times depend on the load of the machine, and torch uses several cores on purpose.
export _R_CHECK_EXAMPLE_TIMING_THRESHOLD_=60
export _R_CHECK_EXAMPLE_TIMING_CPU_TO_ELAPSED_THRESHOLD_=100 _R_CHECK_TEST_TIMING_CPU_TO_ELAPSED_THRESHOLD_=100
export MCDROPOUT_REQUIRE_PYTHON=1            # a test without Python fails instead of being skipped
export TZ=UTC

tarball="$(tools/build_r_package.sh 2>"$SETUP/build.log")" || { cat "$SETUP/build.log"; fail "R CMD build failed; the lines above show the cause."; }
rm -rf "$SETUP/check"
mkdir -p "$SETUP/check"
# The PDF manual would need LaTeX. The help pages are checked as text and HTML.
(cd "$SETUP/check" && R CMD check --as-cran --no-manual "$tarball") || true
Rscript tools/judge_check.R "$SETUP/check/mcdropout.Rcheck" "$SETUP/check_counts"
