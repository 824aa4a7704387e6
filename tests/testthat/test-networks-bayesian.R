bayes_net <- function(...) mc_bayes_mlp(4, labels = c("a", "b", "c"), hidden = 8, ...)
trained <- function(net, ...) mc_fit(net, small_x(), small_y(), epochs = 2, seed = 1, progress = FALSE, ...)

test_that("priors and posteriors are made and say what they are", {
  skip_if_no_core()
  expect_prints(mc_prior_normal(0, 0.5), "prior normal(loc=0.0, scale=0.5)")
  expect_prints(mc_prior_mixture(c(1, 0.1), c(3, 1)), "prior mixture(loc=0.0, scales=..., weights=...)")
  expect_prints(mc_prior_student_t(df = 4), "prior student_t(loc=0.0, scale=1.0, df=4.0)")
  expect_equal(mc_posterior_parameters(mc_posterior_multivariate_normal(), 4), 14)
  expect_equal(mc_posterior_parameters(mc_posterior_normal(), 4), 8)
  expect_equal(mc_posterior_parameters(mc_posterior_multivariate_normal(), 1e5), 5000150000)
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

test_that("a custom posterior may be a closure, and lives in its session", {
  skip_if_no_core()
  distributions <- reticulate::import("torch.distributions", convert = FALSE)
  called <- 0
  laplace <- mc_posterior_custom(function(loc, scale) {
    called <<- called + 1
    distributions$Laplace(loc, scale)
  })
  net <- trained(bayes_net(posterior = laplace))
  expect_gt(called, 2)
  pred <- mc_predict(net, small_x(), 8, seed = 1, progress = FALSE)
  expect_identical(mc_predict(net, small_x(), 8, seed = 1, progress = FALSE)$samples, pred$samples)
  expect_gt(max(pred$variance), 0)
  gone <- unserialize(serialize(net, NULL))
  expect_refusal(
    mc_save(net, tempfile()),
    paste(
      "`object` has a posterior that is a function of your own, which mc_save() cannot write to a file; save",
      "its weights with torch.save()."
    )
  )
  expect_refusal(
    mc_predict(gone, small_x()),
    paste(
      "`model` comes from an earlier session, and no file can store its own prior, posterior or backbone;",
      "build it again."
    )
  )
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
  bayesian <- mc_to_bayesian(net, layers = "output", prior_from_weights = TRUE)
  expect_s3_class(bayesian, "mc_model")
  expect_equal(point(bayesian), point(net))
  expect_identical(mc_posterior_table(bayesian)$layer, "layers.output")
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
  expect_prints(
    mc_frozen_backbone(backbone, small_net()),
    c("# An mc_model for 3 classes", "labels: a, b, c", "not trained yet")
  )
})

test_that("bad settings of Bayesian networks are refused in one sentence", {
  skip_if_no_core()
  expect_refusal(mc_prior_normal(0, 0), "`scale` must be a number above 0; got 0.")
  expect_refusal(
    mc_prior_normal(c("a", "b")),
    '`loc` must be a number, or an array of numbers; got c("a", "b").'
  )
  expect_refusal(mc_prior_laplace(scale = c(1, -1)), "`scale` must be above 0 for every weight; got -1.0.")
  expect_refusal(mc_prior_mixture(c(1, 2), 1), "`weights` must be as long as `scales` (2); got length 1.")
  expect_refusal(mc_prior_custom("normal"), '`distribution` must be a torch.distributions object; got "str".')
  expect_refusal(mc_posterior_normal(-1), "`scale` must be a number above 0; got -1.")
  expect_refusal(mc_posterior_custom(3), "`make` must be a function of location and scale; got 3.0.")
  expect_refusal(
    bayes_net(prior = 3),
    "`prior` must be made by one of the mc_prior_...() functions; got 3.0."
  )
  expect_refusal(
    bayes_net(prior = mc_prior_normal(c(1, 2, 3))),
    "`prior` must be of one number for all weights, or of their shape (8, 4); got shape (3,)."
  )
  expect_refusal(
    bayes_net(posterior = mc_posterior_multivariate_normal(), estimator = "flipout"),
    '`estimator` must be "reparameterization" where `posterior` is not mean-field normal; got "flipout".'
  )
  expect_refusal(
    bayes_net(estimator = "vi"),
    '`estimator` must be one of "reparameterization", "local_reparameterization", "flipout"; got "vi".'
  )
  expect_refusal(
    bayes_net(posterior = mc_posterior_custom(function(loc, scale) 3)),
    "`posterior`'s function must give a torch.distributions object with rsample; got \"float\"."
  )
  expect_refusal(
    bayes_net(posterior = mc_posterior_custom(function(loc, scale) stop("no such luck"))),
    "no such luck",
    "simpleError"
  )
  expect_refusal(trained(bayes_net(), kl_weight = -1), "`kl_weight` must be a number of at least 0; got -1.")
  expect_refusal(
    trained(bayes_net(), kl_weight = NaN),
    "`kl_weight` must be a number of at least 0; got NaN."
  )
  expect_refusal(trained(bayes_net(), kl_weight = NA), "`kl_weight` must be a number of at least 0; got NA.")
  expect_refusal(
    trained(bayes_net(), kl_weight = NULL),
    "`kl_weight` must be a number of at least 0; got NULL."
  )
  expect_refusal(trained(bayes_net(), kl_weight = "N"), '`kl_weight` must be one of "1/N"; got "N".')
  expect_refusal(
    trained(bayes_net(), kl_weight = list(epochs = 3)),
    "`kl_weight` must have `warm_up` and perhaps `weight` where it is a mapping; got {'epochs': 3.0}."
  )
  expect_refusal(
    trained(bayes_net(), kl_weight = list(warm_up = 2, weight = list(warm_up = 3))),
    "`kl_weight's weight` must be \"1/N\" or a number; got {'warm_up': 3.0}."
  )
  expect_refusal(
    mc_train_on_batch(bayes_net(), small_x(), small_y()),
    paste(
      "`kl_weight` must be given for a network with variational layers; use one over the number",
      "of all training inputs."
    )
  )
  expect_refusal(
    mc_to_bayesian(small_net(), layers = "first"),
    '`layers` must name linear layers or convolutions of `model`; got "first".'
  )
  expect_refusal(
    mc_to_bayesian(small_net(), layers = character()),
    "`layers` must name linear layers or convolutions of `model`; got []."
  )
  expect_refusal(
    mc_posterior_table(small_net()),
    "`model` must have variational layers; it has none. See mc_to_bayesian()."
  )
  expect_refusal(
    mc_frozen_backbone("resnet18", small_net()),
    paste(
      '`backbone` must be a torch module, "efficientnet_lite0", or a name after "torchvision:", "timm:"',
      'or "keras:"; got "resnet18".'
    )
  )
  expect_refusal(
    mc_frozen_backbone(reticulate::import("torch.nn", convert = FALSE)$ReLU(), 3),
    "`head` must be a network, or a function from the features' shape to one; got 3.0."
  )
  expect_refusal(
    mc_frozen_backbone(
      reticulate::import("torch.nn", convert = FALSE)$ReLU(),
      function(shape) 3,
      input_shape = 4
    ),
    '`head` must give a network; got "float".'
  )
  expect_refusal(
    mc_frozen_backbone(reticulate::import("torch.nn", convert = FALSE)$ReLU(), small_net(), pooling = NA),
    '`pooling` must be one of "mean", "max"; got NA.'
  )
})

test_that("images and features that do not fit are refused in one sentence", {
  skip_if_no_core()
  nn <- reticulate::import("torch.nn", convert = FALSE)
  residual <- function(shape) mc_bayes_resnet(shape, c("a", "b"), filters = 4)
  net <- mc_frozen_backbone(nn$Conv2d(1L, 5L, 3L), residual, input_shape = c(1, 8, 8))
  expect_refusal(
    mc_frozen_backbone(nn$Flatten(2L), residual, input_shape = c(1, 8, 8)),
    paste(
      "`backbone` must give features (input, feature) or (input, channel, height, width); got (1, 1, 64)",
      "for 1 inputs. Name a `layer` that does."
    )
  )
  expect_error( # the middle part is torch's message
    mc_predict(net, array(0, c(2, 3, 8, 8))),
    "^`backbone` fails on inputs that are prepared as \\(2, 3, 8, 8\\): .* give it what it takes[.]$",
    class = "mcdropout_error_argument"
  )
  expect_refusal(
    mc_predict(net, array(0, c(2, 1, 9, 9))),
    "`head` must take features of shape (7, 7, 5); it takes (6, 6, 5)."
  )
})

test_that("a folder for features may begin with ~", {
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

test_that("a torch module stays one when it becomes Bayesian", {
  skip_if_no_core()
  nn <- reticulate::import("torch.nn", convert = FALSE)
  network <- mc_to_bayesian(nn$Sequential(nn$Linear(4L, 3L)))
  expect_true(is_live(network))
  expect_identical(mc_posterior_table(network)$n_weights, 15L)
})
