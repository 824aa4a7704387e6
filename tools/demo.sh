#!/usr/bin/env bash
# The quickstart in R, then in Python; the Python one also shows that the two agree.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

began=$SECONDS
tools/setup.sh
mkdir -p output
rm -f output/quickstart_*  # so that an older run's numbers are never taken for this one's
printf '\n== In R: examples/quickstart.R\n\n'
Rscript examples/quickstart.R
printf '\n== In Python: examples/quickstart.py\n\n'
"$VENV/bin/python" examples/quickstart.py
printf '\nDone in %d s; the pictures and tables are in output/.\n' $((SECONDS - began))
