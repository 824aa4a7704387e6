# Monte Carlo dropout: batched prediction with dropout switched on, prediction with dropout switched off, and
# a list of what is sampled.

#' Predict with Monte Carlo dropout
#'
#' Draws `n_samples` networks from the approximate posterior by leaving dropout switched on. Each drawn
#' network predicts every input, in batches. The result summarises the draws by their mean and their spread.
#'
#' The random numbers of a draw depend only on `seed`, the place in the network and the number of the draw.
#' The result for an input is therefore the same, up to rounding (about 1e-5), for every `batch_size`, every
#' order or subset of the inputs, every number of threads and devices, and in R and Python. The same call
#' gives the same numbers to the bit on one machine with the same number of threads.
#'
#' @param model (mc_model or Python object) A network of [mc_cnn()] or [mc_mlp()], or any `torch.nn.Module`
#'   made through reticulate. Or a Keras 3 model of the package keras3 or made through reticulate, with the
#'   Keras backend torch, TensorFlow or JAX, or the path of its `.keras` file. The model is not changed.
#'   Random numbers that it draws itself are sampled too. Uniform numbers and random decisions are sampled
#'   even if the model draws them in training alone.
#' @param x (numeric array, data frame or mc_images) Inputs along the first axis, as in [mc_fit()].
#'
#'   For a network with several inputs, a list: by position, or with names by keyword. A named list inside it
#'   is an argument that is a dictionary, as in `list(list(ids = ids, mask = mask))`.
#'
#'   Or a Python object such as a `DataLoader`, so that data larger than memory can be used. It must give all
#'   inputs in their order, in batches of inputs or of (inputs, target), of which the inputs are used. It must
#'   give one input for each item of its dataset, unless the items are batches.
#'
#'   Whole numbers (`integer`) and logicals keep their type for networks of other packages. If such a network
#'   fails on its first inputs, integers are tried as floating-point numbers, which suits pixels and features.
#'   Numbers of type `double` that are all whole are tried as integers, which suits codes.
#' @param n_samples (count) Number of draws, at least 2.
#' @param batch_size (count) Number of inputs per batch.
#' @param ... Not used. The arguments after it are given by name.
#' @param level (number) Level of the intervals, between 0 and 1.
#' @param masks (string) `"shared"`: a draw drops the same units for every input, as in Gal's derivation.
#'   `"per_input"`: new masks for every input.
#' @param ids (whole numbers or character vector) One id per input, for `masks = "per_input"`. The masks of an
#'   input depend on its id, so inputs with the same id get the same masks. The default is 0, 1, ..., as in
#'   Python.
#' @param tolerance (number) Draws are added for an input only until the largest Monte Carlo standard error of
#'   its `mean` is below this number. `n_samples` is then the largest number of draws. In the result
#'   `n_samples` has one number per input, and unused draws are `NaN`. Inputs whose first draws happen to
#'   agree stop early, so the result is slightly too confident. The vignette gives the size of this effect.
#' @param keep_samples (flag) Keep all draws, as `samples` in the result?
#' @param outputs (string) What a network of another package returns: `"logits"`, `"probabilities"`,
#'   `"values"` or `"mean_log_variance"`. Networks of this package know it. For a Keras model it is read from
#'   the last activation or from the loss, if they are clear.
#' @param labels (character, integer or logical vector, or factor) Names of the classes of a network of
#'   another package. If its outputs have more than two axes, the labels tell which axis has the classes. A
#'   single output, or a single channel of a map, belongs to the second of two labels. For several labels that
#'   may be true at the same time, use `"values"`, or one label at a time by `select`. Networks of this
#'   package have their own labels and refuse others.
#' @param select (string, count or function) The part to use, if such a network returns several parts: its
#'   name, its number (from 1), or a function that takes it out of the Python object.
#' @param constants (named list) Further arguments of such a network, by name, the same for all inputs: flags,
#'   numbers, matrices (those of `double` become the type of the weights), Python objects. Not for Keras
#'   models.
#' @param stochastic_depth (flag) Also sample whole blocks that are skipped at random in training?
#' @param gaussian_noise (flag) Also sample normal noise that acts in training alone, such as Keras's
#'   `GaussianNoise`?
#' @param workers (count) Number of threads, each of which works on a part of the draws and inputs. By default
#'   as many as Python's torch uses on a CPU, and one on a GPU. The number changes the result only by
#'   rounding. Keras on TensorFlow and JAX has threads of its own. Processes of `parallel::mclapply()` compute
#'   with one thread each. They refuse GPUs and Keras on TensorFlow or JAX; use `parallel::makeCluster()` for
#'   these.
#' @param precision (string) `"float32"`, or `"bfloat16"` or `"float16"` for the network. Summaries are always
#'   in double precision. On real images the lower precisions move the mean by less than a tenth of what
#'   another `seed` does (see the table in the vignette).
#' @param device (character vector) `"auto"` (the first GPU, if there is one), `"cpu"`, `"cuda"`, `"cuda:1"`,
#'   ..., or several, as in `c("cuda:0", "cuda:1")`, which take batches in turns. Their number changes the
#'   result only by rounding. Keras determines precision and device of a Keras model.
#' @param seed (whole number) From 0 to 2^53 - 1. `NULL` draws one from R's generator, so that [set.seed()]
#'   determines it.
#' @param progress (flag) Show a progress bar? By default in interactive sessions; see
#'   `options(mcdropout.progress = )`.
#' @return (mc_prediction) A list of R data; see [mc_prediction].
#' @references Gal and Ghahramani (2016), *Dropout as a Bayesian approximation*,
#'   \doi{10.48550/arXiv.1506.02142}.
#' @export
#' @family sampling
#' @examplesIf mc_python_available()
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' net <- mc_fit(net, iris[1:4], iris$Species, epochs = 20, batch_size = 32, seed = 1)
#' pred <- mc_predict(net, iris[1:4], n_samples = 100, seed = 1)
#' pred
#' summary(pred)
mc_predict <- function(model, x, n_samples = 50, batch_size = 128, ..., level = 0.95, masks = "shared",
                       ids = NULL, tolerance = NULL, keep_samples = TRUE, outputs = NULL, labels = NULL,
                       select = NULL, constants = NULL, stochastic_depth = TRUE, gaussian_noise = FALSE,
                       workers = NULL, precision = "float32", device = "auto", seed = NULL,
                       progress = getOption("mcdropout.progress", interactive())) {
  rlang::check_dots_empty()
  prediction <- call_core(
    "mc_predict", as_network(model), as_model_inputs(x),
    n_samples = as_count(n_samples, at_least = 2),
    batch_size = as_count(batch_size),
    level = as_number(level, above = 0, below = 1),
    masks = as_choice(masks, mask_kinds),
    ids = as_ids(ids),
    tolerance = if_given(tolerance, as_number, above = 0),
    keep_samples = as_flag(keep_samples),
    outputs = if_given(outputs, as_choice, choices = output_kinds),
    labels = as_label_set(labels),
    select = as_select(select),
    constants = as_constants(constants),
    stochastic_depth = as_flag(stochastic_depth),
    gaussian_noise = as_flag(gaussian_noise),
    workers = if_given(workers, as_count),
    precision = precision,
    device = device,
    seed = as_seed(seed),
    progress = as_progress(progress)
  )
  prediction_from_python(prediction, row_names_of(x))
}

mask_kinds <- c("shared", "per_input")

output_kinds <- c("logits", "probabilities", "values", "mean_log_variance")

#' @param object (mc_model) The network, as `model`.
#' @param new_data (numeric array, data frame or mc_images) The inputs, as `x`.
#' @param type (string) `"prob"`, `"class"`, `"numeric"`, `"conf_int"` or `"pred_int"`. By default
#'   probabilities or values. `conf_int` is the interval of the draws. `pred_int`, for values, includes the
#'   noise.
#' @return `predict()` gives a tibble with one row per input and the column names of tidymodels:
#'   `.pred_class`, `.pred_{label}`, `.pred`, `.pred_lower_{label}`, `.pred_lower`, ...
#' @rdname mc_predict
#' @export
predict.mc_model <- function(object, new_data, type = NULL, ...) {
  if (missing(new_data)) {
    abort_mc("`new_data` must be given; got nothing.")
  }
  types <- if (object$task == "regression") {
    c("numeric", "conf_int", "pred_int")
  } else {
    c("prob", "class", "conf_int")
  }
  type <- as_choice(type %||% types[[1]], types, "type")
  if ("keep_samples" %in% ...names()) {
    abort_mc(paste(
      "`keep_samples` must be left out of `predict()`, whose table has no draws; `mc_predict()` keeps them."
    ))
  }
  predict_columns(mc_predict(object, new_data, ..., keep_samples = FALSE), type)
}

#' Predict with the dropout off
#'
#' Gives the ordinary prediction of a network: one pass with nothing dropped, to compare with the mean of
#' [mc_predict()]. Of several devices the first one is used. If the model itself draws random numbers in
#' prediction, they are the numbers that a direct call of the model would draw now. The state of their
#' generators does not change.
#'
#' @inheritParams mc_predict
#' @return (numeric matrix) Probabilities, input x label, or values, input x output.
#' @export
#' @family sampling
#' @examplesIf mc_python_available()
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' head(mc_predict_point(net, iris[1:4]))
mc_predict_point <- function(model, x, batch_size = 128, ..., outputs = NULL, labels = NULL, select = NULL,
                             constants = NULL, precision = "float32", device = "auto",
                             progress = getOption("mcdropout.progress", interactive())) {
  rlang::check_dots_empty()
  point <- call_core(
    "mc_predict_point", as_network(model), as_model_inputs(x),
    batch_size = as_count(batch_size),
    outputs = if_given(outputs, as_choice, choices = output_kinds),
    labels = as_label_set(labels),
    select = as_select(select),
    constants = as_constants(constants),
    precision = precision,
    device = device,
    progress = as_progress(progress)
  )
  point <- from_python(point)
  names <- labels %||% labels_of(model)
  if (length(names) == ncol(point)) {
    colnames(point) <- as.character(if (is.factor(names)) levels(names) else names)
  }
  point
}

#' What will be sampled
#'
#' Lists the places in a network where [mc_predict()] samples. It warns of random numbers that are left out or
#' cannot be keyed by input. It also warns where the spread is likely to say little: if the only dropout is
#' before the last layer, and for rates under 0.1 or over 0.7. The warning about rates leaves out networks for
#' values, if they are of this package or a Keras model whose loss says so.
#'
#' @inheritParams mc_predict
#' @return (tibble) One row per place.
#'   * `site`: its name.
#'   * `operation`: the stochastic operation.
#'   * `rate`: the dropout rate. Where the network draws decisions itself, it is the probability of a 0. Where
#'     numbers or weights are drawn, it is `NaN`.
#'   * `shape`: shape of the tensor that is dropped from, for one input, or the number of drawn weights.
#'
#'   The row of a place keys its masks. Networks with the same rows draw the same masks, in torch and in
#'   Keras.
#' @export
#' @family sampling
#' @examplesIf mc_python_available()
#' mc_sites(mc_mlp(4, labels = levels(iris$Species)), iris[1:4])
mc_sites <- function(model, x, ..., constants = NULL, stochastic_depth = TRUE, gaussian_noise = FALSE) {
  rlang::check_dots_empty()
  table_from_python(call_core(
    "mc_sites", as_network(model), as_model_inputs(x),
    constants = as_constants(constants),
    stochastic_depth = as_flag(stochastic_depth),
    gaussian_noise = as_flag(gaussian_noise)
  ))
}

#' Prepare predictions for a service
#'
#' Does the preparations of [mc_predict()] once: it finds what is sampled, makes the masks and chooses the way
#' to compute. The result is a function, for services that predict one input at a time. The function always
#' uses the current state of the network. After more training its next call repeats the preparations.
#'
#' @inheritParams mc_predict
#' @param example (as `x`) Inputs like the later ones.
#' @return (function) A function of inputs that gives their [mc_prediction], with shared masks and without
#'   draws. It works until the session ends.
#' @export
#' @family sampling
#' @examplesIf mc_python_available()
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' ask <- mc_sampler(net, iris[1, 1:4], seed = 1)
#' ask(iris[150, 1:4])
mc_sampler <- function(model, example, n_samples = 50, ..., level = 0.95, outputs = NULL, labels = NULL,
                       select = NULL, constants = NULL, stochastic_depth = TRUE, gaussian_noise = FALSE,
                       precision = "float32", device = "auto", seed = NULL) {
  rlang::check_dots_empty()
  sampler <- call_core(
    "mc_sampler", as_network(model), as_model_inputs(example, "example"),
    n_samples = as_count(n_samples, at_least = 2),
    level = as_number(level, above = 0, below = 1),
    outputs = if_given(outputs, as_choice, choices = output_kinds),
    labels = as_label_set(labels),
    select = as_select(select),
    constants = as_constants(constants),
    stochastic_depth = as_flag(stochastic_depth),
    gaussian_noise = as_flag(gaussian_noise),
    precision = precision,
    device = device,
    seed = as_seed(seed)
  )
  function(x) prediction_from_python(with_core(sampler(as_model_inputs(x))), row_names_of(x))
}

# The part of the outputs to use. Python counts from 0, but shows the number as in R.
as_select <- function(select, call = rlang::caller_env()) {
  if (is.function(select)) {
    return(as_callback(select, convert = FALSE))
  }
  if (!is.numeric(select)) {
    return(select)
  }
  call_core("for_r.output_number", as_count(select, "select", call = call) - 1L, call = call)
}

# Constants for the core. Single numbers, flags and strings stay scalars, vectors and matrices become arrays.
as_constants <- function(constants, call = rlang::caller_env()) {
  if (is.null(constants) || is_python(constants)) {
    return(constants)
  }
  named <- is.list(constants) && !is.object(constants) && rlang::is_named2(constants)
  if (!named) {
    abort_must("constants", "be a named list", constants, call = call)
  }
  lapply(constants, as_constant, call = call)
}

as_constant <- function(value, call) {
  if (is.list(value) && !is.object(value)) {
    return(if (rlang::is_named(value)) as_constants(value, call) else lapply(value, to_python))
  }
  if (is.atomic(value) && length(value) != 1) as.array(value) else value
}

# Whole numbers or strings. The core checks their number.
as_ids <- function(ids, call = rlang::caller_env()) {
  if (is.null(ids) || is_python(ids)) {
    return(ids)
  }
  ids <- if (is.factor(ids)) as.character(ids) else ids
  valid <- is.character(ids) || is.numeric(ids) && all(ids == trunc(ids), na.rm = TRUE)
  if (!valid || anyNA(ids)) {
    abort_must("ids", "be whole numbers or words, one per input", ids, call = call)
  }
  small <- is.double(ids) && all(abs(ids) <= .Machine$integer.max)
  as.array(if (small) as.integer(ids) else as.vector(ids))
}
