"""Bets against the assumption of no change: ranks, bets and their capital."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np

from ..predictions.prediction import Array

POWERS = (0.25, 0.5, 0.75)  # bets from bold to careful

N_BETS = 4 * len(POWERS)

HALF_STARTED = 100  # inputs after which half of the capital is at stake

LEAST = 2.0**-53  # smallest rank: keeps a bet on a rank of 0 finite; it lowers the gain, so the guarantee holds

AT_ONCE = 4_096  # values per piece; within a piece, ranks are found by sorted insertion


def cells_of(values: Array, reference: Array, among_equals: Array, ties: Array) -> Array:
    """How many inputs of the reference lie below each value, (value,).

    Equal values are ordered by numbers in (0, 1): `among_equals` for the reference, `ties` for the values.
    """
    low = np.searchsorted(reference, values, side="left")
    high = np.searchsorted(reference, values, side="right")
    equal = high > low
    # the position of the first equal value, plus a fraction that orders equal values
    keys = np.searchsorted(reference, reference) + among_equals
    low[equal] = np.searchsorted(keys, low[equal] + ties[equal])
    return low


def smoothed_ranks(cells: Array, counts: Array, lots: Array) -> tuple[Array, Array, Array]:
    """The conformal p-value p of each value, 1 - p, (value,) each, and the new counts.

    p ranks a value among all values up to itself, and is near 0 for the largest value. counts, (cell,), says how many
    earlier values lie between each two neighbours of the reference. A value in a cell with m earlier values gets one of
    m + 1 places there, chosen by `lots`, uniform in (0, 1). Given the earlier cells, every place in every cell is
    equally likely (a Polya urn), so the p-values are uniform and independent.
    """
    counts = counts.copy()
    p, q = np.empty(len(cells)), np.empty(len(cells))
    for start in range(0, len(cells), AT_ONCE):
        piece = cells[start : start + AT_ONCE]
        ends = np.cumsum(counts + 1)  # places up to the end of each cell
        below, inside = (ends - counts - 1)[piece], (counts + 1)[piece]
        inserted: list[int] = []  # earlier cells of this piece, sorted
        for place, cell in enumerate(piece.tolist()):
            low, high = bisect.bisect_left(inserted, cell), bisect.bisect_right(inserted, cell)
            below[place] += low
            inside[place] += high - low
            inserted.insert(high, cell)
        places = ends[-1] + np.arange(len(piece))
        lot = lots[start : start + AT_ONCE]
        q[start : start + AT_ONCE] = (below + lot * inside) / places
        p[start : start + AT_ONCE] = (places - below - lot * inside) / places
        counts += np.bincount(piece, minlength=len(counts))
    return p, q, counts


def uniform_lots(seed: int, first: int, n: int) -> Array:
    """Two uniform numbers in (0, 1) for each input from `first` on; they do not depend on the batches."""
    generator = np.random.PCG64(seed)
    generator.advance(2 * first)
    return np.clip(np.random.Generator(generator).random((n, 2)), LEAST, 1 - LEAST)


def _log_gains(p: Array, q: Array) -> Array:
    """Log of the factor by which each bet multiplies its stake, (bet, value).

    A bet is a u^(a - 1), which has mean 1 for uniform u and is large for small u. u is the rank from above, from below,
    from the nearer end or from the middle.
    """
    end = 2 * np.minimum(p, q)
    small = np.log(np.maximum([p, q, end, 1 - end], LEAST))  # (4, value)
    powers = np.array(POWERS)[:, None, None]
    return (np.log(powers) + (powers - 1) * small).reshape(N_BETS, len(p))


def log_weights(numbers: Array) -> Array:
    """Log of the capital that starts in each bet at the inputs with these numbers, from 1; all capital sums to 1."""
    started = np.log(HALF_STARTED) - np.log(HALF_STARTED + numbers - 1) - np.log(HALF_STARTED + numbers)
    return started - np.log(N_BETS)


def log_unstarted(n_seen: int | Array) -> Array:
    """Log of the capital that is not yet at stake after that many inputs."""
    return np.log(HALF_STARTED) - np.log(HALF_STARTED + np.asarray(n_seen) + 1)


@dataclass(frozen=True)
class Bets:
    """The capital of the bets after each value of a batch."""

    log_capital: Array  # (bet, value), capital at stake after that value, with the capital that starts at the next one
    log_best: Array  # (bet, value), capital of the best start up to that value
    starts: Array  # (bet, value), the number of that start
    log_evidence: Array  # (value,), log of the total capital
    next_best: Array  # (bet,), capital of the best start, where the start at the next value is a candidate too
    next_start: Array  # (bet,), the number of that start

    @classmethod
    def placed(cls, p: Array, q: Array, n_before: int, capital: Array, best: Array, start: Array) -> Bets:
        """The capital of a batch, from the p-values and the state after the `n_before` inputs before it."""
        # capital that started at value k is its weight times the gains from k on, a difference of cumulative sums
        gains = np.cumsum(_log_gains(p, q), axis=1)
        numbers = n_before + 1 + np.arange(len(p))
        later = log_weights(numbers + 1) - gains  # capital that starts after each value, minus the gains before
        log_capital = gains + np.logaddexp.accumulate(np.column_stack([capital, later]), axis=1)[:, 1:]
        candidates = np.column_stack([best, later])
        highest = np.maximum.accumulate(candidates, axis=1)
        places = np.where(candidates >= highest, np.arange(len(p) + 1), 0)
        places = np.maximum.accumulate(places, axis=1)
        starts = np.where(places > 0, n_before + 1 + places, start[:, None])
        return cls(
            log_capital=log_capital,
            log_best=gains + highest[:, :-1],  # without the start after this value
            starts=starts[:, :-1],
            log_evidence=np.logaddexp(np.logaddexp.reduce(log_capital, axis=0), log_unstarted(numbers)),
            next_best=gains[:, -1] + highest[:, -1],
            next_start=starts[:, -1],
        )
