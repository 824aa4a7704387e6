#' mcdropout: how sure a neural network is
#'
#' Train a convolutional or dense network with [mc_cnn()] or [mc_mlp()] and [mc_fit()], predict with
#' [mc_predict()], and read how sure each prediction is. The numerical core is the Python package of the same
#' name, which is part of this package. R and Python give the same numbers. See `vignette("mcdropout")`.
#'
#' @section Python:
#' All computations need Python 3.10 or newer with PyTorch. The first function that computes looks for it. Set
#' the environment variable `RETICULATE_PYTHON` to choose a Python. Otherwise reticulate finds or creates one,
#' as it does for any package ([reticulate::py_require()]).
#'
#' @section Options:
#' * `mcdropout.progress`: show progress bars? The default is `interactive()`.
#'
#' @section Conditions:
#' Errors have the class `mcdropout_error` and one more class:
#' * `mcdropout_error_argument`: an argument has a value that it must not have.
#' * `mcdropout_error_no_stochastic_sites`: a network has nothing to sample.
#' * `mcdropout_error_identical_draws`: all draws of a network are the same.
#' * `mcdropout_error_out_of_memory`: the memory does not suffice.
#' * `mcdropout_error_unreadable_file`: a file is missing, damaged or of another kind.
#' * `mcdropout_error_diverged`: a loss is no longer a number.
#' * `mcdropout_error_forked_process`: a process of `parallel::mclapply()` uses a GPU, or Keras on TensorFlow
#'   or JAX.
#' * `mcdropout_error_python`: Python or one of its packages is missing.
#' * `mcdropout_error_core`: any other error in Python.
#'
#' Where Python raised the error, the condition has it in the field `python_error`. Warnings have the class
#' `mcdropout_warning`.
#'
#' @keywords internal
#' @importFrom rlang %||% .data
"_PACKAGE"
