# Other packages for Monte Carlo dropout, installed in .setup/peers for comparison. The environment extends .venv, so
# that torch is the same, and .venv stays without them. bench.sh sources this file after setup.sh.

PEERS="$SETUP/peers"

# The environment also finds the packages of .venv. Its own packages come first.
make_peers_environment() {
  rm -rf "$PEERS"
  "$VENV/bin/python" -m venv "$PEERS"
  "$PEERS/bin/python" - "$VENV" <<'PY'
import pathlib, sys, sysconfig
own = pathlib.Path(sysconfig.get_path("purelib"))
behind = pathlib.Path(sys.argv[1]) / own.relative_to(sys.prefix)
(own / "behind.pth").write_text(f"import site; site.addsitedir({str(behind)!r})\n")
PY
}

# Each package is installed by itself. If one fails, the others are still installed; the table shows what is missing.
install_peers() {
  local peer
  for peer in baal keras "torch-uncertainty lightning torchvision timm" "--no-deps bayesian-torch"; do
    # shellcheck disable=SC2086  # an item is a package with an option, or with imports that it does not declare
    "$PEERS/bin/python" -m pip install -c constraints.txt $peer || echo "Left out: $peer"
  done
}

set_up_peers() {
  local key
  key="$(key_of "$SETUP/python.stamp" tools/setup_peers.sh)"
  is_done peers "$key" && return
  step "Making .setup/peers on top of .venv" peers_environment make_peers_environment
  step "Installing baal, Keras, torch-uncertainty and bayesian-torch for comparison" peers install_peers
  grep '^Left out' "$SETUP/peers.log" || true
  mark_done peers "$key"
}
