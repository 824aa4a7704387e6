#!/usr/bin/env bash
# What the speed claims rest on: each script of tests/benchmarks, in the order of their names.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

FOR_TESTS=yes tools/setup.sh  # for Keras and TensorFlow
for script in tests/benchmarks/*.py; do
  [ -e "$script" ] || fail "There is no benchmark in tests/benchmarks."
  printf '\n== %s\n\n' "$script"
  "$VENV/bin/python" "$script"
done
