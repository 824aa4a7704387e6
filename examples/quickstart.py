# Train a network, predict with its uncertainty, see what it is most uncertain about. quickstart.R does the same.
from pathlib import Path

import numpy as np
import pandas as pd

import mcdropout as mcd

# Real images of clothes: 28 x 28 grey pixels in [0, 1], with the label of each.
data = mcd.mc_sample_data()

# Two convolutions with pooling and one dense layer, with dropout after each: dropout is what will be sampled.
net = mcd.mc_cnn((28, 28, 1), labels=data.labels)
net = mcd.mc_fit(
    net,
    data.x_train,
    data.y_train,
    epochs=8,  # enough to learn most; a few more would gain a little
    batch_size=128,
    validation_split=0.1,  # of each label alike, to see whether it learns more than these images by heart
    seed=1,  # any number; the same one gives the same network
    progress=True,
)
print("What was learnt, epoch by epoch:")
print(net.history)

# 50 draws of the network: the standard error of a mean probability is at most 0.5 / sqrt(50) = 0.07.
pred = mcd.mc_predict(net, data.x_test, n_samples=50, batch_size=128, seed=1, progress=True)
table = pred.to_pandas()  # one row per image
columns = ["confidence", "margin", "predictive_entropy", "expected_entropy", "mutual_information", "variation_ratio"]
print(f"\nThe prediction for {len(pred)} new images; entropies and information in nats:")
print(table[columns].describe().T[["min", "25%", "50%", "75%", "max", "mean"]].round(3).to_string())
print(pred)

wrong = table["predicted"].to_numpy() != data.y_test
most_uncertain = np.argsort(-table["predictive_entropy"].to_numpy(), kind="stable")[:100]  # 10 % of the images
print(f"\nTest accuracy: {1 - wrong.mean():.3f}")
share = wrong[most_uncertain].sum() / wrong.sum()
print(f"The 10 % it is most uncertain about hold {100 * share:.0f} % of its errors.")

# Aleatoric: uncertainty that comes with the image. Epistemic: uncertainty that more training images could take away.
print("\nIt is most uncertain about these images (counted from 0):")
twelve = most_uncertain[:12]
table["truth"] = data.y_test
columns = ["predicted", "second", "truth", "predictive_entropy", "expected_entropy", "mutual_information"]
names = {"predictive_entropy": "total", "expected_entropy": "aleatoric", "mutual_information": "epistemic"}
print(table.loc[twelve, columns].rename(columns=names).round(3).to_string())

Path("output").mkdir(exist_ok=True)
mcd.mc_plot_probabilities(pred, data.x_test, truth=data.y_test, path="output/quickstart_python.png")

# All digits: pandas writes as many as tell any two doubles apart.
numbers = pd.DataFrame(pred.mean, columns=list(data.labels))
for column in ("predictive_entropy", "expected_entropy", "mutual_information"):
    numbers[column] = table[column]
numbers.to_csv("output/quickstart_python.csv", index=False)
print("\nWritten: output/quickstart_python.png (those images) and output/quickstart_python.csv (all numbers)")

if Path("output/quickstart_r.csv").exists():
    from_r = np.loadtxt("output/quickstart_r.csv", delimiter=",", skiprows=1)  # reads every digit
    apart = np.abs(numbers.to_numpy() - from_r).max()
    within = 1e-5  # float32 rounding in the network; on one machine, with the same settings, nothing is left of it
    if apart == 0:
        print(f"\nR and Python agree to the bit, in all {numbers.size} numbers.")
    elif apart <= within:
        print(f"\nR and Python agree: the largest difference among {numbers.size} numbers is {apart:.1e}.")
    else:
        raise SystemExit(f"\nR and Python differ: by up to {apart:.1e}, where at most {within:.0e} was expected.")
