#!/usr/bin/env bash
# Sets up what is missing, inside the clone, and nothing twice: R and its packages, the Python
# environment, reticulate, our R package. `make demo`, `make test` and `.ci/run` begin with it.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# One set-up at a time in one clone; the lock goes with the process, however it ends.
if have flock; then
  exec 9>"$SETUP/lock"
  flock -n 9 || { echo "Another set-up of this clone is running; waiting for it."; flock 9; }
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
