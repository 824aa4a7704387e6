"""Names in figures differ where their labels differ, and no text overlaps another."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from probability_pictures import LABELS, MEAN, bar_axes, image_axes, many_labels, prediction_of, words

from mcdropout.plots.names import LABEL_WIDTH, distinct_names, text_width
from mcdropout.plots.probabilities import mc_plot_probabilities

# Labels that differ at the start, in the middle, at the end, in two places, and in one letter in the middle.
LONG_ALIKE = {
    "start": [f"{where} lobe of the lung, squamous cell carcinoma" for where in ("left upper", "left lower", "right")],
    "middle": [f"lesion of the {side} upper lobe of the lung" for side in ("left", "right", "middle")],
    "end": [f"squamous cell carcinoma of the lung, stage {stage}" for stage in ("I", "II", "III")],
    "two places": [f"prefix that is long {a} and long between {b} and behind" for a, b in ("xy", "xz", "wy")],
    "a letter": [f"{'a' * 30}{letter}{'b' * 30}" for letter in "xyz"],
    "lengths": ["very " * repeats + "long" for repeats in (8, 9, 10)],
}


@pytest.mark.parametrize("labels", LONG_ALIKE.values(), ids=LONG_ALIKE)
def test_labels_that_differ_anywhere_look_different(labels):
    short = distinct_names(labels)
    assert len(set(short)) == 3
    assert max(map(text_width, short)) <= LABEL_WIDTH
    (axes,) = bar_axes(mc_plot_probabilities(prediction_of(labels=labels), inputs=[1]))
    assert [text.get_text() for text in axes.get_yticklabels()] == short
    figure = mc_plot_probabilities(prediction_of(ids=np.array([*labels, "a"])), inputs=[0, 1, 2])
    assert len({text for text in words(figure) if text.startswith("id ")}) == 3


def test_labels_that_fit_are_unchanged_and_different_words_are_shown_completely():
    assert distinct_names(["cat", "dog", "cat"]) == ["cat", "dog", "cat"]
    assert distinct_names(LONG_ALIKE["middle"]) == ["…left…", "…right…", "…middle…"]


@pytest.mark.parametrize("labels", [LABELS, ["W" * 40, r"$\nope$ costs", "a\nlabel   in lines"]])
@pytest.mark.parametrize("with_images", [True, False])
def test_no_text_overlaps_another_or_leaves_the_page(labels, with_images):
    prediction = prediction_of(
        np.repeat(MEAN, 2, axis=0), labels, ids=np.array([f"number {i} of a long row" for i in range(8)])
    )
    check_texts(mc_plot_probabilities(prediction, np.zeros((8, 3, 9)) if with_images else None, truth=[labels[0]] * 8))


@pytest.mark.parametrize("n_inputs", [1, 2, 5])
def test_no_text_overlaps_another_for_many_labels(n_inputs):
    prediction = many_labels(n_inputs)
    assert prediction.labels is not None
    check_texts(mc_plot_probabilities(prediction, np.zeros((n_inputs, 9, 3)), truth=[prediction.labels[0]] * n_inputs))


def check_texts(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = list(figure.texts)
    for axes in bar_axes(figure):
        texts += [*axes.get_xticklabels(), *axes.get_yticklabels(), *axes.texts, axes.xaxis.label]
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    assert len(boxes) > 10
    page = figure.bbox
    for box in boxes:
        assert page.x0 <= box.x0 <= box.x1 <= page.x1
        assert page.y0 <= box.y0 <= box.y1 <= page.y1
    pictures = [axes.get_window_extent() for axes in image_axes(figure)]
    for first, second in itertools.combinations((*boxes, *pictures), 2):
        width = min(first.x1, second.x1) - max(first.x0, second.x0)
        height = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert width <= 1 or height <= 1  # of their common part, in pixels
