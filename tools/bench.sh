#!/usr/bin/env bash
# Runs the benchmarks behind the speed claims: every script of tests/benchmarks in alphabetical order, or the scripts
# given as arguments. WITH_PEERS=yes installs other packages for comparison. Later runs use them without this setting.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. tools/setup_peers.sh

FOR_TESTS=yes tools/setup.sh  # installs Keras and TensorFlow
if [ "${WITH_PEERS:-no}" = yes ]; then set_up_peers; fi
python="$VENV/bin/python"
if [ -x "$PEERS/bin/python" ]; then with_peers="$PEERS/bin/python"; else with_peers="$python"; fi

[ $# -gt 0 ] || set -- tests/benchmarks/*.py
for script in "$@"; do
  [ -e "$script" ] || fail "The benchmark $script does not exist; \`ls tests/benchmarks\` lists all."
  printf '\n== %s\n\n' "$script"
  case "$script" in
    */bench_peers.py | */bench_bayes.py) "$with_peers" "$script" ;;
    *) "$python" "$script" ;;
  esac
done
