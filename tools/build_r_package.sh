#!/usr/bin/env bash
# Builds the R source package and prints its path. It builds from a copy of the files of the package, because
# `R CMD build` copies the whole folder before it excludes anything, and .venv is large.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

STAGE="$SETUP/build$*"  # one folder for each set of options: a set-up must not delete the package of a running check
rm -rf "$STAGE"
mkdir -p "$STAGE/mcdropout"
contents=()
for item in DESCRIPTION NAMESPACE .Rbuildignore README.md NEWS.md R man inst python tests vignettes; do
  if [ -e "$item" ]; then contents+=("$item"); fi
done
tar -cf - --exclude='__pycache__' --exclude='*.pyc' "${contents[@]}" | tar -xf - -C "$STAGE/mcdropout"
(cd "$STAGE" && R CMD build "$@" mcdropout) >&2
ls "$STAGE"/mcdropout_*.tar.gz
