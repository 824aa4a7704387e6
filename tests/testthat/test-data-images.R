# A folder of 2 x 3 pixel grey images (PGM, which needs no package to be written): 3 of "cat", 2 of "dog".
image_folder <- function(env = parent.frame()) {
  root <- withr::local_tempdir(.local_envir = env)
  for (label in c("cat", "dog")) {
    dir.create(file.path(root, label))
    for (i in seq_len(if (label == "cat") 3 else 2)) {
      pixels <- as.raw(c(0, 51, 102, 153, 204, 255) * (label == "cat"))
      con <- file(file.path(root, label, paste0(i, ".pgm")), "wb")
      writeBin(c(charToRaw("P5 3 2 255\n"), pixels), con)
      close(con)
    }
  }
  root
}

test_that("the bundled sample has the shape and the labels it says", {
  skip_if_no_core()
  data <- mc_sample_data()
  expect_identical(dim(data$x_train), c(6000L, 28L, 28L, 1L))
  expect_identical(dim(data$x_test), c(1000L, 28L, 28L, 1L))
  expect_identical(range(data$x_train), c(0, 1))
  expect_identical(levels(data$y_train), data$labels)
  expect_identical(as.vector(table(data$y_train)), rep(600L, 10))
  expect_identical(as.vector(table(data$y_test)), rep(100L, 10))
})

test_that("idx files are read with their shape", {
  skip_if_no_core()
  file <- withr::local_tempfile(fileext = ".idx")
  header <- as.raw(c(0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4))
  writeBin(c(header, as.raw(1:24)), file)
  x <- mc_read_idx(file)
  expect_identical(dim(x), c(2L, 3L, 4L))
  expect_identical(x[1, 1, ], 1:4) # the last axis varies fastest in the file
  expect_identical(x[2, 3, 4], 24L)
  writeBin(c(as.raw(c(0, 0, 8, 1, 0, 0, 0, 3)), as.raw(7:9)), file)
  expect_identical(mc_read_idx(file), 7:9)
})

test_that("files that are no idx files are refused", {
  skip_if_no_core()
  withr::local_dir(withr::local_tempdir())
  writeBin(as.raw(c(0, 0, 8, 1, 0, 0, 0, 3, 1)), "short.idx")
  writeLines("hello", "text.idx")
  expect_refusal(
    mc_read_idx("short.idx"),
    paste(
      '`path` must be a complete idx file; got "short.idx", which has 9 bytes instead of the 11 that its',
      "header states."
    ),
    "unreadable_file"
  )
  expect_refusal(
    mc_read_idx("text.idx"),
    '`path` must be an idx file; got "text.idx", which starts differently.',
    "unreadable_file"
  )
  expect_refusal(
    mc_read_idx("missing.idx"),
    '`path` must be a readable file; got "missing.idx": No such file or directory.',
    "unreadable_file"
  )
  expect_refusal(mc_read_idx(3), "`path` must be a path; got 3.")
  expect_error(mc_read_idx("missing.idx"), class = "mcdropout_error_unreadable_file")
})

test_that("images in folders are plain R data until they are used", {
  skip_if_no_core()
  images <- mc_read_images(image_folder(), size = c(2, 3))
  expect_s3_class(images, "mc_images")
  expect_identical(as.character(images$y), c("cat", "cat", "cat", "dog", "dog"))
  expect_identical(dim(images), c(5L, 2L, 3L, 1L))
  expect_length(images, 5)
  expect_identical(as.character(images[c(4, 1)]$y), c("dog", "cat"))
  expect_prints(images, c("# mc_images: 5 files, to be read as 2 x 3 x 1", "labels: cat (3), dog (2)"))
  expect_true(is.character(unclass(unserialize(serialize(images, NULL)))$paths))
})

test_that("images in folders can be predicted", {
  skip_if_no_core()
  images <- mc_read_images(image_folder(), size = 8)
  net <- mc_cnn(dim(images)[-1], labels = levels(images$y), filters = 4, hidden = 16, dropout = 0.5)
  pred <- mc_predict(net, images, n_samples = 3, seed = 1, progress = FALSE)
  expect_identical(dim(pred), c(5L, 2L))
  expect_identical(pred$mean[1, ], pred$mean[2, ]) # the same picture, the same draws
})

test_that("folders without images are refused", {
  skip_if_no_core()
  withr::local_dir(withr::local_tempdir())
  dir.create("empty")
  expect_error(
    mc_read_images("empty"), "`path` must hold images", fixed = TRUE, class = "mcdropout_error_argument"
  )
  expect_refusal(
    mc_read_images("nowhere"),
    '`path` must be a folder of folders, one per label; got "nowhere".'
  )
  expect_refusal(mc_read_images("empty", color = "gray"), '`color` must be one of "grey", "rgb"; got "gray".')
})

test_that("a single folder of images keeps its label, and images out of range are refused", {
  skip_if_no_core()
  folder <- image_folder()
  unlink(file.path(folder, "dog"), recursive = TRUE)
  images <- mc_read_images(folder, size = c(8, 8))
  expect_identical(as.character(images$y), rep("cat", 3))
  net <- mc_cnn(c(8, 8, 1), labels = c("cat", "dog"))
  expect_equal(nrow(mc_predict(net, images, n_samples = 3, seed = 1)), 3)
  expect_refusal(images[4], "`i` must choose among the 3 images; got 4.")
  expect_refusal(images[list(1)], "`i` must choose among the 3 images; got list(1).")
})

test_that("names that are not UTF-8 are refused, because R would lose their characters", {
  skip_if_no_core()
  skip_on_os(c("windows", "mac"))
  withr::local_dir(withr::local_tempdir())
  system("mkdir $(printf 'caf\\351') && printf 'P5 3 2 255\\n123456' > $(printf 'caf\\351')/a.pgm")
  expect_refusal(
    mc_read_images("."),
    '`path` must hold names in UTF-8 only; got "caf\\udce9/a.pgm". Rename that file or folder.'
  )
})
