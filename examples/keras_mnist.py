# A Keras model, trained in mini-batches, and the uncertainty of its predictions. keras_mnist.R does the same.
# Keras runs on torch, which mcdropout needs anyway. For another backend set KERAS_BACKEND to "tensorflow" or "jax".
import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np

import mcdropout as mcd

keras.utils.set_random_seed(1)

# Fashion-MNIST: images of clothes in the format of MNIST, 28 x 28 grey pixels in [0, 1].
data = mcd.mc_sample_data()
labels = list(data.labels)
y_train = np.array([labels.index(label) for label in data.y_train])
y_test = np.array([labels.index(label) for label in data.y_test])

# Build and compile. The dropout layers are plain Keras layers: no layer is called with `training=True`.
model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.Dropout(0.25),
        keras.layers.MaxPooling2D(2),
        keras.layers.Conv2D(64, 3, activation="relu"),
        keras.layers.Dropout(0.25),
        keras.layers.MaxPooling2D(2),
        keras.layers.Flatten(),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="sparse_categorical_crossentropy", metrics=["accuracy"])

# Train in mini-batches, first with `fit()`.
batch_size = 128
model.fit(data.x_train, y_train, batch_size=batch_size, epochs=2, validation_split=0.1, verbose=2)

# Then train with your own loop: `train_on_batch()` turns the dropout on.
order = np.random.default_rng(1).permutation(len(y_train))
losses = []
for start in range(0, len(order), batch_size):
    batch = order[start : start + batch_size]
    loss, *_ = model.train_on_batch(data.x_train[batch], y_train[batch])
    losses.append(float(loss))
print(f"Mean loss of the epoch of train_on_batch: {losses[-1]:.3f}")

# 30 draws of the network. The softmax at its end says that it returns probabilities.
pred = mcd.mc_predict(model, data.x_test, n_samples=30, batch_size=batch_size, labels=labels, seed=1)
print(pred)
print("Shapes of the mean and the variance (input, label) and of the draws (draw, input, label):")
print(pred.mean.shape, pred.variance.shape, pred.samples.shape)

first = int(pred.mean[0].argmax())
print(
    f"The first image: {labels[first]}, probability {pred.mean[0, first]:.2f}, variance {pred.variance[0, first]:.4f}"
)
wrong = pred.mean.argmax(axis=1) != y_test
most_uncertain = np.argsort(-pred.predictive_entropy, kind="stable")[:100]  # 10 % of the images
print(f"Test accuracy: {1 - wrong.mean():.3f}")
print(
    f"The most uncertain 10 % of the images hold {100 * wrong[most_uncertain].sum() / wrong.sum():.0f} % of the errors."
)
