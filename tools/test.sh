#!/usr/bin/env bash
# Runs pytest (the core and the bridge), then R CMD check, which runs testthat and the examples on the built package.
# All of them run; the last line has the counts. A missing R is a failure in CI. Elsewhere the tests of R are skipped
# with a message. The arguments go to pytest: `make test` leaves out the tests marked `slow`, `make test-all` does not.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

R_IS_OPTIONAL=yes FOR_TESTS=yes tools/setup.sh
rm -f "$SETUP/pytest.xml" "$SETUP/check_counts"  # the counts must not come from an earlier run
status=0

printf '\n== pytest: the core in Python, and R and Python together\n\n'
# Several workers, one file at a time each: most tests use one thread of torch, or wait for another process.
"$VENV/bin/python" -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
  --junit-xml="$SETUP/pytest.xml" --durations=5 --cov --cov-report= "$@" || status=1
"$VENV/bin/coverage" report --fail-under=95 || status=1

if have R; then
  printf '\n== R CMD check: the R package, its examples and testthat\n\n'
  tools/check_r_package.sh || status=1
  printf '\n== Coverage of the R package\n\n'
  Rscript tools/cover_r.R "$SETUP/build/mcdropout" 90 || status=1
fi

printf '\n'
"$VENV/bin/python" tools/count_tests.py "$SETUP/pytest.xml" "$SETUP/check_counts" || status=1
exit "$status"
