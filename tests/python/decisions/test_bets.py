"""Ranks and bets of the drift monitor, by naive loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from mcdropout import mc_monitor
from mcdropout.decisions import bets
from mcdropout.decisions.bets import HALF_STARTED, POWERS, cells_of, smoothed_ranks


def normal(rng, n, shift=0.0, scale=1.0):
    return 5 + shift + scale * rng.normal(size=n)


def naive_ranks(reference, values, among_equals, ties, lots):
    """One value after another: an urn with a ball for every cell, and one more ball for each value in the cell."""
    known = sorted(zip(reference, among_equals, strict=True))
    balls = [1] * (len(known) + 1)
    p, q = [], []
    for value, tie, lot in zip(values, ties, lots, strict=True):
        cell = sum(entry < (value, tie) for entry in known)
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
    among_equals = np.sort(rng.random(len(reference)))  # sorted, so equal values are ordered too
    cells = cells_of(np.array(values, float), reference, among_equals, ties)
    before = bets.AT_ONCE
    try:
        bets.AT_ONCE = at_once
        p, q, counts = smoothed_ranks(cells, np.zeros(len(reference) + 1, dtype=int), lots)
    finally:
        bets.AT_ONCE = before
    naive_p, naive_q, naive_counts = naive_ranks(reference, values, among_equals, ties, lots)
    np.testing.assert_allclose(p, naive_p, atol=1e-12)  # rounding
    np.testing.assert_allclose(q, naive_q, atol=1e-12)
    assert counts.tolist() == naive_counts


@pytest.mark.parametrize("digits", [6, 0])  # also with many ties
def test_ranks_are_uniform_and_independent_while_nothing_changes(uncertainties, digits):
    """With many references, because ranks against a single reference depend on it."""
    n_reference, n_values, repetitions = 30, 6, 4000
    ranks = np.empty((repetitions, n_values))
    for seed in range(repetitions):
        rng = np.random.default_rng(seed)
        monitor = mc_monitor(uncertainties(np.round(normal(rng, n_reference), digits)), seed=seed)
        ranks[seed] = monitor._ranks(np.round(normal(rng, n_values), digits))[0]
    for place in range(n_values):  # one in 10,000 such p-values is smaller; there are 12
        assert stats.kstest(ranks[:, place], "uniform").pvalue > 1e-4
    correlations = np.corrcoef(ranks.T)[np.triu_indices(n_values, 1)]
    assert np.abs(correlations).max() < 4.5 / math.sqrt(repetitions)  # 15 standard normal numbers divided by this root
    sums = ranks.sum(axis=1)  # independent uniform numbers, so nearly normal
    assert stats.kstest(sums, stats.norm(n_values / 2, math.sqrt(n_values / 12)).cdf).pvalue > 1e-4


def naive_evidence(p):
    """The log10 of the total capital: each start and each bet separately, multiplied input by input."""
    gains = []
    for which in range(4):
        for a in POWERS:
            u = [p, 1 - p, 2 * np.minimum(p, 1 - p), np.abs(1 - 2 * p)][which]
            gains.append(a * u ** (a - 1))
    total = []
    for n in range(1, len(p) + 1):
        capital = HALF_STARTED / (HALF_STARTED + n)  # not yet started
        for start in range(1, n + 1):
            weight = HALF_STARTED / ((HALF_STARTED + start - 1) * (HALF_STARTED + start))
            capital += sum(weight / len(gains) * np.prod(gain[start - 1 : n]) for gain in gains)
        total.append(capital)
    return np.log10(total)


def ranks_of(reference, values, seed):
    uniforms = np.random.Generator(np.random.PCG64(seed)).random((len(values), 2))
    among_equals = np.zeros(len(reference))  # all values of the reference are different
    return np.array(naive_ranks(np.sort(reference), values, among_equals, *uniforms.T)[0])


@pytest.mark.parametrize("cuts", [[60], [1, 59], [20, 20, 20], [1] * 60])
def test_the_evidence_is_the_total_over_starts_and_bets_for_all_batches(uncertainties, cuts):
    rng = np.random.default_rng(1)
    reference, values = normal(rng, 50), np.round(normal(rng, 60, shift=0.5), 1)
    monitor = mc_monitor(uncertainties(reference), seed=4)
    for part in np.split(values, np.cumsum(cuts)[:-1]):
        monitor.update(uncertainties(part))
    evidence = naive_evidence(ranks_of(reference, values, 4))
    np.testing.assert_allclose(monitor.batches["log10_evidence"], evidence[np.cumsum(cuts) - 1], atol=1e-9)  # rounding


def test_the_best_start_is_that_of_a_loop(uncertainties):
    rng = np.random.default_rng(2)
    reference = normal(rng, 300)
    values = np.concatenate([normal(rng, 80), normal(rng, 40, shift=1.5)])
    monitor = mc_monitor(uncertainties(reference), seed=4, false_alarm_rate=0.001)
    for part in np.split(values, 6):
        monitor.update(uncertainties(part))
    p = ranks_of(reference, values, 4)
    assert monitor.alarm_input is not None
    assert monitor.since_input is not None
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
    assert integrate.quad(lambda u: a * u ** (a - 1), 0, 1)[0] == pytest.approx(1, abs=1e-6)  # the error of quad
