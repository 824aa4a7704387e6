"""Predictions of three or many labels, and the parts of their pictures of class probabilities."""

from typing import Any

import numpy as np

from mcdropout.predictions.prediction import MCPrediction

LABELS = ("Shirt", "Coat", "Bag")
# Of three labels, (input, label). By predictive entropy the inputs are ordered 3, 1, 0, 2.
MEAN = np.array([[0.70, 0.30, 0.00], [0.10, 0.60, 0.30], [0.98, 0.02, 0.00], [0.33, 0.33, 0.34]])


def prediction_of(mean=MEAN, labels=LABELS, ids=None, level=0.9):
    """A prediction with these mean probabilities. Every label of every input has a different interval."""
    spread = np.linspace(0.01, 0.2, mean.size).reshape(mean.shape)
    order = np.argsort(-mean, axis=1, kind="stable")
    total = -np.sum(mean * np.log(np.where(mean > 0, mean, 1)), axis=1)
    return MCPrediction(
        task="classification",
        mean=mean,
        variance=spread**2,
        lower=np.clip(mean - spread, 0, 1),
        upper=np.clip(mean + 2 * spread, 0, 1),
        predicted=np.array(labels)[order[:, 0]],
        second=np.array(labels)[order[:, 1]],
        confidence=np.sort(mean, axis=1)[:, -1],
        margin=np.sort(mean, axis=1)[:, -1] - np.sort(mean, axis=1)[:, -2],
        variation_ratio=np.zeros(len(mean)),
        predictive_entropy=total,
        expected_entropy=0.75 * total,
        mutual_information=0.25 * total,
        labels=tuple(labels),
        ids=ids,
        n_samples=7,
        level=level,
        seed=1,
        masks="shared",
        engine="folded",
        engine_reason="",
        device="cpu",
        precision="float32",
        seconds=0.0,
    )


def many_labels(n_inputs=2, n_labels=25):
    weights = np.linspace(1, 3, n_inputs * n_labels).reshape(n_inputs, n_labels) ** 6
    mean = np.random.default_rng(3).permuted(weights / weights.sum(axis=1, keepdims=True), axis=1)
    return prediction_of(mean, [f"a label that differs only at its end, {number}" for number in range(n_labels)])


def bar_axes(figure) -> list[Any]:
    return [axes for axes in figure.axes if axes.patches]


def image_axes(figure) -> list[Any]:
    return [axes for axes in figure.axes if axes.images]


def words(figure):
    return [text.get_text() for text in figure.texts]
