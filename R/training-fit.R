# Training: on arrays in mini-batches, or batch by batch in a loop of your own.

#' Train a network in mini-batches
#'
#' Minimises the cross-entropy (classes) or the Gaussian negative log-likelihood (values; the squared error if
#' `noise` is `"none"`) with dropout switched on. The network is trained in place and returned. Ctrl-C (Esc in
#' RStudio) stops the training and keeps what was learnt. An error undoes the epoch in which it happened. If
#' that was the first epoch, the network is then as it was before.
#'
#' `fit()` is the same function as a method of [generics::fit()].
#'
#' @param model,object (mc_model) A network of [mc_cnn()] or [mc_mlp()], or your own torch module with the
#'   attributes `task`, `labels` and `outputs`.
#' @param x (numeric array, data frame or mc_images) Inputs along the first axis: input x height x width x
#'   channel for [mc_cnn()], input x feature for [mc_mlp()]. No missing values. The network keeps the column
#'   names of a data frame. Data frames for prediction must have these columns, in any order.
#' @param y (factor, character, integer or logical vector, or one-hot matrix; for values, numeric vector or
#'   matrix) The targets, one per input. Labels are matched by name. The columns of one-hot rows are matched
#'   by name too, if they have names. No missing values.
#' @param ... Not used. The arguments after it are given by name. For `fit()`, arguments of `mc_fit()`.
#' @param epochs (count) Number of passes over all inputs.
#' @param batch_size (count) Number of inputs per step. Under batch normalization a last single input joins
#'   the step before it.
#' @param learning_rate (number) Above 0.
#' @param optimizer (string or function) `"adam"`, `"adamw"`, `"sgd"` or `"rmsprop"`, or a function that takes
#'   the Python parameters and returns a torch optimiser.
#' @param weight_decay (number) L2 penalty, at least 0.
#' @param validation_split (number) Share of the inputs that is held out for validation, in \[0, 1). It is
#'   drawn within each label.
#' @param validation_data (list) `list(x, y)` for validation instead.
#' @param early_stopping (count) Stop after this many epochs without improvement of `monitor`, and use the
#'   best weights. `NULL` never stops.
#' @param monitor (string) Column of the history to watch: `"loss"`, `"accuracy"` (values: `"rmse"`), or the
#'   same with `"val_"` before it.
#' @param reduce_lr (count or list) Halve the learning rate after this many epochs without improvement, or
#'   `list(patience = , factor = )`.
#' @param class_weight (named numeric vector or string) A weight for each label in the loss, or `"balanced"`.
#' @param kl_weight (number, string, function or list) Weight of the KL divergence of variational layers in
#'   the loss. `"1/N"` is one over the number of training values, which makes the loss the negative evidence
#'   lower bound per value. Or a number, at least 0; a function of the epoch; or `list(warm_up = , weight =
#'   )`, with which it rises linearly to `weight` in that many epochs.
#' @param augment (function) Takes a batch of inputs (a Python tensor; for a table in its own units, in
#'   double) and a torch generator, and returns a batch of the same shape.
#' @param callbacks (function or list of functions) Called after each epoch with a list of the epoch's row of
#'   the history. A callback that returns `TRUE` or `"stop"` ends the training.
#' @param precision (string) `"float32"`, or a lower precision for mixed precision, such as `"bfloat16"`.
#' @param device (string) `"auto"`, `"cpu"`, `"cuda"`, ...
#' @param seed (whole number) Seed of shuffling, splitting and dropout. `NULL` draws one from R's generator,
#'   so that [set.seed()] determines it; if there is a checkpoint, its seed is used. Networks of this package
#'   draw from generators of their own. For other torch modules, torch's global generators are used during
#'   each step and restored after it.
#' @param checkpoint (string) A file that is written after each epoch. If it exists, training continues from
#'   it and ends with the weights of a run without interruption: to the bit on one machine with the same
#'   number of threads. The file of a run with other data, functions or settings is refused.
#' @param progress (flag) Show a progress bar? By default in interactive sessions; see
#'   `options(mcdropout.progress = )`.
#' @return (mc_model) `model`, trained. `model$history` is a tibble with one row per epoch. With variational
#'   layers it also has `nll` (the loss without its KL term), `kl` (in nats, of all layers) and `kl_weight`,
#'   with `loss = nll + kl_weight * kl`. For each layer it has `std_...`, the mean posterior standard
#'   deviation of its weights. Validation uses the posterior means, without the KL term.
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
  # Errors and interrupts keep what was learnt, too.
  on.exit(if (inherits(model, "mc_model")) refresh_model(model), add = TRUE)
  call_core(
    "mc_fit", network, as_network_rows(x), as_targets(y, labels_of(model)),
    epochs = as_count(epochs),
    batch_size = as_count(batch_size),
    learning_rate = as_number(learning_rate, above = 0),
    optimizer = as_python_function(check_optimizer(optimizer, call = call)),
    weight_decay = as_number(weight_decay, at_least = 0),
    validation_split = as_number(validation_split, at_least = 0, below = 1),
    validation_data = as_validation_data(validation_data, labels_of(model), call),
    early_stopping = if_given(early_stopping, as_count),
    monitor = check_monitor(monitor, call),
    reduce_lr = if (is.list(reduce_lr)) reduce_lr else if_given(reduce_lr, as_count),
    class_weight = if (is.numeric(class_weight)) as.list(class_weight) else class_weight,
    kl_weight = as_kl_weight(kl_weight),
    augment = if (is.null(augment)) NULL else with_recipe(as_callback(augment, convert = FALSE), augment),
    callbacks = as_callbacks(callbacks),
    precision = precision,
    device = device,
    seed = if (is.null(seed) && has_checkpoint(checkpoint)) NULL else as_seed(seed),
    checkpoint = if_given(checkpoint, as_path),
    progress = as_progress(progress)
  )
  if (inherits(model, "mc_model")) model else network
}

# A function for the core, with its text: a checkpoint recognises the function by it.
with_recipe <- function(callback, f) {
  reticulate::py_set_attr(callback, "recipe", paste(deparse(list(formals(f), body(f))), collapse = "\n"))
  callback
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
#' Does one training step on one mini-batch, with dropout switched on, for your own training loop. The
#' optimiser is kept with the network between the calls.
#'
#' @inheritParams mc_fit
#' @param model (mc_model) A network as in [mc_fit()].
#' @param optimizer (string, function or Python object) As in [mc_fit()], or a torch optimiser over the
#'   network's parameters. By default the optimiser of the last call, and at first Adam with learning rate
#'   0.001. A function is called once. It counts as a new function if its text, or a value that it uses, has
#'   changed.
#' @param kl_weight (number) Weight of the KL divergence. Networks with variational layers need it: one over
#'   the number of all inputs.
#' @return (list) `loss` of the batch before the step, and `accuracy` or `rmse`. With variational layers also
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
      optimizer = as_cached_optimizer(if_given(optimizer, check_optimizer), network),
      kl_weight = if_given(kl_weight, as_number, at_least = 0)
    )
  )
  if (inherits(model, "mc_model")) {
    refresh_model(model)
  }
  metrics
}

# The core knows which metrics there are.
check_monitor <- function(monitor, call) {
  if (is.character(monitor) && length(monitor) == 1 && !is.na(monitor)) {
    return(monitor)
  }
  abort_must("monitor", "be the name of a metric, such as \"val_loss\"", monitor, call = call)
}

# The name of an optimizer, a function, or an object of Python.
check_optimizer <- function(x, name = "optimizer", call = rlang::caller_env()) {
  if (is.function(x) || is_python(x)) x else as_choice(x, optimizers, name, call)
}

optimizers <- c("adam", "adamw", "sgd", "rmsprop")

# The optimizer for the core. The core keeps the optimizer of a function for as long as it gets the same
# Python object, so the same R function must become the same Python object. A loop may write the function
# again in each step. It is the same function if neither its text nor the values that it uses have changed.
as_cached_optimizer <- function(optimizer, network) {
  if (!is.function(optimizer) || is_python(optimizer) || !is_python(network)) {
    return(optimizer)
  }
  id <- reticulate::py_id(network)
  kept <- session$optimizers[[id]]
  if (!is.null(kept)) {
    same_object <- rlang::is_reference(kept$original, optimizer)
    if (same_object || identical(kept$fingerprint, fingerprint_of(optimizer))) {
      return(kept$python)
    }
  }
  entry <- new.env(parent = emptyenv())
  entry$original <- optimizer
  entry$python <- as_callback(function(parameters) {
    on.exit(entry$fingerprint <- fingerprint_of(optimizer)) # the call may change values that it uses
    optimizer(parameters)
  }, convert = FALSE)
  session$optimizers[[id]] <- entry
  entry$python
}

# The text of a function and the values of the names in it.
fingerprint_of <- function(f) {
  code <- list(formals(f), body(f))
  used <- unique(as.character(unlist(lapply(c(code[[1]], code[[2]]), all.names))))
  nowhere <- rep(list(NULL), length(used))
  scope <- environment(f) %||% baseenv()
  c(code, mget(used, envir = scope, inherits = TRUE, ifnotfound = nowhere))
}

# A function of Python objects that returns Python objects. The core checks any other value.
as_python_function <- function(f) {
  if (is.function(f) && !is_python(f)) as_callback(f, convert = FALSE) else f
}

# A function is called in each epoch. The core checks strings and lists. Numbers are checked here, because NA
# would arrive as true.
as_kl_weight <- function(kl_weight, call = rlang::caller_env()) {
  if (is.function(kl_weight) && !is_python(kl_weight)) {
    return(with_recipe(as_callback(kl_weight, call = call), kl_weight))
  }
  if (is.character(kl_weight) || is.list(kl_weight) || is_python(kl_weight)) {
    return(kl_weight)
  }
  as_number(kl_weight, "kl_weight", at_least = 0, call = call)
}

# Is there a checkpoint? It contains the seed of its run.
has_checkpoint <- function(checkpoint) {
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

# The `progress` argument for the core: FALSE, or a function that moves a cli progress bar.
as_progress <- function(progress, call = rlang::caller_env()) {
  if (!as_flag(progress, "progress", call)) {
    return(FALSE)
  }
  frame <- call # the bar ends with the function that the user called
  bar <- NULL
  as_callback(function(done, total, text) {
    if (is.null(bar)) { # `total` is not known earlier
      bar <<- cli::cli_progress_bar(
        total = total, clear = TRUE, .envir = frame,
        format = "{cli::pb_bar} {cli::pb_percent} {cli::pb_status}| {cli::pb_eta_str}"
      )
    }
    cli::cli_progress_update(set = done, total = total, status = text, id = bar, .envir = frame)
    invisible()
  })
}
