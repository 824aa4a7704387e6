"""The inputs of a report, in the order in which they are shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from ..data.images import as_image_rows
from ..data.rows import Rows
from ..decisions.decide import mc_decide
from ..decisions.policy import MCPolicy
from ..predictions.prediction import Array, MCPrediction
from ..predictions.truth import predicted_codes, true_codes, true_values
from ..predictions.uncertainty import measured, usual_measure


@dataclass(frozen=True)
class Queue:
    """The review queue: the inputs in order of uncertainty, with their names."""

    prediction: MCPrediction
    measure: str
    uncertainty: Array
    order: Array  # positions, the most uncertain first
    first: int  # the number of the first input: 0 in Python, 1 in R
    truth: Array | None = None  # codes of labels, or values
    decisions: pd.DataFrame | None = None
    policy: MCPolicy | None = None
    images: Rows | None = None
    names: list[str] = field(default_factory=list)

    @property
    def of_classes(self) -> bool:
        return self.prediction.task == "classification"


def make_queue(
    prediction: MCPrediction, images: object, y: object, policy: MCPolicy | None, measure: str | None, first: int
) -> Queue:
    """The inputs in order, the most uncertain first."""
    decisions = None if policy is None else mc_decide(policy, prediction)
    if measure is None:
        measure = usual_measure(prediction) if policy is None else policy.measures[0]
    uncertainty = measured(prediction, measure)
    truth = None
    if y is not None:
        truth = (true_codes if prediction.task == "classification" else true_values)(y, prediction)
    rows = None if images is None else as_image_rows(images, len(prediction))
    return Queue(
        prediction=prediction,
        measure=measure,
        uncertainty=uncertainty,
        order=np.argsort(-uncertainty, kind="stable"),
        first=first,
        truth=truth,
        decisions=decisions,
        policy=policy,
        images=rows,
        names=_names(prediction, rows, first),
    )


def _names(prediction: MCPrediction, images: Rows | None, first: int) -> list[str]:
    """The ids of the inputs, or else their numbers, followed by the names of image files."""
    n = len(prediction)
    names = [f"input {i + first}" for i in range(n)]
    if prediction.ids is not None:
        names = [f"id {input_id}" for input_id in prediction.ids]
    files = getattr(images, "paths", None)
    if files is None:
        return names
    return [f"{name}, {Path(file).parent.name}/{Path(file).name}" for name, file in zip(names, files, strict=True)]


def is_wrong(queue: Queue) -> Array | None:
    """Which predicted labels are wrong; None if the true labels are not known."""
    if queue.truth is None or not queue.of_classes:
        return None
    return predicted_codes(queue.prediction) != queue.truth


def bounds(prediction: MCPrediction) -> tuple[Array, Array]:
    """The interval of a new observation if the model has noise, else the interval of the mean."""
    if prediction.pred_lower is None or prediction.pred_upper is None:
        return prediction.lower, prediction.upper
    return prediction.pred_lower, prediction.pred_upper


def output_names(prediction: MCPrediction) -> list[str]:
    """The names of the outputs of a prediction of values."""
    n = prediction.mean[:1].size
    return ["value"] if n == 1 else [f"output {place}" for place in range(1, n + 1)]
