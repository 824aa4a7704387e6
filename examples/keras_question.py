# "Is my model 99 % sure that it is an 8, or 51 %, and it might be a 6?" The layers are those of the network in the
# question. keras_question.R does the same. The digits are those of scikit-learn.
import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from sklearn.datasets import load_digits

import mcdropout as mcd

keras.utils.set_random_seed(1)

# 1797 handwritten digits of 8 x 8 pixels. The network expects 28 x 28: each pixel is repeated 3 x 3 times, and a border
# of 2 pixels is added.
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
# The learning rate is above the default: there are 40 times fewer digits than in MNIST, and only 3 epochs.
optimizer = keras.optimizers.SGD(0.02, momentum=0.9)
model.compile(loss="categorical_crossentropy", optimizer=optimizer, metrics=["accuracy"])
model.fit(x[train], keras.utils.to_categorical(digits.target[train]), batch_size=100, epochs=3, verbose=2)

# The prediction with dropout off, and the mean of 50 draws.
x_test = x[test][:150]
truth = digits.target[test][:150]
point = mcd.mc_predict_point(model, x_test)
pred = mcd.mc_predict(model, x_test, n_samples=50, seed=1)
print(f"\nTest accuracy: {(pred.mean.argmax(axis=1) == truth).mean():.3f}")

# The images predicted to be an 8: the confidence, and the second most probable digit.
eights = np.flatnonzero(pred.predicted == 8)
eights = eights[np.argsort(-pred.confidence[eights])]
print(f"\n{len(eights)} images are predicted to be an 8; from the most certain to the most uncertain:")
for image in [*eights[:2], *eights[-3:]]:
    low, high = pred.lower[image, 8], pred.upper[image, 8]
    print(
        f"image {image} (true label {truth[image]}): probability of an 8: {100 * pred.mean[image, 8]:.0f} %, "
        f"95 % of the draws between {100 * low:.0f} and {100 * high:.0f} %, "
        f"with dropout off {100 * point[image, 8]:.0f} %; second label: {pred.second[image]}"
    )

# "Flipping a coin": images whose two most probable labels differ by less than 20 percentage points.
ambiguous = np.flatnonzero(pred.margin < 0.2)
print(f"\nIn {len(ambiguous)} of {len(truth)} images the two most probable labels are close:")
for image in ambiguous[:5]:
    print(f"image {image} (true label {truth[image]}): {pred.predicted[image]} or {pred.second[image]}")
wrong = pred.predicted != truth
if wrong.any():
    print(f"\nMean confidence of the wrong predictions: {pred.confidence[wrong].mean():.2f}; ", end="")
    print(f"of the correct ones: {pred.confidence[~wrong].mean():.2f}.")
