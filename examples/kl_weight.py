# The effect of the weight of the KL divergence on the variance of the posterior. kl_weight.R does the same.
#
# This reproduces the experiment "Effect of KL-Weight" of the series "Uncertainty in Deep Learning" (Bayesian CNN
# experiments): one Bayesian logistic layer on two half-moons. The posterior of its six weights is normal with a full
# covariance.
# The points are those of scikit-learn: `pip install scikit-learn`.
import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.datasets import make_moons

import mcdropout as mcd

# A layer from 3 inputs to one output has 4 weights. Its posterior has 4 means and 10 entries of a lower triangle.
full = mcd.mc_posterior_multivariate_normal(scale=math.log(2), mean=0)  # softplus(0), the initial value of the article
small = mcd.mc_bayes_mlp(3, labels=["no", "yes"], task="binary", hidden=[], posterior=full)
print(f"Parameters of a layer from 3 inputs to one output: {mcd.mc_posterior_table(small)['n_parameters'][0]}")

x, y = make_moons(1000, noise=0.2, random_state=42)

WEIGHTS = [0, 1e-4, 5e-4, 1e-3, 3e-3]  # 1e-3 is one over the number of inputs: the weight in the ELBO
PUBLISHED = {  # final loss and accuracy (of sampled labels) from the text, variance from the plot
    "loss": [0.29327, 0.29386, 0.29624, 0.29916, 0.31027],
    "accuracy": [0.817, 0.816, 0.815, 0.813, 0.811],
    "variance": [0.294, 0.295, 0.2985, 0.303, 0.3195],
}

curves, rows = [], []
for number, weight in enumerate(WEIGHTS):
    net = mcd.mc_bayes_mlp(2, labels=[0, 1], hidden=[], posterior=full, prior=mcd.mc_prior_normal(0, 1))
    variances = []

    def record_variance(epoch, net=net, variances=variances):
        variances.append(mcd.mc_posterior_table(net)["variance"][0])  # mean over the six weights

    net = mcd.mc_fit(
        net, x, y, epochs=125, batch_size=32, kl_weight=weight, callbacks=record_variance, seed=1, progress=False
    )
    curves.append(pd.DataFrame({"kl_weight": weight, "epoch": range(1, 126), "variance": variances}))
    # A label sampled from the prediction is correct with the predicted probability of the true label.
    pred = mcd.mc_predict(net, x, n_samples=500, seed=1, progress=False)
    correct = pred.mean[np.arange(len(y)), y].mean()
    row = {"loss": pd.DataFrame(net.history)["loss"].iloc[-1], "accuracy": correct, "variance": variances[-1]}
    published = {f"{name}, published": values[number] for name, values in PUBLISHED.items()}
    rows.append({"kl_weight": weight, **row, **published})

table = pd.DataFrame(rows)
columns = [column for name in PUBLISHED for column in (name, f"{name}, published")]
print("\nAfter 125 epochs (accuracy: of sampled labels; variance: mean over the weights):")
print(table[["kl_weight", *columns]].round(4).to_string(index=False))

difference = (table["variance"] - table["variance, published"]).abs().max()
monotone = (np.diff(table["variance"]) > 0).all()
print(f"\nThe posterior variance grows with the KL weight: {'yes' if monotone else 'no'}.")
print(f"Largest difference between a final variance and the published one: {difference:.4f}.")

figure = Figure(figsize=(7, 4.5), layout="constrained")
axes = figure.add_subplot()
for number, (weight, curve) in enumerate(zip(WEIGHTS, curves, strict=True)):
    grey = f"{0.75 - 0.18 * number:.2f}"
    axes.plot(curve["epoch"], curve["variance"], color=grey, label=f"{weight:g}")
    axes.plot(125, PUBLISHED["variance"][number], "D", color=grey, markersize=5, clip_on=False)
axes.set(xlabel="epoch", ylabel="mean posterior variance of the weights", xlim=(1, 125))
axes.set_title("Diamonds: final values of the published curves", fontsize=9, loc="left")
axes.legend(title="kl_weight", frameon=False, reverse=True)
axes.spines[["top", "right"]].set_visible(False)
Path("output").mkdir(exist_ok=True)
figure.savefig("output/kl_weight_python.png", dpi=150)
table.to_csv("output/kl_weight_python.csv", index=False)
print("\nWritten: output/kl_weight_python.png and output/kl_weight_python.csv")

if not monotone or difference > 0.01:
    raise SystemExit("The published curves were not reproduced.")
