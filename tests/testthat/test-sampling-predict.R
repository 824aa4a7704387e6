test_that("a prediction does not depend on how the inputs are batched or chosen", {
  skip_if_no_core()
  net <- small_net()
  x <- small_x()
  all_at_once <- mc_predict(net, x, n_samples = 5, seed = 1, progress = FALSE)
  in_batches <- mc_predict(net, x, n_samples = 5, batch_size = 2, seed = 1, progress = FALSE)
  # 1e-5: rounding of the network in float32
  expect_equal(in_batches$mean, all_at_once$mean, tolerance = 1e-5)
  expect_equal(in_batches$samples, all_at_once$samples, tolerance = 1e-5)
  chosen <- mc_predict(net, x[c(6, 2), ], n_samples = 5, seed = 1, progress = FALSE)
  expect_equal(chosen$samples, all_at_once$samples[, c(6, 2), ], tolerance = 1e-5)
})

test_that("masks of single inputs depend on their ids", {
  skip_if_no_core()
  net <- small_net()
  x <- small_x()
  predict_with <- function(x, ids) {
    mc_predict(net, x, n_samples = 5, masks = "per_input", ids = ids, seed = 1, progress = FALSE)
  }
  all_inputs <- predict_with(x, NULL)
  chosen <- predict_with(x[c(6, 2), ], c(5, 1)) # ids are 0, 1, ... by default
  expect_equal(chosen$samples, all_inputs$samples[, c(6, 2), ], tolerance = 1e-5)
  named <- predict_with(x, letters[1:7])
  expect_identical(named$ids, letters[1:7])
})

test_that("R's own functions agree with the core on the same draws", {
  skip_if_no_core()
  pred <- mc_predict(small_net(), small_x(), n_samples = 9, level = 0.9, seed = 1, progress = FALSE)
  over_draws <- function(f, ...) apply(pred$samples, 2:3, f, ...)
  # 1e-12: rounding of sums of doubles
  expect_equal(pred$mean, over_draws(mean), tolerance = 1e-12)
  expect_equal(pred$variance, over_draws(var), tolerance = 1e-12)
  expect_equal(pred$lower, over_draws(quantile, 0.05, type = 7, names = FALSE), tolerance = 1e-12)
  expect_equal(pred$upper, over_draws(quantile, 0.95, type = 7, names = FALSE), tolerance = 1e-12)
  expect_equal(pred$predictive_entropy, pred$expected_entropy + pred$mutual_information, tolerance = 1e-12)
})

test_that("draws are kept unless `keep_samples` is false", {
  skip_if_no_core()
  net <- small_net()
  kept <- mc_predict(net, small_x(), n_samples = 5, seed = 1, progress = FALSE)
  without <- mc_predict(net, small_x(), n_samples = 5, seed = 1, keep_samples = FALSE, progress = FALSE)
  expect_identical(dim(kept$samples), c(5L, 7L, 3L))
  expect_null(without$samples)
  expect_identical(without$mean, kept$mean)
})

test_that("set.seed() decides the draws if there is no `seed`", {
  skip_if_no_core()
  net <- small_net()
  predict_here <- function() mc_predict(net, small_x(), n_samples = 3, progress = FALSE)$samples
  first <- withr::with_seed(3, predict_here())
  expect_identical(withr::with_seed(3, predict_here()), first)
})

test_that("a torch module of the user is sampled without changes", {
  skip_if_no_core()
  nn <- reticulate::import("torch", convert = FALSE)$nn
  model <- nn$Sequential(nn$Linear(4L, 8L), nn$Dropout(0.5), nn$Linear(8L, 3L))
  pred <- mc_predict(model, small_x(), n_samples = 4, outputs = "logits", labels = c("a", "b", "c"), seed = 1,
                     progress = FALSE)
  expect_identical(levels(pred$predicted), c("a", "b", "c"))
  expect_identical(colnames(mc_predict_point(model, small_x(), outputs = "logits", labels = c("a", "b", "c"),
                                             progress = FALSE)), c("a", "b", "c"))
  expect_refusal(
    mc_predict(model, small_x(), progress = FALSE),
    paste(
      '`outputs` must say what `model` returns, one of "logits", "probabilities", "values",',
      '"mean_log_variance"; got none.'
    )
  )
  expect_refusal(
    mc_predict(nn$Sequential(nn$Linear(4L, 3L)), small_x(), outputs = "logits", progress = FALSE),
    paste(
      "`model` has no dropout with a rate above 0, so every draw would be the same; add",
      "`torch.nn.Dropout` layers and train again."
    ),
    "no_stochastic_sites"
  )
  expect_refusal(
    mc_predict(model, small_x(), outputs = "logits", labels = c("a", "b"), progress = FALSE),
    "`labels` must name the 3 outputs of `model`; got 2 labels."
  )
  expect_error(
    mc_predict(nn$Sequential(nn$Linear(4L, 3L)), small_x(), outputs = "logits"),
    class = "mcdropout_error_no_stochastic_sites"
  )
})

test_that("invalid arguments raise an error of one sentence", {
  skip_if_no_core()
  net <- small_net()
  x <- small_x()
  expect_refusal(
    mc_predict(net, x, n_samples = 0),
    "`n_samples` must be a whole number of at least 2; got 0."
  )
  expect_refusal(
    mc_predict(net, x, n_samples = 2.5),
    "`n_samples` must be a whole number of at least 2; got 2.5."
  )
  expect_refusal(
    mc_predict(net, x, n_samples = "a"),
    '`n_samples` must be a whole number of at least 2; got "a".'
  )
  expect_refusal(
    mc_predict(net, x, batch_size = -1),
    "`batch_size` must be a whole number of at least 1; got -1."
  )
  expect_refusal(
    mc_predict(net, x, batch_size = NA),
    "`batch_size` must be a whole number of at least 1; got NA."
  )
  expect_refusal(mc_predict(net, x, level = 95), "`level` must be a number above 0 and below 1; got 95.")
  expect_refusal(
    mc_predict(net, x, masks = "own"),
    '`masks` must be one of "shared", "per_input"; got "own".'
  )
  expect_refusal(mc_predict(net, x, ids = 1:3), "`ids` must be as long as `x` (7); got length 3.")
  expect_refusal(
    mc_predict(net, x, ids = c(1, 2.5)),
    "`ids` must be whole numbers or words, one per input; got c(1, 2.5)."
  )
  expect_refusal(
    mc_predict(net, x, device = "cuda:77"),
    '`device` "cuda:77" is not available here; use "cpu" or "auto".'
  )
  expect_refusal(mc_predict(net, x, seed = -1), "`seed` must be a whole number from 0 to 2^53 - 1; got -1.")
  expect_refusal(mc_predict(net, x, keep_samples = NA), "`keep_samples` must be true or false; got NA.")
  expect_refusal(
    predict(net, x, keep_samples = TRUE),
    "`keep_samples` must be left out of `predict()`, whose table has no draws; `mc_predict()` keeps them."
  )
  expect_error(mc_predict(net, x, 50, 128, 0.9), "must be empty", class = "rlib_error_dots_nonempty")
  expect_refusal(mc_predict(net, x[, 1:3]), "`x` must have shape (input, 4); got (7, 3).")
  expect_refusal(mc_predict(net, x[0, ]), "`x` must hold at least one input; got shape (0, 4).")
  expect_refusal(
    mc_predict(small_net(dropout = 0), x),
    paste(
      "`model` has no dropout with a rate above 0, so every draw would be the same; add",
      "`torch.nn.Dropout` layers and train again."
    ),
    "no_stochastic_sites"
  )
})

test_that("predict() returns tibbles with the column names of tidymodels", {
  skip_if_no_core()
  net <- small_net()
  x <- small_x()
  columns <- function(...) names(predict(net, x, ..., n_samples = 3, seed = 1, progress = FALSE))
  expect_identical(columns(), c(".pred_a", ".pred_b", ".pred_c"))
  expect_identical(columns(type = "class"), ".pred_class")
  expect_identical(columns(type = "conf_int")[c(1, 4)], c(".pred_lower_a", ".pred_upper_a"))
  values <- mc_mlp(4, task = "regression")
  expect_named(predict(values, x, type = "pred_int", progress = FALSE), c(".pred_lower", ".pred_upper"))
  expect_named(predict(values, x, progress = FALSE), ".pred")
  quiet <- mc_mlp(4, task = "regression", noise = "none")
  expect_refusal(
    predict(net, x, type = "response"),
    '`type` must be one of "prob", "class", "conf_int"; got "response".'
  )
  expect_refusal(predict(net), "`new_data` must be given; got nothing.")
  expect_refusal(
    predict(quiet, x, type = "pred_int", progress = FALSE),
    '`type` "pred_int" needs a network that predicts its noise; use "conf_int".'
  )
})

test_that("mc_sites() returns a tibble", {
  skip_if_no_core()
  sites <- mc_sites(small_net(dropout = 0.25), small_x())
  expect_s3_class(sites, "tbl_df")
  expect_named(sites, c("site", "operation", "rate", "shape"))
  expect_equal(sites$rate, 0.25)
})

test_that("`progress` shows a progress bar of cli", {
  skip_if_no_core()
  withr::local_options(cli.progress_show_after = 0)
  expect_identical(
    mc_predict(small_net(), small_x(), seed = 1, progress = TRUE)$mean,
    mc_predict(small_net(), small_x(), seed = 1, progress = FALSE)$mean
  )
  expect_refusal(
    mc_predict(small_net(), small_x(), progress = "yes"),
    '`progress` must be true or false; got "yes".'
  )
})

test_that("Ctrl-C returns to the prompt", {
  skip_if_no_core()
  skip_if_not_installed_for_real()
  skip_on_os("windows")
  # The long prediction would take hours without the interrupt.
  code <- "library(mcdropout)
    net <- mc_cnn(c(28, 28, 1), labels = letters[1:10])
    x <- array(0.5, c(4000, 28, 28, 1))
    few <- x[1:9, , , , drop = FALSE]
    mc_predict(net, few, 5)
    long <- function() { # would take hours
      system(sprintf('(sleep 2; kill -INT %d) &', Sys.getpid()))
      mc_predict(net, x, 1e6, keep_samples = FALSE)
      'done'
    }
    answer <- tryCatch(long(), interrupt = function(i) 'stopped')
    cat(answer, dim(mc_predict(net, few, 5)))"
  out <- in_new_r(code)
  expect_identical(out[[length(out)]], "stopped 9 10") # predictions still work
})

# networks of other packages, made in Python ----

foreign <- function(code) {
  skip_if_no_core()
  reticulate::py_run_string(code, convert = FALSE)$net
}

test_that("a list of inputs is passed by position, a named list by keyword", {
  net <- foreign("
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = torch.nn.Dropout(0.5)
    def forward(self, left, right):
        return self.drop(left * right)
net = Net()
")
  x <- matrix(as.double(1:15), 5)
  by_position <- mc_predict(net, list(x, x + 1), n_samples = 4, outputs = "values", seed = 1)
  by_name <- mc_predict(net, list(right = x + 1, left = x), n_samples = 4, outputs = "values", seed = 1)
  expect_identical(by_position$samples, by_name$samples)
  expect_setequal(by_position$samples / rep(x * (x + 1), each = 4), c(0, 2))
})

test_that("`select` chooses one of several outputs, counted from 1", {
  net <- foreign("
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = torch.nn.Dropout(0.5)
    def forward(self, x):
        return 0 * x, self.drop(x)
net = Net()
")
  x <- matrix(as.double(1:15), 5)
  second <- mc_predict(net, x, n_samples = 4, outputs = "values", select = 2, seed = 1)
  pick <- function(out) out[1]
  by_function <- mc_predict(net, x, n_samples = 4, outputs = "values", seed = 1, select = pick)
  expect_identical(second$samples, by_function$samples)
  expect_refusal(
    mc_predict(net, x, outputs = "values"),
    "`model` returns several parts (2 without names); say which with `select`."
  )
  expect_refusal(
    mc_predict(net, x, outputs = "values", select = 0),
    "`select` must be a whole number of at least 1; got 0."
  )
  for (run in list(mc_predict, mc_predict_point, mc_sampler)) {
    expect_refusal(
      run(net, x, outputs = "values", select = 3),
      "`select` must name a part of what `model` returns (2 without names); got 3."
    )
  }
})

test_that("segmentation maps keep their axes and their labels", {
  net <- foreign("
import torch
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.Dropout2d(0.5), torch.nn.Conv2d(4, 3, 1))
")
  x <- array(sin(1:(5 * 2 * 8 * 6)), c(5, 2, 8, 6))
  pred <- mc_predict(net, x, n_samples = 4, outputs = "logits", labels = c("sky", "sea", "land"), seed = 1)
  expect_equal(dim(pred), c(5, 6, 4, 3))
  expect_equal(dim(pred$predicted), c(5, 6, 4))
  expect_equal(dimnames(pred$mean)[[4]], c("sky", "sea", "land"))
  expect_equal(dim(pred[2:3]$samples), c(4, 2, 6, 4, 3))
  expect_output(print(pred), "5 inputs, 3 labels, 4 draws")
  expect_refusal(
    tibble::as_tibble(pred),
    paste(
      "A table needs one row of probabilities per input; got shape (5, 6, 4, 3). `tidy()` has a row for each",
      "place and label."
    )
  )
  path <- withr::local_tempfile(fileext = ".safetensors")
  mc_save(pred, path)
  expect_equal(mc_load(path)$predicted, pred$predicted)
})

test_that("with `tolerance` the number of draws differs between inputs", {
  skip_if_no_core()
  net <- mc_mlp(4, labels = levels(iris$Species), dropout = 0.5)
  pred <- mc_predict(net, iris[1:4], n_samples = 300, tolerance = 0.02, seed = 1)
  expect_length(pred$n_samples, 150)
  reached <- apply(pred$mcse, 1, max) <= 0.02
  expect_true(all(reached | pred$n_samples == 300))
  expect_equal(colSums(!is.nan(pred$samples[, , 1])), pred$n_samples)
  expect_equal(pred[3:4]$n_samples, pred$n_samples[3:4])
  expect_match(format(pred)[[1]], "[0-9]+ to [0-9]+ draws")
  expect_s3_class(generics::glance(pred), "tbl_df")
  path <- withr::local_tempfile(fileext = ".safetensors")
  mc_save(pred, path)
  expect_equal(mc_load(path)$n_samples, pred$n_samples)
  expect_refusal(mc_predict(net, iris[1:4], tolerance = -1), "`tolerance` must be a number above 0; got -1.")
})

test_that("mc_sampler() gives the same numbers as mc_predict()", {
  skip_if_no_core()
  net <- mc_mlp(4, labels = levels(iris$Species))
  sampler <- mc_sampler(net, iris[1, 1:4], n_samples = 20, seed = 1)
  expected <- mc_predict(net, iris[1:4], n_samples = 20, seed = 1)
  # float32 sums in another order
  expect_equal(sampler(iris[7:9, 1:4])$mean, expected$mean[7:9, ], tolerance = 1e-6)
  expect_null(sampler(iris[7, 1:4])$samples)
})

test_that("several devices give the same numbers as one", {
  skip_if_no_core()
  predict_on <- function(device) {
    mc_predict(
      small_net(), small_x(),
      n_samples = 5, batch_size = 2, device = device, seed = 1, progress = FALSE
    )
  }
  several <- predict_on(c("cpu", "cpu"))
  expect_identical(several$device, "cpu, cpu")
  expect_identical(several$samples, predict_on("cpu")$samples)
  must <- '"auto", "cpu", "cuda", "cuda:1" or the like; got "gpu"'
  expect_error(predict_on(c("cpu", "gpu")), must, fixed = TRUE)
  expect_error(predict_on(character()), "or the like; got [].", fixed = TRUE)
})

test_that("labels that differ from those of the network are refused", {
  skip_if_no_core()
  message <- paste(
    "`labels` must be left out, or be those of `model` in their order, \"a\", \"b\", \"c\";",
    "got \"b\", \"a\", \"c\"."
  )
  other <- c("b", "a", "c")
  net <- small_net(seed = 1)
  calls <- list(
    function(labels) mc_predict(net, small_x(), 20, labels = labels, seed = 1, progress = FALSE),
    function(labels) mc_predict_point(net, small_x(), labels = labels, progress = FALSE),
    function(labels) mc_sampler(net, small_x(), 20, labels = labels, seed = 1),
    function(labels) mc_convergence(net, small_x(), c(2, 20), labels = labels, seed = 1, progress = FALSE),
    function(labels) {
      rates <- c(0.2, 0.5)
      mc_compare_rates(net, small_x(), small_y(), rates, 20, labels = labels, seed = 1, progress = FALSE)
    }
  )
  for (run in calls) {
    expect_error(run(other), message, fixed = TRUE)
    expect_error(run(factor("a", levels = other)), message, fixed = TRUE)
    expect_no_error(run(c("a", "b", "c")))
  }
})

# types of inputs, constants, nested lists, maps of one channel ----

codes_net <- function() {
  foreign("
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.drop, self.head = nn.Embedding(5, 4), nn.Dropout(0.5), nn.Linear(6, 2)
    def forward(self, columns, code, scale=1.0, weights=None, squared=False):
        columns = columns * scale if weights is None else columns @ weights
        columns = columns ** 2 if squared else columns
        return self.head(self.drop(torch.cat([columns, self.embed(code)], 1)))
net = Net().eval()
")
}

test_that("codes are whole numbers, whether R holds them as integer or as double", {
  net <- codes_net()
  columns <- matrix(sin(1:14), 7)
  code <- c(0L, 4L, 2L, 1L, 3L, 0L, 4L)
  values <- function(code, columns) {
    mc_predict(net, list(columns, code), n_samples = 3, outputs = "values", seed = 1, progress = FALSE)$mean
  }
  expect_identical(values(as.double(code), columns), values(code, columns))
  integers <- matrix(1:14, 7) # integers that are not codes are numbers
  expect_equal(values(code, integers), values(code, integers + 0), tolerance = 1e-6) # float32
  expect_error(values(code + 1L, columns), class = "mcdropout_error_argument", regexp = paste(
    "^`x`'s array number 2 must hold whole numbers from 0 to 4, which `model` looks up in `embed`;",
    "got 5 in input number 2[.]$"
  ))
  expect_error(values(c(code[-1], 1.5), columns), "must hold whole numbers, .* got 1.5")
  expect_error(mc_predict(net, list(columns = columns, code), outputs = "values"),
    "`x` must have names for all of its parts or for none",
    class = "mcdropout_error_argument"
  )
})

test_that("integers may follow doubles, and doubles integers, in a prepared sampler", {
  net <- codes_net()
  columns <- matrix(c(3, -1, 4, 1, -5, 9, 2, -6, 5, 3, 5, -8, 9, 7), 7)
  code <- c(0L, 4L, 2L, 1L, 3L, 0L, 4L)
  integers <- matrix(as.integer(columns), 7)
  forms <- list(list(columns, code), list(integers, code), list(columns, code + 0), list(integers, code + 0))
  expected <- mc_predict(net, forms[[1]], n_samples = 3, outputs = "values", seed = 1, progress = FALSE)$mean
  for (first in forms) {
    sampler <- mc_sampler(net, first, 3, outputs = "values", seed = 1)
    for (form in forms) {
      expect_equal(sampler(form)$mean, expected, tolerance = 1e-6) # float32
    }
  }
  expect_error(mc_predict(net, list(columns = columns, cod = code), outputs = "values"),
    "^`x` must have names that `model` takes .columns, code, .* got \"cod\"[.]$",
    class = "mcdropout_error_argument"
  )
  nn <- reticulate::import("torch", convert = FALSE)$nn
  plain <- nn$Sequential(nn$Linear(2L, 3L), nn$Dropout(0.5))
  sampler <- mc_sampler(plain, columns + 0.5, 3, outputs = "values", seed = 1)
  expect_equal(sampler(integers)$mean, sampler(columns)$mean, tolerance = 1e-6)
  as_table <- as.data.frame(integers)
  expect_equal(sampler(as_table)$mean, sampler(columns)$mean, tolerance = 1e-6, ignore_attr = TRUE)
  expect_equal(sampler(columns > 0)$mean, sampler((columns > 0) + 0)$mean, tolerance = 1e-6)
})

test_that("constants are passed to a torch module of the user", {
  net <- codes_net()
  columns <- matrix(sin(1:14), 7)
  code <- c(0L, 4L, 2L, 1L, 3L, 0L, 4L)
  mean_of <- function(columns, ...) {
    x <- list(columns, code)
    mc_predict(net, x, n_samples = 3, outputs = "values", seed = 1, progress = FALSE, ...)$mean
  }
  weights <- matrix(c(1, 0.5, -2, 3), 2)
  rounding <- 1e-6 # rounding of float32
  expect_equal(mean_of(columns, constants = list(scale = 2)), mean_of(2 * columns), tolerance = rounding)
  both <- list(weights = weights, squared = TRUE)
  expect_equal(mean_of(columns, constants = both), mean_of((columns %*% weights)^2), tolerance = rounding)
  point <- mc_predict_point(net, list(columns, code), outputs = "values", constants = list(scale = c(2, 3)))
  scaled <- columns %*% diag(2:3)
  expect_equal(point, mc_predict_point(net, list(scaled, code), outputs = "values"), tolerance = rounding)
  expect_identical(nrow(mc_sites(net, list(columns, code), constants = list(scale = 2))), 1L)
  scaled <- list(scale = 2)
  sampler <- mc_sampler(net, list(columns, code), 3, outputs = "values", constants = scaled, seed = 1)
  expect_equal(sampler(list(columns, code))$mean, mean_of(2 * columns), tolerance = rounding)
  expect_identical(mean_of(columns, constants = list()), mean_of(columns))
  expect_error(mean_of(columns, constants = list(code = code)), class = "mcdropout_error_argument",
    regexp = "^`constants` must not name what `x` gives; got \"code\"[.]$"
  )
  expect_error(mean_of(columns, constants = 2), "`constants` must be a named list; got 2[.]",
    class = "mcdropout_error_argument"
  )
  expect_error(mean_of(columns, constants = list(size = 2)), class = "mcdropout_error_argument",
    regexp = "^`constants` must have names that `model` takes .columns, code, .* got \"size\"[.]$"
  )
})

test_that("logicals are attention masks, and a named list in a list is one argument", {
  net <- foreign("
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(4, 2)
    def forward(self, batch):
        x = batch['x']
        x, _ = self.attend(x, x, x, key_padding_mask=batch['padding'])
        return self.head(self.drop(x[:, 0]))
net = Net().eval()
")
  x <- array(cos(1:84), c(7, 3, 4))
  padding <- cbind(FALSE, 1:7 > 2, TRUE)
  other <- x
  other[, 3, ] <- 9 # the attention mask hides this position
  values <- function(x, padding) {
    batch <- list(list(x = x, padding = padding))
    mc_predict(net, batch, n_samples = 3, outputs = "values", seed = 1, progress = FALSE)$mean
  }
  expect_equal(values(other, padding), values(x, padding), tolerance = 1e-6) # float32
  expect_error(values(x, padding + 0L), "only bool and floating types of key_padding_mask are supported",
    class = "mcdropout_error_argument"
  )
})

test_that("a single channel belongs to the second of two labels, and several labels at once are refused", {
  net <- foreign("
import torch
from torch import nn
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout2d(0.5), nn.Conv2d(4, 1, 1), nn.Sigmoid()).eval()
")
  x <- array(sin(1:360), c(5, 1, 8, 9))
  map <- mc_predict(net, x, n_samples = 3, outputs = "probabilities", labels = c("no", "yes"), seed = 1,
                    progress = FALSE)
  value <- mc_predict(net, x, n_samples = 3, outputs = "values", seed = 1, progress = FALSE)
  expect_identical(dim(map$mean), c(5L, 6L, 7L, 2L))
  expect_equal(c(map$mean[, , , 2]), c(value$mean), tolerance = 1e-6) # float32
  nn <- reticulate::import("torch", convert = FALSE)$nn
  several <- nn$Sequential(nn$Linear(4L, 3L), nn$Dropout(0.5), nn$Sigmoid())
  expect_error(mc_predict(several, small_x(), outputs = "probabilities", progress = FALSE),
    "do not sum to 1, as where several labels may hold at once; take one label at a time by `select`",
    class = "mcdropout_error_argument"
  )
})

# random numbers that the network draws itself ----

test_that("random numbers that a network draws itself are sampled, listed or named", {
  net <- foreign("
import torch
from torch import nn
class Locked(nn.Module):
    def forward(self, x):
        return x * x.new_empty(len(x), 1).bernoulli_(0.6) / 0.6 if self.training else x
class Noise(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x) if self.training else x
torch.manual_seed(0)
net = nn.Sequential(Locked(), nn.Linear(2, 3), Noise()).eval()
")
  x <- matrix(sin(1:14), 7)
  message <- "by randn_like in 2; they are left out unless `gaussian_noise` is true"
  expect_warning(table <- mc_sites(net, x), message, fixed = TRUE, class = "mcdropout_warning")
  expect_identical(table$operation, "bernoulli")
  expect_equal(table$rate, 0.4)
  expect_identical(mc_sites(net, x, gaussian_noise = TRUE)$operation, c("bernoulli", "randn_like"))
  draw <- function(...) mc_predict(net, x, 200, outputs = "values", seed = 1, progress = FALSE, ...)
  expect_warning(without <- draw(), message, fixed = TRUE)
  with_noise <- draw(gaussian_noise = TRUE)
  # the noise adds a variance of 1, known from 200 draws to 5 standard errors of sqrt(2 / 200)
  expect_equal(mean(with_noise$variance - without$variance), 1, tolerance = 0.5)
})

test_that("a list among the constants is passed as a list", {
  net <- foreign("
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = torch.nn.Dropout(0.5)
    def forward(self, x, factors=(1, 1), settings=None):
        return self.drop(x * factors[0] * factors[1] + (settings or {}).get('shift', 0))
net = Net()
")
  x <- matrix(as.double(1:15), 5)
  mean_of <- function(x, ...) {
    mc_predict(net, x, n_samples = 4, outputs = "values", seed = 1, progress = FALSE, ...)$mean
  }
  expect_equal(mean_of(x, constants = list(factors = list(2, 3))), mean_of(6 * x), tolerance = 1e-6) # float32
  expect_equal(mean_of(x, constants = list(settings = list(shift = 2))), mean_of(x + 2), tolerance = 1e-6)
})
