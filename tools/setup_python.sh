# The Python environment in .venv, with the exact versions of constraints.txt. setup.sh sources this file.

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
}

# In Debian the module venv is a separate package.
add_venv_module() {
  "$1" -c 'import ensurepip, venv' 2>/dev/null && return
  if can_apt; then
    step "Installing python3-venv" apt_venv apt_install python3-venv
  fi
  "$1" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "Python at $1 cannot create virtual environments; install its venv module (Debian: \`apt-get install python3-venv\`)."
}

# Only the tests of the bridge use rpy2, which needs R.
python_extras() {
  if have R; then echo "plot,images,report,test,bridge"; else echo "plot,images,report,test"; fi
}

make_venv() {
  rm -rf "$VENV"  # an interrupted run may leave partly installed packages, which pip does not notice
  "$1" -m venv "$VENV"
  "$VENV/bin/python" -m pip install -c constraints.txt pip hatchling editables setuptools cffi
  install_into_venv
}

# RPY2_CFFI_MODE=ABI installs rpy2 without compiling, so that no headers of R or Python are needed. Without build
# isolation the build tools have pinned versions too, and a later run needs no network for them.
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
    step "Updating .venv" python install_into_venv
  else
    step "Making .venv with PyTorch and the other Python packages" python make_venv "$python"
    mark_done venv "$(key_of "$("$python" --version)")"
  fi
  mark_done python "$key"
}

# Networks of torchvision, timm and transformers, and data frames other than those of pandas. Only the tests need them,
# so the demo does not install them.
set_up_zoo() {
  local key
  key="$(key_of "$SETUP/python.stamp" zoo)"
  is_done zoo "$key" && return
  step "Installing torchvision, timm, transformers, a backbone and data frames for the tests" zoo \
    "$VENV/bin/python" -m pip install -c constraints.txt --no-build-isolation -e ".[zoo,backbones,frames]"
  mark_done zoo "$key"
}

# Keras with its three backends. Only the tests need them.
set_up_backends() {
  local key
  key="$(key_of "$SETUP/python.stamp" backends)"
  is_done backends "$key" && return
  step "Installing Keras with TensorFlow and JAX for the tests" backends \
    "$VENV/bin/python" -m pip install -c constraints.txt --no-build-isolation -e ".[backends]"
  mark_done backends "$key"
}

have_browser() { have chromium || have chromium-browser || have google-chrome; }

# Chromium opens reports in the tests. Without it these tests are skipped with a message.
set_up_browser() {
  local log="$SETUP/browser.log"
  have_browser && return
  [ -e "$SETUP/browser.stamp" ] && return  # an earlier run tried it
  if can_apt; then
    echo "Installing Chromium for the tests of reports ..."
    apt_install chromium >"$log" 2>&1 </dev/null || echo "Chromium could not be installed (see .setup/browser.log); the tests in a browser will be skipped."
  fi
  mark_done browser tried
}
