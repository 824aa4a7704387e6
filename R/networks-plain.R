# The networks that this package builds.

#' A convolutional network for images
#'
#' The network has convolution, dropout and pooling for each entry of `filters`, a dense layer and dropout for
#' each entry of `hidden`, and an output layer. The defaults are the network of the R Keras example.
#' Convolutions are unpadded, pools are 2 x 2. Train the network with [mc_fit()], predict with [mc_predict()].
#'
#' @param input_shape (integer vector) Height, width and channels of one image. Grey images have 1 channel.
#' @param labels (character, integer or logical vector, or factor) Names of the classes, at least two. For a
#'   factor, its levels. `NULL` for values, or if `n_outputs` is given.
#' @param ... Not used. The arguments after it are given by name.
#' @param n_outputs (count) Number of classes, named 0, 1, ..., if `labels` are not given. For values, the
#'   number of values (1 by default).
#' @param task (string) `"classification"` (softmax), `"binary"` (two labels, one logit) or `"regression"`
#'   (values).
#' @param filters (integer vector) Number of filters of each convolution.
#' @param kernel_size (count) Side length of the convolutions, in pixels.
#' @param hidden (integer vector) Number of units of each dense hidden layer.
#' @param dropout (numeric vector) Dropout rates, in \[0, 1): one per hidden layer, or one for all.
#' @param activation (string) `"relu"`, `"leaky_relu"`, `"elu"`, `"gelu"`, `"silu"` or `"tanh"`.
#' @param noise (string) The noise model for `task = "regression"`: `"homoscedastic"` (one learnt variance per
#'   output), `"heteroscedastic"` (the network predicts a variance for each input) or `"none"` (the loss is
#'   the squared error). The squared error is taken in standard units. It equals noise of variance 1/2 in
#'   these units, which is what a Bayesian network weighs its KL divergence against.
#' @param seed (whole number) Seed of the initial weights. `NULL` draws one.
#' @return (mc_model) An untrained network. It lives in Python. The R object can be printed, saved by
#'   [saveRDS()] or [mc_save()], and opened in another session.
#' @references Gal and Ghahramani (2016), *Dropout as a Bayesian approximation*,
#'   \doi{10.48550/arXiv.1506.02142}.
#' @export
#' @family networks
#' @examplesIf mc_python_available()
#' mc_cnn(c(28, 28, 1), labels = c("cat", "dog", "bird"))
mc_cnn <- function(input_shape, labels = NULL, ..., n_outputs = NULL, task = "classification",
                   filters = c(32, 64), kernel_size = 3, hidden = 128, dropout = c(0.25, 0.25, 0.5),
                   activation = "relu", noise = "homoscedastic", seed = 0) {
  rlang::check_dots_empty()
  network <- call_core(
    "mc_cnn", each(input_shape, as_count), as_label_set(labels),
    n_outputs = if_given(n_outputs, as_count), task = as_choice(task, tasks),
    filters = each(filters, as_count), kernel_size = as_count(kernel_size),
    hidden = each(hidden, as_count), dropout = each(dropout, as_number, at_least = 0, below = 1),
    activation = as_choice(activation, activations), noise = as_choice(noise, noises), seed = as_seed(seed)
  )
  new_mc_model(network)
}

#' A dense network for tables
#'
#' The network has hidden layers of `hidden` units, each followed by dropout, for classes or values.
#' [mc_fit()] estimates the mean and scale of each feature (and of the values). The network keeps them in
#' double precision. Raw columns can therefore be used without scaling, even far from zero, such as Julian
#' dates.
#'
#' @inheritParams mc_cnn
#' @param n_features (count) Number of columns of the table.
#' @param dropout (numeric vector) Dropout rates, in \[0, 1): one for all hidden layers, or one for each.
#' @param input_dropout (number) Dropout rate of the features themselves, in \[0, 1).
#' @inherit mc_cnn return references
#' @export
#' @family networks
#' @examplesIf mc_python_available()
#' mc_mlp(4, labels = levels(iris$Species), hidden = c(20, 20))
#' mc_mlp(10, task = "regression")
mc_mlp <- function(n_features, labels = NULL, ..., n_outputs = NULL, task = "classification", hidden = 50,
                   dropout = 0.1, input_dropout = 0, activation = "relu", noise = "homoscedastic", seed = 0) {
  rlang::check_dots_empty()
  network <- call_core(
    "mc_mlp", as_count(n_features), as_label_set(labels),
    n_outputs = if_given(n_outputs, as_count), task = as_choice(task, tasks), hidden = each(hidden, as_count),
    dropout = each(dropout, as_number, at_least = 0, below = 1),
    input_dropout = as_number(input_dropout, at_least = 0, below = 1),
    activation = as_choice(activation, activations), noise = as_choice(noise, noises), seed = as_seed(seed)
  )
  new_mc_model(network)
}

tasks <- c("classification", "binary", "regression")

noises <- c("homoscedastic", "heteroscedastic", "none")

activations <- c("relu", "leaky_relu", "elu", "gelu", "silu", "tanh")
