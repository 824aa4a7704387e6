#!/usr/bin/env bash
# Runs the quickstart in R, then in Python. The Python script compares its numbers with those of R.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

began=$SECONDS
tools/setup.sh
mkdir -p output
rm -f output/quickstart_*  # the comparison must not read numbers of an earlier run
printf '\n== In R: examples/quickstart.R\n\n'
Rscript examples/quickstart.R
printf '\n== In Python: examples/quickstart.py\n\n'
"$VENV/bin/python" examples/quickstart.py
printf '\nDone in %d s; the pictures and tables are in output/.\n' $((SECONDS - began))
