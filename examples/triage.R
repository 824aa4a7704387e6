# Let a network decide what it is sure of, and send the rest to a person: learn where the line is on images
# kept from training, see whether what was promised holds on others, and hear when the world changes.
# triage.py does the same.
#
# Rscript triage.R [--epochs 8] [--draws 50]
library(mcdropout)

given <- list(epochs = 8, draws = 50)
arguments <- commandArgs(trailingOnly = TRUE)
for (place in which(startsWith(arguments, "--"))) {
  name <- substring(arguments[[place]], 3)
  stopifnot("an option is not known" = name %in% names(given))
  given[[name]] <- as.integer(arguments[[place + 1]])
}

# Real images of clothes. Every third one is kept from training: a policy must be learnt on images that the
# network has not seen, or it would be too trusting.
data <- mc_sample_data()
kept <- seq_along(data$y_train) %% 3 == 1

net <- mc_cnn(c(28, 28, 1), labels = data$labels)
net <- mc_fit(
  net, data$x_train[!kept, , , , drop = FALSE], data$y_train[!kept],
  epochs = given$epochs, batch_size = 128, seed = 1, progress = TRUE
)
x_calibration <- data$x_train[kept, , , , drop = FALSE]
calibration <- mc_predict(net, x_calibration, n_samples = given$draws, seed = 1, progress = TRUE)
test <- mc_predict(net, data$x_test, n_samples = given$draws, seed = 1, progress = TRUE)

# How good it is, and whether its uncertainty finds its errors.
scores <- mc_scores(test, data$y_test)
print(scores)

# Of what is accepted, at most 10 % may be wrong, with a probability of 95 %.
policy <- mc_triage(calibration, data$y_train[kept], max_error = 0.10, confidence = 0.95)
cat("\n")
print(policy)

# What came out on the test images, which had no part in it.
decisions <- mc_decide(policy, test)
accepted <- decisions$tier == "accept"
wrong <- as.character(decisions$predicted) != as.character(data$y_test)
cat(sprintf(
  "\nOf %d test images %d (%.0f%%) are accepted.\n", length(wrong), sum(accepted), 100 * mean(accepted)
))
cat(sprintf(
  "Error rate over all: %.1f%%; among the accepted: %.1f%%.\n",
  100 * mean(wrong), 100 * mean(wrong[accepted])
))
range <- 100 * binom.test(sum(wrong[accepted]), sum(accepted))$conf.int
cat(sprintf(
  "The promise, at most 10.0%%, is for all images to come; these few leave it between %.1f%% and %.1f%%.\n",
  range[[1]], range[[2]]
))
cat(sprintf("Among those referred to a person: %.1f%%.\n", 100 * mean(wrong[!accepted])))

# The world changes: after the test images come some that lie on their side, as from a camera that was turned.
monitor <- mc_monitor(calibration, measure = "mutual_information", false_alarm_rate = 0.01)
for (first in seq(1, length(wrong), by = 250)) {
  monitor <- update(monitor, test[first:(first + 249)], name = "upright")
}
turned <- aperm(data$x_test[1:250, , , , drop = FALSE], c(1, 3, 2, 4))
turned <- mc_predict(net, turned, n_samples = given$draws, seed = 1, progress = TRUE)
monitor <- update(monitor, turned, name = "turned")
cat("\n")
print(monitor)

# The files: the policy, for either language to open; pictures; a report with every image, the most uncertain
# first.
dir.create("output", showWarnings = FALSE)
mc_save(policy, "output/triage_policy_r.json")
mc_plot_reliability(scores, path = "output/triage_reliability_r.png")
mc_plot_risk_coverage(scores, path = "output/triage_risk_coverage_r.png")
mc_plot_uncertainty(test, data$y_test, path = "output/triage_uncertainty_r.png")
mc_plot_drift(monitor, path = "output/triage_drift_r.png")
mc_report(test, data$x_test, data$y_test, policy, monitor = monitor, path = "output/triage_report_r.html")
cat("\nWritten to output/: triage_report_r.html (open it in a browser), the policy, four pictures\n")
