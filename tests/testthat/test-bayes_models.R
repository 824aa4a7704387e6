bayes_net <- function(...) mc_bayes_mlp(4, labels = c("a", "b", "c"), hidden = 8, ...)
trained <- function(net, ...) mc_fit(net, small_x(), small_y(), epochs = 2, seed = 1, progress = FALSE, ...)

test_that("priors and posteriors are made and say what they are", {
  skip_if_no_core()
  expect_snapshot({
    mc_prior_normal(0, 0.5)
    mc_prior_mixture(c(1, 0.1), c(3, 1))
    mc_prior_student_t(df = 4)
    mc_posterior_parameters(mc_posterior_multivariate_normal(), 4)
    mc_posterior_parameters(mc_posterior_normal(), 4)
    mc_posterior_parameters(mc_posterior_multivariate_normal(), 1e5)
  })
})

test_that("every prior and posterior learns", {
  skip_if_no_core()
  priors <- list(
    mc_prior_normal(), mc_prior_laplace(), mc_prior_student_t(), mc_prior_cauchy(), mc_prior_horseshoe(),
    mc_prior_mixture(), mc_prior_custom(
      reticulate::import("torch.distributions", convert = FALSE)$Gumbel(0, 1)
    )
  )
  for (prior in priors) {
    expect_true(all(is.finite(trained(bayes_net(prior = prior))$history$kl)))
  }
  net <- trained(bayes_net(posterior = mc_posterior_multivariate_normal(0.1)))
  expect_identical(mc_posterior_table(net)$n_parameters, c(40L + 820L, 27L + 378L))
})

test_that("a posterior of one's own is a closure, and lives in its session", {
  skip_if_no_core()
  distributions <- reticulate::import("torch.distributions", convert = FALSE)
  called <- 0
  laplace <- mc_posterior_custom(function(loc, scale) {
    called <<- called + 1
    distributions$Laplace(loc, scale)
  })
  net <- trained(bayes_net(posterior = laplace))
  expect_gt(called, 2)
  found <- mc_predict(net, small_x(), 8, seed = 1, progress = FALSE)
  expect_identical(mc_predict(net, small_x(), 8, seed = 1, progress = FALSE)$samples, found$samples)
  expect_gt(max(found$variance), 0)
  gone <- unserialize(serialize(net, NULL))
  expect_snapshot(error = TRUE, {
    mc_save(net, tempfile())
    mc_predict(gone, small_x())
  })
})

test_that("the history holds the likelihood, the divergence and their weight", {
  skip_if_no_core()
  history <- trained(bayes_net(), kl_weight = list(warm_up = 2))$history
  expect_identical(
    names(history),
    c(
      "epoch", "loss", "accuracy", "nll", "kl", "kl_weight", "std_dense1", "std_output", "learning_rate",
      "seconds"
    )
  )
  expect_equal(history$kl_weight, c(1, 2) / 14)
  expect_equal(history$loss, history$nll + history$kl_weight * history$kl, tolerance = 1e-6)
  by_epoch <- trained(bayes_net(), kl_weight = function(epoch) epoch / 10)$history
  expect_equal(by_epoch$kl_weight, c(0.1, 0.2))
  step <- mc_train_on_batch(bayes_net(), small_x(), small_y(), kl_weight = 0.5)
  expect_equal(step$loss, step$nll + 0.5 * step$kl, tolerance = 1e-6)
})

test_that("Bayesian networks are saved and come back", {
  skip_if_no_core()
  images <- array(sin(1:(4 * 8 * 8)), c(4, 8, 8, 1))
  nets <- list(
    mc_bayes_cnn(c(8, 8, 1), c("a", "b"), filters = 3, hidden = 4),
    mc_bayes_resnet(c(8, 8, 1), c("a", "b"), filters = c(3, 3), prior = mc_prior_cauchy(0, 2))
  )
  for (net in nets) {
    file <- withr::local_tempfile()
    mc_save(net, file)
    expect_identical(
      mc_predict(mc_load(file), images, 5, seed = 1, progress = FALSE)$samples,
      mc_predict(net, images, 5, seed = 1, progress = FALSE)$samples
    )
  }
})

test_that("a plain network becomes Bayesian", {
  skip_if_no_core()
  net <- mc_fit(small_net(), small_x(), small_y(), epochs = 2, seed = 1, progress = FALSE)
  made <- mc_to_bayesian(net, layers = "output", prior_from_weights = TRUE)
  expect_s3_class(made, "mc_model")
  expect_equal(point(made), point(net))
  expect_identical(mc_posterior_table(made)$layer, "layers.output")
})

test_that("a frozen backbone has features for any head", {
  skip_if_no_core()
  backbone <- reticulate::import("torch.nn", convert = FALSE)$Conv2d(1L, 5L, 3L)
  x <- array(sin(1:(6 * 64)), c(6, 1, 8, 8))
  folder <- withr::local_tempdir()
  net <- mc_frozen_backbone(backbone, function(shape) mc_bayes_resnet(shape, c("a", "b"), filters = 4),
    input_shape = c(1, 8, 8), cache = folder
  )
  net <- mc_fit(net, x, rep(c("a", "b"), 3), epochs = 2, seed = 1, progress = FALSE)
  expect_identical(nrow(net$history), 2L)
  expect_gt(max(mc_predict(net, x, 5, seed = 1, progress = FALSE)$variance), 0)
  expect_length(list.files(folder), 1)
  expect_snapshot(mc_frozen_backbone(backbone, small_net()))
})

test_that("what cannot be is refused in one sentence", {
  skip_if_no_core()
  expect_snapshot(error = TRUE, {
    mc_prior_normal(0, 0)
    mc_prior_normal(c("a", "b"))
    mc_prior_laplace(scale = c(1, -1))
    mc_prior_mixture(c(1, 2), 1)
    mc_prior_custom("normal")
    mc_posterior_normal(-1)
    mc_posterior_custom(3)
    bayes_net(prior = 3)
    bayes_net(prior = mc_prior_normal(c(1, 2, 3)))
    bayes_net(posterior = mc_posterior_multivariate_normal(), estimator = "flipout")
    bayes_net(estimator = "vi")
    bayes_net(posterior = mc_posterior_custom(function(loc, scale) 3))
    bayes_net(posterior = mc_posterior_custom(function(loc, scale) stop("no such luck")))
    trained(bayes_net(), kl_weight = -1)
    trained(bayes_net(), kl_weight = NaN)
    trained(bayes_net(), kl_weight = NA)
    trained(bayes_net(), kl_weight = NULL)
    trained(bayes_net(), kl_weight = "N")
    trained(bayes_net(), kl_weight = list(epochs = 3))
    trained(bayes_net(), kl_weight = list(warm_up = 2, weight = list(warm_up = 3)))
    mc_train_on_batch(bayes_net(), small_x(), small_y())
    mc_to_bayesian(small_net(), layers = "first")
    mc_to_bayesian(small_net(), layers = character())
    mc_posterior_table(small_net())
    mc_frozen_backbone("resnet18", small_net())
    mc_frozen_backbone(reticulate::import("torch.nn", convert = FALSE)$ReLU(), 3)
    mc_frozen_backbone(
      reticulate::import("torch.nn", convert = FALSE)$ReLU(),
      function(shape) 3,
      input_shape = 4
    )
    mc_frozen_backbone(reticulate::import("torch.nn", convert = FALSE)$ReLU(), small_net(), pooling = NA)
  })
})

test_that("images and features that do not fit are refused in one sentence", {
  skip_if_no_core()
  nn <- reticulate::import("torch.nn", convert = FALSE)
  residual <- function(shape) mc_bayes_resnet(shape, c("a", "b"), filters = 4)
  net <- mc_frozen_backbone(nn$Conv2d(1L, 5L, 3L), residual, input_shape = c(1, 8, 8))
  expect_snapshot(error = TRUE, {
    mc_frozen_backbone(nn$Flatten(2L), residual, input_shape = c(1, 8, 8))
    mc_predict(net, array(0, c(2, 3, 8, 8)))
    mc_predict(net, array(0, c(2, 1, 9, 9)))
  })
})

test_that("a folder for features may lie at home", {
  skip_if_no_core()
  home <- withr::local_tempdir()
  withr::local_envvar(HOME = home)
  skip_if(path.expand("~") != home, "R holds on to the home it started with")
  relu <- reticulate::import("torch.nn", convert = FALSE)$ReLU()
  net <- mc_frozen_backbone(relu, small_net(), cache = "~/kept")
  mc_predict_point(net, small_x(), progress = FALSE)
  expect_length(list.files(file.path(home, "kept")), 1)
  expect_false(file.exists("~kept") || dir.exists(file.path(getwd(), "~")))
})
