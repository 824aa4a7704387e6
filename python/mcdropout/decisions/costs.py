"""Thresholds with the lowest total cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..checks import check_number, shown
from ..predictions.prediction import Array
from .cases import CalibrationCases, ThresholdPath
from .policy import quoted


@dataclass(frozen=True)
class CostTable:
    """The cost of each input in each tier."""

    each: Array  # (input, tier)

    @classmethod
    def of(cls, costs: Mapping[str, Any], names: tuple[str, ...], cases: CalibrationCases) -> CostTable:
        keys = ("error", *names[1:])
        if not isinstance(costs, Mapping) or set(costs) != set(keys):
            got = quoted(costs) if isinstance(costs, Mapping) and costs else shown(costs)
            raise ValueError(f"`costs` must have a cost for each of {quoted(keys)}; got {got}.")
        error = _error_costs(costs["error"], cases)
        columns = [error]
        for name in names[1:]:
            pair = np.atleast_1d(np.asarray(costs[name], dtype=object)).ravel().tolist()
            if len(pair) not in (1, 2):
                raise ValueError(f'`costs` must have one or two numbers for "{name}"; got {shown(costs[name])}.')
            cost = check_number(pair[0], f'costs["{name}"]', at_least=0)
            found_share = check_number(pair[1], f'costs["{name}"]', at_least=0, at_most=1) if len(pair) == 2 else 1.0
            columns.append(cost + (1 - found_share) * error)
        return cls(np.stack(columns, axis=1))

    def mean(self, places: Array) -> float:
        """Mean cost if each input is in the tier with that place."""
        return float(self.each[np.arange(len(places)), places].mean())

    def cheapest(self, path: ThresholdPath) -> list[tuple[float, ...] | None]:
        """The thresholds with the lowest total cost, one for each tier but the last; None accepts no input."""
        # for each tier: its cost of all inputs up to each step; position 0 stands for no input
        sums = [np.append(0, path.accepted(column)) for column in self.each.T]
        least, choices = sums[0], []
        for tier_sum in sums[1:]:
            # the earlier tiers take the inputs up to some step, this tier takes the inputs after that step
            gain = least - tier_sum
            best = np.minimum.accumulate(gain)
            choices.append(_places_of_minimum(gain, best))
            least = best + tier_sum
        ends, place = [], len(least) - 1
        for choice in reversed(choices):
            place = int(choice[place])
            ends.append(place)
        return [None if end == 0 else tuple(path.thresholds[end - 1].tolist()) for end in reversed(ends)]


def _places_of_minimum(values: Array, running_least: Array) -> Array:
    """The place where the running minimum was reached; the last one of equals."""
    places = np.where(values <= running_least, np.arange(len(values)), 0)
    return np.maximum.accumulate(places)


def _error_costs(cost: object, cases: CalibrationCases) -> Array:
    """Cost of accepting each input: one cost for every error, or one for each pair of true and predicted label."""
    size = len(cases.labels)
    table = np.asarray(cost.to_numpy() if isinstance(cost, pd.DataFrame) else cost)
    if table.ndim == 0:
        return cases.wrong * check_number(table.item(), 'costs["error"]', at_least=0)
    if table.shape != (size, size) or table.dtype.kind not in "iuf" or not np.isfinite(table).all():
        raise ValueError(
            f'`costs["error"]` must be a number or a table of {size} x {size} numbers, true label by predicted; '
            f"got {shown(cost)}."
        )
    return table[cases.true, cases.predicted].astype(np.float64)
