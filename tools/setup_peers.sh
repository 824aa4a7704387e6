# Other packages for Monte Carlo dropout, in .setup/peers, to compare with: on top of .venv, so that torch is the same and
# nothing of theirs enters what we test. Sourced by bench.sh, after setup.sh.

PEERS="$SETUP/peers"

# The environment sees .venv behind its own packages, which come first.
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

# One by one: where one cannot be had, the others still can, and the table says which is missing.
install_peers() {
  local peer
  for peer in baal keras "torch-uncertainty lightning torchvision timm" "--no-deps bayesian-torch"; do
    # shellcheck disable=SC2086  # a package with its option, or with what it imports without asking for it
    "$PEERS/bin/python" -m pip install -c constraints.txt $peer || echo "Left out: $peer"
  done
}

set_up_peers() {
  local key
  key="$(key_of "$SETUP/python.stamp" tools/setup_peers.sh)"
  is_done peers "$key" && return
  step "Making .setup/peers, over .venv" peers_environment make_peers_environment
  step "Installing baal, Keras, torch-uncertainty and bayesian-torch, to compare with" peers install_peers
  grep '^Left out' "$SETUP/peers.log" || true
  mark_done peers "$key"
}
