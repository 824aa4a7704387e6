# Networks whose weights are probability distributions.

#' Bayesian networks: a distribution over every weight
#'
#' These are the networks of [mc_cnn()] and [mc_mlp()] with variational layers instead of dropout, and a
#' residual network. [mc_fit()] learns the posterior of the weights, [mc_predict()] draws whole networks from
#' it.
#'
#' `mc_bayes_mlp()` without `hidden` layers is a Bayesian linear or logistic regression.
#'
#' Each entry of `filters` of `mc_bayes_resnet()` is a block. A block has two padded convolutions with batch
#' norm. A 1 x 1 convolution runs beside them where the number of channels changes. Their sum goes through the
#' activation (`"silu"` is also called swish) and a 2 x 2 maximum pool. After the blocks come the largest
#' value of each channel and a dense layer.
#'
#' @inheritParams mc_cnn
#' @inheritParams mc_mlp
#' @param prior (prior) A result of [mc_prior_normal()] or another `mc_prior_*()` function. The default is a
#'   standard normal prior.
#' @param posterior (posterior) A result of [mc_posterior_normal()] or another `mc_posterior_*()` function. By
#'   default each weight has a normal posterior of its own.
#' @param estimator (string) How weight noise enters during training: `"reparameterization"` (one draw for
#'   each batch), `"local_reparameterization"` (noise on the outputs of a layer) or `"flipout"` (signs that
#'   differ between inputs). The last two are for [mc_posterior_normal()], whose default is `"flipout"`.
#' @param kl_samples (count) Number of draws for a KL divergence that has no closed form.
#' @inherit mc_cnn return
#' @references
#' Blundell, Cornebise, Kavukcuoglu and Wierstra (2015), *Weight uncertainty in neural networks*,
#' \doi{10.48550/arXiv.1505.05424}.
#'
#' Kingma, Salimans and Welling (2015), *Variational dropout and the local reparameterization trick*,
#' \doi{10.48550/arXiv.1506.02557}.
#'
#' Wen, Vicol, Ba, Tran and Grosse (2018), *Flipout*, \doi{10.48550/arXiv.1803.04386}.
#' @export
#' @family networks
#' @examplesIf mc_python_available()
#' net <- mc_bayes_mlp(4, labels = levels(iris$Species), hidden = 8)
#' net <- mc_fit(net, iris[1:4], iris$Species, epochs = 3, seed = 1)
#' net$history[c("loss", "nll", "kl", "kl_weight")]
#' mc_posterior_table(net)
mc_bayes_cnn <- function(input_shape, labels = NULL, ..., n_outputs = NULL, task = "classification",
                         filters = c(32, 64), kernel_size = 3, hidden = 128, activation = "relu",
                         noise = "homoscedastic", prior = NULL, posterior = NULL, estimator = NULL,
                         kl_samples = 1, seed = 0) {
  rlang::check_dots_empty()
  network <- call_core(
    "mc_bayes_cnn", each(input_shape, as_count), as_label_set(labels),
    n_outputs = if_given(n_outputs, as_count), task = as_choice(task, tasks),
    filters = each(filters, as_count), kernel_size = as_count(kernel_size), hidden = each(hidden, as_count),
    activation = as_choice(activation, activations), noise = as_choice(noise, noises),
    prior = prior, posterior = posterior, estimator = if_given(estimator, as_choice, choices = estimators),
    kl_samples = as_count(kl_samples), seed = as_seed(seed)
  )
  new_mc_model(network)
}

#' @rdname mc_bayes_cnn
#' @export
mc_bayes_mlp <- function(n_features, labels = NULL, ..., n_outputs = NULL, task = "classification",
                         hidden = 50, activation = "relu", noise = "homoscedastic", prior = NULL,
                         posterior = NULL, estimator = NULL, kl_samples = 1, seed = 0) {
  rlang::check_dots_empty()
  network <- call_core(
    "mc_bayes_mlp", as_count(n_features), as_label_set(labels),
    n_outputs = if_given(n_outputs, as_count), task = as_choice(task, tasks), hidden = each(hidden, as_count),
    activation = as_choice(activation, activations), noise = as_choice(noise, noises),
    prior = prior, posterior = posterior, estimator = if_given(estimator, as_choice, choices = estimators),
    kl_samples = as_count(kl_samples), seed = as_seed(seed)
  )
  new_mc_model(network)
}

#' @rdname mc_bayes_cnn
#' @export
mc_bayes_resnet <- function(input_shape, labels = NULL, ..., n_outputs = NULL, task = "classification",
                            filters = c(64, 128), kernel_size = 3, activation = "silu",
                            noise = "homoscedastic", prior = NULL, posterior = NULL, estimator = NULL,
                            kl_samples = 1, seed = 0) {
  rlang::check_dots_empty()
  network <- call_core(
    "mc_bayes_resnet", each(input_shape, as_count), as_label_set(labels),
    n_outputs = if_given(n_outputs, as_count), task = as_choice(task, tasks),
    filters = each(filters, as_count), kernel_size = as_count(kernel_size),
    activation = as_choice(activation, activations), noise = as_choice(noise, noises),
    prior = prior, posterior = posterior, estimator = if_given(estimator, as_choice, choices = estimators),
    kl_samples = as_count(kl_samples), seed = as_seed(seed)
  )
  new_mc_model(network)
}

estimators <- c("reparameterization", "local_reparameterization", "flipout")

#' Make a trained plain network Bayesian
#'
#' Returns a copy of `model` with variational layers. Its weights become the posterior means. Train the copy
#' with [mc_fit()], or sample it at once with [mc_predict()].
#'
#' @inheritParams mc_bayes_cnn
#' @param model (mc_model or torch module) The plain network. It is not changed.
#' @param ... Not used. The arguments after it are given by name.
#' @param layers (character vector) The linear layers and convolutions to convert, such as `"output"`. All of
#'   them by default. Each layer keeps its options.
#' @param prior_from_weights (flag) Are the trained weights also the location of the prior?
#' @return (mc_model, or torch module) The Bayesian network.
#' @references Krishnan, Subedar and Tickoo (2020), *Specifying weight priors in Bayesian deep neural networks
#'   with empirical Bayes*, \doi{10.48550/arXiv.1906.05323}.
#' @export
#' @family networks
#' @examplesIf mc_python_available()
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' net <- mc_fit(net, iris[1:4], iris$Species, epochs = 5, seed = 1)
#' mc_to_bayesian(net, layers = "output", prior_from_weights = TRUE)
mc_to_bayesian <- function(model, ..., layers = NULL, posterior = NULL, prior = NULL,
                           prior_from_weights = FALSE, estimator = NULL, kl_samples = 1) {
  rlang::check_dots_empty()
  network <- call_core(
    "mc_to_bayesian", as_network(model),
    layers = if (is.character(layers)) as.list(layers) else layers,
    posterior = posterior, prior = prior, prior_from_weights = as_flag(prior_from_weights),
    estimator = if_given(estimator, as_choice, choices = estimators), kl_samples = as_count(kl_samples)
  )
  if (inherits(model, "mc_model")) new_mc_model(network) else network
}

#' How the weights of a Bayesian network are distributed
#'
#' `mc_posterior_table()` has one row for each variational layer. `mc_weights_table()` has one row for each of
#' the weights that are most surely not zero, layer by layer. [mc_plot_posterior()] draws both tables.
#'
#' @param model (mc_model or torch module) A network with variational layers.
#' @param ... Not used. The arguments after it are given by name.
#' @param n_weights (count) Largest number of weights from each layer.
#' @param level (number) Level of the intervals of the weights, between 0 and 1.
#' @return `mc_posterior_table()`: (tibble) One row per layer.
#'   * `layer`: path of the layer.
#'   * `n_weights`, `n_parameters`: number of weights, and of the parameters of their posterior.
#'   * `std`, `variance`: posterior standard deviation and variance, means over the weights.
#'   * `kl`: KL divergence from prior to posterior, in nats, summed over the weights.
#'   * `std_5`, `std_25`, `std_50`, `std_75`, `std_95`: percentiles of the posterior standard deviations.
#'   * `prior_std`: standard deviation of the prior, mean over the weights; `NaN` or `Inf` where it has none.
#'
#'   `mc_weights_table()`: (tibble) One row per weight.
#'   * `layer`, `weight`: path of the layer; `weight[1, 4]` or `bias[3]`, with positions from 1.
#'   * `mean`, `std`: of the posterior.
#'   * `lower`, `upper`: the middle `level` of a normal distribution with this mean and standard deviation,
#'     which is exact for normal posteriors.
#'   * `signal`: |mean| / std. The weights with the largest signal are chosen, and sorted by it.
#' @references Blundell et al. (2015), \doi{10.48550/arXiv.1505.05424}, for the signal-to-noise ratio.
#' @export
#' @family networks
#' @examplesIf mc_python_available()
#' net <- mc_bayes_mlp(4, labels = levels(iris$Species))
#' mc_posterior_table(net)
#' mc_weights_table(net, n_weights = 2)
mc_posterior_table <- function(model) {
  table_from_python(call_core("mc_posterior_table", as_network(model)))
}

#' @rdname mc_posterior_table
#' @export
mc_weights_table <- function(model, ..., n_weights = 8, level = 0.95) {
  rlang::check_dots_empty()
  table_from_python(call_core(
    "for_r.weights_table", as_network(model),
    n_weights = as_count(n_weights), level = as_number(level, above = 0, below = 1)
  ))
}
