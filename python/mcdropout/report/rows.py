"""The rows of inputs that the script of the page shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import numpy as np

from ..predictions.prediction import Array
from ..predictions.truth import labels_of, predicted_codes
from ..predictions.uncertainty import ENTROPIES, label_of
from .images import thumbnails
from .queue import Queue, bounds, output_names

MOST_BARS = 5  # the most probable labels of each input


def data(queue: Queue, n_shown: int) -> dict[str, Any]:
    """The data from which the script of the page makes the cards."""
    prediction = queue.prediction
    pictures, small = thumbnails(queue.images, queue.order)
    names = [str(label) for label in labels_of(prediction)] if queue.of_classes else output_names(prediction)
    queue_rows = _class_rows(queue) if queue.of_classes else _value_rows(queue)
    rows = []
    for place, (row, picture) in enumerate(zip(queue_rows, pictures, strict=True), start=1):
        rows.append({"place": place, **row, "image": picture})
    return {
        "rows": rows,
        "names": names,
        "tiers": [] if queue.policy is None else list(queue.policy.tiers),
        "is_share": queue.of_classes,
        "small": small,
        "page": n_shown,
    }


def _class_rows(queue: Queue) -> Iterable[dict[str, Any]]:
    prediction = queue.prediction
    labels = [str(label) for label in labels_of(prediction)]
    codes = predicted_codes(prediction)
    ranked = np.argsort(-prediction.mean, axis=1, kind="stable")[:, :MOST_BARS]
    parts = [cast(Array, getattr(prediction, name)) for name in ENTROPIES]
    for i in queue.order:
        bars = [
            [
                int(k),
                f"{prediction.mean[i, k]:.2f}",
                *(_rounded(float(part[i, k])) for part in (prediction.mean, prediction.lower, prediction.upper)),
            ]
            for k in ranked[i]
        ]
        total, aleatoric, epistemic = (part[i] for part in parts)
        uncertainty = f"entropy {total:.2f} nats: {aleatoric:.2f} aleatoric, {epistemic:.2f} epistemic"
        if queue.measure not in ENTROPIES:
            uncertainty += f"; {label_of(queue.measure)} {queue.uncertainty[i]:.3g}"
        truth = None if queue.truth is None else int(queue.truth[i])
        yield {
            "head": f"{labels[codes[i]]} ({cast(Array, prediction.confidence)[i]:.2f})",
            "predicted": int(codes[i]),
            "truth": truth,
            "wrong": truth is not None and truth != int(codes[i]),
            "uncertainty": uncertainty,
            "bars": bars,
            **_name_and_tier(queue, i),
        }


def _value_rows(queue: Queue) -> Iterable[dict[str, Any]]:
    """Each output as a dot with its interval. Its scale runs from the least to the greatest bound of all inputs."""
    prediction = queue.prediction
    lower, upper = bounds(prediction)
    mean, lower, upper = (part.reshape(len(prediction), -1)[:, :MOST_BARS] for part in (prediction.mean, lower, upper))
    # a bound that is missing or infinite has no place on the scale
    known = [np.where(np.isfinite(part), part, mean) for part in (lower, upper)]
    low = known[0].min(axis=0)
    width = np.maximum(known[1].max(axis=0) - low, np.finfo(np.float64).tiny)
    truth = None if queue.truth is None else queue.truth.reshape(len(prediction), -1)
    for i in queue.order:
        scaled = [(part[i] - low) / width for part in (mean, lower, upper)]
        bars = [[k, f"{mean[i, k]:.4g}", *(_rounded(float(part[k])) for part in scaled)] for k in range(len(low))]
        observed = "" if truth is None else f"; observed {_numbers(truth[i, :MOST_BARS])}"
        yield {
            "head": _numbers(mean[i]),
            "predicted": None,
            "truth": None,
            "wrong": False,
            "uncertainty": f"{label_of(queue.measure)} {queue.uncertainty[i]:.4g}{observed}",
            "bars": bars,
            **_name_and_tier(queue, i),
        }


def _rounded(share: float) -> float | None:
    """A number for the script of the page; JSON has no NaN and no infinity."""
    return round(share, 3) if np.isfinite(share) else None


def _numbers(values: Array) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _name_and_tier(queue: Queue, i: int) -> dict[str, Any]:
    fields: dict[str, Any] = {"name": queue.names[i], "tier": None, "reason": ""}
    if queue.decisions is not None and queue.policy is not None:
        fields["tier"] = queue.policy.tiers.index(queue.decisions["tier"].iat[i])
        fields["reason"] = queue.decisions["reason"].iat[i]
    return fields
