"""The tables of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd

from ..evaluation.result import MCScores
from ..predictions.truth import labels_of, predicted_codes
from .queue import Queue, is_wrong
from .words import number_words, percent

MEANINGS = {
    "accuracy": "accuracy: share whose predicted label is right",
    "log_loss": "log loss, in nats (0 is best)",
    "brier": "Brier score, summed over the labels (0 is best, 2 worst)",
    "brier_halved": "Brier score, halved (0 to 1)",
    "ece_equal_width": "expected calibration error, bins of equal width",
    "ece_equal_mass": "expected calibration error, bins of equally many inputs",
    "classwise_ece": "calibration error of each label's probability, mean",
}


@dataclass(frozen=True)
class _Table:
    """A table whose cells are text."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    @classmethod
    def of(cls, frame: pd.DataFrame) -> _Table:
        rows = [[number_words(cell) for cell in row] for row in frame.itertuples(index=False)]
        return cls([str(name).replace("_", " ") for name in frame.columns], rows)


def tier_table(queue: Queue) -> _Table | None:
    """The number of inputs in each tier and, if the true labels are known, the number of wrong predictions."""
    if queue.decisions is None or queue.policy is None:
        return None
    tiers = queue.decisions["tier"].to_numpy()
    wrong = is_wrong(queue)
    columns = ["tier", "inputs", "share"] + ([] if wrong is None else ["wrong", "share wrong"])
    rows = []
    for name in queue.policy.tiers:
        in_tier = tiers == name
        n = int(in_tier.sum())
        row = [name, f"{n:,}", percent(n / len(tiers))]
        if wrong is not None:
            n_wrong = int(wrong[in_tier].sum())
            row += [f"{n_wrong:,}", percent(n_wrong / n) if n else "–"]
        rows.append(row)
    return _Table(columns, rows)


def counts(queue: Queue) -> list[tuple[str, str, float]]:
    """Each predicted label, its number of inputs, and this number in per cent of that of the most frequent label."""
    if not queue.of_classes:
        return []
    names = [str(label) for label in labels_of(queue.prediction)]
    n = np.bincount(predicted_codes(queue.prediction), minlength=len(names))
    return [(name, f"{count:,}", round(100 * count / n.max(), 1)) for name, count in zip(names, n, strict=True)]


def score_tables(scores: MCScores) -> list[tuple[str, _Table]]:
    """The tables of the scores, each with its title."""
    if scores.task == "classification":
        rows = [[words, number_words(getattr(scores, name))] for name, words in MEANINGS.items()]
        return [
            ("Over all inputs", _Table(["score", "value"], rows)),
            ("How well each measure of uncertainty finds the errors", _measure_table(scores)),
            ("By label", _Table.of(cast(pd.DataFrame, scores.by_label))),
        ]
    values = [name for name in ("rmse", "mae", "log_density", "crps") if getattr(scores, name) is not None]
    columns = {name: getattr(scores, name) for name in values}
    by_output = pd.DataFrame({"output": range(1, len(columns["rmse"]) + 1), **columns})
    return [
        ("By output", _Table.of(by_output)),
        ("Intervals", _Table.of(cast(pd.DataFrame, scores.by_interval))),
        ("How well each measure of uncertainty orders the errors", _measure_table(scores)),
    ]


def _measure_table(scores: MCScores) -> _Table:
    table = scores.by_measure.assign(measure=[name.replace("_", " ") for name in scores.by_measure["measure"]])
    upper = {"auroc": "AUROC", "aupr": "AUPR", "aurc": "AURC", "excess_aurc": "excess AURC"}
    return _Table.of(table.rename(columns=upper))
