"""Convergence, by predictions with fewer draws; dropout rates, by networks with these rates; warnings; pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.utils.data import DataLoader, TensorDataset

import mcdropout as mcd
from mcdropout import mc_compare_rates, mc_convergence, mc_monitor, mc_plot_convergence, mc_plot_drift, mc_predict

LABELS = ["a", "b", "c"]


@pytest.fixture(scope="module")
def world():
    """A function that fits a network with a rate, and inputs and labels that were not used in training."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(260, 4)).astype(np.float32)
    y = np.array(LABELS)[np.argmax(np.column_stack([x[:, 0], x[:, 1], 0 * x[:, 0]]) + rng.gumbel(size=(260, 3)) / 3, 1)]
    return (lambda rate: fitted(rate, x[:160], y[:160])), x[160:], y[160:]


def fitted(rate, x, y):
    net = mcd.mc_mlp(4, labels=LABELS, hidden=(20, 20), dropout=rate, seed=1)
    return mcd.mc_fit(net, x, y, epochs=15, batch_size=32, seed=1, progress=False)


@pytest.fixture(scope="module")
def net(world):
    return world[0](0.3)


def codes_of(labels: np.ndarray | None) -> np.ndarray:
    """The position of each label in `LABELS`."""
    assert labels is not None
    return np.array([LABELS.index(label) for label in labels])


def test_each_number_of_draws_gives_the_numbers_of_a_prediction(net, world):
    x = world[1]
    table = mc_convergence(net, x, [5, 12, 40], seed=3, progress=False).table.set_index(["measure", "n_samples"])
    last = mc_predict(net, x, 40, seed=3, progress=False)
    codes = codes_of(last.predicted)
    rows = np.arange(len(x))
    for count in (5, 12, 40):
        pred = mc_predict(net, x, count, seed=3, progress=False)
        measures = {"mean": (pred.mean[rows, codes], pred.mcse.max(axis=1), last.mean[rows, codes])}
        for name in ("predictive_entropy", "expected_entropy", "mutual_information"):
            measures[name] = (getattr(pred, name), getattr(pred, f"{name}_mcse"), getattr(last, name))
        for name, (value, error, last_value) in measures.items():
            row = table.loc[(name, count)]
            expected = [value.mean(), np.sqrt((error**2).mean()), np.sqrt(((value - last_value) ** 2).mean())]
            np.testing.assert_allclose(
                row[["value", "mcse", "difference"]].astype(float), expected, atol=1e-6
            )  # float32
            assert row["settled"] == (error <= 0.01).mean()
        assert table.loc[("std", count), "value"] == pytest.approx(pred.std[rows, codes].mean(), abs=1e-6)


def test_the_recommended_number_keeps_the_tolerance(net, world):
    x = world[1]
    convergence = mc_convergence(net, x, [20, 200], tolerance=0.02, seed=3, progress=False)
    enough = convergence.recommended
    assert enough is not None
    errors = mc_predict(net, x, enough, seed=4, progress=False).mcse.max(axis=1)
    # the errors are estimated from other draws, within some per cent
    assert (errors <= 0.02 * 1.15).mean() >= 0.95
    fewer = mc_predict(net, x, max(2, enough // 2), seed=4, progress=False).mcse.max(axis=1)
    assert (fewer <= 0.02).mean() < 0.95
    needed = convergence.needed.set_index("measure")
    assert (needed["n_samples"] <= needed["n_samples_for_all"]).all()
    assert f"{enough} draws for 95 % of the inputs" in repr(convergence)


def test_the_error_of_the_spread_is_that_of_repeated_draws(net, world):
    x = world[1][:10]
    n, repetitions = 60, 150
    errors = [
        mc_convergence(net, x, n, seed=seed, progress=False).table.set_index("measure").loc["std", "mcse"]
        for seed in range(repetitions)
    ]
    pred = mc_predict(net, x, n * repetitions, seed=99, progress=False)
    assert pred.samples is not None
    draws = pred.samples[:, np.arange(10), codes_of(pred.predicted)]
    spreads = draws.reshape(repetitions, n, 10).std(axis=1, ddof=1)
    # 150 repetitions determine a standard deviation to 6 %; the delta method is too low by a few per cent
    assert np.mean(errors) == pytest.approx(np.sqrt((spreads.std(axis=0, ddof=1) ** 2).mean()), rel=0.2)


def test_values_have_no_default_tolerance(world):
    x = world[1]
    net = mcd.mc_mlp(4, task="regression", n_outputs=2, dropout=0.2, seed=1)
    plain = mc_convergence(net, x, [10, 30], seed=1, progress=False)
    assert plain.recommended is None
    assert plain.table["settled"].isna().all()
    assert set(plain.table["measure"]) == {"mean", "std"}
    assert "`tolerance`" in repr(plain)
    with_tolerance = mc_convergence(net, x, [10, 30], tolerance=0.05, seed=1, progress=False)
    pred = mc_predict(net, x, 30, seed=1, progress=False)
    needed = np.maximum(2, np.ceil((pred.std.max(axis=1) / 0.05) ** 2))
    assert with_tolerance.needed.loc[0, "n_samples_for_all"] == needed.max()


@pytest.mark.parametrize("bad", [[10, 10], [20, 10], [], [1, 10], "ten"])
def test_numbers_of_draws_must_rise(net, world, bad):
    with pytest.raises(ValueError, match="`n_samples` must be"):
        mc_convergence(net, world[1], bad, progress=False)


# Rates ----------------------------------------------------------------------------------------------------


def test_the_loss_of_a_rate_is_that_of_a_prediction_with_this_rate(net, world):
    _, x, y = world
    table = mc_compare_rates(net, x, y, [0.1, 0.3, 0.6], seed=5, progress=False)
    losses = []
    for rate in (0.1, 0.3, 0.6):
        changed = mcd.mc_mlp(4, labels=LABELS, hidden=(20, 20), dropout=rate, seed=1)
        changed.load_state_dict(net.state_dict())
        pred = mc_predict(changed, x, seed=5, progress=False)
        assert pred.mutual_information is not None
        losses.append(-np.log(pred.mean[np.arange(len(y)), codes_of(y)]))
        row = table[table["rate"] == rate].iloc[0]
        assert row["loss"] == pytest.approx(losses[-1].mean(), rel=1e-5)  # draws in float32
        assert row["accuracy"] == (pred.predicted == y).mean()
        assert row["spread"] == pytest.approx(pred.mutual_information.mean(), rel=1e-4)
    best = int(np.argmin([loss.mean() for loss in losses]))
    assert table["best"].tolist() == [place == best for place in range(3)]
    differences = [loss - losses[best] for loss in losses]
    np.testing.assert_allclose(table["difference"], [d.mean() for d in differences], atol=1e-5)
    np.testing.assert_allclose(table["difference_se"], [d.std(ddof=1) / 10 for d in differences], atol=1e-5)
    assert all(module.p == 0.3 for module in net.modules() if isinstance(module, torch.nn.Dropout))


def test_a_function_fits_a_model_for_each_rate(world):
    make, x, y = world
    rates = []
    table = mc_compare_rates(lambda rate: rates.append(rate) or make(rate), x, y, [0.2, 0.5], seed=5, progress=False)
    assert rates == [0.2, 0.5]
    single = mc_compare_rates(make(0.5), x, y, 0.5, seed=5, progress=False)
    assert table["loss"][1] == pytest.approx(single["loss"][0], rel=1e-6)


def test_rates_for_values(world):
    x = world[1]
    y = 2 * x[:, 0]
    net = mcd.mc_mlp(4, task="regression", dropout=0.2, seed=1)
    mcd.mc_fit(net, x, y, epochs=5, seed=1, progress=False)
    table = mc_compare_rates(net, x, y, [0.2], seed=5, progress=False)
    pred = mc_predict(net, x, seed=5, progress=False)
    assert table["loss"][0] == pytest.approx(-pred.log_density(y).mean(), rel=1e-5)
    assert table["spread"][0] == pytest.approx(pred.std.mean(), rel=1e-5)


def test_bad_rates_are_refused(net, world):
    wrong_rates: list[Any] = [[0.0], [1.0], [], [0.2, 0.2], ["a"]]
    for bad in wrong_rates:
        with pytest.raises(ValueError, match="`rates` must be"):
            mc_compare_rates(net, world[1], world[2], bad, progress=False)
    with pytest.raises(ValueError, match="`y` must be as long as"):
        mc_compare_rates(net, world[1], world[2][:-1], [0.2], progress=False)


def test_rates_with_a_frozen_backbone_are_those_of_the_head_on_its_features(world):
    _, x, y = world
    backbone = torch.nn.Linear(4, 7)
    head = mcd.mc_mlp(7, labels=LABELS, hidden=(20,), dropout=0.3, seed=1)
    net = mcd.mc_frozen_backbone(backbone, head, input_shape=(4,))
    table = mc_compare_rates(net, x, y, [0.1, 0.6], 9, seed=5, progress=False)
    of_head = mc_compare_rates(head, net.features(x), y, [0.1, 0.6], 9, seed=5, progress=False)
    assert table.equals(of_head)
    again = mc_compare_rates(lambda rate: net, x, y, [0.1, 0.6], 9, seed=5, progress=False)
    assert again["loss"].tolist() == [again["loss"][0]] * 2
    loader = DataLoader(TensorDataset(torch.tensor(x, dtype=torch.float32)), batch_size=16)
    streamed = mc_compare_rates(net, loader, y, [0.1, 0.6], 9, seed=5, progress=False)
    np.testing.assert_allclose(streamed["loss"], table["loss"], rtol=1e-6)  # another order of the sums


class Drawing(torch.nn.Module):
    """A Bayesian layer, whose weights are drawn, and dropout with a rate that may be 0."""

    def __init__(self, rate):
        super().__init__()
        self.first, self.drop = mcd.BayesLinear(4, 6), torch.nn.Dropout(rate)
        self.last = torch.nn.Linear(6, len(LABELS))

    def forward(self, x):
        return self.last(self.drop(self.first(x)))


def test_sites_without_a_rate_are_sampled_unchanged(world):
    torch.manual_seed(0)
    options: dict[str, Any] = {"outputs": "logits", "labels": LABELS, "seed": 5, "progress": False}
    model, other = Drawing(0.5), Drawing(0.2)
    other.load_state_dict(model.state_dict())
    rated = mc_compare_rates(model, world[1], world[2], [0.2], 8, **options)
    pred = mc_predict(other, world[1], 8, **options)
    probabilities = pred.mean[np.arange(len(world[2])), codes_of(world[2])]
    assert rated["loss"][0] == pytest.approx(-np.log(probabilities).mean(), rel=1e-5)
    words = "`model` has no dropout whose rate could be another: what is sampled there is weight_draw."
    with pytest.raises(mcd.NoStochasticSites, match=words):
        mc_compare_rates(Drawing(0.0), world[1], world[2], [0.2, 0.3], 8, **options)


def test_a_stream_that_is_read_only_once_is_refused(net, world):
    stream = (world[1][start : start + 9] for start in range(0, len(world[1]), 9))
    with pytest.raises(ValueError, match="`x` must be inputs that can be read again for each rate; got a stream"):
        mc_compare_rates(net, stream, world[2], [0.2, 0.3], progress=False)


# Warnings -------------------------------------------------------------------------------------------------


def mlp(*rates):
    layers = [torch.nn.Linear(4, 8)]
    for rate in rates:
        layers += [torch.nn.ReLU(), torch.nn.Dropout(rate), torch.nn.Linear(8, 8)]
    return torch.nn.Sequential(*layers)


def test_a_warning_names_dropout_that_is_only_before_the_last_layer():
    x = np.zeros((3, 4), np.float32)
    with pytest.warns(UserWarning, match="before its last layer alone"):
        mcd.mc_sites(mlp(0, 0, 0.5), x)
    mcd.mc_sites(mlp(0.5, 0, 0.5), x)  # no warning
    mcd.mc_sites(mlp(0.5), x)  # the network has only one hidden layer
    mcd.mc_sites(mlp(0, 0.5, 0), x)


@pytest.mark.parametrize(("rate", "words"), [(0.05, "under 0.1"), (0.8, "over 0.7")])
def test_a_warning_names_rates_with_little_information(rate, words):
    x = np.zeros((3, 4), np.float32)
    with pytest.warns(UserWarning, match=rf"{words}.*\({rate}\); `mc_compare_rates\(\)`"):
        mcd.mc_sites(mcd.mc_mlp(4, labels=LABELS, dropout=rate), x)
    mcd.mc_sites(mcd.mc_mlp(4, task="regression", dropout=rate), x)  # values: no warning
    for accepted in (0.1, 0.7):
        mcd.mc_sites(mcd.mc_mlp(4, labels=LABELS, dropout=accepted), x)


# Pictures -------------------------------------------------------------------------------------------------


def test_the_picture_of_convergence_shows_the_numbers_of_the_table(net, world, tmp_path):
    convergence = mc_convergence(net, world[1], [10, 20, 50], seed=3, progress=False)
    figure = mc_plot_convergence(convergence, path=tmp_path / "convergence.png")
    assert isinstance(figure, Figure)
    assert (tmp_path / "convergence.png").stat().st_size > 10_000
    for place, measure in enumerate(dict.fromkeys(convergence.table["measure"])):
        table = convergence.table[convergence.table["measure"] == measure]
        for row, column in enumerate(["value", "mcse"]):
            line = figure.axes[row * 5 + place].lines[0]
            np.testing.assert_array_equal(line.get_xdata(), table["n_samples"])
            np.testing.assert_array_equal(line.get_ydata(), table[column])
    with pytest.raises(TypeError, match="`convergence` must be what"):
        mc_plot_convergence(convergence.table)  # pyright: ignore[reportArgumentType]


def test_the_picture_of_drift_shows_the_batches(net, world, tmp_path):
    x = world[1]
    rng = np.random.default_rng(1)
    reference = mc_predict(net, rng.normal(size=(200, 4)).astype(np.float32), seed=1, progress=False)
    monitor = mc_monitor(reference)
    with pytest.raises(ValueError, match="`monitor` must have seen at least one batch; got none"):
        mc_plot_drift(monitor)
    for scale in (1, 1, 1, 1, 0.1, 0.1, 0.1):
        part = (scale * rng.normal(size=(60, 4))).astype(np.float32)
        monitor.update(mc_predict(net, part, seed=1, progress=False))
    assert monitor.drift
    figure = mc_plot_drift(monitor, path=tmp_path / "drift.png")
    for axes, column in zip(figure.axes, ["log10_evidence", "mean", "psi"], strict=True):
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), monitor.batches[column])
        marks = [np.asarray(line.get_xdata())[0] for line in axes.lines[2:]]
        assert marks == [monitor.alarm_input, monitor.since_input]
    with pytest.raises(TypeError, match="`monitor` must be what"):
        mc_plot_drift(x)
    with pytest.raises(ValueError, match="`path` must end in"):
        mc_plot_drift(monitor, path=tmp_path / "drift.xyz")
