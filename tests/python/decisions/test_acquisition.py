"""Which inputs to label next: by hand, by the sum over all outcomes, and against random choice on real images."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.special import entr

import mcdropout as mcd
from mcdropout import mc_acquire
from mcdropout.decisions import acquisition
from mcdropout.predictions.uncertainty import CLASS_MEASURES, measured


@pytest.mark.parametrize("by", CLASS_MEASURES)
def test_the_most_uncertain_come_first(example_classes, by):
    prediction, _ = example_classes(80, ids=np.arange(80) + 1000)
    table = mc_acquire(prediction, 7, by=by)
    uncertainty = measured(prediction, by)
    assert table["input"].tolist() == np.lexsort((np.arange(80), -uncertainty))[:7].tolist()
    np.testing.assert_array_equal(table["score"], uncertainty[table["input"]])
    assert table["id"].tolist() == (table["input"] + 1000).tolist()


def information(draws, batch):
    """Mutual information between the network and the labels of a batch, by the sum over all outcomes."""
    total = 0.0
    for outcome in itertools.product(range(draws.shape[2]), repeat=len(batch)):
        given = np.prod([draws[:, i, label] for i, label in zip(batch, outcome, strict=True)], axis=0)
        total += entr(given.mean())
    return total - entr(draws[:, batch]).sum(axis=(1, 2)).mean()


def test_a_batch_is_the_greedy_one_of_the_sum_over_all_outcomes(example_classes):
    prediction, _ = example_classes(12, n_labels=3, n_draws=5, sharpness=1)
    draws = prediction.samples.astype(float)
    table = mc_acquire(prediction, 4, by="batchbald")
    batch: list[int] = []
    for _ in range(4):
        others = [i for i in range(12) if i not in batch]
        batch.append(max(others, key=lambda i: information(draws, [*batch, i])))
    assert table["input"].tolist() == batch
    wanted = [information(draws, batch[: k + 1]) for k in range(4)]
    np.testing.assert_allclose(table["score"], wanted, atol=1e-6)  # draws in float32


def test_drawn_outcomes_estimate_the_same(example_classes, monkeypatch):
    prediction, _ = example_classes(12, n_labels=3, n_draws=5, sharpness=1)
    draws = prediction.samples.astype(float)
    batch = [3, 7, 1, 9]
    rng = np.random.default_rng(1)
    outcomes = acquisition._Outcomes.drawn(draws[:, batch[:3]], rng)
    found = outcomes.entropy_of(draws[:, batch[3:]])[0] - entr(draws[:, batch[3]]).sum(axis=-1).mean()
    wanted = information(draws, batch) - information(draws, batch[:3])
    # entropies of three labels lie within log 3, so their mean over 2,000 outcomes has an error of at most this
    assert abs(found - wanted) < 4 * np.log(3) / 2 / np.sqrt(2000)
    monkeypatch.setattr(acquisition, "N_OUTCOMES", 20)
    table = mc_acquire(prediction, 6, by="batchbald", seed=1)
    assert table["input"].is_unique
    assert table["score"].is_monotonic_increasing
    assert table.equals(mc_acquire(prediction, 6, by="batchbald", seed=1))


def test_pruning_leaves_nothing_out(example_classes, monkeypatch):
    prediction, _ = example_classes(60, n_labels=3, n_draws=5, sharpness=1)
    whole = mc_acquire(prediction, 5, by="batchbald")
    monkeypatch.setattr(acquisition, "N_AT_ONCE", 4)
    assert mc_acquire(prediction, 5, by="batchbald")["input"].tolist() == whole["input"].tolist()


def test_a_faint_hint_of_something_new_comes_before_a_copy(classes_of, monkeypatch):
    """Three inputs tell the first bit of the network for sure, a fourth its second bit vaguely: by hand."""
    first, second = np.repeat([0.0, 1.0], 4), np.tile([0.25, 0.75], 4)
    yes = np.stack([first, first, first, second], axis=1)
    prediction = classes_of(np.stack([1 - yes, yes], axis=2).astype(np.float32))
    alone = np.log(2) - entr([0.25, 0.75]).sum()
    for size in (1, 256):
        monkeypatch.setattr(acquisition, "N_AT_ONCE", size)
        table = mc_acquire(prediction, 2, by="batchbald")
        assert table["input"].tolist() == [0, 3]
        np.testing.assert_allclose(table["score"], [np.log(2), np.log(2) + alone], rtol=1e-6)  # float32


def test_a_batch_is_not_many_times_the_same(example_classes, classes_of):
    prediction, _ = example_classes(30, sharpness=1)
    sharp = prediction.samples.astype(float) ** 20  # nearly sure each: a second look at the same tells nothing new
    sharp /= sharp.sum(axis=-1, keepdims=True)
    prediction = classes_of(sharp.astype(np.float32))
    copies = prediction[np.repeat(np.arange(30), 10)]  # every input ten times
    alone = mc_acquire(copies, 3)["input"] // 10
    together = mc_acquire(copies, 3, by="batchbald")["input"] // 10
    assert alone.nunique() == 1
    assert together.nunique() == 3


def test_it_says_where_the_draws_are_told_apart(classes_of):
    """Three draws that are sure of different labels: the first input or two say which of them it is."""
    labels = np.random.default_rng(1).integers(0, 3, (3, 40))
    prediction = classes_of(np.eye(3)[labels].astype(np.float32))
    with pytest.warns(UserWarning, match=r"Of the 6 inputs the first [12] already tell the 3 draws apart") as said:
        table = mc_acquire(prediction, 6, by="batchbald")
    assert said[0].filename == __file__
    assert table["score"].iloc[-1] == pytest.approx(np.log(3))  # which of three it is, and no more
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mc_acquire(prediction, 1, by="batchbald")
        mc_acquire(prediction, 6)


def test_bad_input_is_named_in_one_sentence(example_classes, example_values):
    prediction, _ = example_classes(6)
    ragged = prediction.samples.copy()
    ragged[-1, 2] = np.nan
    measures = ", ".join(f'"{name}"' for name in (*CLASS_MEASURES, "batchbald"))
    shared = (
        '`prediction` must have draws that are shared by all inputs for "batchbald"; predict with `masks` "shared" and '
        "without `tolerance`"
    )
    for sentence, call in {
        "`n` must be at most the number of inputs, 6; got 7": lambda: mc_acquire(prediction, 7),
        "`n` must be a whole number of at least 1; got 0": lambda: mc_acquire(prediction, 0),
        f'`by` must be one of {measures}; got "bald"': lambda: mc_acquire(prediction, 2, by="bald"),
        '`prediction` must hold its draws for "batchbald"; predict with `keep_samples` set to true': (
            lambda: mc_acquire(replace(prediction, samples=None), 2, by="batchbald")
        ),
        shared: lambda: mc_acquire(replace(prediction, masks="per_input"), 2, by="batchbald"),
        f"{shared} ": lambda: mc_acquire(replace(prediction, samples=ragged), 2, by="batchbald"),
        "`prediction` must be of classes; got one of values": lambda: mc_acquire(example_values(4)[0], 2),
    }.items():
        with pytest.raises(ValueError, match=r".") as error:
            call()
        assert str(error.value) == f"{sentence.strip()}."


BENCH = Path(__file__).resolve().parents[2] / "benchmarks" / "bench_acquisition.py"


@pytest.fixture(scope="module")
def experiment():
    """`experiment(pool, by)`: accuracy on bundled images after four rounds of labelling, for each of four seeds."""
    if not BENCH.exists():
        pytest.skip("the benchmarks are not in the source distribution")
    spec = util.spec_from_file_location("bench_acquisition", BENCH)
    assert spec is not None
    assert spec.loader is not None
    bench = util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    data = mcd.mc_sample_data()
    return lambda pool, by: np.array([bench.final_accuracy(by, pool, seed, data) for seed in range(4)])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Of the 15 inputs")  # more draws would take longer, and the test passes with these
@pytest.mark.parametrize("by", ["mutual_information", "batchbald"])
def test_inputs_chosen_by_uncertainty_teach_more_than_random_ones(experiment, by):
    """On images as they come unsorted, two labels making up most of them: accuracy on all labels alike, paired."""
    found = {name: experiment("unbalanced", name) for name in ("random", by)}
    print({name: values.round(3).tolist() for name, values in found.items()})
    test: Any = stats.ttest_1samp(found[by] - found["random"], 0, alternative="greater")
    assert test.pvalue < 0.05


@pytest.mark.slow
def test_where_images_come_again_and_again_a_joint_choice_teaches_more_than_single_ones(experiment):
    found = {name: experiment("copies", name) for name in ("predictive_entropy", "batchbald")}
    print({name: values.round(3).tolist() for name, values in found.items()})
    apart = found["batchbald"] - found["predictive_entropy"]
    test: Any = stats.ttest_1samp(apart, 0, alternative="greater")
    assert test.pvalue < 0.05
