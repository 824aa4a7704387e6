# Loading the package starts no Python: it only says what Python will need.

.onLoad <- function(libname, pkgname) {
  declare_python_packages()
}
