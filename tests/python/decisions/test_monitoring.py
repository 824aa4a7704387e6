"""The drift monitor: single batches by SciPy, false alarms and delays by simulation and on real images, files."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage, stats

import mcdropout as mcd
from mcdropout import UnreadableFile, containers, mc_load, mc_monitor, mc_save
from mcdropout.decisions import monitoring
from mcdropout.decisions.monitoring import MCMonitor, stability_index
from mcdropout.predictions.uncertainty import CLASS_MEASURES, VALUE_MEASURES, measured


def normal(rng, n, shift=0.0, scale=1.0):
    return 5 + shift + scale * rng.normal(size=n)


# A single batch -------------------------------------------------------------------------------------------


def test_the_numbers_of_a_batch_are_those_of_scipy_and_a_loop(uncertainties):
    rng = np.random.default_rng(3)
    reference, batch = np.round(normal(rng, 200), 1), np.round(normal(rng, 70, shift=0.3), 1)
    row = mc_monitor(uncertainties(reference), n_bins=5).update(uncertainties(batch)).batches.iloc[0]
    test: Any = stats.ks_2samp(reference, batch, method="asymp")
    assert (row["ks"], row["ks_p_value"]) == (test.statistic, test.pvalue)
    edges = [-math.inf, *(np.sort(reference)[[39, 79, 119, 159]]), math.inf]
    index = 0.0
    for low, high in itertools.pairwise(edges):
        before = (((reference > low) & (reference <= high)).sum() + 0.5) / (200 + 2.5)
        now = (((batch > low) & (batch <= high)).sum() + 0.5) / (70 + 2.5)
        index += (now - before) * math.log(now / before)
    assert row["psi"] == pytest.approx(index, abs=1e-12)  # rounding
    assert row["psi_limit"] == pytest.approx(stats.chi2.ppf(0.95, 4) * (1 / 200 + 1 / 70), rel=1e-12)
    assert (row["n"], row["seen"], row["mean"]) == (70, 70, batch.mean())


def test_the_limit_of_the_stability_index_is_exceeded_once_in_twenty_times(uncertainties):
    rng = np.random.default_rng(4)
    monitor = mc_monitor(uncertainties(normal(rng, 1000)))
    above, repetitions = 0, 1000
    limit = monitor.update(uncertainties(normal(rng, 500))).batches["psi_limit"][0]
    for _ in range(repetitions):
        reference = np.sort(normal(rng, 1000))
        edges = np.quantile(reference, np.arange(1, 10) / 10, method="inverted_cdf")
        above += stability_index(reference, normal(rng, 500), edges) > limit
    # 4 standard errors of 1,000 repetitions, and 0.01 because the limit holds to first order
    assert abs(above / repetitions - 0.05) < 0.01 + 4 * math.sqrt(0.05 * 0.95 / repetitions)


def test_a_constant_measure_is_no_drift(uncertainties):
    monitor = mc_monitor(uncertainties(np.ones(30)))
    for _ in range(5):
        monitor.update(uncertainties(np.ones(100)))
    assert not monitor.drift
    assert (monitor.batches["psi"] < monitor.batches["psi_limit"]).all()
    monitor.update(uncertainties(np.full(100, 1.5)))
    assert monitor.drift
    assert monitor.since_input is not None
    assert abs(monitor.since_input - 501) <= 10


# False alarms and delays ----------------------------------------------------------------------------------


def simulated(uncertainties, seed, n_reference, n_before, n_after, shift, rate, scale=1.0, digits=6):
    rng = np.random.default_rng(seed)
    monitor = mc_monitor(uncertainties(np.round(normal(rng, n_reference), digits)), false_alarm_rate=rate, seed=seed)
    values = np.concatenate([normal(rng, n_before), normal(rng, n_after, shift, scale)])
    return monitor.update(uncertainties(np.round(values, digits)))


def allowed(repetitions, rate):
    """The number that one in 1,000 simulations would exceed if the promise holds with equality."""
    return stats.binom.ppf(0.999, repetitions, rate)


@pytest.mark.parametrize(("n_reference", "digits"), [(30, 6), (300, 0)])  # also with ties: about seven different values
def test_false_alarms_over_a_run_are_as_rare_as_promised(uncertainties, n_reference, digits):
    repetitions, rate = 400, 0.1
    alarms = sum(
        simulated(uncertainties, seed, n_reference, 1000, 0, 0, rate, digits=digits).drift
        for seed in range(repetitions)
    )
    assert alarms <= allowed(repetitions, rate)
    assert alarms > 0  # a monitor that never raises an alarm would be trivial


@pytest.mark.slow
def test_false_alarms_of_long_runs_are_as_rare_as_promised(uncertainties):
    repetitions, rate = 1000, 0.05
    alarms = sum(simulated(uncertainties, seed, 200, 10_000, 0, 0, rate).drift for seed in range(repetitions))
    print(f"{alarms} of {repetitions} runs of 10,000 inputs had a false alarm; promised: {rate:.0%}")
    assert alarms <= allowed(repetitions, rate)


# shift in standard deviations, scale, and the longest accepted median delay in inputs (above the measured one)
DELAYS = [(0.5, 1.0, 150), (1.0, 1.0, 60), (2.0, 1.0, 20), (-1.0, 1.0, 60), (0.0, 2.0, 100), (0.0, 0.4, 100)]


@pytest.mark.parametrize(("shift", "scale", "longest"), DELAYS)
def test_a_change_is_detected_soon_with_its_start(uncertainties, shift, scale, longest):
    runs = [simulated(uncertainties, seed, 500, 1000, 600, shift, 0.01, scale) for seed in range(20)]
    delays, start_errors = [], []
    for run in runs:
        assert run.alarm_input is not None
        assert run.since_input is not None
        if run.alarm_input > 1000:
            delays.append(run.alarm_input - 1000)
            start_errors.append(abs(run.since_input - 1001))
    assert len(delays) >= 19
    delay, start_error = np.median(delays), np.median(start_errors)
    print(f"shift {shift}, scale {scale}: median delay {delay:.0f} inputs, median error of the start {start_error:.0f}")
    assert delay <= longest
    assert start_error <= max(20, delay / 2)


@pytest.fixture(scope="module")
def images():
    """A reference of Fashion-MNIST's first five labels, and predictions of new images, unchanged and changed."""
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
    new = x_in[half:]
    batches = {
        "unchanged": new,
        "rotated": ndimage.rotate(new, 40, axes=(1, 2), reshape=False, order=1),
        "blurred": ndimage.gaussian_filter(new, (0, 2.5, 2.5)),
        "other classes": x_out,
    }

    def predict(x):
        return mcd.mc_predict(net, x.reshape(len(x), -1), n_samples=30, seed=2, progress=False)

    return predict(x_in[:half]), {name: predict(x) for name, x in batches.items()}


DETECTED = {  # strong blur hardly changes the entropy of this network's probabilities, but its draws disagree more
    "predictive_entropy": ["rotated", "other classes"],
    "mutual_information": ["rotated", "blurred", "other classes"],
}


@pytest.mark.parametrize("measure", DETECTED)
def test_changed_real_images_are_detected(images, measure):
    reference, new = images
    half = len(new["unchanged"]) // 2
    unchanged = mc_monitor(reference, measure=measure).update(new["unchanged"])
    assert not unchanged.drift
    for name in DETECTED[measure]:
        monitor = mc_monitor(reference, measure=measure)
        monitor.update(new["unchanged"][:half], name="yesterday")
        monitor.update(new[name][half:], name=name)
        delay = None if monitor.alarm_input is None else monitor.alarm_input - half
        print(f"{measure}, {name}: {len(reference)} reference, alarm after {delay}, since {monitor.since_input}")
        assert delay is not None
        assert monitor.since_input is not None
        assert 0 < delay <= 100
        assert abs(monitor.since_input - half - 1) <= 50


# Any measure, files, words --------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", CLASS_MEASURES)
def test_any_measure_of_classes(example_classes, measure):
    prediction, _ = example_classes(200, n_labels=3)
    monitor = mc_monitor(prediction[:80], measure=measure).update(prediction[80:])
    np.testing.assert_array_equal(monitor.reference, np.sort(measured(prediction[:80], measure)))
    assert monitor.batches["mean"][0] == pytest.approx(measured(prediction[80:], measure).mean(), rel=1e-12)


@pytest.mark.parametrize("measure", VALUE_MEASURES)
def test_any_measure_of_values(example_values, measure):
    prediction, _ = example_values(100)
    monitor = mc_monitor(prediction[:60], measure=measure).update(prediction[60:])
    assert not monitor.drift
    assert monitor.labels is None


def test_a_monitor_continues_from_its_file_without_a_difference(uncertainties, tmp_path):
    rng = np.random.default_rng(5)
    parts = [normal(rng, 40), normal(rng, 7), normal(rng, 50, shift=2), normal(rng, 30)]
    monitor = mc_monitor(uncertainties(normal(rng, 100)))
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


def test_the_size_of_the_file_does_not_grow_with_the_stream(uncertainties, tmp_path, monkeypatch):
    monkeypatch.setattr(monitoring, "MOST_BATCHES", 20)
    rng = np.random.default_rng(9)
    monitor = mc_monitor(uncertainties(normal(rng, 50)))
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
    assert "in batch 61; since about" in repr(monitor)  # the table no longer has its row
    mc_save(monitor, tmp_path / "monitor.json")
    again = mc_load(tmp_path / "monitor.json")
    assert isinstance(again, mcd.MCMonitor)
    assert again.to_state() == monitor.to_state()


def test_the_text_says_what_the_monitor_saw(uncertainties):
    rng = np.random.default_rng(6)
    monitor = mc_monitor(uncertainties(normal(rng, 100)), false_alarm_rate=0.05)
    assert repr(monitor).splitlines()[:2] == [
        "# A drift monitor of predictive_entropy, against 100 reference inputs",
        "Seen: 0 inputs in 0 batches.",
    ]
    monitor.update(uncertainties(normal(rng, 50)))
    assert "No drift" in repr(monitor)
    assert "at most 5 %" in repr(monitor)
    returned = monitor.update(uncertainties(normal(rng, 50, shift=3)), name="Tuesday")
    assert returned is monitor
    line = f"DRIFT: alarm at input {monitor.alarm_input}, in batch 2 (Tuesday); since about input {monitor.since_input}"
    assert line in repr(monitor)
    assert monitor.batches["drift"].tolist() == [False, True]


def test_a_damaged_file_is_refused(uncertainties, tmp_path):
    rng = np.random.default_rng(7)
    path = tmp_path / "monitor.json"
    mc_save(mc_monitor(uncertainties(normal(rng, 100))).update(uncertainties(normal(rng, 5))), path)
    _, _, state = containers.read(path, ("monitor",))
    for name, value in {
        "counts": [1], "n_seen": 3, "n_batches": 0, "reference": [3.0, 2.0], "log_capital": [0.0], "best_start": "x",
    }.items():  # fmt: skip
        containers.write_text(path, containers.to_text("monitor", {**state, name: value}))
        with pytest.raises(UnreadableFile, match="whose parts do not fit"):
            mc_load(path)


def test_bad_input_is_refused_and_changes_nothing(uncertainties, classes_of, example_values):
    rng = np.random.default_rng(8)
    good = uncertainties(normal(rng, 50))
    values, _ = example_values(50)
    for call, words in [
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
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(TypeError, match=r"`reference` must be what `mc_predict\(\)` returns; got \"int\"\."):
        mc_monitor(5)  # pyright: ignore[reportArgumentType]
    monitor = mc_monitor(good).update(good)
    before = monitor.to_state()
    bad = replace(good, predictive_entropy=np.where(np.arange(50) == 6, np.nan, 1.0))
    others = classes_of(np.full((2, 3, 2), 0.5), ["no", "maybe"])
    for prediction, words in [
        (values, r"`prediction` must be of classes, like the reference; got one of values\."),
        (others, r"`prediction` must have the labels of the reference"),
        (bad, r"`prediction` must hold finite numbers only; got NaN or infinity in input number 7\."),
        (good[:0], r"`prediction` must have at least one input; got none\."),
    ]:
        with pytest.raises(ValueError, match=words):
            monitor.update(prediction)
    with pytest.raises(ValueError, match=r"`name` must be a string; got 3\."):
        monitor.update(good, name=3)  # pyright: ignore[reportArgumentType]
    assert monitor.to_state() == before


# Threads --------------------------------------------------------------------------------------------------


def test_an_update_during_an_update_is_not_lost_and_a_file_of_meanwhile_is_whole(uncertainties, monkeypatch, tmp_path):
    rng = np.random.default_rng(31)
    reference, batches = uncertainties(normal(rng, 50)), [uncertainties(normal(rng, n, shift=2)) for n in (11, 13, 17)]
    after_one, after_three = mc_monitor(reference).update(batches[0]), mc_monitor(reference)
    for batch in batches:
        after_three.update(batch)
    monitor, threads, row = mc_monitor(reference).update(batches[0]), [], MCMonitor._row

    def row_while_others_update_and_save(self, values, seen):
        if not threads:
            threads.append(threading.Thread(target=lambda: monitor.update(batches[2])))
            threads[0].start()
            threads[0].join(0.1)  # it ends here only if updates do not wait for each other
            mc_save(monitor, tmp_path / "monitor.mcd")
        return row(self, values, seen)

    monkeypatch.setattr(MCMonitor, "_row", row_while_others_update_and_save)
    monitor.update(batches[1])
    threads[0].join()
    assert monitor.to_state() == after_three.to_state()
    assert mc_load(tmp_path / "monitor.mcd").to_state() == after_one.to_state()


def test_a_copy_of_a_monitor_goes_on_by_itself(uncertainties):
    rng = np.random.default_rng(32)
    monitor, batch = mc_monitor(uncertainties(normal(rng, 30))), uncertainties(normal(rng, 7))
    for copied in (pickle.loads(pickle.dumps(monitor)), copy.deepcopy(monitor), copy.copy(monitor)):
        copied.update(batch)
        assert (copied.n_seen, monitor.n_seen) == (7, 0)
        assert copied.to_state() == mc_monitor(uncertainties(monitor.reference)).update(batch).to_state()
