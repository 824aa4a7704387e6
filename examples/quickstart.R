# Train a network, predict with uncertainty, and list the most uncertain images. quickstart.py does the same.
library(mcdropout)

# Fashion-MNIST: images of clothes, 28 x 28 grey pixels in [0, 1], each with its label.
data <- mc_sample_data()

# Two convolutions with pooling and one dense layer. After each comes dropout, whose masks will be sampled.
net <- mc_cnn(c(28, 28, 1), labels = data$labels)
net <- mc_fit(
  net, data$x_train, data$y_train,
  epochs = 8, # more epochs would gain little
  batch_size = 128,
  validation_split = 0.1, # the same share of each label; shows overfitting
  seed = 1, # any whole number; the same seed gives the same network
  progress = TRUE
)
cat("Training history, one row per epoch:\n")
print(net$history)

# 50 draws of the network: the standard error of a mean probability is at most 0.5 / sqrt(50) = 0.07.
pred <- mc_predict(net, data$x_test, n_samples = 50, batch_size = 128, seed = 1, progress = TRUE)
cat(sprintf("\nThe prediction for %d test images (entropies and mutual information in nats):\n", nrow(pred)))
print(summary(pred))

wrong <- as.character(pred$predicted) != as.character(data$y_test)
most_uncertain <- order(-pred$predictive_entropy)[1:100] # 10 % of the images
cat(sprintf("\nTest accuracy: %.3f\n", 1 - mean(wrong)))
share <- sum(wrong[most_uncertain]) / sum(wrong)
cat(sprintf("The most uncertain 10 %% of the images hold %.0f %% of the errors.\n", 100 * share))

# Aleatoric uncertainty comes with the image. Epistemic uncertainty is what more training images could
# reduce.
cat("\nThe most uncertain images (counted from 1):\n")
twelve <- most_uncertain[1:12]
table <- data.frame(
  predicted = pred$predicted,
  second = pred$second,
  truth = data$y_test,
  total = pred$predictive_entropy,
  aleatoric = pred$expected_entropy,
  epistemic = pred$mutual_information
)
print(table[twelve, ], digits = 3)

dir.create("output", showWarnings = FALSE)
mc_plot_probabilities(pred, data$x_test, truth = data$y_test, path = "output/quickstart_r.png")

# Python compares these numbers with its own. 17 digits represent every double exactly.
numbers <- data.frame(
  pred$mean,
  predictive_entropy = pred$predictive_entropy,
  expected_entropy = pred$expected_entropy,
  mutual_information = pred$mutual_information,
  check.names = FALSE
)
numbers[] <- lapply(numbers, sprintf, fmt = "%.17g")
write.csv(numbers, "output/quickstart_r.csv", row.names = FALSE, quote = FALSE)
cat("\nWritten: output/quickstart_r.png (these images) and output/quickstart_r.csv (all numbers)\n")
