"""The sentences and numbers of a report."""

from __future__ import annotations

from typing import cast

import numpy as np

from ..checks import shown
from ..decisions.policy import MCPolicy
from ..evaluation.result import MCScores
from ..predictions.prediction import Array
from ..predictions.truth import labels_of
from ..predictions.uncertainty import label_of
from .queue import Queue


def lead(queue: Queue) -> str:
    """The first sentences of the report."""
    n = len(queue.prediction)
    words = f"{_count(n, 'input')}, each predicted by {queue.prediction.draws_in_words()} of the network."
    if queue.decisions is None:
        return words
    first = cast(MCPolicy, queue.policy).tiers[0]
    passed = int((queue.decisions["tier"] == first).sum())
    return f"{words} {passed:,} ({percent(passed / n)}) are in the first tier, “{first}”."


def key_facts(queue: Queue, scores: MCScores | None) -> list[tuple[str, str]]:
    """The facts at the top of the report, each a name and a value."""
    prediction = queue.prediction
    facts = [("inputs", f"{len(prediction):,}"), ("draws", prediction.draws_in_words().removesuffix(" draws"))]
    if prediction.is_calibrated():
        facts.append(("calibrated at temperature", f"{prediction.temperature:.4g}"))
    if queue.of_classes:
        facts.append(("labels", str(len(labels_of(prediction)))))
        facts.append(("mean confidence", f"{cast(Array, prediction.confidence).mean():.3f}"))
        for name, words in (
            ("predictive_entropy", "mean entropy, in nats"),
            ("expected_entropy", "of it aleatoric"),
            ("mutual_information", "of it epistemic"),
        ):
            facts.append((words, f"{getattr(prediction, name).mean():.3f}"))
    else:
        facts.append((f"median {label_of(queue.measure)}", f"{np.median(queue.uncertainty):.4g}"))
    if scores is not None and scores.accuracy is not None:
        facts.append(("accuracy", f"{scores.accuracy:.3f}"))
    return facts


def bar_words(queue: Queue) -> str:
    """The explanation of the bars of an input."""
    level = f"{100 * queue.prediction.level:g} %"
    if queue.of_classes:
        words = f"Bars: mean probability of the most probable labels; lines: the {level} interval of the draws."
        return words if queue.truth is None else f"{words} Bold: the true label."
    return f"Dots: the mean; lines: the {level} interval. Scale: least to greatest bound of all inputs."


def number_words(value: object) -> str:
    """A number rounded to four digits, or a value as text."""
    if isinstance(value, (bool, np.bool_, str)):
        return str(value)
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    number = float(cast(float, value))
    return "–" if np.isnan(number) else f"{number:.4g}"


def percent(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:.1f} %"


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def monitor_words(monitor: object) -> str | None:
    """The state of a monitor in words."""
    if monitor is None or isinstance(monitor, str):  # R passes the words themselves
        return monitor
    words = getattr(monitor, "words", None)
    if not callable(words):
        raise TypeError(f"`monitor` must be what `mc_monitor()` returns; got {shown(type(monitor).__name__)}.")
    return str(words())
