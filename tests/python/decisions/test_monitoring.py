"""The drift monitor: ranks and bets by naive loops, false alarms and delay by simulation and on real images."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, ndimage, stats

import mcdropout as mcd
from mcdropout import UnreadableFile, mc_load, mc_monitor, mc_save
from mcdropout.decisions import bets, monitoring
from mcdropout.decisions.bets import HALF_STARTED, POWERS, cells_of, smoothed_ranks
from mcdropout.decisions.monitoring import stability_index
from mcdropout.predictions.uncertainty import CLASS_MEASURES, VALUE_MEASURES, measured


@pytest.fixture(scope="module")
def uncertainties(classes_of):
    """`uncertainties(values)`: a prediction with that predictive entropy."""
    template = classes_of(np.array([[[0.6, 0.4]], [[0.7, 0.3]]]), ["no", "yes"])
    return lambda values: replace(
        template[np.zeros(len(values), dtype=int)], predictive_entropy=np.asarray(values, dtype=float)
    )


def normal(rng, n, shift=0.0, scale=1.0):
    return 5 + shift + scale * rng.normal(size=n)


# Ranks and bets, by naive loops ---------------------------------------------------------------------------


def naive_ranks(reference, values, among_equals, ties, lots):
    """Each value by itself: an urn with a ball for every place, and one more wherever a value has come to lie."""
    known = sorted(zip(reference, among_equals, strict=True))
    balls = [1] * (len(known) + 1)
    p, q = [], []
    for value, tie, lot in zip(values, ties, lots, strict=True):
        cell = sum(one < (value, tie) for one in known)
        q.append((sum(balls[:cell]) + lot * balls[cell]) / sum(balls))
        p.append((sum(balls[cell + 1 :]) + (1 - lot) * balls[cell]) / sum(balls))
        balls[cell] += 1
    return p, q, [n - 1 for n in balls]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 4), max_size=8),
    st.lists(st.integers(-1, 5), min_size=1, max_size=12),
    st.integers(1, 5),
)
def test_ranks_are_those_of_a_loop(reference, values, at_once):
    rng = np.random.default_rng(len(values))
    ties, lots = rng.random(len(values)), rng.random(len(values))
    reference = np.sort(np.array(reference, float))
    among_equals = np.sort(rng.random(len(reference)))  # rising, so also among equals
    cells = cells_of(np.array(values, float), reference, among_equals, ties)
    before = bets.AT_ONCE
    try:
        bets.AT_ONCE = at_once
        p, q, counts = smoothed_ranks(cells, np.zeros(len(reference) + 1, dtype=int), lots)
    finally:
        bets.AT_ONCE = before
    wanted = naive_ranks(reference, values, among_equals, ties, lots)
    np.testing.assert_allclose(p, wanted[0], atol=1e-12)  # rounding
    np.testing.assert_allclose(q, wanted[1], atol=1e-12)
    assert counts.tolist() == wanted[2]


@pytest.mark.parametrize("digits", [6, 0])  # also with many ties
def test_ranks_are_uniform_and_independent_while_nothing_changes(uncertainties, digits):
    """Over many references: one alone would leave its own distribution in them."""
    n_reference, n_values, repetitions = 30, 6, 4000
    ranks = np.empty((repetitions, n_values))
    for seed in range(repetitions):
        rng = np.random.default_rng(seed)
        monitor: Any = mc_monitor(uncertainties(np.round(normal(rng, n_reference), digits)), seed=seed)
        ranks[seed] = monitor._ranks(np.round(normal(rng, n_values), digits))[0]
    for place in range(n_values):  # one in 10,000 of such p-values is smaller; there are 12
        assert stats.kstest(ranks[:, place], "uniform").pvalue > 1e-4
    correlations = np.corrcoef(ranks.T)[np.triu_indices(n_values, 1)]
    assert np.abs(correlations).max() < 4.5 / math.sqrt(repetitions)  # 15 standard normal numbers over that root
    sums = ranks.sum(axis=1)  # independent uniform numbers, so nearly normal
    assert stats.kstest(sums, stats.norm(n_values / 2, math.sqrt(n_values / 12)).cdf).pvalue > 1e-4


def naive_evidence(p):
    """Every start and every bet by itself, its stake multiplied input by input."""
    bets = []
    for which in range(4):
        for a in POWERS:
            u = [p, 1 - p, 2 * np.minimum(p, 1 - p), np.abs(1 - 2 * p)][which]
            bets.append(a * u ** (a - 1))
    total = []
    for n in range(1, len(p) + 1):
        capital = HALF_STARTED / (HALF_STARTED + n)  # not yet started
        for start in range(1, n + 1):
            weight = HALF_STARTED / ((HALF_STARTED + start - 1) * (HALF_STARTED + start))
            capital += sum(weight / len(bets) * np.prod(gain[start - 1 : n]) for gain in bets)
        total.append(capital)
    return np.log10(total)


def ranks_of(reference, values, seed):
    uniforms = np.random.Generator(np.random.PCG64(seed)).random((len(values), 2))
    among_equals = np.zeros(len(reference))  # no two are equal here
    return np.array(naive_ranks(np.sort(reference), values, among_equals, *uniforms.T)[0])


@pytest.mark.parametrize("cuts", [[60], [1, 59], [20, 20, 20], [1] * 60])
def test_the_evidence_is_that_of_every_start_and_bet_however_the_inputs_are_cut(uncertainties, cuts):
    rng = np.random.default_rng(1)
    reference, values = normal(rng, 50), np.round(normal(rng, 60, shift=0.5), 1)
    monitor: Any = mc_monitor(uncertainties(reference), seed=4)
    for part in np.split(values, np.cumsum(cuts)[:-1]):
        monitor.update(uncertainties(part))
    wanted = naive_evidence(ranks_of(reference, values, 4))
    np.testing.assert_allclose(monitor.batches["log10_evidence"], wanted[np.cumsum(cuts) - 1], atol=1e-9)  # rounding


def test_the_start_that_did_best_is_that_of_a_loop(uncertainties):
    rng = np.random.default_rng(2)
    reference = normal(rng, 300)
    values = np.concatenate([normal(rng, 80), normal(rng, 40, shift=1.5)])
    monitor: Any = mc_monitor(uncertainties(reference), seed=4, false_alarm_rate=0.001)
    for part in np.split(values, 6):
        monitor.update(uncertainties(part))
    p = ranks_of(reference, values, 4)
    assert monitor.alarm_input == np.flatnonzero(naive_evidence(p) >= 3)[0] + 1
    ends = [p, 1 - p, 2 * np.minimum(p, 1 - p), np.abs(1 - 2 * p)]
    scores = {
        start: max(
            np.sum(np.log(a) + (a - 1) * np.log(u[start - 1 : monitor.alarm_input])) for u in ends for a in POWERS
        )
        - np.log((HALF_STARTED + start - 1) * (HALF_STARTED + start))
        for start in range(1, monitor.alarm_input + 1)
    }
    assert monitor.since_input == max(scores, key=lambda start: scores[start])
    assert abs(monitor.since_input - 81) <= 10
    assert (monitor.since_batch, monitor.alarm_batch) == (
        (monitor.since_input - 1) // 20 + 1,
        (monitor.alarm_input - 1) // 20 + 1,
    )


@pytest.mark.parametrize("a", POWERS)
def test_a_bet_is_fair(a):
    assert integrate.quad(lambda u: a * u ** (a - 1), 0, 1)[0] == pytest.approx(1, abs=1e-6)  # quad's own error


# One batch by itself --------------------------------------------------------------------------------------


def test_a_batch_by_itself_is_compared_as_scipy_and_a_loop_do(uncertainties):
    rng = np.random.default_rng(3)
    reference, batch = np.round(normal(rng, 200), 1), np.round(normal(rng, 70, shift=0.3), 1)
    row = mc_monitor(uncertainties(reference), n_bins=5).update(uncertainties(batch)).batches.iloc[0]
    test = stats.ks_2samp(reference, batch, method="asymp")
    assert (row["ks"], row["ks_p_value"]) == tuple(test)
    edges = [-math.inf, *(np.sort(reference)[[39, 79, 119, 159]]), math.inf]
    index = 0.0
    for low, high in itertools.pairwise(edges):
        before = (((reference > low) & (reference <= high)).sum() + 0.5) / (200 + 2.5)
        now = (((batch > low) & (batch <= high)).sum() + 0.5) / (70 + 2.5)
        index += (now - before) * math.log(now / before)
    assert row["psi"] == pytest.approx(index, abs=1e-12)  # rounding
    assert row["psi_limit"] == pytest.approx(stats.chi2.ppf(0.95, 4) * (1 / 200 + 1 / 70), rel=1e-12)
    assert (row["n"], row["seen"], row["mean"]) == (70, 70, batch.mean())


def test_the_limit_of_the_stability_index_is_passed_once_in_twenty_times(uncertainties):
    rng = np.random.default_rng(4)
    monitor: Any = mc_monitor(uncertainties(normal(rng, 1000)))
    above, repetitions = 0, 1000
    limit = monitor.update(uncertainties(normal(rng, 500))).batches["psi_limit"][0]
    for _ in range(repetitions):
        reference = np.sort(normal(rng, 1000))
        edges = np.quantile(reference, np.arange(1, 10) / 10, method="inverted_cdf")
        above += stability_index(reference, normal(rng, 500), edges) > limit
    # 4 standard errors of 1,000 repetitions, and 0.01 that the first order leaves open
    assert abs(above / repetitions - 0.05) < 0.01 + 4 * math.sqrt(0.05 * 0.95 / repetitions)


def test_a_constant_measure_is_no_drift(uncertainties):
    monitor: Any = mc_monitor(uncertainties(np.ones(30)))
    for _ in range(5):
        monitor.update(uncertainties(np.ones(100)))
    assert not monitor.drift
    assert (monitor.batches["psi"] < monitor.batches["psi_limit"]).all()
    monitor.update(uncertainties(np.full(100, 1.5)))
    assert monitor.drift
    assert abs(monitor.since_input - 501) <= 10


# The promise, and the delay -------------------------------------------------------------------------------


def simulated(uncertainties, seed, n_reference, n_before, n_after, shift, rate, scale=1.0, digits=6):
    rng = np.random.default_rng(seed)
    monitor: Any = mc_monitor(
        uncertainties(np.round(normal(rng, n_reference), digits)), false_alarm_rate=rate, seed=seed
    )
    values = np.concatenate([normal(rng, n_before), normal(rng, n_after, shift, scale)])
    return monitor.update(uncertainties(np.round(values, digits)))


def allowed(repetitions, rate):
    """One in 1,000 simulations of a promise that is only just kept would have more."""
    return stats.binom.ppf(0.999, repetitions, rate)


@pytest.mark.parametrize(("n_reference", "digits"), [(30, 6), (300, 0)])  # also with ties: seven values in all
def test_false_alarms_over_a_whole_run_are_as_rare_as_promised(uncertainties, n_reference, digits):
    repetitions, rate = 400, 0.1
    alarms = sum(
        simulated(uncertainties, seed, n_reference, 1000, 0, 0, rate, digits=digits).drift for seed in range(400)
    )
    assert alarms <= allowed(repetitions, rate)
    assert alarms > 0  # it is no promise never to raise one


@pytest.mark.slow
def test_false_alarms_of_long_runs_are_as_rare_as_promised(uncertainties):
    repetitions, rate = 1000, 0.05
    alarms = sum(simulated(uncertainties, seed, 200, 10_000, 0, 0, rate).drift for seed in range(repetitions))
    print(f"{alarms} of {repetitions} runs of 10,000 inputs had a false alarm; promised: {rate:.0%}")
    assert alarms <= allowed(repetitions, rate)


# shift in standard deviations, scale; the longest median delay, in inputs, from what was measured, with room
DELAYS = [(0.5, 1.0, 150), (1.0, 1.0, 60), (2.0, 1.0, 20), (-1.0, 1.0, 60), (0.0, 2.0, 100), (0.0, 0.4, 100)]


@pytest.mark.parametrize(("shift", "scale", "longest"), DELAYS)
def test_a_change_is_found_soon_and_its_start_is_told(uncertainties, shift, scale, longest):
    runs = [simulated(uncertainties, seed, 500, 1000, 600, shift, 0.01, scale) for seed in range(20)]
    assert all(run.drift for run in runs)
    right = [run for run in runs if run.alarm_input > 1000]
    assert len(right) >= 19
    delay = np.median([run.alarm_input - 1000 for run in right])
    off = np.median([abs(run.since_input - 1001) for run in right])
    print(f"shift {shift}, scale {scale}: median delay {delay:.0f} inputs, start off by {off:.0f}")
    assert delay <= longest
    assert off <= max(20, delay / 2)


@pytest.fixture(scope="module")
def images():
    """A network of Fashion-MNIST's first five kinds, its reference, and images of today: as before, and changed."""
    data = mcd.mc_sample_data()
    known = list(data.labels)[:5]

    def of(x, y):
        return np.isin(np.asarray(y).astype(str), known), x, np.asarray(y).astype(str)

    inside, x_train, y_train = of(data.x_train, data.y_train)
    net = mcd.mc_mlp(784, labels=known, hidden=(64,), dropout=0.3, seed=1)
    flat = x_train.reshape(len(x_train), -1)
    mcd.mc_fit(net, flat[inside], y_train[inside], epochs=8, batch_size=64, seed=1, progress=False)
    inside, x_test, _ = of(data.x_test, data.y_test)
    x_in, x_out = x_test[inside].reshape(-1, 28, 28), x_test[~inside].reshape(-1, 28, 28)
    x_in = x_in[np.random.default_rng(0).permutation(len(x_in))]
    half = len(x_in) // 2
    today = x_in[half:]
    batches = {
        "as before": today,
        "rotated": ndimage.rotate(today, 40, axes=(1, 2), reshape=False, order=1),
        "blurred": ndimage.gaussian_filter(today, (0, 2.5, 2.5)),
        "other classes": x_out,
    }

    def predict(x):
        return mcd.mc_predict(net, x.reshape(len(x), -1), n_samples=30, seed=2, progress=False)

    return predict(x_in[:half]), {name: predict(x) for name, x in batches.items()}


SEEN = {  # strong blur hardly changes how this network's probabilities spread, but its draws disagree more
    "predictive_entropy": ["rotated", "other classes"],
    "mutual_information": ["rotated", "blurred", "other classes"],
}


@pytest.mark.parametrize("measure", SEEN)
def test_real_images_that_change_are_noticed(images, measure):
    reference, today = images
    half = len(today["as before"]) // 2
    same = mc_monitor(reference, measure=measure).update(today["as before"])
    assert not same.drift
    for name in SEEN[measure]:
        monitor: Any = mc_monitor(reference, measure=measure)
        monitor.update(today["as before"][:half], name="yesterday")
        monitor.update(today[name][half:], name=name)
        delay = None if monitor.alarm_input is None else monitor.alarm_input - half
        print(f"{measure}, {name}: {len(reference)} reference, alarm after {delay}, since {monitor.since_input}")
        assert delay is not None
        assert 0 < delay <= 100
        assert abs(monitor.since_input - half - 1) <= 50


# Any measure, files, words --------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", CLASS_MEASURES)
def test_any_measure_of_classes(example_classes, measure):
    prediction, _ = example_classes(200, n_labels=3)
    monitor: Any = mc_monitor(prediction[:80], measure=measure).update(prediction[80:])
    np.testing.assert_array_equal(monitor.reference, np.sort(measured(prediction[:80], measure)))
    assert monitor.batches["mean"][0] == pytest.approx(measured(prediction[80:], measure).mean(), rel=1e-12)


@pytest.mark.parametrize("measure", VALUE_MEASURES)
def test_any_measure_of_values(example_values, measure):
    prediction, _ = example_values(100)
    monitor: Any = mc_monitor(prediction[:60], measure=measure).update(prediction[60:])
    assert not monitor.drift
    assert monitor.labels is None


def test_a_monitor_goes_on_from_its_file_as_if_nothing_had_been(uncertainties, tmp_path):
    rng = np.random.default_rng(5)
    parts = [normal(rng, 40), normal(rng, 7), normal(rng, 50, shift=2), normal(rng, 30)]
    monitor: Any = mc_monitor(uncertainties(normal(rng, 100)))
    for day, part in enumerate(parts):
        mc_save(monitor, tmp_path / "monitor.json")
        again = mc_load(tmp_path / "monitor.json")
        assert isinstance(again, mcd.MCMonitor)
        assert again.to_state() == monitor.to_state()
        assert again.batches.dtypes.tolist() == monitor.batches.dtypes.tolist()
        monitor.update(uncertainties(part), name=f"day {day}")
        again.update(uncertainties(part), name=f"day {day}")
        assert again.to_state() == monitor.to_state()
    assert monitor.drift


def test_what_it_keeps_does_not_grow_with_the_stream(uncertainties, tmp_path, monkeypatch):
    monkeypatch.setattr(monitoring, "MOST_BATCHES", 20)
    rng = np.random.default_rng(9)
    monitor: Any = mc_monitor(uncertainties(normal(rng, 50)))
    sizes = []
    for day in range(60):
        monitor.update(uncertainties(normal(rng, 30)), name=f"day {day:02}")
        mc_save(monitor, tmp_path / "monitor.json")
        sizes.append((tmp_path / "monitor.json").stat().st_size)
    assert max(sizes[30:]) < 1.05 * max(sizes[20:25])  # digits of larger counts
    assert monitor.batches["batch"].tolist() == list(range(41, 61))
    assert (monitor.n_seen, monitor.n_batches, monitor.counts.sum()) == (1800, 60, 1800)
    assert monitor.batches["seen"].iloc[-1] == 1800
    assert not monitor.drift
    monitor.update(uncertainties(normal(rng, 60, shift=3)), name="changed")
    assert monitor.alarm_batch == monitor.since_batch == 61
    assert "in batch 61 (changed); since about" in repr(monitor)
    for _ in range(25):
        monitor.update(uncertainties(normal(rng, 30)))
    assert "in batch 61; since about" in repr(monitor)  # its row has gone, its number is known
    mc_save(monitor, tmp_path / "monitor.json")
    again = mc_load(tmp_path / "monitor.json")
    assert isinstance(again, mcd.MCMonitor)
    assert again.to_state() == monitor.to_state()


def test_it_says_what_it_saw(uncertainties):
    rng = np.random.default_rng(6)
    monitor: Any = mc_monitor(uncertainties(normal(rng, 100)), false_alarm_rate=0.05)
    assert repr(monitor).splitlines()[:2] == [
        "# A drift monitor of predictive_entropy, against 100 reference inputs",
        "Seen: 0 inputs in 0 batches.",
    ]
    monitor.update(uncertainties(normal(rng, 50)))
    assert "No drift" in repr(monitor)
    assert "at most 5 %" in repr(monitor)
    returned = monitor.update(uncertainties(normal(rng, 50, shift=3)), name="Tuesday")
    assert returned is monitor
    said = f"DRIFT: alarm at input {monitor.alarm_input}, in batch 2 (Tuesday); since about input {monitor.since_input}"
    assert said in repr(monitor)
    assert monitor.batches["drift"].tolist() == [False, True]


def test_a_damaged_file_is_refused(uncertainties, tmp_path):
    rng = np.random.default_rng(7)
    path = tmp_path / "monitor.json"
    mc_save(mc_monitor(uncertainties(normal(rng, 100))).update(uncertainties(normal(rng, 5))), path)
    state = json.loads(path.read_text())
    for name, value in {
        "counts": [1], "n_seen": 3, "n_batches": 0, "reference": [3.0, 2.0], "log_capital": [0.0], "best_start": "x",
    }.items():  # fmt: skip
        path.write_text(json.dumps({**state, name: value}))
        with pytest.raises(UnreadableFile, match="whose parts do not fit"):
            mc_load(path)


def test_bad_input_is_refused_and_loses_nothing(uncertainties, classes_of, example_values):
    rng = np.random.default_rng(8)
    good = uncertainties(normal(rng, 50))
    values, _ = example_values(50)
    for call, said in [
        (lambda: mc_monitor(good[:19]), r"`reference` must have at least 20 inputs; got 19\."),
        (
            lambda: mc_monitor(replace(good, predictive_entropy=np.where(np.arange(50) == 6, np.nan, 1.0))),
            r"`reference` must hold finite numbers only; got NaN or infinity in input number 7\.",
        ),
        (lambda: mc_monitor(good, n_bins=60), r"`reference` must have at least 60 inputs; got 50\."),
        (lambda: mc_monitor(good, n_bins=1), r"`n_bins` must be a whole number of at least 2; got 1\."),
        (lambda: mc_monitor(good, measure="entropy"), r'`measure` must be one of .*; got "entropy"\.'),
        (lambda: mc_monitor(good, false_alarm_rate=5), r"`false_alarm_rate` must be .*; got 5\."),
        (lambda: mc_monitor(values, measure="mutual_information"), r"`measure` must be one of \"std\""),
    ]:
        with pytest.raises(ValueError, match=said):
            call()
    with pytest.raises(TypeError, match=r"`reference` must be what `mc_predict\(\)` returns; got \"int\"\."):
        mc_monitor(5)  # pyright: ignore[reportArgumentType]
    monitor: Any = mc_monitor(good).update(good)
    before = monitor.to_state()
    bad = replace(good, predictive_entropy=np.where(np.arange(50) == 6, np.nan, 1.0))
    others = classes_of(np.full((2, 3, 2), 0.5), ["no", "maybe"])
    for given_, said in [
        (values, r"`prediction` must be of classes as the reference; got one of values\."),
        (others, r"`prediction` must have the labels of the reference"),
        (bad, r"`prediction` must hold finite numbers only; got NaN or infinity in input number 7\."),
        (good[:0], r"`prediction` must have at least one input; got none\."),
    ]:
        with pytest.raises(ValueError, match=said):
            monitor.update(given_)
    with pytest.raises(ValueError, match=r"`name` must be a string; got 3\."):
        monitor.update(good, name=3)  # pyright: ignore[reportArgumentType]
    assert monitor.to_state() == before
