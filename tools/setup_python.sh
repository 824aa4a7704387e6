# The Python environment in .venv, with exactly the versions of constraints.txt. Sourced by setup.sh.

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
}

# Debian splits venv off from python3.
add_venv_module() {
  "$1" -c 'import ensurepip, venv' 2>/dev/null && return
  if can_apt; then
    step "Installing python3-venv" apt_venv apt_install python3-venv
  fi
  "$1" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "Python at $1 cannot make virtual environments; install its venv module (Debian: \`apt-get install python3-venv\`)."
}

# rpy2 serves only the tests across the bridge, and needs R.
python_extras() {
  if have R; then echo "plot,images,report,test,bridge"; else echo "plot,images,report,test"; fi
}

make_venv() {
  rm -rf "$VENV"  # whatever an interrupted run has left: pip cannot tell half a package from a whole one
  "$1" -m venv "$VENV"
  "$VENV/bin/python" -m pip install -c constraints.txt pip hatchling editables setuptools cffi
  install_into_venv
}

# RPY2_CFFI_MODE: rpy2 without compiling, so that no R or Python headers are needed. No build isolation: what builds
# us and rpy2 is installed and pinned like the rest, and a later run needs no network for it.
install_into_venv() {
  touch "$VENV/.unfinished"
  RPY2_CFFI_MODE=ABI "$VENV/bin/python" -m pip install -c constraints.txt --no-build-isolation -e ".[$(python_extras)]"
  rm -f "$VENV/.unfinished"
}

set_up_python() {
  local python key
  python="$(find_python)"
  [ -n "$python" ] || fail "Python 3.10 or newer is needed; install it (Debian: \`apt-get install python3 python3-venv\`)."
  key="$(key_of pyproject.toml constraints.txt "$("$python" --version)" "$(grep '^Version:' DESCRIPTION)" "$(python_extras)")"
  is_done python "$key" && "$VENV/bin/python" -c '' 2>/dev/null && return
  add_venv_module "$python"
  if "$VENV/bin/python" -c '' 2>/dev/null && [ ! -e "$VENV/.unfinished" ] && is_done venv "$(key_of "$("$python" --version)")"; then
    step "Bringing .venv up to date" python install_into_venv
  else
    step "Making .venv with PyTorch and the other Python packages" python make_venv "$python"
    mark_done venv "$(key_of "$("$python" --version)")"
  fi
  mark_done python "$key"
}

# Networks of torchvision, timm and transformers: for the tests alone, so the demo does not wait for them.
set_up_zoo() {
  local key
  key="$(key_of "$SETUP/python.stamp" zoo)"
  is_done zoo "$key" && return
  step "Installing torchvision, timm, transformers and a backbone, to test on their networks" zoo \
    "$VENV/bin/python" -m pip install -c constraints.txt --no-build-isolation -e ".[zoo,backbones]"
  mark_done zoo "$key"
}

# Keras on its three backends: for the tests alone.
set_up_backends() {
  local key
  key="$(key_of "$SETUP/python.stamp" backends)"
  is_done backends "$key" && return
  step "Installing Keras with TensorFlow and JAX, to test on its backends" backends \
    "$VENV/bin/python" -m pip install -c constraints.txt --no-build-isolation -e ".[backends]"
  mark_done backends "$key"
}

have_browser() { have chromium || have chromium-browser || have google-chrome; }

# Chromium, to open reports in: for the tests alone, which say so and skip where there is none.
set_up_browser() {
  local log="$SETUP/browser.log"
  have_browser && return
  [ -e "$SETUP/browser.stamp" ] && return  # tried already
  if can_apt; then
    echo "Installing Chromium, to test reports in a browser ..."
    apt_install chromium >"$log" 2>&1 </dev/null || echo "It cannot be had here (.setup/browser.log says why); the tests in a browser are left out."
  fi
  mark_done browser tried
}
