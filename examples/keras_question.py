# "Is my model 99 % sure that it is an 8, or 51 %, and it might be a 6?" The network is that of the question, its
# training and its layers as they were; keras_question.R does the same. The digits are those of scikit-learn.
import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from sklearn.datasets import load_digits

import mcdropout as mcd

keras.utils.set_random_seed(1)

# 1797 real handwritten digits of 8 x 8 pixels, made 28 x 28 as the network expects: each pixel 3 x 3, and an edge.
digits = load_digits()
x = np.pad(np.kron(digits.images / 16, np.ones((1, 3, 3))), ((0, 0), (2, 2), (2, 2)))[..., None]
train, test = slice(0, 1500), slice(1500, None)

model = keras.Sequential()
model.add(keras.Input((28, 28, 1)))
model.add(keras.layers.Conv2D(128, kernel_size=(7, 7), activation="relu"))
model.add(keras.layers.Dropout(0.20))
model.add(keras.layers.Conv2D(64, (3, 3), activation="relu"))
model.add(keras.layers.Dropout(0.20))
model.add(keras.layers.Flatten())
model.add(keras.layers.Dense(units=64, activation="relu"))
model.add(keras.layers.Dropout(0.25))
model.add(keras.layers.Dense(units=10, activation="softmax"))
# A larger step than the default, as there are 40 times fewer digits than in MNIST, and few epochs.
optimizer = keras.optimizers.SGD(0.02, momentum=0.9)
model.compile(loss="categorical_crossentropy", optimizer=optimizer, metrics=["accuracy"])
model.fit(x[train], keras.utils.to_categorical(digits.target[train]), batch_size=100, epochs=3, verbose=2)

# What the network says with its dropout off, and what 50 draws of it say.
seen = x[test][:150]
truth = digits.target[test][:150]
point = mcd.mc_predict_point(model, seen)
pred = mcd.mc_predict(model, seen, n_samples=50, seed=1)
print(f"\nTest accuracy: {(pred.mean.argmax(axis=1) == truth).mean():.3f}")

# Of the images that it calls an 8: how sure is it, and of what else does it think?
eights = np.flatnonzero(pred.predicted == 8)
eights = eights[np.argsort(-pred.confidence[eights])]
print(f"\n{len(eights)} images are called an 8; from the most certain to the most uncertain:")
for one in [*eights[:2], *eights[-3:]]:
    low, high = pred.lower[one, 8], pred.upper[one, 8]
    print(
        f"image {one} (truly {truth[one]}): {100 * pred.mean[one, 8]:.0f} % an 8, "
        f"95 % of the draws between {100 * low:.0f} and {100 * high:.0f} %; "
        f"with dropout off {100 * point[one, 8]:.0f} %; next comes {pred.second[one]}"
    )

# "Flipping a coin": images whose first label leads by less than 20 points.
coins = np.flatnonzero(pred.margin < 0.2)
print(f"\n{len(coins)} of {len(truth)} images are close to flipping a coin:")
for one in coins[:5]:
    print(f"image {one} (truly {truth[one]}): {pred.predicted[one]} or {pred.second[one]}")
wrong = pred.predicted != truth
if wrong.any():
    print(f"\nIts errors have a mean confidence of {pred.confidence[wrong].mean():.2f}, the rest of ", end="")
    print(f"{pred.confidence[~wrong].mean():.2f}.")
