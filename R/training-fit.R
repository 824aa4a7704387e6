# Training: on arrays in mini-batches, or batch by batch in a loop of one's own.

#' Train a network in mini-batches
#'
#' Minimises cross-entropy (classes) or the Gaussian negative log-likelihood (values; squared error where
#' `noise` is `"none"`) with dropout switched on. The network is trained in place and returned. Ctrl-C (Esc in
#' RStudio) stops and keeps what was learnt. An error takes back what was learnt in its epoch; a network that
#' had learnt nothing before is then as it was.
#'
#' `fit()` is the same function as a method of [generics::fit()].
#'
#' @param model,object (mc_model) A network of [mc_cnn()] or [mc_mlp()], or a torch module of your own with
#'   the attributes `task`, `labels` and `outputs`.
#' @param x (numeric array, data frame or mc_images) Inputs along the first axis: input x height x width x
#'   channel for [mc_cnn()], input x feature for [mc_mlp()]. No missing values. The names of a data frame's
#'   columns are kept: data frames that are predicted later may have them in any order, but must have these.
#' @param y (factor, character, integer or logical vector, or one-hot matrix; for values, numeric vector or
#'   matrix) What is to be learnt, one per input. Labels are matched by name, and so are the columns of
#'   one-hot rows, where they have names. No missing values.
#' @param ... Not used; what follows is given by name. For `fit()`, arguments of `mc_fit()`.
#' @param epochs (count) How often all inputs are seen.
#' @param batch_size (count) Inputs per step.
#' @param learning_rate (number) Above 0.
#' @param optimizer (string or function) `"adam"`, `"adamw"`, `"sgd"` or `"rmsprop"`, or a function that is
#'   given the Python parameters and returns a torch optimiser.
#' @param weight_decay (number) L2 penalty, at least 0.
#' @param validation_split (number) Share of the inputs held out to validate, in \[0, 1); drawn within each
#'   label.
#' @param validation_data (list) `list(x, y)` to validate on instead.
#' @param early_stopping (count) Stop after this many epochs without improvement of `monitor`, and take the
#'   best weights; `NULL` never stops.
#' @param monitor (string) Column of the history to watch: `"loss"`, `"accuracy"` (values: `"rmse"`), or the
#'   same with `"val_"` in front.
#' @param reduce_lr (count or list) Halve the learning rate after this many epochs without improvement, or
#'   `list(patience = , factor = )`.
#' @param class_weight (named numeric vector or string) A weight for each label in the loss, or `"balanced"`.
#' @param kl_weight (number, string, function or list) Of the KL divergence of variational layers in the loss:
#'   `"1/N"`, one over the number of values learnt from, makes the loss the negative evidence lower bound per
#'   value; or a number, at least 0; a function of the epoch; or `list(warm_up = , weight = )`, to let it rise
#'   evenly to `weight` in that many epochs.
#' @param augment (function) Of a batch of inputs (a Python tensor; of a table in its own units, in double)
#'   and a torch generator, to a batch of the same shape.
#' @param callbacks (function or list of functions) Called after each epoch with a list of what the history
#'   has of it; one that returns `TRUE` or `"stop"` ends the training.
#' @param precision (string) `"float32"`, or a lower one for mixed precision, such as `"bfloat16"`.
#' @param device (string) `"auto"`, `"cpu"`, `"cuda"`, ...
#' @param seed (whole number) Governs shuffling, splitting and dropout; `NULL` draws one from R's generator,
#'   so that [set.seed()] governs (where a checkpoint is there, its seed is taken). Networks of this package
#'   draw from generators of their own; for other torch modules torch's global generators are borrowed during
#'   each step.
#' @param checkpoint (string) A file written after each epoch; training goes on from it if it is there, and
#'   ends with the weights of a run that was never interrupted: to the bit on one machine with as many
#'   threads.
#' @param progress (flag) Show a progress bar? By default where R is used interactively; see
#'   `options(mcdropout.progress = )`.
#' @return (mc_model) `model`, trained. `model$history` is a tibble with one row per epoch. With variational
#'   layers it also has `nll` (the loss without its KL term), `kl` (in nats, of all layers), `kl_weight`, so
#'   that `loss = nll + kl_weight * kl`, and for each layer `std_...`, the mean posterior standard deviation
#'   of its weights. Validation is of the posterior means, and without the KL term.
#' @references Kingma and Ba (2015), *Adam*, \doi{10.48550/arXiv.1412.6980}.
#' @export
#' @family training
#' @examplesIf mc_python_available()
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' net <- mc_fit(net, iris[1:4], iris$Species, epochs = 5, batch_size = 32, seed = 1)
#' net$history
mc_fit <- function(model, x, y, ..., epochs = 10, batch_size = 128, learning_rate = 1e-3,
                   optimizer = "adam", weight_decay = 0, validation_split = 0, validation_data = NULL,
                   early_stopping = NULL, monitor = "val_loss", reduce_lr = NULL, class_weight = NULL,
                   kl_weight = "1/N", augment = NULL, callbacks = NULL, precision = "float32",
                   device = "auto", seed = NULL, checkpoint = NULL,
                   progress = getOption("mcdropout.progress", interactive())) {
  rlang::check_dots_empty()
  network <- as_network(model)
  call <- rlang::current_env()
  # What was learnt is kept however this function is left.
  on.exit(if (inherits(model, "mc_model")) refresh_model(model), add = TRUE)
  call_core(
    "mc_fit", network, as_network_rows(x), as_targets(y, labels_of(model)),
    epochs = as_count(epochs),
    batch_size = as_count(batch_size),
    learning_rate = as_number(learning_rate, above = 0),
    optimizer = as_python_function(optimizer),
    weight_decay = as_number(weight_decay, at_least = 0),
    validation_split = as_number(validation_split, at_least = 0, below = 1),
    validation_data = as_validation_data(validation_data, labels_of(model), call),
    early_stopping = if_given(early_stopping, as_count),
    monitor = monitor,
    reduce_lr = if (is.list(reduce_lr)) reduce_lr else if_given(reduce_lr, as_count),
    class_weight = if (is.numeric(class_weight)) as.list(class_weight) else class_weight,
    kl_weight = as_kl_weight(kl_weight),
    augment = if (is.null(augment)) NULL else as_callback(augment, convert = FALSE),
    callbacks = as_callbacks(callbacks),
    precision = precision,
    device = device,
    seed = if (is.null(seed) && goes_on(checkpoint)) NULL else as_seed(seed),
    checkpoint = if_given(checkpoint, as_path),
    progress = as_progress(progress)
  )
  if (inherits(model, "mc_model")) model else network
}

#' @rdname mc_fit
#' @export
fit.mc_model <- function(object, x, y, ...) {
  mc_fit(object, x, y, ...)
}

#' @importFrom generics fit
#' @export
generics::fit

#' One training step
#'
#' For training loops of your own: one step on one mini-batch, with dropout switched on. The optimiser is kept
#' with the network from call to call.
#'
#' @inheritParams mc_fit
#' @param model (mc_model) As in [mc_fit()].
#' @param optimizer (string, function or Python object) As in [mc_fit()], or a torch optimiser over the
#'   network's parameters; by default the one of the last call, and at first Adam with learning rate 0.001. A
#'   function is called once: it is another where its text, or a value that it uses, is another.
#' @param kl_weight (number) For networks with variational layers, which need it: one over the number of all
#'   inputs.
#' @return (list) `loss` of the batch before the step, and `accuracy` or `rmse`; with variational layers also
#'   `nll` and `kl`.
#' @export
#' @family training
#' @examplesIf mc_python_available()
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' for (step in 1:20) {
#'   batch <- sample(nrow(iris), 32)
#'   metrics <- mc_train_on_batch(net, iris[batch, 1:4], iris$Species[batch])
#' }
#' metrics
mc_train_on_batch <- function(model, x, y, ..., optimizer = NULL, kl_weight = NULL) {
  rlang::check_dots_empty()
  network <- as_network(model)
  metrics <- from_python(
    call_core(
      "mc_train_on_batch", network, as_network_rows(x), as_targets(y, labels_of(model)),
      optimizer = as_kept_optimizer(optimizer, network),
      kl_weight = if_given(kl_weight, as_number, at_least = 0)
    )
  )
  if (inherits(model, "mc_model")) {
    refresh_model(model)
  }
  metrics
}

# An optimizer's function for the core, which takes up what it made of the same one before: so the same
# function of R must be the same object of Python. A loop that writes the function anew means the same if
# neither its text nor the values that it uses have changed.
as_kept_optimizer <- function(optimizer, network) {
  if (!is.function(optimizer) || is_python(optimizer) || !is_python(network)) {
    return(optimizer)
  }
  id <- reticulate::py_id(network)
  kept <- session$optimizers[[id]]
  if (!is.null(kept) &&
        (rlang::is_reference(kept$given, optimizer) || identical(kept$recipe, recipe_of(optimizer)))) {
    return(kept$python)
  }
  made <- new.env(parent = emptyenv())
  made$given <- optimizer
  made$python <- as_callback(function(parameters) {
    on.exit(made$recipe <- recipe_of(optimizer)) # what it counts up has then been counted
    optimizer(parameters)
  }, convert = FALSE)
  session$optimizers[[id]] <- made
  made$python
}

recipe_of <- function(f) {
  code <- list(formals(f), body(f))
  used <- unique(as.character(unlist(lapply(c(code[[1]], code[[2]]), all.names))))
  nowhere <- rep(list(NULL), length(used))
  scope <- environment(f) %||% baseenv()
  c(code, mget(used, envir = scope, inherits = TRUE, ifnotfound = nowhere))
}

# A function gets and gives Python objects; anything else is the core's to judge.
as_python_function <- function(f) {
  if (is.function(f) && !is_python(f)) as_callback(f, convert = FALSE) else f
}

# A function is asked for each epoch; words and lists are the core's to judge; of all else NA would come
# through as true.
as_kl_weight <- function(kl_weight, call = rlang::caller_env()) {
  if (is.function(kl_weight) && !is_python(kl_weight)) {
    return(as_callback(kl_weight, call = call))
  }
  if (is.character(kl_weight) || is.list(kl_weight) || is_python(kl_weight)) {
    return(kl_weight)
  }
  as_number(kl_weight, "kl_weight", at_least = 0, call = call)
}

# A checkpoint knows the seed of its run.
goes_on <- function(checkpoint) {
  is.character(checkpoint) && length(checkpoint) == 1 && file.exists(checkpoint)
}

as_validation_data <- function(data, labels, call) {
  if (is.null(data)) {
    return(NULL)
  }
  if (!is.list(data) || is.data.frame(data) || length(data) != 2) {
    abort_must("validation_data", "be a list of x and y", data, call = call)
  }
  x <- as_network_rows(data[[1]], "validation_data", call)
  list(x, as_targets(data[[2]], labels, "validation_data", call))
}

as_callbacks <- function(callbacks, call = rlang::caller_env()) {
  if (is.null(callbacks)) {
    return(NULL)
  }
  several <- if (is.function(callbacks)) list(callbacks) else callbacks
  lapply(several, as_callback, name = "callbacks", call = call)
}

# What the core's `progress` takes: nothing, or a function that moves a bar of cli.
as_progress <- function(progress, call = rlang::caller_env()) {
  if (!as_flag(progress, "progress", call)) {
    return(FALSE)
  }
  frame <- call # the bar ends with the function the user called
  bar <- NULL
  as_callback(function(done, total, text) {
    if (is.null(bar)) { # `total` is known only now
      bar <<- cli::cli_progress_bar(
        total = total, clear = TRUE, .envir = frame,
        format = "{cli::pb_bar} {cli::pb_percent} {cli::pb_status}| {cli::pb_eta_str}"
      )
    }
    cli::cli_progress_update(set = done, total = total, status = text, id = bar, .envir = frame)
    invisible()
  })
}
