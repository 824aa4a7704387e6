#' The family of posteriors for the weights
#'
#' Posteriors for [mc_bayes_cnn()] and other Bayesian networks: each weight with a normal posterior of its own
#' (mean-field), all weights of a layer jointly normal with a full covariance, or a distribution of your own.
#'
#' A full covariance of n weights has n means and n (n + 1) / 2 further parameters.
#' `mc_posterior_parameters()` counts them. A posterior that would not fit into memory is refused.
#'
#' @param scale (number) Initial standard deviation (of your own distribution: scale), above 0.
#' @param mean (number) Initial value of all means. By default they start as the weights of a plain network
#'   do.
#' @param make (function) Takes two Python tensors, location and scale, both of the shape of the weights and
#'   both learnt. It returns a `torch.distributions` object with `rsample` and a finite mean or mode. A
#'   network with such a posterior cannot be saved.
#' @param posterior (Python object) A posterior.
#' @param n_weights (count) Number of weights of a layer, including biases.
#' @return (Python object) A posterior, for the argument `posterior` of a network.
#'   `mc_posterior_parameters()`: (number) the number of parameters of the layer.
#' @references Blundell, Cornebise, Kavukcuoglu and Wierstra (2015), *Weight uncertainty in neural networks*,
#'   \doi{10.48550/arXiv.1505.05424}.
#' @name mc_posterior
#' @family priors and posteriors
#' @examplesIf mc_python_available()
#' mc_posterior_parameters(mc_posterior_multivariate_normal(), 4)
#' distributions <- reticulate::import("torch.distributions")
#' mc_bayes_mlp(4,
#'   labels = levels(iris$Species),
#'   posterior = mc_posterior_custom(function(loc, scale) distributions$Laplace(loc, scale))
#' )
NULL

#' @rdname mc_posterior
#' @export
mc_posterior_normal <- function(scale = 0.05, mean = NULL) {
  call_core("mc_posterior_normal", as_number(scale, above = 0), if_given(mean, as_number))
}

#' @rdname mc_posterior
#' @export
mc_posterior_multivariate_normal <- function(scale = 0.05, mean = NULL) {
  call_core("mc_posterior_multivariate_normal", as_number(scale, above = 0), if_given(mean, as_number))
}

#' @rdname mc_posterior
#' @export
mc_posterior_custom <- function(make, scale = 0.05, mean = NULL) {
  call_core(
    "mc_posterior_custom",
    as_python_function(make),
    as_number(scale, above = 0), if_given(mean, as_number)
  )
}

#' @rdname mc_posterior
#' @export
mc_posterior_parameters <- function(posterior, n_weights) {
  integer_from_python(call_core("mc_posterior_parameters", posterior, as_count(n_weights)))
}
