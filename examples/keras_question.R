# "Is my model 99 % sure that it is an 8, or 51 %, and it might be a 6?" The layers are those of the network
# in the question. keras_question.py does the same. The digits are those of scikit-learn.
library(mcdropout)
reticulate::py_require("scikit-learn")

if (Sys.getenv("KERAS_BACKEND") == "") Sys.setenv(KERAS_BACKEND = "torch")
stopifnot(mc_python_available()) # this also loads torch

# 1797 handwritten digits of 8 x 8 pixels. The network expects 28 x 28: each pixel is repeated 3 x 3 times,
# and a border of 2 pixels is added.
digits <- reticulate::import("sklearn.datasets")$load_digits()
small <- digits$images / 16
x <- array(0, c(dim(small)[1], 28, 28, 1))
x[, 3:26, 3:26, 1] <- small[, rep(1:8, each = 3), rep(1:8, each = 3)]
y <- as.integer(digits$target)
train <- 1:1500
test <- 1501:1650

one_hot <- diag(10)[y[train] + 1, ]
if (requireNamespace("keras3", quietly = TRUE)) {
  library(keras3)
  set_random_seed(1)
  model <- keras_model_sequential(input_shape = c(28, 28, 1)) |>
    layer_conv_2d(128, c(7, 7), activation = "relu") |>
    layer_dropout(0.20) |>
    layer_conv_2d(64, c(3, 3), activation = "relu") |>
    layer_dropout(0.20) |>
    layer_flatten() |>
    layer_dense(64, activation = "relu") |>
    layer_dropout(0.25) |>
    layer_dense(10, activation = "softmax")
  optimizer <- optimizer_sgd(0.02, momentum = 0.9)
} else {
  keras <- reticulate::import("keras")
  keras$utils$set_random_seed(1L)
  layers <- keras$layers
  model <- keras$Sequential()
  model$add(keras$Input(c(28L, 28L, 1L)))
  model$add(layers$Conv2D(128L, c(7L, 7L), activation = "relu"))
  model$add(layers$Dropout(0.20))
  model$add(layers$Conv2D(64L, c(3L, 3L), activation = "relu"))
  model$add(layers$Dropout(0.20))
  model$add(layers$Flatten())
  model$add(layers$Dense(64L, activation = "relu"))
  model$add(layers$Dropout(0.25))
  model$add(layers$Dense(10L, activation = "softmax"))
  # The learning rate is above the default: there are 40 times fewer digits than in MNIST, and only 3 epochs.
  optimizer <- keras$optimizers$SGD(0.02, momentum = 0.9)
}
model$compile(loss = "categorical_crossentropy", optimizer = optimizer, metrics = list("accuracy"))
invisible(model$fit(x[train, , , , drop = FALSE], one_hot, batch_size = 100L, epochs = 3L, verbose = 2L))

# The prediction with dropout off, and the mean of 50 draws.
x_test <- x[test, , , , drop = FALSE]
truth <- y[test]
point <- mc_predict_point(model, x_test)
pred <- mc_predict(model, x_test, n_samples = 50, labels = 0:9, seed = 1)
predicted <- as.integer(as.character(pred$predicted))
cat(sprintf("\nTest accuracy: %.3f\n", mean(predicted == truth)))

# The images predicted to be an 8: the confidence, and the second most probable digit.
eights <- which(predicted == 8)
eights <- eights[order(-pred$confidence[eights])]
cat(sprintf(
  "\n%d images are predicted to be an 8; from the most certain to the most uncertain:\n", length(eights)
))
for (image in c(head(eights, 2), tail(eights, 3))) {
  cat(sprintf(
    paste0(
      "image %d (true label %d): probability of an 8: %.0f %%, 95 %% of the draws between %.0f and %.0f %%, ",
      "with dropout off %.0f %%; second label: %s\n"
    ),
    image, truth[image], 100 * pred$mean[image, 9], 100 * pred$lower[image, 9], 100 * pred$upper[image, 9],
    100 * point[image, 9], pred$second[image]
  ))
}

# "Flipping a coin": images whose two most probable labels differ by less than 20 percentage points.
ambiguous <- which(pred$margin < 0.2)
cat(sprintf(
  "\nIn %d of %d images the two most probable labels are close:\n", length(ambiguous), length(truth)
))
for (image in head(ambiguous, 5)) {
  cat(sprintf(
    "image %d (true label %d): %s or %s\n", image, truth[image], pred$predicted[image], pred$second[image]
  ))
}
wrong <- predicted != truth
if (any(wrong)) {
  cat(sprintf(
    "\nMean confidence of the wrong predictions: %.2f; of the correct ones: %.2f.\n",
    mean(pred$confidence[wrong]), mean(pred$confidence[!wrong])
  ))
}
