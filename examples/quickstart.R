# Train a network, predict with its uncertainty, see what it is most uncertain about. quickstart.py does the
# same.
library(mcdropout)

# Real images of clothes: 28 x 28 grey pixels in [0, 1], with the label of each.
data <- mc_sample_data()

# Two convolutions with pooling and one dense layer, with dropout after each: dropout is what will be sampled.
net <- mc_cnn(c(28, 28, 1), labels = data$labels)
net <- mc_fit(
  net, data$x_train, data$y_train,
  epochs = 8, # enough to learn most; a few more would gain a little
  batch_size = 128,
  validation_split = 0.1, # of each label alike, to see whether it learns more than these images by heart
  seed = 1, # any number; the same one gives the same network
  progress = TRUE
)
cat("What was learnt, epoch by epoch:\n")
print(net$history)

# 50 draws of the network: the standard error of a mean probability is at most 0.5 / sqrt(50) = 0.07.
pred <- mc_predict(net, data$x_test, n_samples = 50, batch_size = 128, seed = 1, progress = TRUE)
cat("\nThe prediction for ", nrow(pred), " new images; entropies and information in nats:\n", sep = "")
print(summary(pred))

wrong <- as.character(pred$predicted) != as.character(data$y_test)
most_uncertain <- order(-pred$predictive_entropy)[1:100] # 10 % of the images
cat(sprintf("\nTest accuracy: %.3f\n", 1 - mean(wrong)))
share <- sum(wrong[most_uncertain]) / sum(wrong)
cat(sprintf("The 10 %% it is most uncertain about hold %.0f %% of its errors.\n", 100 * share))

# Aleatoric: uncertainty that comes with the image. Epistemic: uncertainty that more training images could
# take away.
cat("\nIt is most uncertain about these images (counted from 1):\n")
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

# All digits, so that Python can compare: 17 tell any two doubles apart.
numbers <- data.frame(
  pred$mean,
  predictive_entropy = pred$predictive_entropy,
  expected_entropy = pred$expected_entropy,
  mutual_information = pred$mutual_information,
  check.names = FALSE
)
numbers[] <- lapply(numbers, sprintf, fmt = "%.17g")
write.csv(numbers, "output/quickstart_r.csv", row.names = FALSE, quote = FALSE)
cat("\nWritten: output/quickstart_r.png (those images) and output/quickstart_r.csv (all numbers)\n")
