# The effect of the weight of the KL divergence on the variance of the posterior. kl_weight.py does the same.
#
# This reproduces the experiment "Effect of KL-Weight" of the series "Uncertainty in Deep Learning" (Bayesian
# CNN experiments): one Bayesian logistic layer on two half-moons. The posterior of its six weights is normal
# with a full covariance.
library(mcdropout)
library(ggplot2)
reticulate::py_require("scikit-learn")

# A layer from 3 inputs to one output has 4 weights. Its posterior has 4 means and 10 entries of a triangle.
full <- mc_posterior_multivariate_normal(scale = log(2), mean = 0) # softplus(0), as in the article
small <- mc_bayes_mlp(3, labels = c("no", "yes"), task = "binary", hidden = c(), posterior = full)
cat("Parameters of a layer from 3 inputs to one output:", mc_posterior_table(small)$n_parameters, "\n")

# The article uses these points of scikit-learn.
moons <- reticulate::import("sklearn.datasets")$make_moons(1000L, noise = 0.2, random_state = 42L)
x <- moons[[1]]
y <- as.integer(moons[[2]])

weights <- c(0, 1e-4, 5e-4, 1e-3, 3e-3) # 1e-3 is one over the number of inputs: the weight in the ELBO
published <- data.frame( # loss and accuracy (of sampled labels) from the text, variance from the plot
  kl_weight = weights,
  loss_published = c(0.29327, 0.29386, 0.29624, 0.29916, 0.31027),
  accuracy_published = c(0.817, 0.816, 0.815, 0.813, 0.811),
  variance_published = c(0.294, 0.295, 0.2985, 0.303, 0.3195)
)

run_weight <- function(weight) {
  net <- mc_bayes_mlp(2, labels = 0:1, hidden = c(), posterior = full, prior = mc_prior_normal(0, 1))
  variances <- numeric()
  record_variance <- function(epoch) {
    variances <<- c(variances, mc_posterior_table(net)$variance) # the mean over the six weights
    FALSE # does not stop the training
  }
  net <- mc_fit(net, x, y,
    epochs = 125, batch_size = 32, kl_weight = weight, callbacks = record_variance, seed = 1, progress = FALSE
  )
  # A label sampled from the prediction is correct with the predicted probability of the true label.
  pred <- mc_predict(net, x, n_samples = 500, seed = 1, progress = FALSE)
  list(
    curve = data.frame(kl_weight = weight, epoch = 1:125, variance = variances),
    row = data.frame(
      kl_weight = weight,
      loss = net$history$loss[125],
      accuracy = mean(pred$mean[cbind(seq_along(y), y + 1)]),
      variance = variances[125]
    )
  )
}

runs <- lapply(weights, run_weight)
table <- merge(do.call(rbind, lapply(runs, `[[`, "row")), published)
cat("\nAfter 125 epochs (accuracy: of sampled labels; variance: mean over the weights):\n")
print(table, digits = 4)

difference <- max(abs(table$variance - table$variance_published))
monotone <- all(diff(table$variance) > 0)
cat("\nThe posterior variance grows with the KL weight:", if (monotone) "yes." else "no.", "\n")
cat(sprintf("Largest difference between a final variance and the published one: %.4f.\n", difference))

curves <- do.call(rbind, lapply(runs, `[[`, "curve"))
picture <- ggplot(curves, aes(epoch, variance, colour = factor(kl_weight))) +
  geom_line() +
  geom_point(data = transform(published, epoch = 125, variance = variance_published), shape = 18, size = 3) +
  scale_colour_grey("kl_weight", start = 0.75, end = 0) +
  labs(
    y = "mean posterior variance of the weights", subtitle = "Diamonds: final values of the published curves"
  ) +
  theme_classic()
dir.create("output", showWarnings = FALSE)
ggsave("output/kl_weight_r.png", picture, width = 7, height = 4.5, dpi = 150)
write.csv(table, "output/kl_weight_r.csv", row.names = FALSE)
cat("\nWritten: output/kl_weight_r.png and output/kl_weight_r.csv\n")

if (!monotone || difference > 0.01) {
  stop("The published curves were not reproduced.")
}
