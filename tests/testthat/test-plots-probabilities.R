test_that("bars show the most uncertain inputs first, with their numbers", {
  skip_if_not_installed("ggplot2")
  pred <- example_prediction()
  plot <- mc_plot_probabilities(pred, inputs = c(4, 2), truth = c("cat", "dog", "emu", "emu", "cat"))
  bars <- plot$data
  expect_identical(nrow(bars), 6L)
  fourth <- bars[grepl("input 4", bars$panel), ]
  expect_identical(fourth$mean, unname(pred$mean[4, ]))
  expect_identical(fourth$lower, unname(pred$lower[4, ]))
  expect_identical(as.character(fourth$label[fourth$true]), "emu")
  expect_identical(as.character(fourth$label[fourth$predicted]), as.character(pred$predicted[[4]]))
  most_uncertain <- levels(mc_plot_probabilities(pred)$data$panel)[[1]]
  expect_match(most_uncertain, paste0("input ", which.max(pred$predictive_entropy), "\n"))
  expect_identical(levels(bars$panel), c(
    "cat 0.46, second emu\ninput 4, true label emu\nentropy 1.06 nats: 0.84 aleatoric, 0.22 epistemic",
    "emu 0.45, second cat\ninput 2, true label dog\nentropy 1.06 nats: 0.78 aleatoric, 0.28 epistemic"
  ))
  expect_identical(plot$labels$caption, paste0(
    "Bars: mean probability of each label over 4 draws; whiskers: their 95 % interval. Dark: predicted.\n",
    "Bold, with a diamond: the true label."
  ))
})

test_that("of many labels the most probable are drawn, and the others summed", {
  skip_if_not_installed("ggplot2")
  scores <- outer(outer(1:4, 1:2, function(draw, input) sin(draw * input)), seq(-1, 1, length.out = 13))
  samples <- array(exp(scores), dim(scores)) / array(apply(exp(scores), 1:2, sum), dim(scores))
  pred <- example_prediction(samples, paste("a long label", letters[1:13]))
  bars <- mc_plot_probabilities(pred, inputs = 1)$data
  expect_identical(nrow(bars), 11L)
  expect_identical(bars$mean[1:10], unname(sort(pred$mean[1, ], decreasing = TRUE)[1:10]))
  expect_identical(bars$label[[11]], "3 others")
  expect_identical(bars$note[[11]], paste(two_decimals(sum(sort(pred$mean[1, ])[1:3])), "together"))
  expect_identical(
    levels(bars$panel),
    paste0(
      "a long label m 0.11, second a long label l\ninput 1\n",
      "entropy 2.55 nats: 2.47 aleatoric, 0.08 epistemic"
    )
  )
})

test_that("labels that differ anywhere look different", {
  sides <- c("left", "right", "middle")
  alike <- list(
    start = paste(c("left upper", "left lower", "right"), "lobe of the lung, squamous cell carcinoma"),
    middle = paste("lesion of the", sides, "upper lobe of the lung"),
    end = paste("squamous cell carcinoma of the lung, stage", c("I", "II", "III")),
    two_places = paste(
      "prefix that is long", c("x", "x", "w"), "and long between", c("y", "z", "y"), "and behind"
    ),
    a_letter = paste0(strrep("a", 30), c("x", "y", "z"), strrep("b", 30)),
    lengths = paste0(strrep("very ", 8:10), "long")
  )
  for (labels in alike) {
    short <- shorten_labels(labels)
    expect_length(unique(short), 3)
    expect_lte(max(nchar(short)), 14)
    expect_identical(shorten_labels(labels[[2]], among = labels), short[[2]])
  }
  wanted <- c("\u2026left\u2026", "\u2026right\u2026", "\u2026middle\u2026")
  expect_identical(shorten_labels(alike$middle), wanted)
  expect_identical(shorten_labels(c("cat", "dog", "cat")), c("cat", "dog", "cat"))
})

test_that("labels and ids that differ in the middle look different in every picture", {
  skip_if_not_installed("ggplot2")
  labels <- paste("lesion of the", c("left", "right", "middle"), "upper lobe of the lung")
  pred <- example_prediction(labels = labels)
  pred$ids <- paste("case", 1:5, "of the hospital in the north")
  bars <- mc_plot_probabilities(pred, inputs = c(4, 2))$data
  expect_identical(bars$text[1:3], shorten_labels(labels))
  expect_match(levels(bars$panel), "id .*[42].*")
  expect_length(unique(sub("\n.*", "", sub("^.*\nid ", "", levels(bars$panel)))), 2)
  rows <- draws_of_classes(pred, c(4, 2))
  expect_length(unique(rows$name), 3)
  expect_length(levels(rows$panel), 2)
  values <- example_values()
  values$ids <- pred$ids
  expect_length(unique(draws_of_values(values, 1:5)$name), 5)
})

test_that("pictures of any kind are drawn beside the bars", {
  skip_if_not_installed("ggplot2")
  pred <- example_prediction()
  file <- withr::local_tempfile(fileext = ".png")
  grey <- array(seq(0, 1, length.out = 5 * 4 * 6), c(5, 4, 6, 1))
  mc_plot_probabilities(pred, grey, path = file)
  expect_gt(file.size(file), 1000)
  colored <- array(seq(0, 255, length.out = 5 * 4 * 6 * 3), c(5, 4, 6, 3))
  plot <- mc_plot_probabilities(pred, colored, inputs = 1:2)
  expect_s3_class(ggplot2::ggplotGrob(plot), "gtable")
  expect_identical(dim(as_pictures(grey, 3, 5)[[1]]), c(4L, 6L))
  expect_identical(as_pictures(grey[, , , 1], 3, 5), as_pictures(grey, 3, 5))
})

test_that("plot() and autoplot() draw both kinds", {
  skip_if_not_installed("ggplot2")
  expect_s3_class(ggplot2::autoplot(example_prediction()), "ggplot")
  expect_s3_class(ggplot2::autoplot(example_values()), "ggplot")
  withr::local_pdf(NULL)
  expect_invisible(plot(example_values()))
})

test_that("what cannot be drawn is refused", {
  skip_if_not_installed("ggplot2")
  pred <- example_prediction()
  expect_refusal(
    mc_plot_probabilities(example_values()),
    "`prediction` must be of classes to have class probabilities; got one of values."
  )
  expect_refusal(
    mc_plot_probabilities(list()),
    '`prediction` must be what `mc_predict()` returns; got "list".'
  )
  expect_refusal(mc_plot_probabilities(pred[0]), "`prediction` must have at least one input; got none.")
  expect_refusal(mc_plot_probabilities(pred, inputs = 6), "`inputs` must be positions from 1 to 5; got 6.")
  expect_refusal(
    mc_plot_probabilities(pred, inputs = integer()),
    "`inputs` must name at least one input; got none."
  )
  expect_refusal(
    mc_plot_probabilities(pred, truth = "cat"),
    "`truth` must be as long as `prediction` (5); got length 1."
  )
  expect_refusal(
    mc_plot_probabilities(pred, truth = c("cat", "dog", "bird", "cat", "cat")),
    '`truth` must hold labels out of "cat", "dog", "emu"; got "bird" at input number 3.'
  )
  expect_refusal(
    mc_plot_probabilities(pred, truth = c("cat", "dog", "emu", "cat", NA)),
    "`truth` must have a label for every input; got none at input number 5."
  )
  expect_refusal(
    mc_plot_images(array(c(1, NaN), c(2, 3, 3))),
    "`images` must hold finite numbers only; got NaN in input number 2 of 2."
  )
  expect_refusal(
    mc_plot_images(array(1, c(2, 3, 3)), path = "nowhere/picture.png"),
    '`path` must be in a folder that exists; got "nowhere/picture.png".'
  )
  expect_refusal(
    mc_plot_images(array(1, c(2, 3, 3)), path = "picture.doc"),
    paste(
      "`path` must end in one of .bmp, .eps, .jpeg, .jpg, .pdf, .png, .ps, .svg, .tex, .tiff; got",
      '"picture.doc".'
    )
  )
  expect_refusal(
    mc_plot_probabilities(pred, array(0, c(4, 2, 2, 1))),
    "`images` must be as long as `prediction` (5); got length 4."
  )
  expect_refusal(
    mc_plot_probabilities(pred, array(0, c(5, 2, 2, 2))),
    paste(
      "`images` must have shape (input, height, width) or (input, height, width, channel) with 1, 3 or 4",
      "channels; got (5, 2, 2, 2)."
    )
  )
  expect_refusal(mc_plot_probabilities(pred, path = 3), "`path` must be a path; got 3.")
})

test_that("the table of the picture has a row per input and label", {
  skip_if_no_core()
  net <- mc_mlp(4, labels = levels(iris$Species))
  pred <- mc_predict(net, iris[1:4], n_samples = 5, seed = 1, ids = paste("flower", 1:150))
  table <- mc_probabilities_table(pred, inputs = c(7, 3))
  expect_named(table, c("input", "id", "label", "mean", "lower", "upper"))
  expect_equal(table$input, rep(c(7, 3), each = 3))
  expect_equal(table$mean, unname(c(pred$mean[7, ], pred$mean[3, ])))
  expect_equal(table$upper[5], unname(pred$upper[3, 2]))
  expect_equal(levels(table$label), levels(iris$Species))
  expect_equal(nrow(mc_probabilities_table(pred)), 12 * 3)
})

test_that("labels that no part tells apart are numbered", {
  same <- strrep("a", 20) # three places differ, and the first two labels in the middle one alone
  labels <- paste0(same, c("x", "x", "z"), same, c(1, 2, 1), same, c("y", "y", "w"), same)
  short <- shorten_labels(labels)
  expect_length(unique(short), 3)
  expect_lte(max(nchar(short)), 14)
  expect_match(short[1:2], " #[12]$")
})

test_that("image files are read for the picture", {
  skip_if_no_core()
  skip_if_not_installed("ggplot2")
  skip_if_not_installed("png")
  folder <- withr::local_tempdir()
  grey <- array(c(0, 51, 102, 153, 204, 255) / 255, 2:3)
  for (i in 1:5) {
    png::writePNG(if (i == 3) 1 - grey else grey, file.path(folder, paste0(i, ".png")))
  }
  images <- mc_read_images(folder, size = 2:3)
  wanted <- aperm(array(c(1 - grey, grey), c(2, 3, 2, 1)), c(3, 1, 2, 4))
  expect_equal(as_pixels(images, c(3, 1), 5), wanted, tolerance = 1e-6) # float32
  expect_s3_class(mc_plot_probabilities(example_prediction(), images, inputs = 3), "ggplot")
  expect_refusal(
    mc_plot_probabilities(example_prediction(), images[1:4]),
    "`images` must be as long as `prediction` (5); got length 4."
  )
})
