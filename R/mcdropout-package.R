#' mcdropout: how sure a neural network is
#'
#' Train a convolutional or dense network with [mc_cnn()] or [mc_mlp()] and [mc_fit()], predict with
#' [mc_predict()], and read off how sure each prediction is. The numerical core is the Python package of the
#' same name, carried in this package; R and Python give the same numbers. See `vignette("mcdropout")`.
#'
#' @section Python:
#' Python 3.10 or newer with PyTorch is needed to compute anything, and looked for at the first call that
#' does. Set the environment variable `RETICULATE_PYTHON` to choose one; otherwise reticulate finds or makes
#' one as it does for any package ([reticulate::py_require()]).
#'
#' @section Options:
#' * `mcdropout.progress`: show progress bars? `interactive()` if not set.
#'
#' @section Conditions:
#' Errors have the class `mcdropout_error` and one of `mcdropout_error_argument`,
#' `mcdropout_error_no_stochastic_sites`, `mcdropout_error_identical_draws`, `mcdropout_error_out_of_memory`,
#' `mcdropout_error_unreadable_file`, `mcdropout_error_diverged` (a loss that is no longer a number),
#' `mcdropout_error_forked_process` (a GPU, or Keras on TensorFlow or JAX, in a process of
#' `parallel::mclapply()`), `mcdropout_error_python` (Python or a package of it is missing) and
#' `mcdropout_error_core` (anything else that went wrong in Python). Where the error was raised in Python, it
#' is in the condition's field `python_error`. Warnings have the class `mcdropout_warning`.
#'
#' @keywords internal
#' @importFrom rlang %||% .data
"_PACKAGE"
