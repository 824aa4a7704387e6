#!/usr/bin/env bash
# Sets up what is missing, inside the clone: R and its packages, the Python environment, reticulate, and this R package.
# Finished steps are not repeated. `make demo`, `make test` and `.ci/run` start with this script.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Only one set-up runs at a time in a clone. The lock is released when the process ends.
if have flock; then
  exec 9>"$SETUP/lock"
  flock -n 9 || { echo "Another set-up of this clone is running; waiting for its end."; flock 9; }
fi

check_symbolic_link() {
  [ -f inst/python/mcdropout/checks.py ] || fail "\`inst/python\` must be a symbolic link to \`../python\`, but this checkout" \
    "has a plain file there; run \`git config core.symlinks true && rm -f inst/python && git checkout -- inst/python\`," \
    "or, where links cannot be made, \`rm -f inst/python && cp -R python inst/python\`."
}

check_symbolic_link
. tools/setup_r.sh
. tools/setup_python.sh
set_up_r
set_up_python
if [ "${FOR_TESTS:-no}" != no ]; then
  set_up_zoo
  set_up_backends
  set_up_browser
fi
set_up_libpython
set_up_r_package
