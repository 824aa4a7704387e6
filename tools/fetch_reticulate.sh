#!/usr/bin/env bash
# Downloads the source of reticulate in Debian 13 with apt and prints its path. Fails where apt has no Debian archive;
# the caller then uses CRAN.
#
# The reticulate of Debian 12 is too old for `py_require()` and NumPy 2. The archive that apt uses on this machine also
# holds the source package of Debian 13. The address of the archive comes from the settings of apt. The index goes into
# a folder of the clone, so the package lists of the machine do not change. apt verifies the signature of the index, and
# the index holds the checksum of the file.
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

# The sandbox user of apt cannot write into a private home folder. Only root has a sandbox user.
apt_options=(
  -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$APT_ROOT/sources"
  -o "Dir::State::lists=$APT_ROOT/lists" -o "Dir::Cache=$APT_ROOT/cache" -o "APT::Sandbox::User=$(id -un)"
)
apt-get "${apt_options[@]}" update >&2

# A line is 'ADDRESS' NAME SIZE SHA256:CHECKSUM. Only the upstream source is needed, not the packaging of Debian.
read -r address name _ checksum < <(
  apt-get "${apt_options[@]}" source --print-uris r-cran-reticulate 2>/dev/null | grep '\.orig\.tar\.' | grep -v '\.asc ' | head -n 1
)
[ -n "${checksum:-}" ] || fail "apt finds no source of r-cran-reticulate in the Debian suite $SUITE."
address="${address#\'}"
/usr/lib/apt/apt-helper "${apt_options[@]}" download-file "${address%\'}" "$APT_ROOT/$name" "$checksum" >&2
printf '%s\n' "$APT_ROOT/$name"
