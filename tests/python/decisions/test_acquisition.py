"""Inputs to label next: by hand, by the sum over all outcomes, and compared with random choice on real images."""

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
        probability = np.prod([draws[:, i, label] for i, label in zip(batch, outcome, strict=True)], axis=0)
        total += entr(probability.mean())
    return total - entr(draws[:, batch]).sum(axis=(1, 2)).mean()


def test_a_batch_is_the_greedy_choice_by_the_sum_over_all_outcomes(example_classes):
    prediction, _ = example_classes(12, n_labels=3, n_draws=5, sharpness=1)
    draws = prediction.samples.astype(float)
    table = mc_acquire(prediction, 4, by="batchbald")
    batch: list[int] = []
    for _ in range(4):
        others = [i for i in range(12) if i not in batch]
        batch.append(max(others, key=lambda i: information(draws, [*batch, i])))
    assert table["input"].tolist() == batch
    expected = [information(draws, batch[: k + 1]) for k in range(4)]
    np.testing.assert_allclose(table["score"], expected, atol=1e-6)  # draws in float32


def test_random_outcomes_estimate_the_information(example_classes, monkeypatch):
    prediction, _ = example_classes(12, n_labels=3, n_draws=5, sharpness=1)
    draws = prediction.samples.astype(float)
    batch = [3, 7, 1, 9]
    rng = np.random.default_rng(1)
    outcomes = acquisition._Outcomes.drawn(draws[:, batch[:3]], rng)
    estimate = outcomes.entropy_of(draws[:, batch[3:]])[0] - entr(draws[:, batch[3]]).sum(axis=-1).mean()
    exact = information(draws, batch) - information(draws, batch[:3])
    # entropies of three labels lie between 0 and log 3: four standard errors of their mean over 2,000 outcomes
    assert abs(estimate - exact) < 4 * np.log(3) / 2 / np.sqrt(2000)
    monkeypatch.setattr(acquisition, "N_OUTCOMES", 20)
    table = mc_acquire(prediction, 6, by="batchbald", seed=1)
    assert table["input"].is_unique
    assert table["score"].is_monotonic_increasing
    assert table.equals(mc_acquire(prediction, 6, by="batchbald", seed=1))


def test_small_pieces_give_the_same_batch(example_classes, monkeypatch):
    prediction, _ = example_classes(60, n_labels=3, n_draws=5, sharpness=1)
    one_piece = mc_acquire(prediction, 5, by="batchbald")
    monkeypatch.setattr(acquisition, "N_AT_ONCE", 4)
    assert mc_acquire(prediction, 5, by="batchbald")["input"].tolist() == one_piece["input"].tolist()


def test_a_little_new_information_is_preferred_to_a_copy(classes_of, monkeypatch):
    """Three inputs determine the first bit of the network; a fourth gives some information on the second bit."""
    first, second = np.repeat([0.0, 1.0], 4), np.tile([0.25, 0.75], 4)
    yes = np.stack([first, first, first, second], axis=1)
    prediction = classes_of(np.stack([1 - yes, yes], axis=2).astype(np.float32))
    single = np.log(2) - entr([0.25, 0.75]).sum()
    for size in (1, 256):
        monkeypatch.setattr(acquisition, "N_AT_ONCE", size)
        table = mc_acquire(prediction, 2, by="batchbald")
        assert table["input"].tolist() == [0, 3]
        np.testing.assert_allclose(table["score"], [np.log(2), np.log(2) + single], rtol=1e-6)  # float32


def test_a_batch_does_not_contain_copies(example_classes, classes_of):
    prediction, _ = example_classes(30, sharpness=1)
    sharp = prediction.samples.astype(float) ** 20  # nearly certain labels: a copy gives no new information
    sharp /= sharp.sum(axis=-1, keepdims=True)
    prediction = classes_of(sharp.astype(np.float32))
    copies = prediction[np.repeat(np.arange(30), 10)]  # every input ten times
    single = mc_acquire(copies, 3)["input"] // 10
    joint = mc_acquire(copies, 3, by="batchbald")["input"] // 10
    assert single.nunique() == 1
    assert joint.nunique() == 3


def test_a_warning_says_which_inputs_tell_the_draws_apart(classes_of):
    """Three draws that are certain of different labels: the first input or two tell which draw it is."""
    labels = np.random.default_rng(1).integers(0, 3, (3, 40))
    prediction = classes_of(np.eye(3)[labels].astype(np.float32))
    with pytest.warns(UserWarning, match=r"Of the 6 inputs the first [12] already tell the 3 draws apart") as warned:
        table = mc_acquire(prediction, 6, by="batchbald")
    assert warned[0].filename == __file__
    assert table["score"].iloc[-1] == pytest.approx(np.log(3))  # which of three draws it is: the maximum
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mc_acquire(prediction, 1, by="batchbald")
        mc_acquire(prediction, 6)


def test_bad_input_is_refused_with_one_sentence(example_classes, example_values):
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
        f"{shared} ": lambda: mc_acquire(
            replace(prediction, samples=ragged, n_samples=(~np.isnan(ragged[:, :, 0])).sum(axis=0)), 2, by="batchbald"
        ),
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


def p_value_of_gain(accuracies: dict[str, np.ndarray], better: str, worse: str) -> float:
    """p-value of a paired test that one way to choose inputs gives a higher accuracy than another."""
    print({name: values.round(3).tolist() for name, values in accuracies.items()})
    test: Any = stats.ttest_1samp(accuracies[better] - accuracies[worse], 0, alternative="greater")
    return float(test.pvalue)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Of the 15 inputs")  # with more draws the test would be slower
@pytest.mark.parametrize("by", ["mutual_information", "batchbald"])
def test_inputs_chosen_by_uncertainty_teach_more_than_random_ones(experiment, by):
    """On unsorted images, most of them with two labels: paired accuracies, where each label has equal weight."""
    accuracies = {name: experiment("unbalanced", name) for name in ("random", by)}
    assert p_value_of_gain(accuracies, by, "random") < 0.05


@pytest.mark.slow
def test_with_copies_of_images_a_joint_choice_teaches_more_than_single_choices(experiment):
    accuracies = {name: experiment("copies", name) for name in ("predictive_entropy", "batchbald")}
    assert p_value_of_gain(accuracies, "batchbald", "predictive_entropy") < 0.05
