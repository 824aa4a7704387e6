# The result of mc_predict(). It is R data only, so it can be saved, sent and read without Python.

#' Predictions with their uncertainty
#'
#' [mc_predict()] returns a list of class `mc_prediction` of R data alone.
#'
#' @section For classes and values:
#' (double matrices) input x label, or input x output:
#' * `mean`, `variance` (divisor n - 1), `std`: over the draws, of the class probabilities or of the network's
#'   mean.
#' * `lower`, `upper`: the interval of the draws at `level`, quantiles of type 7.
#' * `mcse`: Monte Carlo standard error of `mean`, `std / sqrt(n_samples)`.
#' * `samples`: the draws, (array) draw x input x label, or `NULL`. `aperm(samples, c(2, 3, 1))` moves the
#'   draws to the last axis.
#'
#' @section For classes:
#' One entry per input:
#' * `predicted`, `second`: (factors with all labels as levels) the two most probable labels.
#' * `confidence`: the mean probability of the first label. `margin`: its lead over the second label.
#' * `predictive_entropy` (total uncertainty) = `expected_entropy` (aleatoric: in the data) +
#'   `mutual_information` (epistemic: in the network), in nats. `predictive_entropy_mcse` and so on are their
#'   Monte Carlo standard errors.
#' * `variation_ratio`: share of the draws that vote for another label than the most frequent one.
#'
#' @section For values:
#' * `epistemic_variance`: the variance of `mean`. `aleatoric_variance`: the variance of the noise, `NULL` if
#'   the network does not estimate it. `total_variance`: their sum.
#' * `conf_int`, of the network's mean, and `pred_int`, of a new observation: (arrays) input x output x bound.
#'
#' @section Where it came from:
#' `task`, `labels`, `ids`, `n_samples`, `level`, `seed`, `masks`, `engine` (and `engine_reason`), `device`,
#' `precision`, `seconds` and `temperature`. The temperature is the one to which [mc_apply()] has calibrated
#' the draws, and 1 without calibration. It is `NULL` in files of older versions, which do not store it.
#'
#' `ids` are the names of the inputs in tables and pictures: the `ids` of the call, or else the row names of
#' `x`. Row names do not key any masks.
#'
#' @param x,object (mc_prediction) A prediction.
#' @param i (integer, logical vector) The chosen inputs.
#' @param ... Not used, or further predictions to bind.
#' @return
#' * `dim()`: numbers of inputs and of labels (or outputs).
#' * `[`: the prediction for the chosen inputs.
#' * `rbind()`: one prediction out of predictions of one network for different inputs.
#' * `as.data.frame()` and `as_tibble()`: one row per input, with the column names of tidymodels:
#'   `.pred_class`, `.pred_{label}`, `.pred_lower_{label}`, `.pred_upper_{label}`, or `.pred`, `.pred_lower`,
#'   `.pred_upper`. `.pred_lower` and `.pred_upper` are the interval of the mean: `lower` and `upper` of the
#'   prediction, and `predict(type = "conf_int")`. `.pred_int_lower` and `.pred_int_upper` are the interval of
#'   a new observation: `pred_lower` and `pred_upper` of the prediction and of `to_pandas()` in Python. As in
#'   tidymodels, `predict(type = "pred_int")` calls them `.pred_lower` and `.pred_upper`.
#' * `tidy()`: one row per input and label or output. Maps and other outputs with further axes have one row
#'   per place. The columns `.axis_2`, `.axis_3`, ... are the positions on the axes of `mean`.
#' * `glance()`: one row.
#' * `summary()`: a list with a few numbers about all inputs.
#' @references Houlsby et al. (2011), *Bayesian active learning for classification and preference learning*,
#'   \doi{10.48550/arXiv.1112.5745}, for the mutual information. Kendall and Gal (2017), *What uncertainties
#'   do we need in Bayesian deep learning for computer vision?*, \doi{10.48550/arXiv.1703.04977}, for the
#'   parts of the variance.
#' @name mc_prediction
#' @family predictions
#' @examplesIf mc_python_available()
#' net <- mc_mlp(4, labels = levels(iris$Species))
#' net <- mc_fit(net, iris[1:4], iris$Species, epochs = 20, batch_size = 32, seed = 1)
#' pred <- mc_predict(net, iris[1:4], n_samples = 100, seed = 1)
#' pred[order(-pred$predictive_entropy)[1:3]]
#' tibble::as_tibble(pred)
NULL

# from and to Python ----

input_fields <- c(
  "predicted", "confidence", "second", "margin", "predictive_entropy", "expected_entropy",
  "mutual_information", "predictive_entropy_mcse", "expected_entropy_mcse", "mutual_information_mcse",
  "variation_ratio", "ids"
)

output_fields <- c(
  "mean", "variance", "std", "lower", "upper", "mcse", "epistemic_variance", "aleatoric_variance",
  "total_variance", "conf_int", "pred_int", "pred_lower", "pred_upper"
)

draw_fields <- c("samples", "noise_variances") # draw x input x output

label_fields <- c("predicted", "second")

origin_fields <- c(
  "n_samples", "level", "seed", "masks", "engine", "engine_reason", "device", "precision", "seconds",
  "temperature"
)

# Properties of the Python object, which computes them on demand.
derived_fields <- c("std", "mcse", "epistemic_variance", "conf_int", "pred_int")

# `names`: the names of the inputs if they have no ids.
prediction_from_python <- function(prediction, names = NULL) {
  state <- from_python(prediction$to_state())
  fields <- c(state[[1]], state[[2]])
  fields$ids <- fields$ids %||% names
  fields$seed <- integer_from_python(prediction$seed)
  fields[derived_fields] <- lapply(derived_fields, function(name) from_python(prediction[[name]]))
  if (!is.null(fields$labels)) {
    fields$labels <- unlist(fields$labels)
  }
  vectors <- intersect(names(fields), c(input_fields, "n_samples"))
  fields[vectors] <- lapply(fields[vectors], function(value) {
    value <- if (is.list(value)) unlist(value) else value
    if (length(dim(value)) == 1) as.vector(value) else value # maps stay maps
  })
  for (name in intersect(names(fields), label_fields)) {
    fields[[name]] <- labels_of_codes(fields[[name]], fields$labels)
  }
  new_mc_prediction(fields)
}

# Labels as a factor from codes that start at 0. A map of codes becomes a map of labels.
labels_of_codes <- function(codes, labels) {
  predicted <- factor(labels[codes + 1], labels)
  dim(predicted) <- dim(codes)
  predicted
}

# Builds the list, with its fields in the order of the documentation and output names on every array of
# outputs.
new_mc_prediction <- function(fields) {
  order <- c("task", output_fields, input_fields, draw_fields, "labels", origin_fields)
  fields <- fields[intersect(order, names(fields))]
  fields <- fields[!vapply(fields, is.null, logical(1))]
  names <- if (is.null(fields$labels)) NULL else as.character(fields$labels)
  for (name in intersect(names(fields), c(output_fields, draw_fields))) {
    fields[[name]] <- with_output_names(fields[[name]], names, interval = name %in% c("conf_int", "pred_int"))
  }
  structure(fields, class = "mc_prediction")
}

# Names the axis of the outputs by the labels, and the axis of an interval by its bounds. Axes of inputs and
# draws have no names.
with_output_names <- function(value, names, interval) {
  axes <- vector("list", length(dim(value)))
  if (!is.null(names)) {
    axes[[length(axes)]] <- names
  }
  if (interval) {
    axes[[length(axes)]] <- c("lower", "upper")
  }
  dimnames(value) <- if (all(vapply(axes, is.null, logical(1)))) NULL else axes
  value
}

# A `prediction` argument for the core.
as_prediction <- function(prediction, name = rlang::caller_arg(prediction), call = rlang::caller_env()) {
  if (!inherits(prediction, "mc_prediction")) {
    got <- show_value(class(prediction)[[1]])
    abort_must(name, "be what `mc_predict()` returns", got = got, call = call)
  }
  prediction_to_python(prediction, name, call)
}

# The core's prediction object with the same numbers. The core refuses parts that cannot be, such as those
# that were edited by hand.
prediction_to_python <- function(prediction, name = rlang::caller_arg(prediction),
                                 call = rlang::caller_env()) {
  fields <- unclass(prediction)
  for (field in intersect(names(fields), label_fields)) {
    if (!identical(levels(fields[[field]]), as.character(fields$labels))) {
      must <- paste0("have `labels` that are the levels of `", field, "`")
      abort_must(name, must, fields$labels, call = call)
    }
    size <- dim(fields[[field]])
    fields[[field]] <- as.integer(fields[[field]]) - 1L
    dim(fields[[field]]) <- size
  }
  fields <- fields[setdiff(names(fields), derived_fields)]
  is_array <- names(fields) %in% fields_by_input(fields) & vapply(fields, is.numeric, logical(1))
  arrays <- lapply(fields[is_array], function(value) unname(as.array(value)))
  settings <- fields[!is_array]
  for (field in intersect(names(settings), c("labels", "ids"))) {
    settings[[field]] <- as.list(settings[[field]])
  }
  if (is_single_number(settings$seed)) {
    settings$seed <- integer_to_python(settings$seed)
  }
  if (is.double(arrays$n_samples) && isTRUE(all(arrays$n_samples == trunc(arrays$n_samples)))) {
    storage.mode(arrays$n_samples) <- "integer" # R has counts as doubles
  }
  in_draws <- names(arrays) %in% draw_fields
  arrays[in_draws] <- lapply(arrays[in_draws], as_float32_if_exact) # the core's type
  object <- tryCatch(
    with_core(core_object("MCPrediction", call)$from_state(arrays, settings), call),
    mcdropout_error_unreadable_file = function(cnd) {
      must <- paste0("`", name, "` must be what `mc_predict()` returns; got a prediction whose parts")
      abort_mc(sub("^.* whose parts", must, conditionMessage(cnd)), call = call)
    }
  )
  for (field in intersect(derived_fields, names(prediction))) {
    if (!isTRUE(all.equal(c(prediction[[field]]), c(from_python(object[[field]]))))) {
      must <- "must agree with the fields that it is computed from; got other numbers."
      abort_mc(paste0("`", name, "$", field, "` ", must), call = call)
    }
  }
  object
}

# as an R object ----

#' @rdname mc_prediction
#' @export
dim.mc_prediction <- function(x) {
  dim(unclass(x)$mean)
}

#' @rdname mc_prediction
#' @export
`[.mc_prediction` <- function(x, i, ...) {
  others <- eval(substitute(alist(...)))
  others <- others[!rlang::names2(others) %in% "drop"]
  if (!all(vapply(others, rlang::is_missing, logical(1)))) {
    abort_mc(
      paste(
        "`x` must be indexed by inputs alone, as `x[i]`; got a second index. `x$mean[i, j]` has labels or",
        "outputs."
      )
    )
  }
  chosen <- tryCatch(seq_len(nrow(x))[i], error = function(cnd) NA)
  if (anyNA(chosen)) {
    abort_must("i", paste("choose among the", nrow(x), "inputs"), i)
  }
  map_inputs(x, function(value, axis) index_axis(value, axis, chosen))
}

#' @rdname mc_prediction
#' @export
rbind.mc_prediction <- function(...) {
  parts <- list(...)
  parts <- parts[rlang::names2(parts) != "deparse.level"] # an argument of the generic function
  for (part in parts) {
    if (!inherits(part, "mc_prediction")) {
      abort_mc(paste0("`rbind()` must get predictions alone; got ", show_value(part), "."))
    }
  }
  parts <- fill_missing_ids(parts)
  first <- parts[[1]]
  same <- c(
    "task", "labels", "level", "seed", "masks", "temperature", if (length(first$n_samples) == 1) "n_samples"
  )
  for (part in parts) {
    differs <- !identical(unclass(part)[same], unclass(first)[same])
    if (differs || !setequal(names(part), names(first))) {
      abort_mc("Predictions that are bound must come from one network and the same settings.")
    }
  }
  bound <- map_inputs(first, function(value, axis, name) {
    bind_axis(lapply(parts, function(part) unclass(part)[[name]]), axis)
  })
  bound$seconds <- sum(vapply(parts, function(part) part$seconds, double(1)))
  bound
}

# Gives ids to predictions without ids, if others have them: the first rows of a data frame have automatic
# names 1, 2, ..., which are no ids.
fill_missing_ids <- function(predictions) {
  without <- vapply(predictions, function(part) is.null(part$ids), logical(1))
  if (!all(without)) {
    predictions[without] <- lapply(predictions[without], function(part) {
      part$ids <- seq_len(nrow(part))
      new_mc_prediction(unclass(part))
    })
  }
  predictions
}

# Names of all fields with one entry per input.
fields_by_input <- function(fields) {
  draw_counts <- if (length(fields$n_samples) > 1) "n_samples" # with `tolerance`
  intersect(names(fields), c(output_fields, input_fields, draw_fields, draw_counts))
}

# Applies `f(value, axis)` or `f(value, axis, name)` to all fields with one entry per input. `axis` is the
# axis of the inputs.
map_inputs <- function(x, f) {
  fields <- unclass(x)
  for (name in fields_by_input(fields)) {
    axis <- if (name %in% draw_fields) 2 else 1
    fields[[name]] <- if (length(formals(f)) == 3) f(fields[[name]], axis, name) else f(fields[[name]], axis)
  }
  structure(fields, class = class(x))
}

# `value[.., i, ..]` with `i` on `axis`. All axes are kept.
index_axis <- function(value, axis, i) {
  if (is.null(dim(value))) {
    return(value[i])
  }
  index <- rep(list(TRUE), length(dim(value)))
  index[[axis]] <- i
  do.call(`[`, c(list(value), index, drop = FALSE))
}

bind_axis <- function(values, axis) {
  if (is.null(dim(values[[1]]))) {
    return(unlist(values)) # factors with the same levels stay factors
  }
  # R varies the last axis slowest. Binding is therefore concatenation if `axis` is the last axis.
  rank <- length(dim(values[[1]]))
  last <- c(setdiff(seq_len(rank), axis), axis)
  turned <- lapply(values, aperm, last)
  sizes <- dim(turned[[1]])
  sizes[[rank]] <- sum(vapply(turned, function(value) dim(value)[[rank]], integer(1)))
  names <- dimnames(values[[1]])
  bound <- aperm(array(unlist(turned), sizes), order(last))
  dimnames(bound) <- names
  bound
}

# as text ----

#' @rdname mc_prediction
#' @param n (count) Number of inputs to show.
#' @export
format.mc_prediction <- function(x, ..., n = 6) {
  shown <- if (identical(n, Inf)) nrow(x) else min(as_count(n, "n", at_least = 0), nrow(x))
  more <- nrow(x) - shown
  c(
    paste("# An mc_prediction:", describe_size(x)),
    if (shown > 0 && !is_map(x)) utils::capture.output(print(overview(x[seq_len(shown)]), digits = 3)),
    if (more > 0 && !is_map(x)) paste0("# ... and ", count_of(more, "more input"))
  )
}

#' @rdname mc_prediction
#' @export
print.mc_prediction <- function(x, ..., n = 6) {
  cat(format(x, ..., n = n), sep = "\n")
  invisible(x)
}

describe_size <- function(x) {
  outputs <- count_of(n_outputs(x), if (x$task == "classification") "label" else "output")
  paste0(
    count_of(nrow(x), "input"), ", ", outputs, ", ", describe_draws(x),
    if ((x$temperature %||% 1) != 1) paste0(", calibrated at temperature ", signif(x$temperature, 4))
  )
}

# With `tolerance` the number of draws differs between inputs.
describe_draws <- function(x) {
  counts <- range(x$n_samples, if (length(x$n_samples) == 0) 0)
  paste0(if (counts[[1]] < counts[[2]]) paste0(counts[[1]], " to "), count_of(counts[[2]], "draw"))
}

# The number of labels (at each place of a map), or of all values of one input.
n_outputs <- function(x) {
  if (x$task == "classification") utils::tail(dim(x), 1) else prod(dim(x)[-1])
}

count_of <- function(n, thing) {
  paste0(n, " ", thing, if (n != 1) "s")
}

# The most important columns, as a data frame with one row per input.
overview <- function(x) {
  refuse_maps(x)
  if (x$task == "classification") {
    fields <- c("predicted", "confidence", "predictive_entropy", "expected_entropy", "mutual_information")
    return(as.data.frame(unclass(x)[fields]))
  }
  output_columns(x, c("mean", "std", "lower", "upper", "aleatoric_variance", "total_variance"))
}

#' @rdname mc_prediction
#' @export
summary.mc_prediction <- function(object, ...) {
  fields <- if (object$task == "classification") {
    c("confidence", "margin", "predictive_entropy", "expected_entropy", "mutual_information",
      "variation_ratio")
  } else {
    c("mean", "std", "epistemic_variance", "aleatoric_variance", "total_variance")
  }
  fields <- intersect(fields, names(object))
  spread <- t(vapply(unclass(object)[fields], function(value) {
    c(stats::quantile(value, c(0, 0.25, 0.5, 0.75, 1), names = FALSE), mean(value))
  }, double(6)))
  colnames(spread) <- c("min", "q25", "median", "q75", "max", "mean")
  counts <- if (object$task == "classification") table(object$predicted, dnn = NULL)
  structure(
    c(list(size = describe_size(object), spread = spread, counts = counts), unclass(object)[origin_fields]),
    class = "summary_mc_prediction"
  )
}

#' @export
format.summary_mc_prediction <- function(x, ...) {
  c(
    paste("# Summary of an mc_prediction:", x$size),
    utils::capture.output(print(x$spread, digits = 3)),
    if (!is.null(x$counts)) labels_line("predicted: ", x$counts),
    paste0(
      x$masks, " masks, seed ", format(x$seed, scientific = FALSE), ", ", x$engine, " on ", x$device, " in ",
      x$precision, ", ", format(x$seconds, digits = 2), " s"
    )
  )
}

#' @export
print.summary_mc_prediction <- function(x, ...) {
  cat(format(x, ...), sep = "\n")
  invisible(x)
}
