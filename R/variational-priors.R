# Priors of the weights of Bayesian networks: small Python objects.

#' Priors: beliefs about the weights before the data
#'
#' Priors for [mc_bayes_cnn()] and other Bayesian networks. A prior shrinks the weights towards `loc`. A
#' normal prior acts like an L2 penalty, a Laplace prior like an L1 penalty. Student-t, Cauchy and horseshoe
#' priors leave large weights alone. The horseshoe prior also pushes small weights to `loc`. A mixture
#' consists of several normal distributions with the same `loc`.
#'
#' @param loc (number or numeric array) Location: one number for all weights, or an array of their shape.
#' @param scale (number or numeric array) Scale, above 0. For a normal prior the standard deviation.
#' @param df (number or numeric array) Degrees of freedom, above 0.
#' @param scales (numeric vector) Standard deviations of the normal distributions, above 0.
#' @param weights (numeric vector) Weights of the normal distributions, above 0. They are divided by their
#'   sum.
#' @param distribution (Python object) A `torch.distributions` object, of one number or of the shape of the
#'   weights. A network with such a prior cannot be saved.
#' @return (Python object) A prior, for the argument `prior` of a network.
#' @references
#' Blundell, Cornebise, Kavukcuoglu and Wierstra (2015), *Weight uncertainty in neural networks*,
#' \doi{10.48550/arXiv.1505.05424}.
#'
#' Carvalho, Polson and Scott (2010), *The horseshoe estimator for sparse signals*,
#' \doi{10.1093/biomet/asq017}.
#' @name mc_prior
#' @family priors and posteriors
#' @examplesIf mc_python_available()
#' mc_prior_normal(0, 0.5)
#' mc_bayes_mlp(4, labels = levels(iris$Species), prior = mc_prior_mixture(c(1, 0.1)))
NULL

#' @rdname mc_prior
#' @export
mc_prior_normal <- function(loc = 0, scale = 1) {
  call_core("mc_prior_normal", as_loc(loc), as_scale(scale))
}

#' @rdname mc_prior
#' @export
mc_prior_laplace <- function(loc = 0, scale = 1) {
  call_core("mc_prior_laplace", as_loc(loc), as_scale(scale))
}

#' @rdname mc_prior
#' @export
mc_prior_student_t <- function(loc = 0, scale = 1, df = 3) {
  call_core("mc_prior_student_t", as_loc(loc), as_scale(scale), as_scale(df))
}

#' @rdname mc_prior
#' @export
mc_prior_cauchy <- function(loc = 0, scale = 1) {
  call_core("mc_prior_cauchy", as_loc(loc), as_scale(scale))
}

#' @rdname mc_prior
#' @export
mc_prior_horseshoe <- function(loc = 0, scale = 1) {
  call_core("mc_prior_horseshoe", as_loc(loc), as_scale(scale))
}

#' @rdname mc_prior
#' @export
mc_prior_mixture <- function(scales = c(1, 0.1), weights = c(0.5, 0.5), loc = 0) {
  call_core(
    "mc_prior_mixture", each(scales, as_number, above = 0), each(weights, as_number, above = 0), as_loc(loc)
  )
}

#' @rdname mc_prior
#' @export
mc_prior_custom <- function(distribution) {
  call_core("mc_prior_custom", distribution)
}

# One number, or one for each weight. An array keeps its shape, and the core checks it.
as_loc <- function(x, name = rlang::caller_arg(x), call = rlang::caller_env(), above = NULL) {
  if (length(x) < 2 && is.null(dim(x))) {
    return(as_number(x, name, above = above, call = call))
  }
  if (!is.numeric(x)) {
    abort_must(name, "be a number, or an array of numbers", x, call = call)
  }
  as.array(x)
}

as_scale <- function(x, name = rlang::caller_arg(x), call = rlang::caller_env()) {
  as_loc(x, name, call, above = 0)
}
