# Monte Carlo dropout: batched prediction with the dropout left on, its dropout-off counterpart, and what is
# sampled.

#' Predict with Monte Carlo dropout
#'
#' Draws `n_samples` networks from the approximate posterior by leaving the dropout on, predicts every input
#' with each of them in batches, and summarises the draws: the mean and how far they disagree.
#'
#' The random numbers of a draw are a function of `seed`, the place in the network and the draw's number. The
#' result for an input is therefore the same for any `batch_size`, any order or subset of the inputs, any
#' number of threads and devices, and from R or Python, up to rounding (about 1e-5). The same call gives the
#' same numbers to the bit on one machine with as many threads.
#'
#' @param model (mc_model or Python object) A network of [mc_cnn()] or [mc_mlp()], any `torch.nn.Module` made
#'   through reticulate, or a Keras 3 model, of the package keras3 or made through reticulate, on Keras's
#'   backend torch, TensorFlow or JAX; or the path of its `.keras` file. It is left as it was found. Random
#'   numbers that it draws itself are sampled too, uniform ones and decisions also where only training draws
#'   them.
#' @param x (numeric array, data frame or mc_images) Inputs along the first axis, as in [mc_fit()]. A list of
#'   several, by position or, with names, by keyword, for networks that take more than one; a named list in it
#'   stands for an argument that is a dictionary, as in `list(list(ids = ids, mask = mask))`. Or a Python
#'   object such as a `DataLoader`, which must give all inputs in their order, so that data larger than memory
#'   stream: batches of inputs or of (inputs, target), of which the inputs are taken. It must give one input
#'   for each item of its dataset, unless those are batches.
#'
#'   Whole numbers (`integer`) and truth values reach a network that is not ours as they are. Where it fails
#'   on its first inputs so, whole numbers are tried as floating ones, as pixels and features want to be, and
#'   numbers of type `double` that are all whole are tried as whole ones, as codes want to be.
#' @param n_samples (count) Number of draws, at least 2.
#' @param batch_size (count) Inputs handled at a time.
#' @param ... Not used; what follows is given by name.
#' @param level (number) Of the intervals, between 0 and 1.
#' @param masks (string) `"shared"`: a draw drops the same units for every input, as in Gal's derivation.
#'   `"per_input"`: fresh masks for every input.
#' @param ids (whole numbers or character vector) One per input, for `masks = "per_input"`: an input's masks
#'   go by its id, so inputs with the same id get the same masks. 0, 1, ... by default, as in Python.
#' @param tolerance (number) Draw only until the largest Monte Carlo standard error of an input's `mean` is
#'   below this, `n_samples` being the most; `n_samples` of the result then has a number for each input, and
#'   kept draws end in `NaN`. Inputs whose first draws happen to agree stop early, so answers lean to the sure
#'   side, by little: the vignette says how much.
#' @param keep_samples (flag) Keep all draws, as `samples` in the result?
#' @param outputs (string) What a network that is not ours returns: `"logits"`, `"probabilities"`, `"values"`
#'   or `"mean_log_variance"`. Ours know, and of a Keras model it is read from the last activation, or from
#'   the loss, where that is sure.
#' @param labels (character, integer or logical vector, or factor) The names of the classes of such a network;
#'   where its outputs have more than two axes, they tell which is that of the classes. A single output, or a
#'   single channel of a map, is that of the second of two labels. Several labels that may hold at once are
#'   `"values"`, or one of them at a time, by `select`. Networks of ours have theirs, and refuse others.
#' @param select (string, count or function) Which part of several that such a network returns: its name, its
#'   number (from 1), or a function that takes it out of the Python object.
#' @param constants (named list) What else such a network is given, by name, the same for all inputs: flags,
#'   numbers, matrices (of `double`, they become the type of its weights), Python objects. Not for Keras
#'   models.
#' @param stochastic_depth (flag) Sample whole blocks too that are skipped at random in training?
#' @param gaussian_noise (flag) Sample normal noise too that acts in training alone, as that of Keras's
#'   `GaussianNoise`?
#' @param workers (count) Threads that each work on a piece of the draws and inputs; by default as many as
#'   Python's torch uses on a CPU, and one on a GPU. With how many changes the result by rounding alone.
#'   Keras on TensorFlow and JAX has threads of its own. Processes of `parallel::mclapply()` compute with one
#'   thread each; there GPUs and Keras on TensorFlow or JAX are refused, and `parallel::makeCluster()` is the
#'   way.
#' @param precision (string) `"float32"`, or `"bfloat16"` or `"float16"` for the network; summaries are in
#'   double always. On real images either moves the mean by less than a tenth of what another `seed` does (the
#'   vignette has the table).
#' @param device (character vector) `"auto"` (the first GPU, if there is one), `"cpu"`, `"cuda"`, `"cuda:1"`,
#'   ..., or several, as in `c("cuda:0", "cuda:1")`, which take batches in turns; with how many changes the
#'   result by rounding alone. Precision and device of a Keras model are as Keras has them.
#' @param seed (whole number) From 0 to 2^53 - 1; `NULL` draws one from R's generator, so that [set.seed()]
#'   governs.
#' @param progress (flag) Show a progress bar? By default where R is used interactively; see
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

#' @param object (mc_model) As `model`.
#' @param new_data (numeric array, data frame or mc_images) As `x`.
#' @param type (string) `"prob"`, `"class"`, `"numeric"`, `"conf_int"` or `"pred_int"`; by default
#'   probabilities or values. `conf_int` is the spread of the draws; `pred_int`, for values, has the noise as
#'   well.
#' @return `predict()` gives a tibble with a row per input, its columns named as tidymodels does:
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
  columns_of_type(mc_predict(object, new_data, ..., keep_samples = FALSE), type)
}

#' Predict with the dropout off
#'
#' The ordinary prediction of a network, one pass with nothing dropped, to compare with the mean of
#' [mc_predict()]. Of several devices the first is taken. Random numbers that the model draws in prediction
#' are those that its own call would draw now; the generators that they come from stay where they are.
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
#' The places in a network where [mc_predict()] finds randomness. Warns of random numbers that are left out or
#' cannot be keyed by input, and where the spread is likely to say little: dropout before the last layer
#' alone, and rates under 0.1 or over 0.7 in anything but a network of ours, or a Keras model by its loss, for
#' values.
#'
#' @inheritParams mc_predict
#' @return (tibble) One row per place: `site`, its name; `operation`; `rate` of dropping (of a 0 where the
#'   network draws decisions itself, `NaN` where numbers or weights are drawn); `shape` of what is dropped
#'   from, for one input, or how many weights are drawn. The masks of a place are keyed by its row, so
#'   networks with the same rows draw the same masks, of torch and of Keras.
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
#' Does once what [mc_predict()] does in every call before it draws: finds what is to be sampled, makes the
#' masks, chooses how to compute. What it returns is a function, for services that ask for one input at a
#' time. It answers as the network is when it is called: after more training the next answer prepares anew.
#'
#' @inheritParams mc_predict
#' @param example (as `x`) Inputs like those to come.
#' @return (function) Called with inputs, gives their [mc_prediction], with shared masks and no draws kept. It
#'   lives as long as the session.
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

# One part of what a network returns; Python counts from 0, but shows the number as R does.
as_select <- function(select, call = rlang::caller_env()) {
  if (is.function(select)) {
    return(as_callback(select, convert = FALSE))
  }
  if (!is.numeric(select)) {
    return(select)
  }
  call_core("for_r.output_number", as_count(select, "select", call = call) - 1L, call = call)
}

# Numbers, flags and words alone go over as such, vectors and matrices as arrays.
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

as_constant <- function(one, call) {
  if (is.list(one) && !is.object(one)) {
    return(if (rlang::is_named(one)) as_constants(one, call) else lapply(one, to_python))
  }
  if (is.atomic(one) && length(one) != 1) as.array(one) else one
}

# Whole numbers or words; how many there must be is the core's to say.
as_ids <- function(ids, call = rlang::caller_env()) {
  if (is.null(ids) || is_python(ids)) {
    return(ids)
  }
  ids <- if (is.factor(ids)) as.character(ids) else ids
  right <- is.character(ids) || is.numeric(ids) && all(ids == trunc(ids), na.rm = TRUE)
  if (!right || anyNA(ids)) {
    abort_must("ids", "be whole numbers or words, one per input", ids, call = call)
  }
  small <- is.double(ids) && all(abs(ids) <= .Machine$integer.max)
  as.array(if (small) as.integer(ids) else as.vector(ids))
}
