truth <- function() c("emu", "cat", "cat", "emu", "cat")

skip_if_no_jinja2 <- function() {
  skip_if_no_core()
  skip_if_not(reticulate::py_module_available("jinja2"), "jinja2 is not installed")
}

report_text <- function(...) {
  path <- withr::local_tempfile(fileext = ".html")
  mc_report(example_prediction(), ..., path = path)
  paste(readLines(path, encoding = "UTF-8"), collapse = "\n")
}

test_that("the report names inputs as R counts them", {
  skip_if_no_jinja2()
  page <- report_text()
  expect_match(page, "\"name\": \"input 5\"", fixed = TRUE)
  expect_no_match(page, "\"name\": \"input 0\"", fixed = TRUE)
})

test_that("the report has images, scores, the policy and the monitor's words", {
  skip_if_no_jinja2()
  policy <- mc_triage(example_prediction(), truth(), budget = 0.4)
  monitor <- mc_monitor(example_prediction()[rep(1:5, 6)])
  images <- array(seq(0, 1, length.out = 80), c(5, 4, 4))
  page <- report_text(images, truth(), policy, monitor = monitor, title = "<b>Ours")
  expect_match(page, "image\": \"png;base64,", fixed = TRUE)
  expect_match(page, "A triage policy", fixed = TRUE)
  expect_match(page, "log loss, in nats", fixed = TRUE)
  expect_match(page, "A drift monitor of predictive_entropy, against 30 reference inputs", fixed = TRUE)
  expect_match(page, "&lt;b&gt;Ours", fixed = TRUE)
})

test_that("as many cards are shown as asked for", {
  skip_if_no_jinja2()
  expect_match(report_text(n_shown = 2), "\"page\": 2", fixed = TRUE)
  path <- withr::local_tempfile(fileext = ".html")
  expect_error(mc_report(example_prediction(), path = path, n_shown = 0), "`n_shown` must be a whole number")
})

test_that("the path comes back invisibly", {
  skip_if_no_jinja2()
  path <- withr::local_tempfile(fileext = ".html")
  expect_invisible(mc_report(example_values(), path = path))
  expect_identical(mc_report(example_values(), path = path), path)
})

test_that("what cannot be reported is refused", {
  skip_if_no_jinja2()
  pred <- example_prediction()
  expect_refusal(mc_report(pred), "`path` must be given; got nothing.")
  expect_refusal(mc_report(pred, path = "report.pdf"), '`path` must end in .html; got "report.pdf".')
  expect_refusal(
    mc_report(pred, path = "nowhere/report.html"),
    '`path` must be in a folder that exists; got "nowhere/report.html".'
  )
  expect_refusal(
    mc_report(lm, path = "report.html"),
    '`prediction` must be what `mc_predict()` returns; got "function".'
  )
  expect_refusal(
    mc_report(pred, policy = 3, path = "report.html"),
    '`policy` must be what `mc_triage()` returns; got "numeric".'
  )
  expect_refusal(
    mc_report(pred, monitor = 3, path = "report.html"),
    '`monitor` must be what `mc_monitor()` returns; got "numeric".'
  )
  expect_refusal(
    mc_report(pred, array(0, c(3, 4, 4)), path = "report.html"),
    "`images` must be as long as `prediction` (5); got length 3."
  )
  expect_refusal(
    mc_report(pred, y = truth()[-1], path = "report.html"),
    "`y` must be as long as `prediction` (5); got length 4."
  )
  expect_refusal(mc_report(pred, title = 3, path = "report.html"), "`title` must be text; got 3.")
})
