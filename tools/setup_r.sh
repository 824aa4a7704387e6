# R, the R packages that this package needs, a recent reticulate, and this R package. setup.sh sources this file.
# Unquoted lists of packages are split into words on purpose.
# shellcheck disable=SC2046,SC2086

# The packages of DESCRIPTION (Imports and Suggests), and those that checks and documentation need.
R_PACKAGES="cli covr generics rlang tibble ggplot2 jsonlite knitr posterior rmarkdown testthat withr lintr roxygen2"
# The packages that reticulate imports.
RETICULATE_NEEDS="Matrix Rcpp RcppTOML here jsonlite png rappdirs rlang withr"
RETICULATE_AT_LEAST="1.41"

# missing_r_packages NAME...: prints the names that R finds in none of its libraries.
missing_r_packages() {
  Rscript -e 'p <- commandArgs(TRUE); cat(p[!nzchar(sapply(p, function(x) system.file(package = x)))])' "$@" 2>/dev/null
}

reticulate_is_recent() {
  Rscript -e "quit(status = !(nzchar(system.file(package = 'reticulate')) && packageVersion('reticulate') >= '$RETICULATE_AT_LEAST'))" \
    >/dev/null 2>&1
}

# apt_packages NAME...: prints the Debian packages of R packages, and of R, a compiler for reticulate, pandoc for the
# vignettes, and qpdf, without which the check warns.
apt_packages() {
  local package
  have R && have Rscript || printf 'r-base-core '
  have g++ && have make && [ -d /usr/share/R/include ] || printf 'r-base-dev '
  have pandoc || printf 'pandoc '
  have qpdf || printf 'qpdf '
  for package in "$@"; do printf 'r-cran-%s ' "$(printf '%s' "$package" | tr '[:upper:]' '[:lower:]')"; done
}

# Uses the CRAN mirror of the user, or the first mirror in the list of R.
install_from_cran() {
  Rscript -e 'if (getOption("repos")["CRAN"] %in% c("@CRAN@", NA)) chooseCRANmirror(ind = 1, local.only = TRUE)' \
    -e 'install.packages(commandArgs(TRUE), lib = Sys.getenv("R_LIBS"))' "$@"
}

# Installs with apt where possible. The other packages come from CRAN into the library of the project.
install_r_packages() {
  local missing
  if have R; then missing="$(missing_r_packages $R_PACKAGES $RETICULATE_NEEDS)"; else missing="$R_PACKAGES $RETICULATE_NEEDS"; fi
  if can_apt; then
    set -- $(apt_packages $missing)
    [ $# -eq 0 ] || step "Installing R packages by apt ($# missing)" apt_r apt_install "$@"
    missing="$(missing_r_packages $R_PACKAGES $RETICULATE_NEEDS)"
  fi
  [ -z "$missing" ] || step "Installing R packages from CRAN into .rlib" cran_r install_from_cran $missing
  missing="$(missing_r_packages $R_PACKAGES $RETICULATE_NEEDS)"
  [ -z "$missing" ] || fail "These R packages could not be installed: $missing; install them in R and run the same command again."
}

install_reticulate() {
  rm -rf "$R_LIBRARY"/00LOCK*  # locks of an interrupted installation; the lock of setup.sh excludes a running one
  local tarball
  if tarball="$(tools/fetch_reticulate.sh)"; then
    MAKEFLAGS="-j2" R CMD INSTALL --library="$R_LIBRARY" --no-docs --no-test-load "$tarball"
  else
    install_from_cran reticulate
  fi
}

set_up_r() {
  if ! have R && ! can_apt; then
    [ "${CI:-}" != true ] || fail "R is missing; install R 4.1 or newer."
    [ "${R_IS_OPTIONAL:-}" != yes ] ||
      { echo "R is not installed, so the tests of the R package are skipped; install R 4.1 or newer to run them."; return; }
    fail "R is missing and cannot be installed from here; install R 4.1 or newer and run the same command again."
  fi
  local key
  if have R; then
    key="$(key_of tools/setup_r.sh "$(R RHOME)" "$(R --version | head -n 1)")"
    is_done r "$key" && reticulate_is_recent && return
  fi
  install_r_packages
  reticulate_is_recent || step "Building reticulate for .rlib" reticulate install_reticulate
  reticulate_is_recent || fail "reticulate $RETICULATE_AT_LEAST or newer could not be installed; install it in R and run the same command again."
  key="$(key_of tools/setup_r.sh "$(R RHOME)" "$(R --version | head -n 1)")"
  mark_done r "$key"
}

r_finds_libpython() {
  Rscript -e 'quit(status = is.null(reticulate::py_discover_config()$libpython))' >/dev/null 2>&1
}

# R runs Python in its own process and needs Python as a shared library, which is a separate package in Debian.
set_up_libpython() {
  have R || return 0
  local key version
  version="$("$VENV/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
  key="$(key_of "$version" "$(readlink -f "$VENV/bin/python")")"
  is_done libpython "$key" && return
  if ! r_finds_libpython && can_apt; then
    step "Installing Python's shared library" libpython apt_install "libpython$version"
  fi
  r_finds_libpython || fail "R cannot use the Python at $(readlink -f "$VENV/bin/python"), which has no shared library;" \
    "install libpython$version, or use a Python built with --enable-shared: \`make clean setup PYTHON=/path/to/python3\`."
  mark_done libpython "$key"
}

r_package_sources() {
  find DESCRIPTION NAMESPACE R man inst/rmd python -type f ! -name '*.pyc' 2>/dev/null | LC_ALL=C sort
}

install_r_package() {
  rm -rf "$R_LIBRARY"/00LOCK*
  R CMD INSTALL --library="$R_LIBRARY" "$(tools/build_r_package.sh --no-build-vignettes)"
}

set_up_r_package() {
  have R || return 0
  local key
  key="$(key_of $(r_package_sources) "$(R --version | head -n 1)")"
  is_done r_package "$key" && [ -d "$R_LIBRARY/mcdropout" ] && return
  step "Installing the R package into .rlib" r_package install_r_package
  mark_done r_package "$key"
}
