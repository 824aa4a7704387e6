# A Keras model, trained in mini-batches, and the uncertainty of its predictions. keras_mnist.py does the
# same.
# keras3 builds the model where it is installed. Otherwise reticulate builds it; the object is the same.
library(mcdropout)

# Keras runs on torch, which mcdropout needs anyway. For another backend set KERAS_BACKEND to "tensorflow" or
# "jax".
if (Sys.getenv("KERAS_BACKEND") == "") Sys.setenv(KERAS_BACKEND = "torch")

# Fashion-MNIST: images of clothes in the format of MNIST, 28 x 28 grey pixels in [0, 1].
data <- mc_sample_data()
y_train <- as.integer(data$y_train) - 1L # Keras counts from 0
y_test <- as.integer(data$y_test) - 1L

# Build and compile. The dropout layers are plain Keras layers: no layer is called with `training = TRUE`.
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

# Train in mini-batches, first with fit().
batch_size <- 128L
invisible(model$fit(
  data$x_train, as.array(y_train),
  batch_size = batch_size, epochs = 2L, validation_split = 0.1, verbose = 2L
))

# Then train with your own loop: train_on_batch() turns the dropout on.
set.seed(1)
rows <- sample(length(y_train))
for (batch in split(rows, ceiling(seq_along(rows) / batch_size))) {
  loss <- model$train_on_batch(data$x_train[batch, , , , drop = FALSE], as.array(y_train[batch]))
}
cat(sprintf("Mean loss of the epoch of train_on_batch: %.3f\n", loss[[1]]))

# 30 draws of the network. The softmax at its end says that it returns probabilities.
pred <- mc_predict(
  model, data$x_test,
  n_samples = 30, batch_size = batch_size, labels = data$labels, seed = 1
)
print(pred)
cat("Dimensions of the mean and the variance (input, label) and of the draws (draw, input, label):\n")
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
  "The most uncertain 10 %% of the images hold %.0f %% of the errors.\n",
  100 * sum(wrong[most_uncertain]) / sum(wrong)
))
