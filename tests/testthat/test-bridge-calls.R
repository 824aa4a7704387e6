test_that("loading the package and printing its data starts no Python", {
  skip_if_not_installed_for_real()
  out <- in_new_r("library(mcdropout); cat(reticulate::py_available())")
  expect_match(paste(out, collapse = " "), "FALSE$")
})

test_that("where there is no Python, an error says what to install", {
  skip_if_not_installed_for_real()
  code <- "library(mcdropout)
    cat(mc_python_available(), '')
    tryCatch(mc_sample_data(), error = function(e) cat(class(e)[1], conditionMessage(e)))"
  out <- paste(in_new_r(code, c(RETICULATE_PYTHON = "/nowhere/python")), collapse = " ")
  expect_match(out, "FALSE mcdropout_error_python")
  expect_match(out, "Python 3.10 or newer with torch", fixed = TRUE)
  expect_match(out, "RETICULATE_PYTHON", fixed = TRUE)
  expect_false(grepl("py_last_error|Traceback", out))
})

test_that("the search for Python downloads nothing", {
  skip_if_not_installed_for_real()
  withr::local_dir(withr::local_tempdir())
  bare <- c(RETICULATE_PYTHON = NA, VIRTUAL_ENV = NA, HOME = getwd(), PATH = "/usr/bin:/bin")
  out <- in_new_r("cat(mcdropout::mc_python_available())", bare)
  expect_match(paste(out, collapse = " "), "^(TRUE|FALSE)$")
  code <- "cat(mcdropout::mc_python_available(), Sys.getenv('RETICULATE_USE_MANAGED_VENV'))"
  out <- in_new_r(code, c(bare, RETICULATE_USE_MANAGED_VENV = "yes"))
  expect_match(paste(out, collapse = " "), "^(TRUE|FALSE) yes$") # the user's setting is restored
})

test_that("where Python has no torch, the error names it", {
  skip_if_no_core()
  skip_if_not_installed_for_real()
  bare <- withr::local_tempdir()
  writeLines("raise ModuleNotFoundError(\"No module named 'torch'\")", file.path(bare, "torch.py"))
  code <- "library(mcdropout); tryCatch(mc_mlp(3, c('a', 'b')), error = function(e) {
    cat(class(e)[1], conditionMessage(e)) })"
  out <- paste(in_new_r(code, c(PYTHONPATH = bare)), collapse = " ")
  expect_match(out, "mcdropout_error_python Python has no package `torch`.", fixed = TRUE)
})

test_that("R's own torch in the same session is refused before Python's is loaded", {
  skip_if_not_installed_for_real()
  code <- "library(mcdropout)
    base <- baseenv(); unlockBinding('loadedNamespaces', base) # torch for R cannot be installed here
    assign('loadedNamespaces', function() 'torch', envir = base)
    tryCatch(mc_sample_data(), error = function(e) cat(class(e)[1], conditionMessage(e)))"
  out <- paste(in_new_r(code), collapse = " ")
  expect_match(out, "mcdropout_error_python R's own torch package is loaded", fixed = TRUE)
})

test_that("Python's errors are R errors of one sentence, with a class for each kind", {
  skip_if_no_core()
  raise <- function(kind, text) {
    code <- paste0("def fail():\n  import mcdropout\n  raise ", kind, "(", deparse(text), ")")
    functions <- reticulate::py_run_string(code, local = TRUE, convert = FALSE)
    with_core(functions$fail(), call = quote(f()))
  }
  class_of <- function(kind) class(tryCatch(raise(kind, "no"), error = identity))[[1]]
  expect_identical(class_of("mcdropout.NoStochasticSites"), "mcdropout_error_no_stochastic_sites")
  expect_identical(class_of("mcdropout.IdenticalDraws"), "mcdropout_error_identical_draws")
  expect_identical(class_of("mcdropout.OutOfMemory"), "mcdropout_error_out_of_memory")
  expect_identical(class_of("mcdropout.UnreadableFile"), "mcdropout_error_unreadable_file")
  expect_identical(class_of("ValueError"), "mcdropout_error_argument")
  expect_identical(class_of("TypeError"), "mcdropout_error_argument")
  expect_identical(class_of("RuntimeError"), "mcdropout_error_core")
  expect_refusal(
    raise("ValueError", "`x` must be {good}, not 50 %d; got {bad}."),
    "`x` must be {good}, not 50 %d; got {bad}."
  )
  expect_identical(class_of("MemoryError"), "mcdropout_error_out_of_memory")
  expect_refusal(raise("MemoryError", ""), "Python ran out of memory.", "out_of_memory")
  expect_refusal(
    raise("RuntimeError", "something in torch"),
    "The Python core failed: RuntimeError: something in torch",
    "core"
  )
})

test_that("the Python error is kept beside ours", {
  skip_if_no_core()
  cnd <- tryCatch(mc_mlp(3, "one"), error = identity)
  expect_s3_class(cnd$python_error, "python.builtin.ValueError")
})

test_that("Python's warnings are R warnings", {
  skip_if_no_core()
  code <- "def warn():\n  import warnings\n  warnings.warn('slow {today}')\n  return 1"
  functions <- reticulate::py_run_string(code, local = TRUE, convert = FALSE)
  expect_warning(
    result <- with_core(functions$warn()), "slow {today}", fixed = TRUE, class = "mcdropout_warning"
  )
  expect_identical(from_python(result), 1L)
})

test_that("an R error inside a callback arrives as it was raised", {
  skip_if_no_core()
  stop_it <- function(row) rlang::abort("not today {x}", class = "mine")
  expect_error(
    mc_fit(small_net(), small_x(), small_y(), epochs = 1, callbacks = stop_it, progress = FALSE),
    "not today {x}", fixed = TRUE, class = "mine"
  )
})

test_that("the Python core that is used is the one of this package", {
  skip_if_no_core()
  file <- from_python(core()$`__file__`)
  expect_match(normalizePath(file), "mcdropout/__init__.py$")
})

test_that("an R error inside Python's keeps its class", {
  refused <- rlang::catch_cnd(with_core(abort_mc("no", class = "diverged")), "error")
  expect_s3_class(refused, "mcdropout_error_diverged")
})

test_that("another version of the core is warned of", {
  skip_if_no_core()
  version <- as.character(utils::packageVersion("mcdropout"))
  expect_warned(
    warn_other_version(list(`__version__` = "0.0.1"), NULL),
    paste0("The Python core in use is version 0.0.1, this R package is version ", version, ".")
  )
  expect_no_warning(warn_other_version(list(`__version__` = version), NULL))
})

test_that("a pyproject.toml without Poetry is kept from reticulate", {
  withr::local_dir(withr::local_tempdir())
  withr::local_options(reticulate.poetry.project = NULL)
  writeLines("[tool.poetry]", "pyproject.toml")
  quiet_poetry()
  expect_null(getOption("reticulate.poetry.project"))
  writeLines("[project]", "pyproject.toml")
  quiet_poetry()
  expect_identical(getOption("reticulate.poetry.project"), tempdir())
})

test_that("Python hears of a fork", {
  skip_if_no_core()
  skip_on_os("windows")
  net <- small_net()
  mean_of <- function(i) mc_predict(net, small_x(), 5, seed = i, progress = FALSE)$mean
  expect_identical(parallel::mclapply(1:2, mean_of, mc.cores = 2), lapply(1:2, mean_of))
})

test_that("a package without its core says how to repair it", {
  empty <- withr::local_tempdir()
  expect_refusal(
    load_core(NULL, empty),
    paste(
      "The Python core is not in this installation of the R package: `inst/python` must be a link to",
      "`python`. Where links are not supported, copy the folder `python` to `inst/python` and install again."
    ),
    "python"
  )
})

test_that("loading the package declares what Python needs", {
  .onLoad(NULL, "mcdropout")
  expect_true(all(python_packages %in% reticulate::py_require()$packages))
})

test_that("a lack of memory in the core is a condition with numbers and without a traceback", {
  skip_if_no_core()
  cnd <- rlang::catch_cnd(mc_mlp(4, labels = c("a", "b"), hidden = 2^50), "error")
  expect_s3_class(cnd, "mcdropout_error_out_of_memory")
  text <- "^`mc_mlp[(][)]` ran out of memory: .* free.*; use a smaller network or a machine"
  expect_match(conditionMessage(cnd), text)
  expect_no_match(conditionMessage(cnd), "Traceback|\n")
})

test_that("strings of bad encoding are refused in one sentence wherever they go", {
  skip_if_no_core()
  bytes <- "caf\xe9"
  Encoding(bytes) <- "bytes"
  text <- paste(
    "Text must be in the encoding that R states for it; got \"caf<e9>\".",
    "Read it in its own encoding, or convert it by `iconv()`."
  )
  expect_refusal(mc_mlp(4, labels = c(bytes, "b")), text)
  expect_refusal(mc_scores(example_prediction(), rep(bytes, 5)), text)
  expect_refusal(mc_load(bytes), '`path` must be a path; got "caf<e9>".')
  expect_refusal(
    mc_scores(example_prediction(), rep("caf\xe9", 5)),
    '`y` must hold labels out of "cat", "dog", "emu"; got "caf<e9>" at input number 1.'
  )
})
