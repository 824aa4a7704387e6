# The R Keras example from end to end: a Keras model, trained in mini-batches, and how sure it is.
# keras_mnist.py does the same. The model is built by keras3 where that is installed, else through reticulate:
# it is the same object.
library(mcdropout)

# Keras runs on torch, which is there already; set it to "tensorflow" or "jax" if you have them.
if (Sys.getenv("KERAS_BACKEND") == "") Sys.setenv(KERAS_BACKEND = "torch")

# Real images of clothes in MNIST's form: 28 x 28 grey pixels in [0, 1].
data <- mc_sample_data()
y_train <- as.integer(data$y_train) - 1L # Keras counts from 0
y_test <- as.integer(data$y_test) - 1L

# Build and compile. Dropout is left as Keras has it: off in predict(), and nothing about `training` is set.
if (requireNamespace("keras3", quietly = TRUE)) {
  library(keras3)
  set_random_seed(1)
  model <- keras_model_sequential(input_shape = c(28, 28, 1)) |>
    layer_conv_2d(32, 3, activation = "relu") |>
    layer_dropout(0.25) |>
    layer_max_pooling_2d(2) |>
    layer_conv_2d(64, 3, activation = "relu") |>
    layer_dropout(0.25) |>
    layer_max_pooling_2d(2) |>
    layer_flatten() |>
    layer_dense(128, activation = "relu") |>
    layer_dropout(0.5) |>
    layer_dense(10, activation = "softmax")
} else {
  keras <- reticulate::import("keras")
  keras$utils$set_random_seed(1L)
  layers <- keras$layers
  model <- keras$Sequential(list(
    keras$Input(c(28L, 28L, 1L)),
    layers$Conv2D(32L, 3L, activation = "relu"),
    layers$Dropout(0.25),
    layers$MaxPooling2D(2L),
    layers$Conv2D(64L, 3L, activation = "relu"),
    layers$Dropout(0.25),
    layers$MaxPooling2D(2L),
    layers$Flatten(),
    layers$Dense(128L, activation = "relu"),
    layers$Dropout(0.5),
    layers$Dense(10L, activation = "softmax")
  ))
}
model$compile(optimizer = "adam", loss = "sparse_categorical_crossentropy", metrics = list("accuracy"))

# Train in mini-batches, first by fit() ...
batch_size <- 128L
invisible(model$fit(
  data$x_train, as.array(y_train),
  batch_size = batch_size, epochs = 2L, validation_split = 0.1, verbose = 2L
))

# ... then by a loop of one's own: train_on_batch() turns the dropout on by itself.
set.seed(1)
rows <- sample(length(y_train))
for (batch in split(rows, ceiling(seq_along(rows) / batch_size))) {
  loss <- model$train_on_batch(data$x_train[batch, , , , drop = FALSE], as.array(y_train[batch]))
}
cat(sprintf("Loss over the epoch of train_on_batch, as Keras averages it: %.3f\n", loss[[1]]))

# 30 draws of the network. That it returns probabilities is read from the softmax.
pred <- mc_predict(
  model, data$x_test,
  n_samples = 30, batch_size = batch_size, labels = data$labels, seed = 1
)
print(pred)
cat("Mean and variance are input x label, the draws draw x input x label:\n")
print(list(mean = dim(pred$mean), variance = dim(pred$variance), samples = dim(pred$samples)))

first <- which.max(pred$mean[1, ])
cat(sprintf(
  "The first image: %s, probability %.2f, variance %.4f\n",
  data$labels[first], pred$mean[1, first], pred$variance[1, first]
))
wrong <- max.col(pred$mean, ties.method = "first") - 1L != y_test
most_uncertain <- order(-pred$predictive_entropy)[1:100] # 10 % of the images
cat(sprintf("Test accuracy: %.3f\n", 1 - mean(wrong)))
cat(sprintf(
  "The 10 %% it is most uncertain about hold %.0f %% of its errors.\n",
  100 * sum(wrong[most_uncertain]) / sum(wrong)
))
