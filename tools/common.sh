# Shared by all scripts of this folder: paths, environment variables, progress of a step, and stamps of finished steps.
# Other scripts source this file; it is not run by itself.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT" || exit
SETUP="$ROOT/.setup"     # logs, stamps and caches
VENV="$ROOT/.venv"       # the Python environment
R_LIBRARY="$ROOT/.rlib"  # R packages that the machine lacks, and this package
mkdir -p "$SETUP" "$R_LIBRARY"

# R and Python find each other inside the clone and write nothing outside it. The only exception is the cache of pip:
# its path is set before XDG_CACHE_HOME changes, so that torch is downloaded once per machine.
if [ "$(uname)" != Darwin ]; then
  export PIP_CACHE_DIR="${PIP_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/pip}"
fi
export XDG_CACHE_HOME="$SETUP/cache" XDG_DATA_HOME="$SETUP/data"
export R_USER_CACHE_DIR="$SETUP/cache/R" R_USER_DATA_DIR="$SETUP/data/R"
export MPLCONFIGDIR="$SETUP/cache/matplotlib" MPLBACKEND=Agg
export TORCHINDUCTOR_CACHE_DIR="$SETUP/cache/torchinductor"  # otherwise torch writes to /tmp
export PYRIGHT_PYTHON_CACHE_DIR="$SETUP/cache/pyright" PYRIGHT_PYTHON_IGNORE_WARNINGS=1
export npm_config_cache="$SETUP/cache/npm" npm_config_update_notifier=false
export HYPOTHESIS_STORAGE_DIRECTORY="$SETUP/cache/hypothesis"
export PIP_DISABLE_PIP_VERSION_CHECK=1
export R_LIBS="$R_LIBRARY"
export RETICULATE_PYTHON="$VENV/bin/python"
export RETICULATE_CHECK_REQUIRED_PACKAGES=0  # would ask a package index at every start

# R reads and checks its sources in the encoding of the session. A minimal machine may have no UTF-8 locale set.
if [ "$(locale charmap 2>/dev/null)" != UTF-8 ]; then export LC_ALL=C.UTF-8; fi

# fail MESSAGE: prints the message and ends the run. The message says what to do.
fail() {
  printf '\n%s\n' "$*" >&2
  exit 1
}

# tick_while_alive PID: prints a dot every five seconds while the process runs.
tick_while_alive() {
  local process="$1"
  while sleep 5 >/dev/null 2>&1 && kill -0 "$process" 2>/dev/null; do printf '.'; done
}

# step TITLE NAME COMMAND...: runs the command and prints one line with its run time. The output of the command goes to
# .setup/NAME.log.
step() {
  local title="$1" name="$2" log="$SETUP/$2.log" began=$SECONDS status=0 process ticker
  shift 2
  printf '%s ' "$title ..."
  # The command gets its own process group, so that Ctrl-C ends it together with its child processes.
  set -m
  "$@" >"$log" 2>&1 </dev/null &
  process=$!
  set +m
  tick_while_alive "$process" 9>&- &  # closes the lock of setup.sh, which the ticker would hold longer
  ticker=$!
  trap 'kill -TERM -- "-$process" "$ticker" 2>/dev/null; printf "\nInterrupted; run the same command again to continue.\n" >&2; exit 130' INT TERM
  wait "$process" || status=$?
  trap - INT TERM
  kill "$ticker" 2>/dev/null || true
  wait "$ticker" 2>/dev/null || true
  if [ "$status" -ne 0 ]; then
    printf ' failed\n\n'
    tail -n 40 "$log"
    fail "\"$title\" failed; the lines above are the end of its log, .setup/$name.log."
  fi
  printf ' %d s\n' $((SECONDS - began))
}

# key_of FILE_OR_WORD...: one checksum of the contents of files and of words. A stamp holds it. A step runs again when
# its key has changed: after a pull, in another folder, with another Python or R.
key_of() {
  { printf '%s\n' "$ROOT"; for item in "$@"; do if [ -f "$item" ]; then cat "$item"; else printf '%s\n' "$item"; fi; done; } | cksum
}

is_done() { [ "$(cat "$SETUP/$1.stamp" 2>/dev/null)" = "$2" ]; }

# A stamp is written only after success: an interrupted step has no stamp and runs again.
mark_done() { printf '%s\n' "$2" >"$SETUP/$1.stamp"; }

have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command as root. It fails where that would ask for a password.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    env DEBIAN_FRONTEND=noninteractive "$@"
  else
    sudo -n env DEBIAN_FRONTEND=noninteractive "$@"
  fi
}

can_apt() { have apt-get && { [ "$(id -u)" = 0 ] || { have sudo && { sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; }; }; }; }; }

# apt_install PACKAGE...: updates the package lists only if the first try fails.
apt_install() {
  as_root apt-get install -y --no-install-recommends "$@" && return
  as_root apt-get update && as_root apt-get install -y --no-install-recommends "$@"
}
