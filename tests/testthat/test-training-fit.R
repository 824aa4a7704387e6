test_that("training changes the network in place and leaves a history", {
  skip_if_no_core()
  net <- small_net()
  before <- net$weights
  trained <- mc_fit(net, small_x(), small_y(), epochs = 3, batch_size = 2, seed = 1, progress = FALSE)
  expect_identical(trained, net)
  expect_false(identical(net$weights, before))
  expect_s3_class(net$history, "tbl_df")
  expect_equal(net$history$epoch, 1:3)
  expect_named(net$history, c("epoch", "loss", "accuracy", "learning_rate", "seconds"), ignore.order = TRUE)
})

test_that("the same seed gives the same weights, and set.seed() governs where there is none", {
  skip_if_no_core()
  train <- function(...) mc_fit(small_net(), small_x(), small_y(), epochs = 2, progress = FALSE, ...)
  expect_identical(point(train(seed = 5)), point(train(seed = 5)))
  first <- withr::with_seed(3, point(train()))
  expect_identical(withr::with_seed(3, point(train())), first)
  expect_false(identical(withr::with_seed(4, point(train())), first))
})

test_that("values are learnt from vectors, matrices and data frames", {
  skip_if_no_core()
  x <- small_x()
  single <- mc_mlp(4, task = "regression", hidden = 8)
  expect_s3_class(mc_fit(single, x, x[, 1], epochs = 1, progress = FALSE), "mc_model")
  double <- mc_mlp(4, task = "regression", n_outputs = 2, hidden = 8)
  mc_fit(double, as.data.frame(x), as.data.frame(x[, 1:2]), epochs = 1, progress = FALSE)
  expect_true("rmse" %in% names(double$history))
})

test_that("R functions serve as callbacks, augmentation and optimiser", {
  skip_if_no_core()
  seen <- list()
  watch <- function(row) {
    seen[[length(seen) + 1]] <<- row
    if (row$epoch == 2) "stop"
  }
  torch <- reticulate::import("torch", convert = FALSE)
  net <- mc_fit(
    small_net(), small_x(), small_y(), epochs = 5, callbacks = watch, progress = FALSE,
    augment = function(x, generator) x$neg(),
    optimizer = function(parameters) torch$optim$SGD(parameters, lr = 0.1)
  )
  expect_length(seen, 2)
  expect_true(is.numeric(seen[[1]]$loss))
  expect_equal(nrow(net$history), 2)
})

test_that("class weights go by name", {
  skip_if_no_core()
  train <- function(weights) {
    net <- small_net()
    mc_fit(net, small_x(), small_y(), epochs = 2, seed = 1, class_weight = weights, progress = FALSE)
    point(net)
  }
  expect_identical(train(c(a = 1, b = 2, c = 3)), train(c(c = 3, a = 1, b = 2)))
  expect_false(identical(train(c(a = 1, b = 2, c = 3)), train(c(a = 3, b = 2, c = 1))))
})

test_that("a validation set is given as a list or split off", {
  skip_if_no_core()
  net <- mc_fit(small_net(), small_x(), small_y(), epochs = 1, progress = FALSE,
                validation_data = list(small_x()[1:3, ], small_y()[1:3]))
  expect_true(all(c("val_loss", "val_accuracy") %in% names(net$history)))
  expect_refusal(
    mc_fit(small_net(), small_x(), small_y(), validation_data = small_x()),
    paste(
      "`validation_data` must be a list of x and y; got c(0.841470984807897, 0.909297426825682,",
      "0.141120008059867, -0.756802495307928...."
    )
  )
})

test_that("training continues from a checkpoint", {
  skip_if_no_core()
  file <- withr::local_tempfile(fileext = ".safetensors")
  train <- function(net, ...) mc_fit(net, small_x(), small_y(), seed = 2, progress = FALSE, ...)
  uninterrupted <- train(small_net(), epochs = 4)
  train(small_net(), epochs = 2, checkpoint = file)
  resumed <- train(small_net(), epochs = 4, checkpoint = file)
  expect_identical(point(resumed), point(uninterrupted))
})

test_that("a checkpoint of another augmentation is refused", {
  skip_if_no_core()
  withr::local_dir(withr::local_tempdir())
  train <- function(augment, ...) {
    mc_fit(
      small_net(), small_x(), small_y(), ...,
      seed = 2, progress = FALSE, augment = augment, checkpoint = "run"
    )
  }
  train(function(x, generator) x * 2, epochs = 1)
  expect_s3_class(train(function(x, generator) x * 2, epochs = 2), "mc_model")
  expect_refusal(
    train(function(x, generator) x * 3, epochs = 2),
    paste(
      '`checkpoint` must be of the same training; got "run", made with another `augment`. Give another path,',
      "or remove the file to start again."
    )
  )
})

test_that("Ctrl-C keeps what was learnt, with a warning", {
  skip_if_no_core()
  skip_if_not_installed_for_real()
  skip_on_os("windows")
  # The signal waits for a file that a callback writes after epoch 3. A million epochs would take hours.
  code <- "library(mcdropout)
    x <- matrix(sin(1:400), 100)
    net <- mc_mlp(4, c('a', 'b'))
    before <- net$weights
    y <- rep(c('a', 'b'), 50)
    begun <- tempfile()
    system(sprintf('(until [ -e %s ]; do sleep 0.1; done; kill -INT %d) &', begun, Sys.getpid()))
    say <- function(row) if (row$epoch == 3) cat('', file = begun) # gives NULL, as TRUE would stop
    long <- function() mc_fit(net, x, y, epochs = 1e6, callbacks = say) # takes hours unless it is stopped
    warned <- tryCatch(long(), warning = function(w) class(w)[[1]])
    cat(warned, identical(net$weights, before), nrow(net$history) < 1e6)"
  out <- in_new_r(code)
  expect_identical(out[[length(out)]], "mcdropout_warning FALSE TRUE")
})

test_that("a network whose first epoch was interrupted can be printed", {
  skip_if_no_core()
  net <- small_net()
  net$history <- tibble::tibble(epoch = integer(), loss = double())
  expect_identical(format(net)[[4]], "trained for less than an epoch")
})

test_that("fit() is mc_fit()", {
  skip_if_no_core()
  by_fit <- fit(small_net(), small_x(), small_y(), epochs = 1, seed = 1, progress = FALSE)
  by_mc_fit <- mc_fit(small_net(), small_x(), small_y(), epochs = 1, seed = 1, progress = FALSE)
  expect_identical(point(by_fit), point(by_mc_fit))
})

test_that("your own loop trains batch by batch, and its weights are saved", {
  skip_if_no_core()
  net <- small_net()
  losses <- vapply(1:30, function(step) mc_train_on_batch(net, small_x(), small_y())$loss, double(1))
  expect_lt(mean(tail(losses, 5)), mean(head(losses, 5)))
  again <- unserialize(serialize(net, NULL))
  expect_identical(point(again), point(net))
})

test_that("steps have masks of their own, whatever optimizer each is given", {
  skip_if_no_core()
  sgd <- reticulate::import("torch", convert = FALSE)$optim$SGD
  make <- function(parameters) sgd(parameters, lr = 0) # the weights stay, so losses differ by the masks alone
  losses <- function(optimizer_of, net = small_net(dropout = 0.5)) {
    vapply(1:4, function(i) {
      mc_train_on_batch(net, small_x(), small_y(), optimizer = optimizer_of(net, i))$loss
    }, double(1))
  }
  expected <- losses(function(net, i) make)
  expect_identical(anyDuplicated(expected), 0L)
  expect_identical(losses(function(net, i) function(p) sgd(p, lr = 0 * i)), expected)
  expect_identical(losses(function(net, i) sgd(as_network(net)$parameters(), lr = 0)), expected)
})

test_that("an optimizer function is called once, also when a loop writes it again", {
  skip_if_no_core()
  sgd <- reticulate::import("torch", convert = FALSE)$optim$SGD
  step <- function(net, optimizer) mc_train_on_batch(net, small_x(), small_y(), optimizer = optimizer)
  n_made <- 0
  make <- function(parameters) {
    n_made <<- n_made + 1
    sgd(parameters, lr = 0.1, momentum = 0.9)
  }
  once <- small_net()
  other <- small_net()
  for (i in 1:5) {
    step(once, make)
    step(other, make) # another network has an optimizer of its own
  }
  expect_identical(n_made, 2)
  rewritten <- small_net()
  n_made <- 0
  lr <- 0.1
  for (i in 1:5) {
    step(rewritten, function(parameters) {
      n_made <<- n_made + 1
      sgd(parameters, lr = lr, momentum = 0.9)
    })
  }
  expect_identical(n_made, 1)
  in_frames <- small_net()
  lapply(1:5, function(i) step(in_frames, function(parameters) sgd(parameters, lr = lr, momentum = 0.9)))
  expect_identical(point(rewritten), point(once))
  expect_identical(point(in_frames), point(once))
  by_rate <- function(lr) step(rewritten, function(p) sgd(p, lr = lr, momentum = count()))
  count <- function() {
    n_made <<- n_made + 1
    0.9
  }
  by_rate(0.1)
  by_rate(0.1)
  expect_identical(n_made, 2)
  by_rate(0.2)
  expect_identical(n_made, 3)
})

test_that("bad settings get one sentence", {
  skip_if_no_core()
  train <- function(...) mc_fit(small_net(), small_x(), small_y(), ..., progress = FALSE)
  expect_refusal(train(epochs = 0), "`epochs` must be a whole number of at least 1; got 0.")
  expect_refusal(train(batch_size = 2.5), "`batch_size` must be a whole number of at least 1; got 2.5.")
  expect_refusal(train(learning_rate = 0), "`learning_rate` must be a number above 0; got 0.")
  expect_refusal(
    train(validation_split = 1),
    "`validation_split` must be a number of at least 0 and below 1; got 1."
  )
  expect_refusal(
    train(optimizer = "adm"),
    '`optimizer` must be one of "adam", "adamw", "sgd", "rmsprop"; got "adm".'
  )
  expect_refusal(train(device = "cuda:77"), '`device` "cuda:77" is not available here; use "cpu" or "auto".')
  expect_refusal(
    train(precision = "float8"),
    '`precision` must be one of "float32", "bfloat16", "float16"; got "float8".'
  )
  expect_error(train(epoch = 3), "must be empty", class = "rlib_error_dots_nonempty")
})

test_that("what is no optimizer and no monitor is refused in words of R", {
  skip_if_no_core()
  choices <- '`optimizer` must be one of "adam", "adamw", "sgd", "rmsprop"; got '
  wrong <- list(5, NA, TRUE, list(), NA_character_, "Adam", Sys.Date(), c("adam", "sgd"), quote(adam))
  shown <- c(
    "5", "NA", "TRUE", "list()", "NA", '"Adam"', 'an object of class "Date"', 'c("adam", "sgd")',
    'an object of class "name"'
  )
  for (i in seq_along(wrong)) {
    message <- paste0(choices, shown[[i]], ".")
    expect_refusal(mc_fit(small_net(), small_x(), small_y(), optimizer = wrong[[i]]), message)
    expect_refusal(mc_train_on_batch(small_net(), small_x(), small_y(), optimizer = wrong[[i]]), message)
  }
  fit <- function(monitor) mc_fit(small_net(), small_x(), small_y(), monitor = monitor, progress = FALSE)
  expect_refusal(
    fit("val_los"),
    '`monitor` must be one of "loss", "accuracy", "val_loss", "val_accuracy"; got "val_los".'
  )
  for (monitor in list(NA, NULL, 5, list("loss"), c("loss", "loss"))) {
    expect_error(fit(monitor), '^`monitor` must be the name of a metric, such as "val_loss"; got ')
  }
})

test_that("steps and epochs that fail are told, and undone", {
  skip_if_no_core()
  huge <- function(parameters) reticulate::import("torch")$optim$SGD(parameters, lr = 1e25)
  net <- small_net()
  before <- point(net)
  expect_error(
    mc_fit(net, small_x(), small_y(), epochs = 1, batch_size = 999, optimizer = huge, progress = FALSE),
    "The loss must stay finite; it was not in epoch 1", class = "mcdropout_error_diverged"
  )
  expect_identical(point(net), before)
  mc_train_on_batch(net, small_x(), small_y(), optimizer = huge)
  expect_error(
    mc_train_on_batch(net, small_x(), small_y(), optimizer = huge),
    "The loss and its gradient must be finite; they are not in this step", class = "mcdropout_error_diverged"
  )
})

test_that("a single input under batch normalization is refused, and joins a batch in a fit", {
  skip_if_no_core()
  net <- function() mc_bayes_resnet(c(1, 1, 1), labels = c("a", "b"), filters = 3)
  x <- array(rnorm(5), c(5, 1, 1, 1))
  y <- c("a", "b", "a", "b", "a")
  one <- x[1, , , , drop = FALSE]
  expect_error(
    mc_train_on_batch(net(), one, "a", kl_weight = 0.1),
    "`x` must give at least two inputs for each step", fixed = TRUE
  )
  trained <- mc_fit(net(), x, y, batch_size = 4, epochs = 1, progress = FALSE)
  expect_identical(nrow(trained$history), 1L)
})

test_that("text that is not in its encoding is refused before Python gets it", {
  skip_if_no_core()
  text <- "caf\xe9"
  for (encoding in c("UTF-8", "bytes")) {
    Encoding(text) <- encoding
    columns <- as.data.frame(small_x())
    names(columns)[[1]] <- text
    for (bad in list(
      quote(mc_mlp(4, labels = c(text, "b"))),
      quote(mc_fit(small_net(), small_x(), rep(text, nrow(small_x())))),
      quote(mc_fit(small_net(), columns, small_y(), progress = FALSE))
    )) {
      expect_error(eval(bad), "^Text must be in the encoding that R states for it; got ")
    }
  }
  Encoding(text) <- "latin1"
  expect_identical(mc_mlp(4, labels = c(text, "b"))$labels, c("caf\u00e9", "b"))
})

test_that("arguments that must be functions are checked", {
  skip_if_no_core()
  net <- mc_mlp(4, labels = levels(iris$Species))
  f <- function(...) stop("another function of this name") # nothing looks one up
  expect_refusal(
    mc_fit(net, iris[1:4], iris$Species, callbacks = 3),
    "`callbacks` must be a function; got 3."
  )
  expect_refusal(
    mc_fit(net, iris[1:4], iris$Species, augment = "f"),
    '`augment` must be a function; got "f".'
  )
})

test_that("columns of data frames are found by their names", {
  skip_if_no_core()
  x <- as.data.frame(small_x())
  names(x) <- c("a", "b", "c", "d")
  net <- mc_fit(small_net(), x, small_y(), epochs = 2, seed = 1, progress = FALSE)
  usual <- point(net, x)
  expect_equal(point(net, x[c("d", "b", "a", "c")]), usual)
  expect_equal(point(net, as.matrix(x)), usual)
  expect_equal(point(unserialize(serialize(net, NULL)), x[4:1]), usual)
  must <- "`x` must have the columns that `model` was trained on, in any order; got "
  expect_error(point(net, setNames(x, c("a", "b", "c", "e"))), paste0(must, 'no "d".'), fixed = TRUE)
  expect_error(point(net, cbind(x, e = 1)), paste0(must, 'also "e".'), fixed = TRUE)
  held <- list(x[4:1], small_y())
  trained <- mc_fit(small_net(), x, small_y(), epochs = 2, validation_data = held, seed = 1, progress = FALSE)
  expect_equal(point(trained, x), usual)
})

test_that("columns of a matrix that names them are found by their names too", {
  skip_if_no_core()
  table <- as.matrix(iris[1:4])
  net <- mc_mlp(4, labels = levels(iris$Species), hidden = 4)
  net <- mc_fit(net, table, iris$Species, epochs = 1, seed = 1, progress = FALSE)
  draws <- function(x) mc_predict(net, x, n_samples = 5, seed = 1, progress = FALSE)$mean
  expect_identical(draws(table[, 4:1]), draws(table))
  expect_identical(draws(iris[c(2, 4, 1, 3)]), draws(table))
  expect_identical(draws(unname(table)), draws(table))
  expect_error(draws(cbind(table[, 1:3], other = 1)), "must have the columns that `model` was trained on")
})

test_that("one-hot columns go by their names", {
  skip_if_no_core()
  one_hot <- outer(as.character(small_y()), c("c", "a", "b"), "==") + 0
  colnames(one_hot) <- c("c", "a", "b")
  train <- function(y) point(mc_fit(small_net(), small_x(), y, epochs = 2, seed = 1, progress = FALSE))
  expect_identical(train(one_hot), train(small_y()))
  expect_identical(train(as.data.frame(one_hot)), train(small_y()))
  expect_identical(train(unname(one_hot[, c("a", "b", "c")])), train(small_y()))
  pred <- mc_predict(small_net(), small_x(), n_samples = 4, seed = 1, progress = FALSE)
  expect_equal(mc_scores(pred, one_hot)$log_loss, mc_scores(pred, small_y())$log_loss)
  colnames(one_hot) <- c("x", "y", "z")
  expect_error(
    train(one_hot),
    "`y` must have columns named by the labels (a, b, c) or by nothing; got x, y, z.", fixed = TRUE
  )
})

test_that("a factor is matched by its labels, whatever the order of its levels", {
  skip_if_no_core()
  train <- function(y) point(mc_fit(small_net(), small_x(), y, epochs = 2, seed = 1, progress = FALSE))
  other <- factor(small_y(), levels = c("c", "never", "a", "b"))
  expect_identical(train(other), train(small_y()))
  pred <- mc_predict(small_net(), small_x(), n_samples = 4, seed = 1, progress = FALSE)
  expect_identical(mc_scores(pred, other)$accuracy, mc_scores(pred, small_y())$accuracy)
})

test_that("a training that teaches nothing leaves the network as it was", {
  skip_if_no_core()
  values <- function() mc_mlp(4, task = "regression", hidden = 8)
  net <- values()
  x <- as.data.frame(small_x())
  far <- stats::setNames(x * 1000 + 5, c("p", "q", "r", "s"))
  before <- list(point(net), net$history, net$columns)
  refused <- list(
    list(optimizer = function(parameters) NULL),
    list(optimizer = function(parameters) stop("a fault")),
    list(augment = function(x, generator) stop("a fault")),
    list(monitor = "val_los", early_stopping = 1),
    list(class_weight = c(a = 2))
  )
  for (arguments in refused) {
    expect_error(do.call(mc_fit, c(list(net, far, far[[1]], progress = FALSE), arguments)))
    expect_identical(list(point(net), net$history, net$columns), before)
  }
  expect_error(mc_train_on_batch(net, far, far[[1]], optimizer = "lion"))
  fresh <- mc_fit(values(), x, x[[1]], epochs = 3, seed = 1, progress = FALSE)
  mc_fit(net, x, x[[1]], epochs = 3, seed = 1, progress = FALSE)
  expect_identical(point(net), point(fresh))
})

test_that("columns and values far from zero keep the digits of double", {
  skip_if_no_core()
  near <- data.frame(day = (0:46 %% 47) / 24, net_far = sin(1:47))
  far <- transform(near, day = day + 2460000.5)
  train <- function(x, y) {
    net <- mc_mlp(2, task = "regression", hidden = 8)
    mc_fit(net, x, y, epochs = 3, batch_size = 10, seed = 1, progress = FALSE)
  }
  net_near <- train(near, near$net_far)
  net_far <- train(far, near$net_far + 1.7e9)
  ask <- function(net, x) mc_predict(net, x, n_samples = 5, seed = 1, progress = FALSE)
  # rounding of double, 5e-10 at 2460000.5 and 2e-7 at 1.7e9, and its effect on training
  expect_equal(ask(net_far, far)$mean - 1.7e9, ask(net_near, near)$mean, tolerance = 1e-4)
  expect_equal(ask(net_far, far)$std, ask(net_near, near)$std, tolerance = 1e-3)
  expect_equal(ask(net_far, far)$samples - 1.7e9, ask(net_near, near)$samples, tolerance = 1e-3)
  expect_length(unique(mc_predict_point(net_far, far, progress = FALSE)[, 1]), 47)
})

test_that("a checkpoint brings its seed", {
  skip_if_no_core()
  file <- withr::local_tempfile(fileext = ".safetensors")
  train <- function(...) mc_fit(small_net(), small_x(), small_y(), progress = FALSE, ...)
  train(epochs = 2, seed = 2, checkpoint = file)
  expect_identical(point(train(epochs = 4, checkpoint = file)), point(train(epochs = 4, seed = 2)))
})

test_that("a torch module is trained in place and returned", {
  skip_if_no_core()
  network <- as_network(small_net())
  trained <- mc_fit(network, small_x(), small_y(), epochs = 1, seed = 1, progress = FALSE)
  expect_identical(trained, network)
})
