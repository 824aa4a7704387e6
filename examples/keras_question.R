# "Is my model 99 % sure that it is an 8, or 51 %, and it might be a 6?" The network is that of the question,
# its training and its layers as they were; keras_question.py does the same.
library(mcdropout)
reticulate::py_require("scikit-learn")

if (Sys.getenv("KERAS_BACKEND") == "") Sys.setenv(KERAS_BACKEND = "torch")
stopifnot(mc_python_available()) # and loads Python's torch in the way that is quick in R

# 1797 real handwritten digits of 8 x 8 pixels, made 28 x 28 as the network expects: each pixel 3 x 3, and an
# edge.
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
  # A larger step than the default, as there are 40 times fewer digits than in MNIST, and few epochs.
  optimizer <- keras$optimizers$SGD(0.02, momentum = 0.9)
}
model$compile(loss = "categorical_crossentropy", optimizer = optimizer, metrics = list("accuracy"))
invisible(model$fit(x[train, , , , drop = FALSE], one_hot, batch_size = 100L, epochs = 3L, verbose = 2L))

# What the network says with its dropout off, and what 50 draws of it say.
seen <- x[test, , , , drop = FALSE]
truth <- y[test]
point <- mc_predict_point(model, seen)
pred <- mc_predict(model, seen, n_samples = 50, labels = 0:9, seed = 1)
said <- as.integer(as.character(pred$predicted))
cat(sprintf("\nTest accuracy: %.3f\n", mean(said == truth)))

# Of the images that it calls an 8: how sure is it, and of what else does it think?
eights <- which(said == 8)
eights <- eights[order(-pred$confidence[eights])]
cat("\n", length(eights), " images are called an 8; from the most certain to the most uncertain:\n", sep = "")
for (one in c(head(eights, 2), tail(eights, 3))) {
  cat(sprintf(
    paste0(
      "image %d (truly %d): %.0f %% an 8, 95 %% of the draws between %.0f and %.0f %%; ",
      "with dropout off %.0f %%; next comes %s\n"
    ),
    one, truth[one], 100 * pred$mean[one, 9], 100 * pred$lower[one, 9], 100 * pred$upper[one, 9],
    100 * point[one, 9], pred$second[one]
  ))
}

# "Flipping a coin": images whose first label leads by less than 20 points.
coins <- which(pred$margin < 0.2)
cat("\n", length(coins), " of ", length(truth), " images are close to flipping a coin:\n", sep = "")
for (one in head(coins, 5)) {
  cat(sprintf("image %d (truly %d): %s or %s\n", one, truth[one], pred$predicted[one], pred$second[one]))
}
wrong <- said != truth
if (any(wrong)) {
  cat(sprintf(
    "\nIts errors have a mean confidence of %.2f, the rest of %.2f.\n",
    mean(pred$confidence[wrong]), mean(pred$confidence[!wrong])
  ))
}
