#!/usr/bin/env bash
# What the speed claims rest on: each script of tests/benchmarks, in the order of their names, or those named.
# WITH_PEERS=yes installs other packages to compare with; once there, they are used without being asked for.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. tools/setup_peers.sh

FOR_TESTS=yes tools/setup.sh  # for Keras and TensorFlow
if [ "${WITH_PEERS:-no}" = yes ]; then set_up_peers; fi
python="$VENV/bin/python"
if [ -x "$PEERS/bin/python" ]; then with_peers="$PEERS/bin/python"; else with_peers="$python"; fi

[ $# -gt 0 ] || set -- tests/benchmarks/*.py
for script in "$@"; do
  [ -e "$script" ] || fail "There is no benchmark $script; \`ls tests/benchmarks\` shows them."
  printf '\n== %s\n\n' "$script"
  case "$script" in
    */bench_peers.py | */bench_bayes.py) "$with_peers" "$script" ;;
    *) "$python" "$script" ;;
  esac
done
