"""Draws that settle, by the predictions of as many draws; dropout rates, by networks that have them; advice."""

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
    """A fitted network of classes, and inputs that it was not fitted on."""
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


def test_each_number_of_draws_is_that_prediction(net, world):
    x = world[1]
    found = mc_convergence(net, x, [5, 12, 40], seed=3, progress=False)
    last = mc_predict(net, x, 40, seed=3, progress=False)
    codes = np.array([LABELS.index(one) for one in np.asarray(last.predicted)])
    rows = np.arange(len(x))
    for count in (5, 12, 40):
        one = mc_predict(net, x, count, seed=3, progress=False)
        by_hand = {
            "mean": (one.mean[rows, codes], one.mcse.max(axis=1), last.mean[rows, codes]),
            "predictive_entropy": (one.predictive_entropy, one.predictive_entropy_mcse, last.predictive_entropy),
            "expected_entropy": (one.expected_entropy, one.expected_entropy_mcse, last.expected_entropy),
            "mutual_information": (one.mutual_information, one.mutual_information_mcse, last.mutual_information),
        }
        for name, (value, error, at_last) in by_hand.items():
            table: Any = found.table[found.table["measure"] == name]
            row = table[table["n_samples"] == count].iloc[0]
            wanted = [value.mean(), np.sqrt((error**2).mean()), np.sqrt(((value - at_last) ** 2).mean())]
            np.testing.assert_allclose(row[["value", "mcse", "difference"]].astype(float), wanted, atol=1e-6)  # float32
            assert row["settled"] == (error <= 0.01).mean()
        std = found.table.query("n_samples == @count and measure == 'std'").iloc[0]
        assert std["value"] == pytest.approx(one.std[rows, codes].mean(), abs=1e-6)


def test_the_recommended_number_keeps_the_wished_error(net, world):
    x = world[1]
    found = mc_convergence(net, x, [20, 200], tolerance=0.02, seed=3, progress=False)
    enough = found.recommended
    assert enough is not None
    errors = mc_predict(net, x, enough, seed=4, progress=False).mcse.max(axis=1)
    # its own draws estimate the spread anew, each within some per cent
    assert (errors <= 0.02 * 1.15).mean() >= 0.95
    fewer = mc_predict(net, x, max(2, enough // 2), seed=4, progress=False).mcse.max(axis=1)
    assert (fewer <= 0.02).mean() < 0.95
    needed = found.needed.set_index("measure")
    assert (needed["n_samples"] <= needed["n_samples_for_all"]).all()
    assert f"{enough} draws for 95 % of the inputs" in repr(found)


def test_the_error_of_the_spread_is_that_of_repeated_draws(net, world):
    x = world[1][:10]
    n, repetitions = 60, 150
    found = [mc_convergence(net, x, [n], seed=seed, progress=False).table.set_index("measure").loc["std"]
             for seed in range(repetitions)]  # fmt: skip
    draws = mc_predict(net, x, n * repetitions, seed=99, progress=False)
    codes = [LABELS.index(one) for one in np.asarray(draws.predicted)]
    own = np.asarray(draws.samples)[:, np.arange(10), codes].reshape(repetitions, n, 10).std(axis=1, ddof=1)
    claimed = np.mean([row["mcse"] for row in found])
    # the standard deviation of 150 repetitions is known to 6 %, the delta method's claim leans low by a few
    assert claimed == pytest.approx(np.sqrt((own.std(axis=0, ddof=1) ** 2).mean()), rel=0.2)


def test_values_need_a_tolerance_of_their_own(world):
    x = world[1]
    net = mcd.mc_mlp(4, task="regression", n_outputs=2, dropout=0.2, seed=1)
    plain = mc_convergence(net, x, [10, 30], seed=1, progress=False)
    assert plain.recommended is None
    assert plain.table["settled"].isna().all()
    assert set(plain.table["measure"]) == {"mean", "std"}
    assert "`tolerance`" in repr(plain)
    wished = mc_convergence(net, x, [10, 30], tolerance=0.05, seed=1, progress=False)
    pred = mc_predict(net, x, 30, seed=1, progress=False)
    each = np.maximum(2, np.ceil((pred.std.max(axis=1) / 0.05) ** 2))
    assert wished.needed.loc[0, "n_samples_for_all"] == each.max()


@pytest.mark.parametrize("bad", [[10, 10], [20, 10], [], [1, 10], "ten"])
def test_numbers_of_draws_must_rise(net, world, bad):
    with pytest.raises(ValueError, match="`n_samples` must be"):
        mc_convergence(net, world[1], bad, progress=False)


# Rates ----------------------------------------------------------------------------------------------------


def test_sampling_again_is_predicting_with_that_rate(net, world):
    _, x, y = world
    found = mc_compare_rates(net, x, y, [0.1, 0.3, 0.6], seed=5, progress=False)
    losses = []
    for rate in (0.1, 0.3, 0.6):
        changed = mcd.mc_mlp(4, labels=LABELS, hidden=(20, 20), dropout=rate, seed=1)
        changed.load_state_dict(net.state_dict())
        pred = mc_predict(changed, x, seed=5, progress=False)
        codes = [LABELS.index(one) for one in y]
        losses.append(-np.log(pred.mean[np.arange(len(y)), codes]))
        row = found[found["rate"] == rate].iloc[0]
        assert row["loss"] == pytest.approx(losses[-1].mean(), rel=1e-5)  # draws in float32
        assert row["accuracy"] == (pred.predicted == y).mean()
        assert row["spread"] == pytest.approx(np.mean(np.asarray(pred.mutual_information)), rel=1e-4)
    best = int(np.argmin([loss.mean() for loss in losses]))
    assert found["best"].tolist() == [place == best for place in range(3)]
    apart = [loss - losses[best] for loss in losses]
    np.testing.assert_allclose(found["difference"], [one.mean() for one in apart], atol=1e-5)
    np.testing.assert_allclose(found["difference_se"], [one.std(ddof=1) / 10 for one in apart], atol=1e-5)
    assert all(module.p == 0.3 for module in net.modules() if isinstance(module, torch.nn.Dropout))


def test_fitting_again_is_by_the_function(world):
    make, x, y = world
    asked = []
    found = mc_compare_rates(lambda rate: asked.append(rate) or make(rate), x, y, [0.2, 0.5], seed=5, progress=False)
    assert asked == [0.2, 0.5]
    alone = mc_compare_rates(make(0.5), x, y, [0.5], seed=5, progress=False)
    assert found["loss"][1] == pytest.approx(alone["loss"][0], rel=1e-6)


def test_rates_for_values(world):
    x = world[1]
    y = 2 * x[:, 0]
    net = mcd.mc_mlp(4, task="regression", dropout=0.2, seed=1)
    mcd.mc_fit(net, x, y, epochs=5, seed=1, progress=False)
    found = mc_compare_rates(net, x, y, [0.2], seed=5, progress=False)
    pred = mc_predict(net, x, seed=5, progress=False)
    assert found["loss"][0] == pytest.approx(-pred.log_density(y).mean(), rel=1e-5)
    assert found["spread"][0] == pytest.approx(pred.std.mean(), rel=1e-5)


def test_bad_rates_are_refused(net, world):
    for bad in ([0.0], [1.0], [], [0.2, 0.2], ["a"]):
        with pytest.raises(ValueError, match="`rates` must be"):
            mc_compare_rates(net, world[1], world[2], bad, progress=False)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`y` must be as long as"):
        mc_compare_rates(net, world[1], world[2][:-1], [0.2], progress=False)


def test_rates_of_a_head_behind_a_frozen_backbone_are_those_of_the_head_on_its_features(world):
    _, x, y = world
    backbone = torch.nn.Linear(4, 7)
    head = mcd.mc_mlp(7, labels=LABELS, hidden=(20,), dropout=0.3, seed=1)
    net = mcd.mc_frozen_backbone(backbone, head, input_shape=(4,))
    found = mc_compare_rates(net, x, y, [0.1, 0.6], 9, seed=5, progress=False)
    alone = mc_compare_rates(head, net.features(x), y, [0.1, 0.6], 9, seed=5, progress=False)
    assert found.equals(alone)
    again = mc_compare_rates(lambda rate: net, x, y, [0.1, 0.6], 9, seed=5, progress=False)
    assert again["loss"].tolist() == [again["loss"][0]] * 2
    loader = DataLoader(TensorDataset(torch.tensor(x, dtype=torch.float32)), batch_size=16)
    streamed = mc_compare_rates(net, loader, y, [0.1, 0.6], 9, seed=5, progress=False)
    np.testing.assert_allclose(streamed["loss"], found["loss"], rtol=1e-6)  # sums in another order


class Drawing(torch.nn.Module):
    """Dropout at a rate, or none, beside weights that are drawn."""

    def __init__(self, rate):
        super().__init__()
        self.first, self.drop = mcd.BayesLinear(4, 6), torch.nn.Dropout(rate)
        self.last = torch.nn.Linear(6, len(LABELS))

    def forward(self, x):
        return self.last(self.drop(self.first(x)))


def test_what_has_no_rate_is_sampled_as_it_is(world):
    torch.manual_seed(0)
    given = {"outputs": "logits", "labels": LABELS, "seed": 5, "progress": False}
    model, other = Drawing(0.5), Drawing(0.2)
    other.load_state_dict(model.state_dict())
    rated = mc_compare_rates(model, world[1], world[2], [0.2], 8, **given)
    pred = mc_predict(other, world[1], 8, **given)
    codes = [LABELS.index(one) for one in world[2]]
    assert rated["loss"][0] == pytest.approx(-np.log(pred.mean[np.arange(len(codes)), codes]).mean(), rel=1e-5)
    words = "`model` has no dropout whose rate could be another: what is sampled there is weight_draw."
    with pytest.raises(mcd.NoStochasticSites, match=words):
        mc_compare_rates(Drawing(0.0), world[1], world[2], [0.2, 0.3], 8, **given)


def test_a_stream_that_is_read_but_once_is_refused(net, world):
    stream = (world[1][start : start + 9] for start in range(0, len(world[1]), 9))
    with pytest.raises(ValueError, match="`x` must be inputs that can be read anew for each rate; got a stream"):
        mc_compare_rates(net, stream, world[2], [0.2, 0.3], progress=False)


# Advice ---------------------------------------------------------------------------------------------------


def mlp(*rates):
    layers = [torch.nn.Linear(4, 8)]
    for rate in rates:
        layers += [torch.nn.ReLU(), torch.nn.Dropout(rate), torch.nn.Linear(8, 8)]
    return torch.nn.Sequential(*layers)


def test_dropout_before_the_last_layer_alone_is_warned_of():
    x = np.zeros((3, 4), np.float32)
    with pytest.warns(UserWarning, match="before its last layer alone"):
        mcd.mc_sites(mlp(0, 0, 0.5), x)
    mcd.mc_sites(mlp(0.5, 0, 0.5), x)  # no warning
    mcd.mc_sites(mlp(0.5), x)  # the only hidden layer there is
    mcd.mc_sites(mlp(0, 0.5, 0), x)


@pytest.mark.parametrize(("rate", "words"), [(0.05, "under 0.1"), (0.8, "over 0.7")])
def test_rates_that_say_nothing_are_warned_of(rate, words):
    x = np.zeros((3, 4), np.float32)
    with pytest.warns(UserWarning, match=rf"{words}.*\({rate}\); `mc_compare_rates\(\)`"):
        mcd.mc_sites(mcd.mc_mlp(4, labels=LABELS, dropout=rate), x)
    mcd.mc_sites(mcd.mc_mlp(4, task="regression", dropout=rate), x)  # values: no warning
    for kept in (0.1, 0.7):
        mcd.mc_sites(mcd.mc_mlp(4, labels=LABELS, dropout=kept), x)


# Pictures -------------------------------------------------------------------------------------------------


def test_the_picture_of_convergence_has_the_table_s_numbers(net, world, tmp_path):
    found = mc_convergence(net, world[1], [10, 20, 50], seed=3, progress=False)
    figure = mc_plot_convergence(found, path=tmp_path / "convergence.png")
    assert isinstance(figure, Figure)
    assert (tmp_path / "convergence.png").stat().st_size > 10_000
    for place, measure in enumerate(dict.fromkeys(found.table["measure"])):
        own = found.table[found.table["measure"] == measure]
        for row, column in enumerate(["value", "mcse"]):
            line = figure.axes[row * 5 + place].lines[0]
            np.testing.assert_array_equal(line.get_xdata(), own["n_samples"])
            np.testing.assert_array_equal(line.get_ydata(), own[column])
    with pytest.raises(TypeError, match="`convergence` must be what"):
        mc_plot_convergence(found.table)  # pyright: ignore[reportArgumentType]


def test_the_picture_of_drift_has_the_batches(net, world, tmp_path):
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
