#!/usr/bin/env bash
# Builds the R source package and prints its path. From a copy of just the files that belong to it:
# `R CMD build` copies a whole folder before it leaves anything out, and .venv is large.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

STAGE="$SETUP/build$*"  # by its options, so that a set-up beside a running check does not take its package away
rm -rf "$STAGE"
mkdir -p "$STAGE/mcdropout"
contents=()
for item in DESCRIPTION NAMESPACE .Rbuildignore README.md NEWS.md R man inst python tests vignettes; do
  if [ -e "$item" ]; then contents+=("$item"); fi
done
tar -cf - --exclude='__pycache__' --exclude='*.pyc' "${contents[@]}" | tar -xf - -C "$STAGE/mcdropout"
(cd "$STAGE" && R CMD build "$@" mcdropout) >&2
ls "$STAGE"/mcdropout_*.tar.gz
