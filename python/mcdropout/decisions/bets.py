"""Betting against no change: ranks, bets and their wealth."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np

from ..predictions.prediction import Array

POWERS = (0.25, 0.5, 0.75)  # bets from bold to careful

N_BETS = 4 * len(POWERS)

HALF_STARTED = 100  # inputs after which half of the capital is at stake

LEAST = 2.0**-53  # keeps a bet on a rank of exactly 0 finite; it lowers what is won, so the promise stays

AT_ONCE = 4_096  # values whose ranks among each other are found by inserting them one by one


def cells_of(values: Array, reference: Array, among_equals: Array, ties: Array) -> Array:
    """How many of the reference lie below each value, (value,).

    Equals are put in order by numbers in (0, 1): `among_equals` of the reference, `ties` of the values.
    """
    low = np.searchsorted(reference, values, side="left")
    high = np.searchsorted(reference, values, side="right")
    equal = high > low
    # reference and values as positions of the first equal one, and a fraction
    keys = np.searchsorted(reference, reference) + among_equals
    low[equal] = np.searchsorted(keys, low[equal] + ties[equal])
    return low


def smoothed_ranks(cells: Array, counts: Array, lots: Array) -> tuple[Array, Array, Array]:
    """The conformal p-value of each value among all before it and itself, one minus it, (value,), and the new counts.

    counts: of those seen, how many lie between each two neighbours of the reference, (cell,). A value that falls into a
    cell with m of them has one of m + 1 places there; `lots`, uniform in (0, 1), say which. Given the earlier cells,
    every place in every cell is as likely as any other (an urn of Polya's), so the p-values are uniform and
    independent. p is near 0 for the largest.
    """
    counts = counts.copy()
    p, q = np.empty(len(cells)), np.empty(len(cells))
    for start in range(0, len(cells), AT_ONCE):
        some = cells[start : start + AT_ONCE]
        ends = np.cumsum(counts + 1)  # places up to the end of each cell
        below, inside = (ends - counts - 1)[some], (counts + 1)[some]
        batch: list[int] = []
        for place, cell in enumerate(some.tolist()):
            low, high = bisect.bisect_left(batch, cell), bisect.bisect_right(batch, cell)
            below[place] += low
            inside[place] += high - low
            batch.insert(high, cell)
        places = ends[-1] + np.arange(len(some))
        lot = lots[start : start + AT_ONCE]
        q[start : start + AT_ONCE] = (below + lot * inside) / places
        p[start : start + AT_ONCE] = (places - below - lot * inside) / places
        counts += np.bincount(some, minlength=len(counts))
    return p, q, counts


def uniform_lots(seed: int, first: int, n: int) -> Array:
    """Uniform numbers in (0, 1), two for each of the inputs from `first` on: the same however the inputs are cut."""
    generator = np.random.PCG64(seed)
    generator.advance(2 * first)
    return np.clip(np.random.Generator(generator).random((n, 2)), LEAST, 1 - LEAST)


def _log_gains(p: Array, q: Array) -> Array:
    """Log of what each bet multiplies its stake by, (bet, value).

    a u^(a - 1) integrates to 1 over uniform u and rewards small ones: u is the rank from above, from below, from the
    nearer end, from the middle.
    """
    end = 2 * np.minimum(p, q)
    small = np.log(np.maximum([p, q, end, 1 - end], LEAST))  # (4, value)
    powers = np.array(POWERS)[:, None, None]
    return (np.log(powers) + (powers - 1) * small).reshape(N_BETS, len(p))


def log_weights(numbers: Array) -> Array:
    """Log of the capital that each bet starts with at that input, counted from 1; over all inputs they sum to 1."""
    started = np.log(HALF_STARTED) - np.log(HALF_STARTED + numbers - 1) - np.log(HALF_STARTED + numbers)
    return started - np.log(N_BETS)


@dataclass(frozen=True)
class Bets:
    """How the capital went over the values of a batch."""

    log_capital: Array  # (bet, value), at stake after that value, with what starts at the next one
    log_best: Array  # (bet, value), of the best start up to that value
    starts: Array  # (bet, value), that start
    log_evidence: Array  # (value,), of all the capital
    next_best: Array  # (bet,), with the start at the next value among the candidates
    next_start: Array

    @classmethod
    def placed(cls, p: Array, q: Array, n_before: int, capital: Array, best: Array, start: Array) -> Bets:
        # the capital started at value k is its weight times the gains from k on: by sums of logs from the front
        gains = np.cumsum(_log_gains(p, q), axis=1)
        numbers = n_before + 1 + np.arange(len(p))
        later = log_weights(numbers + 1) - gains  # what starts after each value, as seen from before the first
        log_capital = gains + np.logaddexp.accumulate(np.column_stack([capital, later]), axis=1)[:, 1:]
        candidates = np.column_stack([best, later])
        highest = np.maximum.accumulate(candidates, axis=1)
        places = np.where(candidates >= highest, np.arange(len(p) + 1), 0)
        places = np.maximum.accumulate(places, axis=1)
        starts = np.where(places > 0, n_before + 1 + places, start[:, None])
        asleep = np.log(HALF_STARTED) - np.log(HALF_STARTED + numbers + 1)
        return cls(
            log_capital=log_capital,
            log_best=gains + highest[:, :-1],  # a start after this value knows nothing of it
            starts=starts[:, :-1],
            log_evidence=np.logaddexp(np.logaddexp.reduce(log_capital, axis=0), asleep),
            next_best=gains[:, -1] + highest[:, -1],
            next_start=starts[:, -1],
        )
