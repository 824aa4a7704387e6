"""What figures show equals the numbers of the scores and the data."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

import mcdropout as mcd


@pytest.fixture(scope="module")
def case(example_classes):
    return example_classes(500, labels=["Shirt", "Coat", "Bag", "Boot"])


@pytest.fixture(scope="module")
def scores(case):
    return mcd.mc_scores(*case, n_bins=8)


def axes_of(figure: Figure) -> list[Any]:
    """The axes of a figure. Their artists are of many classes, which the types of matplotlib do not distinguish."""
    return list(figure.axes)


def line(axes: Any, number: int) -> np.ndarray:
    return axes.lines[number].get_xydata()


def rows_with(table: pd.DataFrame, column: str, value: object) -> pd.DataFrame:
    return cast(pd.DataFrame, table[table[column] == value])


# Scores ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])
def test_reliability_shows_the_accuracy_of_each_bin(scores, binning):
    figure = mcd.mc_plot_reliability(scores, binning=binning)
    bins = scores.reliability[scores.reliability["binning"] == binning]
    above, below = axes_of(figure)
    np.testing.assert_array_equal(line(above, 0), [[0, 0], [1, 1]])
    np.testing.assert_array_equal(line(above, 1), bins[["confidence", "accuracy"]])
    (whiskers,) = above.collections
    ends = np.array(whiskers.get_segments())[:, :, 1]
    np.testing.assert_array_equal(ends, bins[["lower", "upper"]])
    assert [bar.get_height() for bar in below.patches] == bins["n"].tolist()
    assert below.get_xlabel() == "confidence (mean probability)"


def test_risk_coverage_shows_the_curves(scores):
    (axes,) = axes_of(mcd.mc_plot_risk_coverage(scores, measures=["std", "least_confidence"]))
    for number, name in enumerate(["std", "least_confidence"]):
        curve = rows_with(scores.risk_coverage, "measure", name)
        np.testing.assert_array_equal(line(axes, number), curve[["coverage", "risk"]])
    assert len({curve.get_linestyle() for curve in axes.lines}) == 2  # they differ without colour
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["std", "least confidence"]


def test_an_error_of_the_most_certain_input_does_not_flatten_the_curve(classes_of):
    confidence = np.linspace(0.99, 0.6, 400)
    prediction = classes_of(np.stack([np.stack([confidence, 1 - confidence], axis=1)] * 3), ["a", "b"])
    y = np.where(np.arange(400) % 10 == 0, "b", "a")  # the most certain input is wrong: the risk starts at 1
    (axes,) = mcd.mc_plot_risk_coverage(mcd.mc_scores(prediction, y)).axes
    assert axes.get_ylim()[1] < 0.2
    (flat,) = mcd.mc_plot_risk_coverage(mcd.mc_scores(prediction, ["a"] * 399 + ["a"])).axes
    assert flat.get_ylim() == (0, 1)


def test_risk_coverage_of_values(example_values):
    scores = mcd.mc_scores(*example_values(40))
    (axes,) = mcd.mc_plot_risk_coverage(scores).axes
    assert len(axes.lines) == 2
    assert "squared error" in axes.get_ylabel()


# Uncertainty ----------------------------------------------------------------------------------------------------


def test_uncertainty_table_counts_right_and_wrong(case):
    prediction, y = case
    table = mcd.mc_uncertainty_table(prediction, y, measure="mutual_information", n_bins=7)
    wrong = prediction.predicted != y
    for name, chosen in (("right", ~wrong), ("wrong", wrong)):
        bins = rows_with(table, "group", name)
        values = prediction.mutual_information[chosen]
        assert bins["n"].sum() == len(values)
        by_hand = [((values > a) & (values <= b)).sum() for a, b in zip(bins["from"], bins["to"], strict=True)]
        by_hand[0] += (values == bins["from"].iloc[0]).sum()
        assert bins["n"].tolist() == by_hand
        np.testing.assert_allclose(bins["share"].sum(), 1)


def test_uncertainty_table_of_in_and_out_has_the_same_bins(case):
    prediction = case[0]
    table = mcd.mc_uncertainty_table(prediction[:400], prediction_out=prediction[400:])
    assert table["group"].unique().tolist() == ["in", "out"]
    inside, outside = (rows_with(table, "group", name).reset_index(drop=True) for name in ("in", "out"))
    assert (inside["n"].sum(), outside["n"].sum()) == (400, 100)
    columns = ["from", "to"]
    pd.testing.assert_frame_equal(inside.loc[:, columns], outside.loc[:, columns])


def test_uncertainty_of_one_group_and_of_values(case, example_values):
    assert set(mcd.mc_uncertainty_table(case[0])["group"]) == {"all"}
    table = mcd.mc_uncertainty_table(example_values(30)[0])
    assert set(table["measure"]) == {"total_std"}
    assert table["n"].sum() == 30


def test_uncertainty_draws_the_shares(case):
    (axes,) = axes_of(mcd.mc_plot_uncertainty(*case))
    table = mcd.mc_uncertainty_table(*case)
    for patch, name in zip(axes.patches, ("right", "wrong"), strict=True):
        np.testing.assert_array_equal(patch.get_data().values, table.loc[table["group"] == name, "share"])
    assert axes.get_xlabel() == "predictive entropy (nats)"


def test_all_uncertainty_at_zero_still_has_bins(classes_of):
    certain = classes_of(np.tile(np.array([1.0, 0.0]), (3, 5, 1)))
    assert mcd.mc_uncertainty_table(certain)["n"].sum() == 5


# Posterior ------------------------------------------------------------------------------------------------


def test_draws_table_has_every_draw_of_the_chosen_inputs(example_classes):
    prediction, _ = example_classes(20, n_labels=5, n_draws=6, ids=np.arange(20) + 100)
    table = mcd.mc_draws_table(prediction, [7, 3])
    assert list(table.columns) == ["input", "id", "label", "draw", "value"]
    assert len(table) == 2 * 5 * 6
    for row in table.sample(15, random_state=1).itertuples():
        k = prediction.labels.index(row.label)
        assert row.value == prediction.samples[row.draw - 1, row.input, k]
        assert row.id == row.input + 100
    order = np.argsort(-prediction.predictive_entropy, kind="stable")[:12]
    assert mcd.mc_draws_table(prediction)["input"].unique().tolist() == order.tolist()


def test_skipped_draws_are_left_out(example_classes):
    prediction, _ = example_classes(4, n_labels=3, n_draws=6)
    prediction.samples[4:, 1] = np.nan
    table = mcd.mc_draws_table(prediction, [0, 1])
    assert table.groupby("input").size().tolist() == [3 * 6, 3 * 4]


def test_draws_of_classes_are_dots_beside_their_mean_and_interval(example_classes):
    prediction, _ = example_classes(20, n_labels=5, n_draws=6)
    figure = mcd.mc_plot_draws(prediction, inputs=[7, 3, 7])
    for axes, i in zip(axes_of(figure), [7, 3], strict=True):
        top = np.argsort(-prediction.mean[i], kind="stable")[:3]
        assert [text.get_text() for text in axes.get_yticklabels()] == [prediction.labels[k] for k in top]
        for row, k in enumerate(top):
            bar, dots, diamond = axes.lines[3 * row : 3 * row + 3]
            np.testing.assert_array_equal(bar.get_xdata(), [prediction.lower[i, k], prediction.upper[i, k]])
            np.testing.assert_array_equal(dots.get_xdata(), prediction.samples[:, i, k])
            assert (np.abs(dots.get_ydata() - row) <= 0.25).all()  # every dot is in its row
            assert diamond.get_xdata()[0] == prediction.mean[i, k]
        assert f"input {i}: entropy {prediction.predictive_entropy[i]:.2f} nats" in axes.get_title(loc="left")


def test_labels_and_ids_that_differ_in_the_middle_look_different_in_every_chart(example_classes, example_values):
    labels = [f"lesion of the {side} upper lobe of the lung" for side in ("left", "right", "middle", "other")]
    ids = np.array([f"a case of the hospital, number {i}, in the north" for i in range(9)])
    prediction, _ = example_classes(9, labels=labels, ids=ids)
    figure = mcd.mc_plot_draws(prediction, inputs=[4, 2])
    for axes in figure.axes:
        assert len({text.get_text() for text in axes.get_yticklabels()}) == 3
    assert [axes.get_title(loc="left").split(":")[0] for axes in figure.axes] == ["id …4,…", "id …2,…"]
    values, _ = example_values(9)
    drawn = mcd.mc_plot_draws(replace(values, ids=ids), inputs=[4, 0]).axes[0]
    assert [text.get_text() for text in drawn.get_yticklabels()] == ["id …4,…", "id …0,…"]
    (balance,) = mcd.mc_plot_balance(labels).axes
    assert len({text.get_text() for text in balance.get_yticklabels()}) == 4
    grid = mcd.mc_plot_images(np.zeros((4, 5, 5)), titles=labels).axes
    assert len({axes.get_title(loc="left").split(": ")[1] for axes in grid}) == 4


def test_draws_of_values_have_a_panel_per_output(example_values):
    prediction, _ = example_values(9)
    table = mcd.mc_draws_table(prediction, [4])
    np.testing.assert_array_equal(table.loc[table["output"] == 2, "value"], prediction.samples[:, 4, 1])
    first, second = mcd.mc_plot_draws(prediction, inputs=[4, 0]).axes
    np.testing.assert_array_equal(second.lines[1].get_xdata(), prediction.samples[:, 4, 1])
    assert first.get_xlabel() == "value of output 1 in each draw"
    assert [text.get_text() for text in first.get_yticklabels()] == ["input 4", "input 0"]


def test_posterior_shows_the_layers_and_the_weights_with_the_highest_signal():
    net = mcd.mc_bayes_mlp(4, ["a", "b"], hidden=3, prior=mcd.mc_prior_normal(0, 0.5))
    left, right = axes_of(mcd.mc_plot_posterior(net, n_weights=4))
    layers, weights = mcd.mc_posterior_table(net), mcd.mc_weights_table(net, n_weights=4)
    thin, thick = left.collections
    for lines, low, high in ((thin, "std_5", "std_95"), (thick, "std_25", "std_75")):
        np.testing.assert_allclose(np.array(lines.get_segments())[:, :, 0], layers[[low, high]])
    np.testing.assert_array_equal(left.lines[0].get_xdata(), layers["std_50"])
    np.testing.assert_array_equal(left.lines[1].get_xdata(), [0.5, 0.5])
    assert left.get_xscale() == "log"
    (lines,) = right.collections
    np.testing.assert_allclose(np.array(lines.get_segments())[:, :, 0], weights[["lower", "upper"]])
    np.testing.assert_array_equal(right.lines[1].get_xdata(), weights["mean"])
    assert len(right.get_yticks()) == 8


# Values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [True, False])
def test_band_follows_x(example_values, noise):
    prediction, y = example_values(20, noise=noise)
    x = np.random.default_rng(3).permutation(20) / 2
    table = mcd.mc_band_table(prediction, x, y)
    assert ("pred_lower" in table) == noise
    assert set(table["output"]) == {1, 2}
    for k in range(2):
        rows = rows_with(table, "output", k + 1)
        assert rows["x"].is_monotonic_increasing
        np.testing.assert_array_equal(rows["x"], x[rows["input"]])
        for name in ("mean", "lower", "upper"):
            np.testing.assert_array_equal(rows[name], getattr(prediction, name)[rows["input"], k])
        np.testing.assert_array_equal(rows["y"], y[rows["input"], k])
    figure = mcd.mc_plot_band(prediction, x, y, x_label="speed (km/h)", y_label="way (m)")
    assert len(figure.axes) == 2
    first = rows_with(table, "output", 1)
    np.testing.assert_array_equal(line(figure.axes[0], 0), first[["x", "mean"]])
    np.testing.assert_array_equal(line(figure.axes[0], 1), first[["x", "y"]])
    assert len(figure.axes[0].collections) == (2 if noise else 1)
    assert figure.axes[1].get_ylabel() == "way (m), output 2"


# Data and training ----------------------------------------------------------------------------------------


def test_balance_counts_every_label():
    table = mcd.mc_balance_table(["b", "a", "b", "b"], labels=["a", "b", "c"])
    assert table.values.tolist() == [["a", 1, 0.25], ["b", 3, 0.75], ["c", 0, 0.0]]
    (axes,) = axes_of(mcd.mc_plot_balance(["b", "a", "b", "b"], labels=["a", "b", "c"]))
    assert [bar.get_width() for bar in axes.patches] == [1, 3, 0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b", "c"]
    assert " 3 (75.0 %)" in [text.get_text() for text in axes.texts]


def test_balance_of_many_labels_draws_the_most_frequent():
    y = np.repeat(np.arange(70), np.arange(1, 71))
    (axes,) = axes_of(mcd.mc_plot_balance(y))
    assert len(axes.patches) == 60
    assert min(bar.get_width() for bar in axes.patches) == 11


def test_grid_shows_the_chosen_images():
    images = np.random.default_rng(4).uniform(size=(12, 5, 7))
    figure = mcd.mc_plot_images(images, titles=[f"t{i}" for i in range(12)], inputs=[11, 3])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["11: t11", "3: t3"]
    for axes, number in zip(axes_of(figure), (11, 3), strict=True):
        np.testing.assert_allclose(axes.images[0].get_array(), images[number], rtol=1e-6)  # float32
    assert len(mcd.mc_plot_images(np.zeros((50, 4, 4, 3))).axes) == 40


def test_history_shows_training_and_validation():
    history = pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0], "accuracy": [0.5, 0.7], "val_loss": [2.1, 1.5]})
    loss, accuracy = mcd.mc_plot_history(history).axes
    np.testing.assert_array_equal(line(loss, 0), [[1, 2.0], [2, 1.0]])
    np.testing.assert_array_equal(line(loss, 1), [[1, 2.1], [2, 1.5]])
    assert len(accuracy.lines) == 1
    assert accuracy.get_ylabel() == "accuracy (share right)"


# All of them ----------------------------------------------------------------------------------------------


def test_every_picture_is_written_and_pyplot_does_not_change(case, scores, example_values, tmp_path):
    prediction, y = case
    values, observed = example_values(20)
    before = dict(pyplot.rcParams)
    for number, draw in enumerate(
        [
            lambda path: mcd.mc_plot_reliability(scores, path=path),
            lambda path: mcd.mc_plot_risk_coverage(scores, path=path),
            lambda path: mcd.mc_plot_uncertainty(prediction, y, path=path),
            lambda path: mcd.mc_plot_draws(prediction, path=path),
            lambda path: mcd.mc_plot_posterior(mcd.mc_bayes_mlp(2, ["a", "b"], hidden=2), path=path),
            lambda path: mcd.mc_plot_band(values, np.arange(20), observed, path=path),
            lambda path: mcd.mc_plot_balance(y, path=path),
            lambda path: mcd.mc_plot_images(np.zeros((3, 4, 4)), path=path),
            lambda path: mcd.mc_plot_history(pd.DataFrame({"epoch": [1], "loss": [1.0]}), path=path),
        ]
    ):
        path = tmp_path / f"{number}.png"
        draw(path)
        assert path.read_bytes().startswith(b"\x89PNG")
        with pytest.raises(ValueError, match=re.escape("`path` must end in one of ")):
            draw(tmp_path / "picture.doc")
    assert pyplot.get_fignums() == []
    assert dict(pyplot.rcParams) == before


def test_wrong_arguments_of_pictures_are_refused_with_one_sentence(case, scores, example_values):
    prediction, y = case
    values, observed = example_values(20)
    number: Any = 3  # of no accepted type
    for error, message, draw in (
        (TypeError, '`scores` must be what `mc_scores()` returns; got "int".', lambda: mcd.mc_plot_reliability(number)),
        (ValueError, "`scores` must be of classes to have a reliability diagram; got those of values.",
         lambda: mcd.mc_plot_reliability(mcd.mc_scores(values, observed))),
        (ValueError, '`measures` must be one of "predictive_entropy"',
         lambda: mcd.mc_plot_risk_coverage(scores, measures="uncertainty")),
        (ValueError, "`measures` must name at least one measure; got none.",
         lambda: mcd.mc_plot_risk_coverage(scores, measures=[])),
        (ValueError, "`y` and `prediction_out` must not both be given",
         lambda: mcd.mc_uncertainty_table(prediction, y, prediction)),
        (ValueError, "`y` must not be given with values", lambda: mcd.mc_uncertainty_table(values, observed)),
        (ValueError, "`prediction` must be of values to be drawn as a band; got one of classes.",
         lambda: mcd.mc_band_table(case[0], np.arange(500))),
        (ValueError, "`x` must be as long as `prediction` (20); got length 3.",
         lambda: mcd.mc_band_table(values, [1, 2, 3])),
        (ValueError, "`x` must be one finite number per input; got NaN or infinity.",
         lambda: mcd.mc_band_table(values, [np.nan] * 20)),
        (ValueError, "`x` must be one number per input; got \"list\".", lambda: mcd.mc_band_table(values, ["a"] * 20)),
        (ValueError, "`titles` must be as long as `images` (3); got length 1.",
         lambda: mcd.mc_plot_images(np.zeros((3, 4, 4)), ["a"])),
        (ValueError, "`inputs` must be positions from 0 to 2; got 3.",
         lambda: mcd.mc_plot_images(np.zeros((3, 4, 4)), inputs=[3])),
        (ValueError, "`prediction` must hold its draws; predict with `keep_samples` set to true.",
         lambda: mcd.mc_plot_draws(replace(case[0], samples=None))),
        (ValueError, "`inputs` must be positions from 0 to 499; got 500.",
         lambda: mcd.mc_draws_table(case[0], [500])),
        (TypeError, "`model` must be a torch module; got \"int\".", lambda: mcd.mc_plot_posterior(3)),
        (ValueError, "`model` must have variational layers; it has none. See mc_to_bayesian().",
         lambda: mcd.mc_plot_posterior(mcd.mc_mlp(2, ["a", "b"]))),
        (ValueError, "`n_weights` must be a whole number of at least 1; got 0.",
         lambda: mcd.mc_plot_posterior(mcd.mc_bayes_mlp(2, ["a", "b"]), n_weights=0)),
        (ValueError, "`model` must be trained by `mc_fit()`; got \"int\" without a history.",
         lambda: mcd.mc_plot_history(3)),
    ):  # fmt: skip
        with pytest.raises(error, match=re.escape(message)):
            draw()
