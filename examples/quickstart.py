# Train a network, predict with uncertainty, and list the most uncertain images. quickstart.R does the same.
from pathlib import Path

import numpy as np
import pandas as pd

import mcdropout as mcd

# Fashion-MNIST: images of clothes, 28 x 28 grey pixels in [0, 1], each with its label.
data = mcd.mc_sample_data()

# Two convolutions with pooling and one dense layer. After each comes dropout, whose masks will be sampled.
net = mcd.mc_cnn((28, 28, 1), labels=data.labels)
net = mcd.mc_fit(
    net,
    data.x_train,
    data.y_train,
    epochs=8,  # more epochs would gain little
    batch_size=128,
    validation_split=0.1,  # the same share of each label; shows overfitting
    seed=1,  # any whole number; the same seed gives the same network
    progress=True,
)
print("Training history, one row per epoch:")
print(net.history)

# 50 draws of the network: the standard error of a mean probability is at most 0.5 / sqrt(50) = 0.07.
pred = mcd.mc_predict(net, data.x_test, n_samples=50, batch_size=128, seed=1, progress=True)
table = pred.to_pandas()  # one row per image
columns = ["confidence", "margin", "predictive_entropy", "expected_entropy", "mutual_information", "variation_ratio"]
print(f"\nThe prediction for {len(pred)} test images (entropies and mutual information in nats):")
print(table[columns].describe().T[["min", "25%", "50%", "75%", "max", "mean"]].round(3).to_string())
print(pred)

wrong = table["predicted"].to_numpy() != data.y_test
most_uncertain = np.argsort(-table["predictive_entropy"].to_numpy(), kind="stable")[:100]  # 10 % of the images
print(f"\nTest accuracy: {1 - wrong.mean():.3f}")
share = wrong[most_uncertain].sum() / wrong.sum()
print(f"The most uncertain 10 % of the images hold {100 * share:.0f} % of the errors.")

# Aleatoric uncertainty comes with the image. Epistemic uncertainty is what more training images could reduce.
print("\nThe most uncertain images (counted from 0):")
twelve = most_uncertain[:12]
table["truth"] = data.y_test
columns = ["predicted", "second", "truth", "predictive_entropy", "expected_entropy", "mutual_information"]
names = {"predictive_entropy": "total", "expected_entropy": "aleatoric", "mutual_information": "epistemic"}
print(table.loc[twelve, columns].rename(columns=names).round(3).to_string())

Path("output").mkdir(exist_ok=True)
mcd.mc_plot_probabilities(pred, data.x_test, truth=data.y_test, path="output/quickstart_python.png")

# pandas writes every digit, so that the file holds the exact doubles.
numbers = pd.DataFrame(pred.mean, columns=list(data.labels))
for column in ("predictive_entropy", "expected_entropy", "mutual_information"):
    numbers[column] = table[column]
numbers.to_csv("output/quickstart_python.csv", index=False)
print("\nWritten: output/quickstart_python.png (these images) and output/quickstart_python.csv (all numbers)")

if Path("output/quickstart_r.csv").exists():
    from_r = np.loadtxt("output/quickstart_r.csv", delimiter=",", skiprows=1)  # reads every digit
    difference = np.abs(numbers.to_numpy() - from_r).max()
    tolerance = 1e-5  # rounding of float32 in the network; on one machine with the same settings the difference is 0
    if difference == 0:
        print(f"\nR and Python agree exactly in all {numbers.size} numbers.")
    elif difference <= tolerance:
        print(f"\nR and Python agree: the largest difference among {numbers.size} numbers is {difference:.1e}.")
    else:
        raise SystemExit(f"\nR and Python differ by up to {difference:.1e}; at most {tolerance:.0e} was expected.")
