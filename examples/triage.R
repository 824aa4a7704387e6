# Triage: the network decides the certain images and refers the others to a person. The thresholds are learnt
# on images that were held out from training, and checked on test images. A monitor reports when new images
# differ from those. triage.py does the same.
#
# Rscript triage.R [--epochs 8] [--draws 50]
library(mcdropout)

options <- list(epochs = 8, draws = 50)
arguments <- commandArgs(trailingOnly = TRUE)
for (position in which(startsWith(arguments, "--"))) {
  name <- substring(arguments[[position]], 3)
  stopifnot("the option is unknown" = name %in% names(options))
  options[[name]] <- as.integer(arguments[[position + 1]])
}

# Fashion-MNIST: images of clothes. Every third image is held out from training. On images of the training the
# network makes fewer errors than on new ones, so a policy learnt on them would accept too many.
data <- mc_sample_data()
held_out <- seq_along(data$y_train) %% 3 == 1

net <- mc_cnn(c(28, 28, 1), labels = data$labels)
net <- mc_fit(
  net, data$x_train[!held_out, , , , drop = FALSE], data$y_train[!held_out],
  epochs = options$epochs, batch_size = 128, seed = 1, progress = TRUE
)
x_calibration <- data$x_train[held_out, , , , drop = FALSE]
calibration <- mc_predict(net, x_calibration, n_samples = options$draws, seed = 1, progress = TRUE)
test <- mc_predict(net, data$x_test, n_samples = options$draws, seed = 1, progress = TRUE)

# Scores of the predictions, and of their uncertainty as a detector of errors.
scores <- mc_scores(test, data$y_test)
print(scores)

# The error rate among the accepted images is at most 10 %, with a confidence of 95 %.
policy <- mc_triage(calibration, data$y_train[held_out], max_error = 0.10, confidence = 0.95)
cat("\n")
print(policy)

# The result on the test images, which were not used so far.
decisions <- mc_decide(policy, test)
accepted <- decisions$tier == "accept"
wrong <- as.character(decisions$predicted) != as.character(data$y_test)
cat(sprintf(
  "\nOf %d test images %d (%.0f%%) are accepted.\n", length(wrong), sum(accepted), 100 * mean(accepted)
))
cat(sprintf(
  "Error rate of all images: %.1f%%; of the accepted: %.1f%%.\n",
  100 * mean(wrong), 100 * mean(wrong[accepted])
))
interval <- 100 * binom.test(sum(wrong[accepted]), sum(accepted))$conf.int
cat(sprintf(
  "The bound of 10.0%% holds for future images; the 95%% interval from these images is %.1f%% to %.1f%%.\n",
  interval[[1]], interval[[2]]
))
cat(sprintf("Error rate of the referred: %.1f%%.\n", 100 * mean(wrong[!accepted])))

# The data change: after the test images come images that are transposed, as from a camera that was turned.
monitor <- mc_monitor(calibration, measure = "mutual_information", false_alarm_rate = 0.01)
for (first in seq(1, length(wrong), by = 250)) {
  monitor <- update(monitor, test[first:(first + 249)], name = "upright")
}
turned <- aperm(data$x_test[1:250, , , , drop = FALSE], c(1, 3, 2, 4))
turned <- mc_predict(net, turned, n_samples = options$draws, seed = 1, progress = TRUE)
monitor <- update(monitor, turned, name = "turned")
cat("\n")
print(monitor)

# Files: the policy, which both languages open; plots; a report with every image, the most uncertain first.
dir.create("output", showWarnings = FALSE)
mc_save(policy, "output/triage_policy_r.json")
mc_plot_reliability(scores, path = "output/triage_reliability_r.png")
mc_plot_risk_coverage(scores, path = "output/triage_risk_coverage_r.png")
mc_plot_uncertainty(test, data$y_test, path = "output/triage_uncertainty_r.png")
mc_plot_drift(monitor, path = "output/triage_drift_r.png")
mc_report(test, data$x_test, data$y_test, policy, monitor = monitor, path = "output/triage_report_r.html")
cat("\nWritten to output/: triage_report_r.html (open it in a browser), the policy and four plots\n")
