test_that("a count is a whole number, as R users write it", {
  expect_identical(as_count(50), 50L)
  expect_identical(as_count(50L), 50L)
  expect_identical(as_count(3e9), 3e9)
})

test_that("what is no count is refused in one sentence", {
  expect_refusal(as_count(0, "batch_size"), "`batch_size` must be a whole number of at least 1; got 0.")
  expect_refusal(as_count(-1, "batch_size"), "`batch_size` must be a whole number of at least 1; got -1.")
  expect_refusal(as_count(2.5, "batch_size"), "`batch_size` must be a whole number of at least 1; got 2.5.")
  expect_refusal(as_count("a", "batch_size"), '`batch_size` must be a whole number of at least 1; got "a".')
  expect_refusal(as_count(NA, "batch_size"), "`batch_size` must be a whole number of at least 1; got NA.")
  expect_refusal(as_count(NULL, "batch_size"), "`batch_size` must be a whole number of at least 1; got NULL.")
  expect_refusal(
    as_count(c(1, 2), "batch_size"),
    "`batch_size` must be a whole number of at least 1; got c(1, 2)."
  )
  expect_refusal(as_count(TRUE, "batch_size"), "`batch_size` must be a whole number of at least 1; got TRUE.")
  expect_refusal(as_count(Inf, "batch_size"), "`batch_size` must be a whole number of at least 1; got Inf.")
  expect_refusal(
    as_count(mean, "batch_size"),
    '`batch_size` must be a whole number of at least 1; got an object of class "function".'
  )
  expect_refusal(
    as_count(1, "n_samples", at_least = 2),
    "`n_samples` must be a whole number of at least 2; got 1."
  )
})

test_that("a check names the argument as the caller calls it", {
  predict_something <- function(n_samples) as_count(n_samples)
  expect_refusal(predict_something(0), "`n_samples` must be a whole number of at least 1; got 0.")
})

test_that("numbers keep to their bounds", {
  expect_identical(as_number(0.95, above = 0, below = 1), 0.95)
  expect_refusal(
    as_number(1, "level", above = 0, below = 1),
    "`level` must be a number above 0 and below 1; got 1."
  )
  expect_refusal(
    as_number("a", "weight_decay", at_least = 0),
    '`weight_decay` must be a number of at least 0; got "a".'
  )
  expect_refusal(as_number(2, "share", at_most = 1), "`share` must be a number at most 1; got 2.")
  expect_refusal(as_number(NaN, "shift"), "`shift` must be a number; got NaN.")
})

test_that("flags and choices take nothing that merely looks like one", {
  expect_true(as_flag(TRUE))
  expect_identical(as_choice("rgb", colors), "rgb")
  expect_refusal(as_flag(1, "keep_samples"), "`keep_samples` must be true or false; got 1.")
  expect_refusal(as_flag(NA, "keep_samples"), "`keep_samples` must be true or false; got NA.")
  expect_refusal(as_choice("gray", colors, "color"), '`color` must be one of "grey", "rgb"; got "gray".')
  expect_refusal(
    as_choice(c("grey", "rgb"), colors, "color"),
    '`color` must be one of "grey", "rgb"; got c("grey", "rgb").'
  )
})

test_that("a seed is a whole number up to 2^53 - 1", {
  expect_identical(as_seed(1), 1L)
  expect_identical(as_seed(2^53 - 1), 2^53 - 1)
  expect_refusal(as_seed(-1, "seed"), "`seed` must be a whole number from 0 to 2^53 - 1; got -1.")
  expect_refusal(
    as_seed(2^53, "seed"),
    "`seed` must be a whole number from 0 to 2^53 - 1; got 9007199254740992."
  )
  expect_refusal(as_seed("a", "seed"), '`seed` must be a whole number from 0 to 2^53 - 1; got "a".')
})

test_that("without a seed, set.seed() governs", {
  set.seed(20)
  first <- as_seed(NULL)
  set.seed(20)
  expect_identical(as_seed(NULL), first)
  expect_false(identical(as_seed(NULL), first))
})

test_that("several values are checked one by one", {
  expect_identical(each(c(32, 64), as_count), list(32L, 64L))
  expect_identical(each(32, as_count), 32L)
  expect_identical(each(numeric(), as_count), list())
  expect_refusal(
    each(c(32, 0), as_count, "filters"),
    "`filters` must be a whole number of at least 1; got 0."
  )
})

test_that("braces in a user's text are shown as they are", {
  expect_refusal(
    as_choice("{stop('no')}", colors, "color"),
    "`color` must be one of \"grey\", \"rgb\"; got \"{stop('no')}\"."
  )
})

test_that("long values are shortened", {
  expect_lte(nchar(show_value(seq(0.5, 1000))), 80)
  expect_lte(nchar(show_value(strrep("x", 200))), 80)
})

test_that("errors have the classes that they are documented to have", {
  expect_error(as_count(0), class = "mcdropout_error_argument")
  expect_error(as_count(0), class = "mcdropout_error")
})

test_that("long texts are shown by both ends and other long values by their start", {
  path <- paste0("photographs/of/", strrep("deep/", 20), "image.png")
  both <- "\"photographs/of/deep/deep/deep/deep/de...eep/deep/deep/deep/deep/deep/image.png\""
  expect_identical(show_value(path), both)
  expect_identical(nchar(show_value(1:100 + 0.5)), 80L)
})

test_that("every value is shown in one line of valid UTF-8", {
  latin1 <- "caf\xe9"
  Encoding(latin1) <- "latin1"
  bytes <- "caf\xe9"
  Encoding(bytes) <- "bytes"
  expect_identical(show_value("caf\xe9"), '"caf<e9>"')
  expect_identical(show_value(bytes), '"caf<e9>"')
  expect_identical(show_value("two\nlines\r\x1b[31m"), '"two\\nlines\\r\\x1b[31m"')
  expect_identical(show_value("\u2028"), '"\\u2028"')
  skip_if_not(l10n_info()$`UTF-8`)
  expect_identical(show_value(latin1), '"caf\u00e9"')
  values <- list(
    matrix(1:6, 2), iris, mean, as.list(letters), list("a\xe9\n", 1:3), c("x\xff", "y"), quote(a + b),
    1:1e6 + 0.5, list(seq(0.5, 1e6)),
    strrep("\xe9", 200), strrep("a\n", 200), globalenv(), structure(1, class = "k\n\xe9")
  )
  for (value in values) {
    text <- show_value(value)
    expect_length(text, 1)
    expect_true(validUTF8(text))
    expect_lte(nchar(text), 80)
    expect_no_match(text, "[[:cntrl:]]")
  }
})

test_that("a text of bytes is no path", {
  bytes <- "caf\xe9"
  Encoding(bytes) <- "bytes"
  expect_refusal(as_path(bytes, "path"), '`path` must be a path; got "caf<e9>".')
})
