# How many draws are enough, and which dropout rate predicts best.

#' How many draws are enough
#'
#' Shows how the uncertainty settles as draws are added, and recommends a number of draws. All numbers come
#' from one set of draws: the summaries for n draws are those of the first n draws, as [mc_predict()] with the
#' same seed would give. [mc_plot_convergence()] draws them.
#'
#' The mutual information takes longest to settle, because from few draws it is too small on average.
#'
#' @inheritParams mc_predict
#' @param x (numeric array, data frame or mc_images) Inputs. Some hundreds are enough.
#' @param n_samples (integer vector) Numbers of draws, in increasing order.
#' @param tolerance (number) The wanted Monte Carlo standard error. For classes it is in units of probability
#'   and, for entropies, in nats, with default 0.01. For values it is in their own unit; without it no number
#'   is recommended.
#' @return A list of class `mc_convergence`:
#'   * `recommended`: the number of draws with which the mean of 95 % of the inputs is within `tolerance`.
#'   * `needed`: tibble, one row per measure, with that number and the number for all inputs.
#'   * `table`: tibble, one row per number of draws and measure. `value` is the mean over the inputs. `mcse`
#'     is the root mean square over the inputs of their Monte Carlo standard errors. `difference` is the root
#'     mean square over the inputs of the change by the remaining draws. `settled` is the share of the inputs
#'     with an error of at most `tolerance`.
#'   * `n_samples`, `n_inputs`, `tolerance`.
#'
#'   The measures are `mean` (for classes the probability of the predicted label, with the error of the worst
#'   label), `std` over the draws, and for classes the three entropies.
#' @export
#' @family evaluation
#' @examplesIf mc_python_available()
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' net <- mc_fit(net, iris[1:4], iris$Species, epochs = 20, batch_size = 32, seed = 1)
#' settled <- mc_convergence(net, iris[1:4], seed = 1)
#' settled
#' settled$table
mc_convergence <- function(model, x, n_samples = c(10, 20, 50, 100, 200), batch_size = 128, ...,
                           tolerance = NULL, masks = "shared", outputs = NULL, labels = NULL, select = NULL,
                           constants = NULL, stochastic_depth = TRUE, gaussian_noise = FALSE,
                           precision = "float32", device = "auto", seed = NULL,
                           progress = getOption("mcdropout.progress", interactive())) {
  rlang::check_dots_empty()
  convergence <- call_core(
    "mc_convergence", as_network(model), as_model_inputs(x),
    n_samples = each(n_samples, as_count, at_least = 2),
    batch_size = as_count(batch_size),
    tolerance = if_given(tolerance, as_number, above = 0),
    masks = as_choice(masks, mask_kinds),
    outputs = if_given(outputs, as_choice, choices = output_kinds),
    labels = as_label_set(labels),
    select = as_select(select),
    constants = as_constants(constants),
    stochastic_depth = as_flag(stochastic_depth),
    gaussian_noise = as_flag(gaussian_noise),
    precision = precision,
    device = device,
    seed = as_seed(seed),
    progress = as_progress(progress)
  )
  fields <- fields_from_python(convergence)
  fields$n_samples <- unlist(fields$n_samples)
  fields$recommended <- from_python(convergence$recommended)
  structure(c(fields, words = from_python(convergence$words())), class = "mc_convergence")
}

#' @export
format.mc_convergence <- function(x, ...) {
  strsplit(x$words, "\n", fixed = TRUE)[[1]]
}

#' @export
print.mc_convergence <- function(x, ...) {
  cat(format(x, ...), sep = "\n")
  invisible(x)
}

#' Which dropout rate predicts best
#'
#' Predicts inputs that were not used in training with several dropout rates, and compares the rates by log
#' loss.
#'
#' @inheritParams mc_predict
#' @param model (mc_model, Python object or function) A model as in [mc_predict()], or a function that takes a
#'   rate and returns a model that was trained with it. A model is sampled with each rate at all its dropouts,
#'   whatever rate it was trained with. Blocks that are skipped as a whole, and random numbers that the model
#'   draws itself, keep their rates. A function tells more and takes longer.
#' @param y (factor or vector, or numeric matrix) The true label of each input, or the observed values.
#' @param rates (numeric vector) Dropout rates, between 0 and 1.
#' @return A tibble with one row per rate:
#'   * `rate`.
#'   * `loss`: mean over the inputs. For classes it is the log loss of the mean over the draws, in nats. For
#'     values it is minus the log density of the mixture of the draws, per output, or the squared error if the
#'     network does not estimate its noise.
#'   * `difference`: difference from the lowest loss. `difference_se`: its standard error over the inputs,
#'     paired. A difference of less than two standard errors says little.
#'   * `accuracy`: for classes.
#'   * `spread`: mean mutual information, in nats, or mean standard deviation over the draws.
#'   * `best`: is it the rate with the lowest loss?
#' @references Gal, Hron and Kendall (2017), \doi{10.48550/arXiv.1705.07832}: the spread is meaningful only if
#'   the rate fits the data.
#' @export
#' @family evaluation
#' @examplesIf mc_python_available()
#' train <- seq(1, 150, by = 2)
#' fitted_with <- function(rate) {
#'   net <- mc_mlp(4, labels = levels(iris$Species), dropout = rate)
#'   mc_fit(net, iris[train, 1:4], iris$Species[train], epochs = 20, batch_size = 32, seed = 1)
#' }
#' mc_compare_rates(fitted_with, iris[-train, 1:4], iris$Species[-train],
#'   rates = c(0.1, 0.3), seed = 1
#' )
mc_compare_rates <- function(model, x, y, rates = 1:7 / 10, n_samples = 50, batch_size = 128, ...,
                             outputs = NULL, labels = NULL, select = NULL, constants = NULL,
                             gaussian_noise = FALSE, precision = "float32", device = "auto", seed = NULL,
                             progress = getOption("mcdropout.progress", interactive())) {
  rlang::check_dots_empty()
  refit <- is.function(model) && !is_python(model)
  fitted <- function(rate) as_network(model(rate))
  table <- call_core(
    "mc_compare_rates", if (refit) as_callback(fitted) else as_network(model), as_model_inputs(x),
    as_targets(y, labels %||% labels_of(model)),
    rates = each(rates, as_number, above = 0, below = 1),
    n_samples = as_count(n_samples, at_least = 2),
    batch_size = as_count(batch_size),
    outputs = if_given(outputs, as_choice, choices = output_kinds),
    labels = as_label_set(labels),
    select = as_select(select),
    constants = as_constants(constants),
    gaussian_noise = as_flag(gaussian_noise),
    precision = precision,
    device = device,
    seed = as_seed(seed),
    progress = as_progress(progress)
  )
  table_from_python(table)
}
