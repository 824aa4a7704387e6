test_that("a network comes back from its file", {
  skip_if_no_core()
  net <- mc_fit(small_net(), small_x(), small_y(), epochs = 1, seed = 1, progress = FALSE)
  file <- withr::local_tempfile(fileext = ".safetensors")
  expect_identical(mc_save(net, file), file)
  again <- mc_load(file)
  expect_identical(format(again), format(net))
  expect_identical(again$history, net$history)
  expect_identical(
    mc_predict(again, small_x(), seed = 1, progress = FALSE)$samples,
    mc_predict(net, small_x(), seed = 1, progress = FALSE)$samples
  )
})

test_that("a prediction comes back from its file", {
  skip_if_no_core()
  file <- withr::local_tempfile(fileext = ".safetensors")
  pred <- mc_predict(small_net(), small_x(), seed = 1, progress = FALSE)
  mc_save(pred, file)
  expect_identical(mc_load(file), pred)
})

test_that("a changed byte is refused, and a file of an earlier version opens with a warning", {
  skip_if_no_core()
  withr::local_dir(withr::local_tempdir())
  prediction <- mc_predict(small_net(), small_x(), seed = 1, progress = FALSE)
  things <- list(net = small_net(), prediction = prediction, monitor = mc_monitor(mc_predict(
    small_net(), small_x()[rep(1:4, 10), ],
    seed = 1, progress = FALSE
  )))
  for (name in names(things)) {
    mc_save(things[[name]], name)
    bytes <- readBin(name, "raw", file.size(name))
    bytes[[length(bytes) - 9]] <- xor(bytes[[length(bytes) - 9]], as.raw(1))
    writeBin(bytes, name)
    expect_refusal(
      mc_load(name),
      paste0('`path` must be a whole file; got "', name, '", which is cut short or was changed.'),
      "unreadable_file"
    )
  }
  mc_save(things$monitor, "old.json")
  lines <- sub('"format": 2', '"format": 1', readLines("old.json"), fixed = TRUE)
  writeLines(lines[!grepl("sha256", lines, fixed = TRUE)], "old.json")
  expect_warned(
    mc_load("old.json"),
    paste(
      '`path` is a file of an earlier version, "old.json", which has no checksum: changed bytes are not',
      "noticed until it is saved again."
    )
  )
})

test_that("what is no file is neither written nor read", {
  skip_if_no_core()
  withr::local_dir(withr::local_tempdir())
  dir.create("folder")
  expect_refusal(mc_save(small_net(), "folder"), '`path` must be a file; got "folder", which is a folder.')
  expect_refusal(
    mc_load("folder"),
    '`path` must be a file that can be read; got "folder": it is a folder.',
    "unreadable_file"
  )
  skip_on_os(c("windows", "mac"))
  expect_refusal(
    mc_save(small_net(), "/dev/null"),
    '`path` must be a file; got "/dev/null", which is a device.'
  )
  name <- strrep("n", 256)
  expect_refusal(
    mc_save(small_net(), name),
    paste0(
      '`path` must be a file that can be written; got "', strrep("n", 37), "...", strrep("n", 38),
      '": File name too long.'
    )
  )
})

test_that("files that are missing, cut short or not ours are refused", {
  skip_if_no_core()
  withr::local_dir(withr::local_tempdir())
  mc_save(small_net(), "net.safetensors")
  writeBin(readBin("net.safetensors", "raw", 400), "short.safetensors")
  writeLines("hello", "text.safetensors")
  expect_refusal(
    mc_load("missing.safetensors"),
    '`path` must be a file that can be read; got "missing.safetensors": No such file or directory.',
    "unreadable_file"
  )
  expect_refusal(
    mc_load("short.safetensors"),
    '`path` must be a whole file; got "short.safetensors", which is cut short or was changed.',
    "unreadable_file"
  )
  expect_refusal(
    mc_load("text.safetensors"),
    '`path` must be a file that mcdropout wrote; got "text.safetensors", which is not.',
    "unreadable_file"
  )
  expect_refusal(
    mc_save(lm, "lm.safetensors"),
    paste(
      "`object` must be a network of mc_cnn() or mc_mlp(), a prediction, or what was learnt on one; got",
      "function. Save other torch modules with torch.save()."
    )
  )
  expect_refusal(
    mc_save(small_net(), "nowhere/net.safetensors"),
    '`path` must be in a folder that exists; got "nowhere/net.safetensors".'
  )
  expect_refusal(mc_load(NULL), "`path` must be a path; got NULL.")
  expect_error(mc_load("short.safetensors"), class = "mcdropout_error_unreadable_file")
})
