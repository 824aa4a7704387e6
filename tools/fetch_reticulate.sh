#!/usr/bin/env bash
# Prints the path of reticulate's source as Debian 13 has it, fetched by apt. Fails where apt has no
# Debian archive: there CRAN serves.
#
# Debian 12's own reticulate is too old for `py_require()` and NumPy 2. The archive that this
# machine's apt already uses also holds Debian 13's source package, so its address comes from apt's
# settings, its index is fetched into a folder of the clone (the machine's own lists stay as they
# are), apt verifies the index's signature, and the file's checksum comes from that index.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

SUITE=trixie
APT_ROOT="$SETUP/apt"
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

have apt-get || exit 1
archive="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 2>/dev/null | head -n 1)"
[ -n "$archive" ] || exit 1

rm -rf "$APT_ROOT"
mkdir -p "$APT_ROOT/sources" "$APT_ROOT/lists/partial" "$APT_ROOT/cache/archives/partial"
{
  printf 'Types: deb-src\nURIs: %s\nSuites: %s\nComponents: main\n' "$archive" "$SUITE"
  if [ -r "$KEYRING" ]; then printf 'Signed-By: %s\n' "$KEYRING"; fi
} >"$APT_ROOT/sources/source.sources"

# The sandbox user cannot write below a private home folder; that user matters to root only.
apt_options=(
  -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$APT_ROOT/sources"
  -o "Dir::State::lists=$APT_ROOT/lists" -o "Dir::Cache=$APT_ROOT/cache" -o "APT::Sandbox::User=$(id -un)"
)
apt-get "${apt_options[@]}" update >&2

# 'ADDRESS' NAME SIZE SHA256:CHECKSUM. Only the upstream source is needed (and served): not Debian's packaging.
read -r address name _ checksum < <(
  apt-get "${apt_options[@]}" source --print-uris r-cran-reticulate 2>/dev/null | grep '\.orig\.tar\.' | grep -v '\.asc ' | head -n 1
)
[ -n "${checksum:-}" ] || fail "apt knows no source of r-cran-reticulate in Debian's suite $SUITE."
address="${address#\'}"
/usr/lib/apt/apt-helper "${apt_options[@]}" download-file "${address%\'}" "$APT_ROOT/$name" "$checksum" >&2
printf '%s\n' "$APT_ROOT/$name"
