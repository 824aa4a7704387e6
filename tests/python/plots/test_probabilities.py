"""What figures of class probabilities show equals the numbers of the prediction."""

import builtins
import subprocess
import sys
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot, style
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from probability_pictures import LABELS, MEAN, bar_axes, image_axes, many_labels, prediction_of, words

from mcdropout.plots.probabilities import mc_plot_probabilities, mc_probabilities_table
from mcdropout.plots.style import OTHER, PREDICTED
from mcdropout.predictions.prediction import MCPrediction

ENTROPY = -np.sum(MEAN * np.log(np.where(MEAN > 0, MEAN, 1)), axis=1)


def values_prediction():
    classes = prediction_of()
    fields = ("n_samples", "level", "seed", "masks", "engine", "engine_reason", "device", "precision", "seconds")
    settings: dict[str, Any] = {name: getattr(classes, name) for name in fields}
    ones = np.ones((4, 1))
    return MCPrediction(task="regression", mean=ones, variance=ones, lower=ones, upper=ones, **settings)


def widths(axes):
    return np.array([bar.get_width() for bar in axes.patches])


def whiskers(axes):
    """Ends of the whiskers (bar, 2), from the first bar to the last."""
    (lines,) = [artist for artist in axes.collections if isinstance(artist, LineCollection)]
    segments = np.array(lines.get_segments())  # (bar, end, x and y)
    np.testing.assert_array_equal(segments[:, :, 1], np.arange(len(segments))[:, None].repeat(2, axis=1))
    return segments[:, :, 0]


def headlines(figure):
    return [text.get_text() for text in figure.texts if text.get_weight() == "bold"]


# The table ------------------------------------------------------------------------------------------------


def test_table_has_a_row_per_input_and_label():
    prediction = prediction_of()
    table = mc_probabilities_table(prediction, [2, 0])
    assert list(table.columns) == ["input", "label", "mean", "lower", "upper"]
    assert table["input"].tolist() == [2, 2, 2, 0, 0, 0]
    assert table["label"].tolist() == [*LABELS, *LABELS]
    for name in ("mean", "lower", "upper"):
        np.testing.assert_array_equal(table[name], getattr(prediction, name)[[2, 0]].ravel())


def test_most_uncertain_inputs_come_first():
    assert mc_probabilities_table(prediction_of())["input"].tolist()[::3] == [3, 1, 0, 2]
    assert list(np.argsort(-ENTROPY)) == [3, 1, 0, 2]


def test_twelve_inputs_are_chosen_and_the_earlier_of_equals():
    table = mc_probabilities_table(prediction_of(np.repeat(MEAN, 5, axis=0)))
    assert table["input"].tolist()[::3] == [15, 16, 17, 18, 19, 5, 6, 7, 8, 9, 0, 1]


def test_ids_have_a_column_of_their_own():
    table = mc_probabilities_table(prediction_of(ids=np.array(["a", "b", "c", "d"])), [1])
    assert table[["input", "id"]].values.tolist() == [[1, "b"]] * 3


# The picture ----------------------------------------------------------------------------------------------


def test_the_caption_gives_the_least_and_greatest_number_of_draws():
    for counts, draws in ((np.array([10, 15, 33, 10]), "10 to 33 draws"), (np.array([15, 15, 15, 15]), "15 draws")):
        figure = mc_plot_probabilities(replace(prediction_of(), n_samples=counts))
        assert any(f"mean probability of each label over {draws}; whiskers" in text for text in words(figure))


def test_bars_are_the_means_and_whiskers_the_intervals():
    prediction = prediction_of()
    figure = mc_plot_probabilities(prediction, inputs=[2, 0, 1])
    panels = bar_axes(figure)
    assert len(panels) == 3
    for axes, number in zip(panels, [2, 0, 1], strict=True):
        np.testing.assert_array_equal(widths(axes), prediction.mean[number])
        np.testing.assert_array_equal(whiskers(axes)[:, 0], prediction.lower[number])
        np.testing.assert_array_equal(whiskers(axes)[:, 1], prediction.upper[number])
        assert [text.get_text() for text in axes.get_yticklabels()] == list(LABELS)


def test_first_label_is_on_top_and_all_probabilities_fit():
    (axes,) = bar_axes(mc_plot_probabilities(prediction_of(), inputs=[0]))
    bottom, top = axes.get_ylim()
    assert top < 0 < bottom  # bars stand at 0, 1, ... downwards
    left, right = axes.get_xlim()
    assert left == 0
    assert right > 1


def test_only_the_predicted_bar_is_dark():
    (axes,) = bar_axes(mc_plot_probabilities(prediction_of(), inputs=[1]))
    colors = [to_hex(bar.get_facecolor()) for bar in axes.patches]
    assert [color.upper() for color in colors] == [OTHER, PREDICTED, OTHER]


def test_predicted_and_other_bars_differ_in_grey():
    grey = [sum(weight * int(color[i : i + 2], 16) for i, weight in ((1, 0.299), (3, 0.587), (5, 0.114)))
            for color in (PREDICTED, OTHER)]  # fmt: skip
    assert grey[1] - grey[0] > 90  # of 255; ITU-R BT.601 luma, the usual conversion to grey


def test_interval_without_the_mean_is_drawn_unchanged():
    prediction = replace(prediction_of(), lower=MEAN * 0, upper=MEAN * 0 + 0.01)  # as with a single extreme draw
    (axes,) = bar_axes(mc_plot_probabilities(prediction, inputs=[0]))
    np.testing.assert_array_equal(whiskers(axes), [[0, 0.01]] * 3)


def test_words_name_the_labels_and_the_parts_of_the_entropy():
    # Input 1: -(.1 log .1 + .6 log .6 + .3 log .3) = .8979; three quarters are .6734, one quarter .2245.
    figure = mc_plot_probabilities(prediction_of(), inputs=[1], truth=["Coat", "Bag", "Shirt", "Bag"])
    assert headlines(figure) == ["Coat (0.60), second Bag"]
    assert "input 1, true label Bag" in words(figure)
    assert "entropy 0.90 nats: 0.67 aleatoric, 0.22 epistemic" in words(figure)
    caption = " ".join(words(figure)[:-3])
    assert "over 7 draws; whiskers: their 90 % interval" in caption
    assert "diamond: the true label" in caption


def test_second_label_is_named_only_if_it_is_probable_enough():
    assert headlines(mc_plot_probabilities(prediction_of(), inputs=[2])) == ["Shirt (0.98)"]


def test_true_label_has_the_diamond_and_bold_letters():
    truth = ["Coat", "Bag", "Shirt", "Bag"]
    (axes,) = bar_axes(mc_plot_probabilities(prediction_of(), inputs=[1], truth=truth))
    diamonds = [line for line in axes.lines if line.get_marker() == "D"]
    assert [list(line.get_ydata()) for line in diamonds] == [[2]]
    assert [text.get_weight() for text in axes.get_yticklabels()] == ["normal", "normal", "bold"]


def test_truth_is_matched_by_name_and_shown_for_the_chosen_inputs():
    prediction = prediction_of(labels=(7, 8, 9))
    figure = mc_plot_probabilities(prediction, inputs=[3, 1], truth=["7", "8", "9", "7"])  # R passes them as strings
    assert [text for text in words(figure) if "true label" in text][1:] == [
        "input 3, true label 7",
        "input 1, true label 8",
    ]


def test_no_truth_no_diamond():
    figure = mc_plot_probabilities(prediction_of(), inputs=[0])
    assert not any("truth" in text for text in words(figure))
    assert not any(line.get_marker() == "D" and len(line.get_ydata()) for line in bar_axes(figure)[0].lines)


def test_ids_are_shown_instead_of_positions():
    figure = mc_plot_probabilities(prediction_of(ids=np.array([40, 41, 42, 43])), inputs=[2])
    assert "id 42" in words(figure)


def test_same_input_twice_is_drawn_twice():
    assert len(bar_axes(mc_plot_probabilities(prediction_of(), inputs=[1, 1]))) == 2


def test_of_many_labels_the_ten_most_probable_are_drawn():
    prediction = many_labels()
    (axes,) = bar_axes(mc_plot_probabilities(prediction, inputs=[1]))
    top = np.argsort(-prediction.mean[1])[:10]
    np.testing.assert_array_equal(widths(axes), prediction.mean[1][top])
    np.testing.assert_array_equal(whiskers(axes)[:, 1], prediction.upper[1][top])
    shown = [text.get_text() for text in axes.get_yticklabels()]
    assert shown[10] == "15 others"
    assert [text.split()[-1] for text in shown[:10]] == [str(code) for code in top]  # shortened names keep their end
    left_out = 1 - prediction.mean[1][top].sum()
    assert [text.get_text() for text in axes.texts] == [f"{left_out:.2f} together"]


# Images ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 1)])
def test_grey_images_stand_beside_their_bars(shape):
    images = np.linspace(0, 1, 120).reshape(shape)
    figure = mc_plot_probabilities(prediction_of(), images, inputs=[2, 0])
    for axes, number in zip(image_axes(figure), [2, 0], strict=True):
        (image,) = axes.images
        np.testing.assert_allclose(image.get_array(), images[number].reshape(5, 6), atol=1e-7)  # float32
        assert image.get_clim() == (0, 1)
        assert image.get_cmap().name == "gray"  # 0 is black


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_are_kept(channels):
    images = np.linspace(0, 1, 4 * 5 * 6 * channels).reshape(4, 5, 6, channels)
    (axes,) = image_axes(mc_plot_probabilities(prediction_of(), images, inputs=[3]))
    np.testing.assert_allclose(axes.images[0].get_array(), images[3], atol=1e-7)


def test_pixels_of_another_range_are_scaled_over_what_is_shown():
    images = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)
    first, last = image_axes(mc_plot_probabilities(prediction_of(), images, inputs=[1, 2]))
    np.testing.assert_allclose(first.images[0].get_array(), (images[1] - 30.0) / 59, atol=1e-6)
    np.testing.assert_allclose(last.images[0].get_array(), (images[2] - 30.0) / 59, atol=1e-6)


def test_images_all_of_one_value_are_drawn():
    figure = mc_plot_probabilities(prediction_of(), np.full((4, 5, 6), 200), inputs=[0])
    assert (image_axes(figure)[0].images[0].get_array() == 0).all()


def test_image_files_are_read_only_where_they_are_drawn(tmp_path):
    from PIL import Image

    from mcdropout.data.images import ImageFiles

    paths = [tmp_path / f"{number}.png" for number in range(4)]
    Image.fromarray(np.full((5, 5), 51, np.uint8)).save(paths[1])  # the other files do not exist
    figure = mc_plot_probabilities(prediction_of(), ImageFiles(paths, size=5), inputs=[1])
    np.testing.assert_allclose(image_axes(figure)[0].images[0].get_array(), np.full((5, 5), 0.2), atol=1e-7)


# Files and global state -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "begins"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_picture_is_written_in_the_format_of_its_ending(tmp_path, ending, begins):
    path = tmp_path / f"picture.{ending}"
    mc_plot_probabilities(prediction_of(), np.zeros((4, 5, 5)), truth=["Bag"] * 4, path=path)
    assert path.read_bytes().startswith(begins)


def test_drawing_changes_no_setting_of_matplotlib(tmp_path):
    before = (matplotlib.get_backend(), dict(matplotlib.rcParams), pyplot.get_fignums())
    mc_plot_probabilities(prediction_of(), np.zeros((4, 5, 5)), path=tmp_path / "picture.png")
    assert (matplotlib.get_backend(), dict(matplotlib.rcParams), pyplot.get_fignums()) == before


def test_drawing_loads_neither_pyplot_nor_torch():
    code = (
        "import sys, numpy as np\n"
        "from mcdropout.plots.probabilities import mc_plot_probabilities as draw\n"
        "from mcdropout.predictions.prediction import MCPrediction\n"
        "one = np.array([0])\n"
        "two = np.array([[0.4, 0.6]])\n"
        "draw(MCPrediction('classification', two, two, two, two, 2, 0.9, 1, 'shared', '', '', '', '', 0.0,"
        " labels=(0, 1), predicted=one + 1, second=one,"
        " predictive_entropy=one, expected_entropy=one, mutual_information=one,"
        " confidence=one, margin=one, variation_ratio=one))\n"
        "print('matplotlib.pyplot' in sys.modules, 'torch' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout.strip(), process.stderr) == (0, "False False", "")


def test_user_styles_leave_the_picture_legible():
    with matplotlib.rc_context(), style.context("dark_background"):
        figure = mc_plot_probabilities(prediction_of(), inputs=[0])
    axes = bar_axes(figure)[0]
    assert to_hex(figure.get_facecolor()) == to_hex(axes.get_facecolor()) == "#ffffff"
    letters = [*figure.texts, *axes.get_yticklabels(), *axes.get_xticklabels(), axes.xaxis.label]
    assert {to_hex(text.get_color()) for text in letters} == {"#000000"}


# What cannot be drawn -------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [mc_plot_probabilities, mc_probabilities_table])
@pytest.mark.parametrize(
    ("prediction", "error", "sentence"),
    [
        ("a", TypeError, '`prediction` must be what `mc_predict()` returns; got "str".'),
        (
            values_prediction(),
            ValueError,
            "`prediction` must be of classes to have class probabilities; got one of values.",
        ),
        (prediction_of()[0:0], ValueError, "`prediction` must have at least one input; got none."),
    ],
)
def test_prediction_must_be_one_of_classes(draw, prediction, error, sentence):
    with pytest.raises(error) as caught:
        draw(prediction)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ([0, 4], "`inputs` must be positions from 0 to 3; got 4."),
        ([-1], "`inputs` must be positions from 0 to 3; got -1."),
        ([1.5], "`inputs` must be positions from 0 to 3; got 1.5."),
        ([True], "`inputs` must be positions from 0 to 3; got True."),
        ("a", '`inputs` must be positions from 0 to 3; got "a".'),
        ([], "`inputs` must name at least one input; got none."),
    ],
)
def test_inputs_must_be_positions(inputs, sentence):
    with pytest.raises(ValueError, match="`inputs` must") as caught:
        mc_plot_probabilities(prediction_of(), inputs=inputs)
    assert str(caught.value) == sentence


def test_inputs_may_be_one_number_or_an_array():
    assert mc_probabilities_table(prediction_of(), 2)["input"].unique().tolist() == [2]
    assert mc_probabilities_table(prediction_of(), np.array([2.0, 3.0]))["input"].unique().tolist() == [2, 3]


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (np.zeros((3, 5, 5)), "`images` must be as long as `prediction` (4); got length 3."),
        (
            np.zeros((4, 25)),
            "`images` must have shape (input, height, width) or (input, height, width, channel) with 1, 3 or 4 "
            "channels; got (4, 25).",
        ),
        (
            np.zeros((4, 1, 5, 5)),
            "`images` must have shape (input, height, width) or (input, height, width, channel) with 1, 3 or 4 "
            "channels; got (4, 1, 5, 5).",
        ),
    ],
)
def test_images_must_be_those_that_were_predicted(images, sentence):
    with pytest.raises(ValueError, match="`images` must") as caught:
        mc_plot_probabilities(prediction_of(), images, inputs=[0])
    assert str(caught.value) == sentence


def test_truth_must_have_a_known_label_for_every_input():
    with pytest.raises(ValueError, match=r"`truth` must be as long as `prediction` \(4\); got length 2\."):
        mc_plot_probabilities(prediction_of(), truth=["Bag", "Coat"])
    with pytest.raises(ValueError, match=r'`truth` must hold labels out of .*; got "Hat" at input number 3\.'):
        mc_plot_probabilities(prediction_of(), truth=["Bag", "Coat", "Hat", "Bag"])


def test_path_must_be_writable_as_a_picture(tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end in one of \..*\.png.*; got \".*picture\.txt\"\."):
        mc_plot_probabilities(prediction_of(), path=tmp_path / "picture.txt")
    with pytest.raises(ValueError, match=r"`path` must be in a folder that exists; got \".*picture\.png\"\."):
        mc_plot_probabilities(prediction_of(), path=tmp_path / "nowhere" / "picture.png")


def test_missing_matplotlib_is_named_with_the_command_to_install_it(monkeypatch):
    load = builtins.__import__

    def without_matplotlib(name, *args, **kwargs):
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    assert len(mc_probabilities_table(prediction_of())) == 12
    with pytest.raises(ImportError, match=r"^Pictures need matplotlib; run `pip install mcdropout\[plot\]`\.$"):
        mc_plot_probabilities(prediction_of())
