"""The labelled inputs that a policy is learnt on, and the path of its thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ..checks import as_whole_number, listed, shown
from ..data.labels import Label
from ..predictions.prediction import Array, MCPrediction
from ..predictions.truth import codes_to_learn_from, labels_of, predicted_codes
from ..predictions.uncertainty import measured

N_CANDIDATES = 200  # largest number of thresholds that are tested: steps of half a per cent of the inputs

N_PATH = 1000  # steps of the path through several measures if no threshold is tested


@dataclass(frozen=True)
class CalibrationCases:
    """Labelled inputs with their uncertainties."""

    true: Array  # codes
    predicted: Array  # codes
    uncertainties: Array  # (input, measure)
    measures: tuple[str, ...]
    labels: tuple[Label, ...]
    temperature: float | None = None

    @classmethod
    def of(cls, prediction: MCPrediction, y: object, measures: tuple[str, ...]) -> CalibrationCases:
        true, labels = codes_to_learn_from(y, prediction), labels_of(prediction)
        uncertainties = np.stack([measured(prediction, measure) for measure in measures], axis=1)
        return cls(true, predicted_codes(prediction), uncertainties, measures, labels, prediction.temperature)

    @property
    def wrong(self) -> Array:
        return self.true != self.predicted

    def __getitem__(self, chosen: Array) -> CalibrationCases:
        true, predicted, uncertainties = (values[chosen] for values in (self.true, self.predicted, self.uncertainties))
        return CalibrationCases(true, predicted, uncertainties, self.measures, self.labels, self.temperature)

    def code(self, label: object) -> int:
        """The place of a label; a number may also be given as text, as R gives it."""
        number = as_whole_number(label)
        code = self._codes.get(str(label if number is None else number))
        if code is None:
            raise ValueError(f"`by_label` must hold labels out of {listed(self.labels)}; got {shown(label)}.")
        return code

    @cached_property
    def _codes(self) -> dict[str, int]:
        return {str(label): code for code, label in enumerate(self.labels)}

    def path(self, most: int | None = None) -> ThresholdPath:
        """Thresholds from strict to lax, in at most `most` steps.

        Without `most`, one measure gets a step for each of its values, and several measures get `N_PATH` steps.
        """
        if most is None and len(self.measures) == 1:
            return ThresholdPath.through(np.unique(self.uncertainties[:, 0])[:, None], self.uncertainties)
        n_steps = N_PATH if most is None else most
        ordered = np.sort(self.uncertainties, axis=0)
        ends = np.unique(np.ceil(len(ordered) * np.arange(1, n_steps + 1) / n_steps - 1e-9).astype(np.int64))
        return ThresholdPath.through(np.unique(ordered[ends - 1], axis=0), self.uncertainties)

    def concerned(self, limit: Mapping[str, Any]) -> Array:
        """Whether a limit on the error applies to each input, (input,)."""
        if limit["kind"] == "wrong":
            return np.ones(len(self.true), dtype=bool)
        return (self.true if limit["kind"] == "misses" else self.predicted) == self.code(limit["label"])


@dataclass(frozen=True)
class ThresholdPath:
    """Thresholds from strict to lax, (step, measure), and the first step that accepts each input."""

    thresholds: Array
    first: Array  # (input,), the number of steps if no step accepts the input

    @classmethod
    def through(cls, thresholds: Array, uncertainties: Array) -> ThresholdPath:
        steps = [
            np.searchsorted(thresholds[:, m], uncertainties[:, m], side="left") for m in range(uncertainties.shape[1])
        ]
        return cls(thresholds, np.max(steps, axis=0))

    def accepted(self, weights: Array | None = None) -> Array:
        """How many inputs each step accepts, or the sum of their weights, (step,)."""
        n_steps = len(self.thresholds)
        return np.bincount(self.first, weights=weights, minlength=n_steps + 1)[:n_steps].cumsum()

    def within(self, share: float) -> tuple[float, ...] | None:
        """The strictest thresholds that do not accept at most this share of the inputs."""
        n = len(self.first)
        steps = np.flatnonzero(n - self.accepted() <= share * n + 1e-9)  # 1e-9: 0.1 * 10 must be 1 despite rounding
        return tuple(self.thresholds[steps[0]].tolist()) if share < 1 else None

    def curve(self, cases: CalibrationCases) -> pd.DataFrame:
        """How many inputs each step accepts, and how many of them are wrong, for at most `N_CANDIDATES` steps."""
        n, wrong = self.accepted(), self.accepted(cases.wrong * 1.0)
        chosen = np.unique(np.linspace(0, len(n) - 1, N_CANDIDATES).astype(np.int64))
        thresholds = dict(zip(cases.measures, self.thresholds[chosen].T, strict=True))
        return pd.DataFrame(
            {
                **thresholds,
                "coverage": n[chosen] / len(cases.true),
                "n": n[chosen],
                "wrong": wrong[chosen].astype(np.int64),
            }
        )


def tiers_of(uncertainties: Array, thresholds: Sequence[tuple[float, ...] | None]) -> Array:
    """The place of each input's tier, (input,)."""
    places = np.full(len(uncertainties), len(thresholds))
    for place in range(len(thresholds) - 1, -1, -1):
        row = thresholds[place]
        if row is not None:
            places[(uncertainties <= np.array(row, np.float64)).all(axis=1)] = place
    return places
