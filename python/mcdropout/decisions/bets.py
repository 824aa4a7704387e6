"""The test martingale of a monitor: ranks, bets against no change, and their capital."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np

from ..predictions.prediction import Array

POWERS = (0.25, 0.5, 0.75)  # exponents of the bets, from high to low stakes

N_BETS = 4 * len(POWERS)

HALF_STARTED = 100  # inputs after which half of the capital is at stake

LEAST = 2.0**-53  # keeps a bet on a rank of exactly 0 finite; it lowers the gain, so the promise holds

AT_ONCE = 4_096  # values that are ranked among each other at once, by insertion


def cells_of(values: Array, reference: Array, among_equals: Array, ties: Array) -> Array:
    """The number of reference values below each value, (value,).

    Numbers in (0, 1) order equal values: `among_equals` for the reference, `ties` for the values.
    """
    low = np.searchsorted(reference, values, side="left")
    high = np.searchsorted(reference, values, side="right")
    equal = high > low
    # the key of a value: the position of the first equal reference value, plus a fraction
    keys = np.searchsorted(reference, reference) + among_equals
    low[equal] = np.searchsorted(keys, low[equal] + ties[equal])
    return low


def smoothed_ranks(cells: Array, counts: Array, lots: Array) -> tuple[Array, Array, Array]:
    """The conformal p-value of each value among all values up to it, one minus it, (value,), and the new counts.

    counts: the number of earlier values between each two neighbours of the reference, (cell,). A value in a cell with m
    earlier values has one of m + 1 positions there; `lots`, uniform in (0, 1), choose it. Given the earlier cells, all
    positions in all cells are equally likely (a Polya urn), so the p-values are uniform and independent. p is near 0
    for the largest values.
    """
    counts = counts.copy()
    p, q = np.empty(len(cells)), np.empty(len(cells))
    for start in range(0, len(cells), AT_ONCE):
        part = cells[start : start + AT_ONCE]
        ends = np.cumsum(counts + 1)  # positions up to the end of each cell
        below, inside = (ends - counts - 1)[part], (counts + 1)[part]
        batch: list[int] = []
        for place, cell in enumerate(part.tolist()):
            low, high = bisect.bisect_left(batch, cell), bisect.bisect_right(batch, cell)
            below[place] += low
            inside[place] += high - low
            batch.insert(high, cell)
        places = ends[-1] + np.arange(len(part))
        lot = lots[start : start + AT_ONCE]
        q[start : start + AT_ONCE] = (below + lot * inside) / places
        p[start : start + AT_ONCE] = (places - below - lot * inside) / places
        counts += np.bincount(part, minlength=len(counts))
    return p, q, counts


def uniform_lots(seed: int, first: int, n: int) -> Array:
    """Uniform numbers in (0, 1), two for each input from `first` on; they do not depend on the batches."""
    generator = np.random.PCG64(seed)
    generator.advance(2 * first)
    return np.clip(np.random.Generator(generator).random((n, 2)), LEAST, 1 - LEAST)


def _log_gains(p: Array, q: Array) -> Array:
    """Log of the factor by which each bet multiplies its stake, (bet, value).

    The factor a u^(a - 1) has mean 1 for uniform u and is large for small u. u is the rank from above, from below, from
    the nearer end, or from the middle.
    """
    end = 2 * np.minimum(p, q)
    small = np.log(np.maximum([p, q, end, 1 - end], LEAST))  # (4, value)
    powers = np.array(POWERS)[:, None, None]
    return (np.log(powers) + (powers - 1) * small).reshape(N_BETS, len(p))


def log_weights(numbers: Array) -> Array:
    """Log of the capital that each bet starts with at each input, counted from 1; the capitals sum to 1."""
    started = np.log(HALF_STARTED) - np.log(HALF_STARTED + numbers - 1) - np.log(HALF_STARTED + numbers)
    return started - np.log(N_BETS)


@dataclass(frozen=True)
class Bets:
    """The capital of the bets over the values of a batch."""

    log_capital: Array  # (bet, value), at stake after that value, with the capital that starts at the next value
    log_best: Array  # (bet, value), the capital of the best start up to that value
    starts: Array  # (bet, value), the best start
    log_evidence: Array  # (value,), the total capital
    next_best: Array  # (bet,), as `log_best`, with a start at the next value included
    next_start: Array  # (bet,), the best start then

    @classmethod
    def placed(cls, p: Array, q: Array, n_before: int, capital: Array, best: Array, start: Array) -> Bets:
        # the capital that starts at value k is its weight times the gains from k on, by cumulative sums of logs
        gains = np.cumsum(_log_gains(p, q), axis=1)
        numbers = n_before + 1 + np.arange(len(p))
        later = log_weights(numbers + 1) - gains  # the capital that starts after each value, before the first gain
        log_capital = gains + np.logaddexp.accumulate(np.column_stack([capital, later]), axis=1)[:, 1:]
        candidates = np.column_stack([best, later])
        highest = np.maximum.accumulate(candidates, axis=1)
        places = np.where(candidates >= highest, np.arange(len(p) + 1), 0)
        places = np.maximum.accumulate(places, axis=1)
        starts = np.where(places > 0, n_before + 1 + places, start[:, None])
        not_started = np.log(HALF_STARTED) - np.log(HALF_STARTED + numbers + 1)
        return cls(
            log_capital=log_capital,
            log_best=gains + highest[:, :-1],  # a start after this value has no gain from it
            starts=starts[:, :-1],
            log_evidence=np.logaddexp(np.logaddexp.reduce(log_capital, axis=0), not_started),
            next_best=gains[:, -1] + highest[:, -1],
            next_start=starts[:, -1],
        )
