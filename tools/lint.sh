#!/usr/bin/env bash
# Runs ruff, pyright, shellcheck and lintr on all files, after the set-up. All of them run before the script fails.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

install_linters() {
  "$VENV/bin/python" -m pip install -c constraints.txt --no-build-isolation -e ".[dev]"
}

set_up_linters() {
  local key
  key="$(key_of pyproject.toml constraints.txt)"
  is_done linters "$key" && [ -x "$VENV/bin/ruff" ] && [ -x "$VENV/bin/pyright" ] && return
  step "Installing the linters" linters install_linters
  mark_done linters "$key"
}

lint_r() {
  Rscript -e 'lints <- c(lintr::lint_dir("R", cache = FALSE), lintr::lint_dir("tests/testthat", cache = FALSE), lintr::lint_dir("examples", cache = FALSE))' \
    -e 'for (lint in lints) cat(sprintf("%s:%d: %s [%s]\n", lint$filename, lint$line_number, lint$message, lint$linter))' \
    -e 'cat("lintr:", length(lints), "findings\n"); quit(status = length(lints) > 0)'
}

# In CI shellcheck is required. Elsewhere the script says that it is missing.
lint_shell() {
  if ! have shellcheck && can_apt; then step "Installing shellcheck" shellcheck apt_install shellcheck; fi
  if have shellcheck; then
    shellcheck tools/*.sh .ci/run && echo "shellcheck: no findings"
  else
    echo "shellcheck is not installed; the scripts were not checked."
    [ "${CI:-}" != true ]
  fi
}

R_IS_OPTIONAL=yes tools/setup.sh
set_up_linters
failed=""
"$VENV/bin/ruff" check . || failed="$failed ruff-check"
"$VENV/bin/ruff" format --check . || failed="$failed ruff-format"
"$VENV/bin/pyright" || failed="$failed pyright"
lint_shell || failed="$failed shellcheck"
if have R; then lint_r || failed="$failed lintr"; fi
[ -z "$failed" ] || fail "Findings by:$failed."
echo "The linters have no findings."
