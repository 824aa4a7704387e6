# What every script here shares: where things lie, how a step is shown, when a step may be left out.
# Sourced by bash scripts, never run by itself.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT" || exit
SETUP="$ROOT/.setup"     # logs, stamps and caches of the set-up
VENV="$ROOT/.venv"       # the Python environment
R_LIBRARY="$ROOT/.rlib"  # the R packages that the machine lacks, and ours
mkdir -p "$SETUP" "$R_LIBRARY"

# R and Python find each other inside the clone, and write nothing outside it. pip's cache is the
# exception: it is looked up before XDG_CACHE_HOME changes, so that torch is fetched once per machine.
if [ "$(uname)" != Darwin ]; then
  export PIP_CACHE_DIR="${PIP_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/pip}"
fi
export XDG_CACHE_HOME="$SETUP/cache" XDG_DATA_HOME="$SETUP/data"
export R_USER_CACHE_DIR="$SETUP/cache/R" R_USER_DATA_DIR="$SETUP/data/R"
export MPLCONFIGDIR="$SETUP/cache/matplotlib" MPLBACKEND=Agg
export TORCHINDUCTOR_CACHE_DIR="$SETUP/cache/torchinductor"  # else torch leaves a folder in /tmp
export PYRIGHT_PYTHON_CACHE_DIR="$SETUP/cache/pyright" PYRIGHT_PYTHON_IGNORE_WARNINGS=1
export npm_config_cache="$SETUP/cache/npm" npm_config_update_notifier=false
export HYPOTHESIS_STORAGE_DIRECTORY="$SETUP/cache/hypothesis"
export PIP_DISABLE_PIP_VERSION_CHECK=1
export R_LIBS="$R_LIBRARY"
export RETICULATE_PYTHON="$VENV/bin/python"
export RETICULATE_CHECK_REQUIRED_PACKAGES=0  # would ask a package index at every start

# R reads its sources, and checks them, in the session's encoding; a bare machine has none set.
if [ "$(locale charmap 2>/dev/null)" != UTF-8 ]; then export LC_ALL=C.UTF-8; fi

# Ends the run with one sentence that says what to do.
fail() {
  printf '\n%s\n' "$*" >&2
  exit 1
}

# Shows that something is still going on: a dot every five seconds, until `process` is gone.
tick_while_alive() {
  local process="$1"
  while sleep 5 >/dev/null 2>&1 && kill -0 "$process" 2>/dev/null; do printf '.'; done
}

# step "What it does" NAME COMMAND...: one line with the time it took; details go to .setup/NAME.log.
step() {
  local title="$1" name="$2" log="$SETUP/$2.log" began=$SECONDS status=0 process ticker
  shift 2
  printf '%s ' "$title ..."
  # A process group of its own, so that Ctrl-C can end the work with all that it has started.
  set -m
  "$@" >"$log" 2>&1 </dev/null &
  process=$!
  set +m
  tick_while_alive "$process" 9>&- &  # without setup.sh's lock, which it would hold a little longer
  ticker=$!
  trap 'kill -TERM -- "-$process" "$ticker" 2>/dev/null; printf "\nInterrupted; run the same command again to go on.\n" >&2; exit 130' INT TERM
  wait "$process" || status=$?
  trap - INT TERM
  kill "$ticker" 2>/dev/null || true
  wait "$ticker" 2>/dev/null || true
  if [ "$status" -ne 0 ]; then
    printf ' failed\n\n'
    tail -n 40 "$log"
    fail "\"$title\" failed; the lines above are the end of .setup/$name.log, which says why."
  fi
  printf ' %d s\n' $((SECONDS - began))
}

# The checksum of files and words together. A stamp holds it, so a step is done again when what it
# depends on has changed: after a pull, in another folder, with another Python or R.
key_of() {
  { printf '%s\n' "$ROOT"; for item in "$@"; do if [ -f "$item" ]; then cat "$item"; else printf '%s\n' "$item"; fi; done; } | cksum
}

is_done() { [ "$(cat "$SETUP/$1.stamp" 2>/dev/null)" = "$2" ]; }

# Written only after success: an interrupted step has no stamp and is done again.
mark_done() { printf '%s\n' "$2" >"$SETUP/$1.stamp"; }

have() { command -v "$1" >/dev/null 2>&1; }

# The command that makes us root, or nothing; fails where neither is to be had without a question.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    env DEBIAN_FRONTEND=noninteractive "$@"
  else
    sudo -n env DEBIAN_FRONTEND=noninteractive "$@"
  fi
}

can_apt() { have apt-get && { [ "$(id -u)" = 0 ] || { have sudo && { sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; }; }; }; }; }

# apt_install PACKAGE...: fetches the package lists anew only if they do not know a package or are out of date.
apt_install() {
  as_root apt-get install -y --no-install-recommends "$@" && return
  as_root apt-get update && as_root apt-get install -y --no-install-recommends "$@"
}
