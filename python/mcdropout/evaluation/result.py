"""The scores of one prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..predictions.prediction import Array

Numbers = list[tuple[str, str, float, float]]  # score, of (measure or output), at (coverage, risk or level), value


@dataclass(frozen=True, repr=False)
class MCScores:
    """The scores of a prediction, which `mc_scores()` returns: numbers, and tables for pictures.

    For values there is one number for each output.

    Attributes:
        accuracy: The share of inputs whose predicted label is right.
        log_loss: The mean log loss, in nats.
        brier: The Brier score, summed over the labels, 0 to 2.
        brier_halved: Half of `brier`, 0 to 1, the usual score for two labels.
        ece_equal_width: The expected calibration error of the predicted label, with bins of equal width.
        ece_equal_mass: The same error, with bins of equal numbers of inputs.
        classwise_ece: The mean over the labels of the calibration error of each label's probability.
        rmse: For values, the root mean squared error, in their unit.
        mae: For values, the mean absolute error, in their unit.
        log_density: For values, the mean log density of the observed values.
        crps: For values, the continuous ranked probability score, in their unit.
        by_measure: How well each measure of uncertainty finds the errors.
        at_coverage: The accuracy at each coverage.
        at_risk: The coverage at each risk.
        by_label: The scores of each label.
        by_interval: For values, coverage, width and interval score of `conf_int` and `pred_int`.
        reliability: The bins of the reliability diagrams.
        risk_coverage: The risk-coverage curves.
        pit: For values, the probability integral transform, with the shape of the mean.
        table: All numbers in one table: score, of (measure or output), at (coverage, risk or level), value, and with
            `n_resamples` also the bootstrap's lower and upper.
        notes: Which scores are missing, and why.
    """

    task: str
    n_inputs: int
    table: pd.DataFrame
    by_measure: pd.DataFrame
    risk_coverage: pd.DataFrame
    level: float
    n_resamples: int
    seed: int | None
    accuracy: float | None = None
    log_loss: float | None = None
    brier: float | None = None
    brier_halved: float | None = None
    ece_equal_width: float | None = None
    ece_equal_mass: float | None = None
    classwise_ece: float | None = None
    at_coverage: pd.DataFrame | None = None
    at_risk: pd.DataFrame | None = None
    by_label: pd.DataFrame | None = None
    reliability: pd.DataFrame | None = None
    rmse: Array | None = None
    mae: Array | None = None
    log_density: Array | None = None
    crps: Array | None = None
    by_interval: pd.DataFrame | None = None
    pit: Array | None = None
    notes: tuple[str, ...] = ()

    def to_pandas(self) -> pd.DataFrame:
        """A copy of `table`."""
        return self.table.copy()

    def words(self) -> str:
        """The scores as text, as `print()` shows them."""
        head = f"# Scores of {self.n_inputs} inputs"
        plain = self.table[(self.table["of"] == "") & self.table["at"].isna()]
        lines = [f"{row.score:<16} {row.value:.4f}{_interval_words(row)}" for row in plain.itertuples()]
        tables = [self.by_measure, self.by_interval, self._by_output()]
        shown = [table.to_string(index=False, float_format="{:.4f}".format) for table in tables if table is not None]
        return "\n".join([head, *lines, *shown, *self.notes])

    def __repr__(self) -> str:
        return self.words()

    def _by_output(self) -> pd.DataFrame | None:
        if self.rmse is None:
            return None
        names = [name for name in ("rmse", "mae", "log_density", "crps") if getattr(self, name) is not None]
        columns = {name: getattr(self, name) for name in names}
        return pd.DataFrame({"output": np.arange(1, len(self.rmse) + 1), **columns})


def wide(table: pd.DataFrame, scores: tuple[str, ...]) -> pd.DataFrame:
    """One row per measure, one column per score."""
    rows: dict[str, dict[str, Any]] = {}
    for score, of, value in zip(table["score"], table["of"], table["value"], strict=True):
        if score in scores:
            rows.setdefault(of, {"measure": of})[score] = value
    return pd.DataFrame(list(rows.values()), columns=["measure", *scores])


def _interval_words(row: Any) -> str:
    return f" ({row.lower:.4f} to {row.upper:.4f})" if hasattr(row, "lower") else ""
