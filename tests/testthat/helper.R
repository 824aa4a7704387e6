# Skips a test if the Python core cannot be loaded. With MCDROPOUT_REQUIRE_PYTHON=1 it fails instead:
# otherwise CI with a broken environment would pass by skipping.
skip_if_no_core <- function() {
  if (mc_python_available()) {
    return(invisible())
  }
  if (identical(Sys.getenv("MCDROPOUT_REQUIRE_PYTHON"), "1")) {
    core() # fails, and says why
  }
  testthat::skip("The Python core is not available.")
}

# Runs `code` in a new R process and returns what it prints. The process has the libraries and environment of
# this one, and the variables `env`.
in_new_r <- function(code, env = character()) {
  skip_on_covr() # it saves its counts while R ends, and R 4.2 may then never end after an interrupt
  env <- c(RETICULATE_CHECK_REQUIRED_PACKAGES = "0", R_TESTS = "", env)
  withr::local_envvar(env)
  withr::local_envvar(R_LIBS = paste(.libPaths(), collapse = .Platform$path.sep))
  rscript <- file.path(R.home("bin"), "Rscript")
  suppressWarnings(system2(rscript, c("-e", shQuote(code)), stdout = TRUE, stderr = TRUE))
}

# Skips a test that needs the installed package, if load_all() has loaded the source.
skip_if_not_installed_for_real <- function() {
  folder <- system.file(package = "mcdropout")
  skip_if_not(file.exists(file.path(folder, "Meta", "package.rds")), "mcdropout is not installed")
}

# Expects an error of this class with exactly this text. Tests compare messages by text and class, and prints
# by their lines, because snapshots look different with other versions of testthat, and tables with other
# versions of tibble.
expect_refusal <- function(code, text, class = "argument") {
  cnd <- rlang::catch_cnd(code, "error")
  expect_s3_class(cnd, if (class == "simpleError") class else paste0("mcdropout_error_", class))
  expect_identical(if (!is.null(cnd)) conditionMessage(cnd), text)
}

# Expects a warning of this package with exactly this text.
expect_warned <- function(code, text) {
  cnd <- expect_warning(code, class = "mcdropout_warning")
  expect_identical(conditionMessage(cnd), text)
}

# Expects that `object` prints exactly these lines.
expect_prints <- function(object, lines, ...) {
  expect_identical(utils::capture.output(print(object, ...)), lines)
}

# Class probabilities without Python and without random numbers: 4 draws of 5 inputs and 3 labels. All sizes
# are different, so that no axis can stand in for another.
example_samples <- function() {
  scores <- outer(outer(1:4, 1:5, function(draw, input) sin(draw * input)), c(-1, 0.5, 2))
  array(exp(scores), c(4, 5, 3)) / array(apply(exp(scores), 1:2, sum), c(4, 5, 3))
}

# The prediction that the core computes from these draws, computed by R's own functions.
example_prediction <- function(samples = example_samples(), labels = c("cat", "dog", "emu")) {
  mean <- apply(samples, 2:3, mean)
  entropy <- function(p) -sum(ifelse(p > 0, p * log(p), 0))
  ranks <- t(apply(-mean, 1, order))
  expected <- colMeans(apply(samples, 1:2, entropy))
  total <- apply(mean, 1, entropy)
  votes <- apply(samples, 1:2, which.max)
  n <- nrow(mean)
  new_mc_prediction(list(
    task = "classification", mean = mean, variance = apply(samples, 2:3, var), std = apply(samples, 2:3, sd),
    lower = apply(samples, 2:3, quantile, 0.025, names = FALSE),
    upper = apply(samples, 2:3, quantile, 0.975, names = FALSE),
    mcse = apply(samples, 2:3, sd) / sqrt(nrow(samples)),
    predicted = factor(labels[ranks[, 1]], labels), second = factor(labels[ranks[, 2]], labels),
    confidence = mean[cbind(1:n, ranks[, 1])],
    margin = mean[cbind(1:n, ranks[, 1])] - mean[cbind(1:n, ranks[, 2])],
    predictive_entropy = total, expected_entropy = expected, mutual_information = total - expected,
    variation_ratio = apply(votes, 2, function(vote) 1 - max(table(vote)) / length(vote)),
    samples = samples, labels = labels, n_samples = nrow(samples), level = 0.95, seed = 1L, masks = "shared",
    engine = "vmap", engine_reason = "", device = "cpu", precision = "float32", seconds = 0.25
  ))
}

# A prediction of two values for each of 5 inputs from 4 draws, with noise variance 0.25.
example_values <- function() {
  samples <- example_samples()[, , 1:2] * 10
  variance <- apply(samples, 2:3, var)
  lower <- apply(samples, 2:3, quantile, 0.025, names = FALSE)
  upper <- apply(samples, 2:3, quantile, 0.975, names = FALSE)
  new_mc_prediction(list(
    task = "regression", mean = apply(samples, 2:3, mean), variance = variance, std = sqrt(variance),
    lower = lower, upper = upper, mcse = sqrt(variance / 4), epistemic_variance = variance,
    aleatoric_variance = variance * 0 + 0.25, total_variance = variance + 0.25,
    conf_int = array(c(lower, upper), c(5, 2, 2)), pred_int = array(c(lower - 1, upper + 1), c(5, 2, 2)),
    pred_lower = lower - 1, pred_upper = upper + 1,
    samples = samples, n_samples = 4L, level = 0.95, seed = 1L, masks = "shared", engine = "vmap",
    engine_reason = "", device = "cpu", precision = "float32", seconds = 0.25
  ))
}

# A small network and inputs for it: 7 inputs, 4 features, 3 labels.
small_net <- function(...) mc_mlp(4, labels = c("a", "b", "c"), hidden = 8, ...)
small_x <- function() matrix(sin(1:28), 7, 4)
small_y <- function() factor(c("a", "b", "c", "a", "b", "c", "a"))
point <- function(net, x = small_x()) mc_predict_point(net, x, progress = FALSE)
