"""A report of a prediction as one HTML page that asks no network for anything. Needs no torch.

jinja2 escapes all that users named; what the page's script puts in is text alone, and the page's own security policy
lets no other script run and nothing be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from . import containers
from .arrays import Rows
from .checks import check_count, check_path, shown
from .datasets import ImageFiles
from .decisions import MCPolicy, mc_decide
from .measures import check_prediction, labels_of, measured, predicted_codes, true_codes, true_values, usual_measure
from .plots import Scale, as_image_rows
from .prediction import Array, MCPrediction
from .scores import MCScores, mc_scores

TITLE = "How sure the predictions are"
PAGE = 100  # cards that are shown at first and printed, and added by a press of the button
MOST_BARS = 5  # the most probable labels of each input
THUMBNAIL = 88  # pixels: the side of the square on the page that an image is fitted into
QUALITY = 80  # of JPEG, for images that are made smaller
BATCH = 64  # images in memory at a time
ENCODERS = min(8, os.cpu_count() or 1)  # threads: Pillow lets go of Python's lock while it resizes and encodes

UNITS = {
    "predictive_entropy": "nats",
    "expected_entropy": "nats",
    "mutual_information": "nats",
}
MEANINGS = {
    "accuracy": "accuracy: share whose predicted label is right",
    "log_loss": "log loss, in nats (0 is best)",
    "brier": "Brier score, summed over the labels (0 is best, 2 worst)",
    "brier_halved": "Brier score, halved (0 to 1)",
    "ece_equal_width": "expected calibration error, bins of equal width",
    "ece_equal_mass": "expected calibration error, bins of as many inputs",
    "classwise_ece": "calibration error of each label's probability, mean",
}


@dataclass(frozen=True)
class _Table:
    """Text in cells, ready to be shown."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    @classmethod
    def of(cls, frame: pd.DataFrame) -> _Table:
        rows = [[_number(cell) for cell in row] for row in frame.itertuples(index=False)]
        return cls([str(name).replace("_", " ") for name in frame.columns], rows)


@dataclass(frozen=True)
class _Queue:
    """What the review queue shows: the inputs in order of doubt, and what to call them."""

    prediction: MCPrediction
    measure: str
    doubt: Array
    order: Array  # positions, the most doubtful first
    first: int  # the number of the first input: 0 in Python, 1 in R
    truth: Array | None = None  # codes of labels, or values
    decisions: pd.DataFrame | None = None
    policy: MCPolicy | None = None
    images: Rows | None = None
    names: list[str] = field(default_factory=list)

    @property
    def of_classes(self) -> bool:
        return self.prediction.task == "classification"


def mc_report(
    prediction: MCPrediction,
    images: object = None,
    y: object = None,
    policy: MCPolicy | None = None,
    *,
    path: str | os.PathLike[str],
    monitor: object = None,
    measure: str | None = None,
    title: str = TITLE,
    n_shown: int = PAGE,
) -> Path:
    """Write a report of a prediction to `path`: one HTML file that needs no network and no other file.

    It has a summary; with `y` (the true label of each input, or the values observed) the scores; the policy of
    `mc_triage()` in words, and the tier of each input; the state of a `monitor` in its words; and the review queue:
    every input, the most doubtful first, with its image, its most probable labels as bars with the interval of the
    draws, and filters by tier, label and name. Made for the screen, the phone and paper: it prints the cards that are
    shown, at first the `n_shown` most doubtful, and says how many it leaves out; buttons and filters change that.

    images: all that were predicted, as for `mc_plot_probabilities()`, put in as thumbnails; of image files, the names
    are shown too. measure: of the doubt that sorts the queue; by default the policy's first, else the predictive
    entropy, for values the standard deviation with the noise where the model tells it. Returns the path.

    Raises ValueError for images or `y` of another length, and a path that does not end in .html; ImportError without
    jinja2 and Pillow.
    """
    return write_report(
        prediction, images, y, policy, path=path, monitor=monitor, measure=measure, title=title, n_shown=n_shown
    )


def write_report(
    prediction: MCPrediction,
    images: object,
    y: object,
    policy: MCPolicy | None,
    *,
    path: str | os.PathLike[str],
    monitor: object,
    measure: str | None,
    title: str,
    n_shown: int,
    first: int = 0,
) -> Path:
    """The same, with the number that the first input is called by."""
    prediction = check_prediction(prediction)
    target = _checked_path(path)
    _check_extras()
    if not isinstance(title, str):
        raise ValueError(f"`title` must be text; got {shown(title)}.")
    n_shown = check_count(n_shown, "n_shown")
    drift = _monitor_words(monitor)
    queue = _queue(prediction, images, y, policy, measure, first)
    scores = None if y is None else mc_scores(prediction, y)
    containers.write_text(target, _page(queue, scores, drift, title, n_shown))
    return target


# The page -------------------------------------------------------------------------------------------------


def _page(queue: _Queue, scores: MCScores | None, drift: str | None, title: str, n_shown: int) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    style, script = (_template(name) for name in ("report.css", "report.js"))
    environment = Environment(
        loader=PackageLoader("mcdropout"), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template("report.html").render(
        title=title,
        lead=_lead(queue),
        facts=_facts(queue, scores),
        tiers=_tier_table(queue),
        counts=_counts(queue),
        scores=[] if scores is None else _score_tables(scores),
        notes=() if scores is None else scores.notes,
        policy=None if queue.policy is None else queue.policy.words().removeprefix("# "),
        drift=None if drift is None else drift.removeprefix("# "),
        order=f"The most doubtful first, by {_measure_words(queue.measure)}. {_bar_words(queue)}",
        tier_names=() if queue.policy is None else queue.policy.tiers,
        labels=[str(label) for label in labels_of(queue.prediction)] if queue.of_classes else (),
        with_truth=queue.truth is not None,
        page=n_shown,
        data=_data(queue, n_shown),
        origin=repr(queue.prediction),
        version=_version(),
        style=Markup(style),
        style_hash=_hash(style),
        script=Markup(script),
        script_hash=_hash(script),
    )


def _template(name: str) -> str:
    return (resources.files("mcdropout") / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What the page's security policy knows its own style and script by."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _version() -> str:
    import mcdropout

    return mcdropout.__version__


def _lead(queue: _Queue) -> str:
    n = len(queue.prediction)
    words = f"{_many(n, 'input')}, each predicted by {queue.prediction.draws_in_words()} of the network."
    if queue.decisions is None:
        return words
    first = cast(MCPolicy, queue.policy).tiers[0]
    passed = int((queue.decisions["tier"] == first).sum())
    return f"{words} {passed:,} ({_percent(passed / n)}) are in the first tier, “{first}”."


def _facts(queue: _Queue, scores: MCScores | None) -> list[tuple[str, str]]:
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
        facts.append((f"median {_measure_words(queue.measure)}", f"{np.median(queue.doubt):.4g}"))
    if scores is not None and scores.accuracy is not None:
        facts.append(("accuracy", f"{scores.accuracy:.3f}"))
    return facts


def _tier_table(queue: _Queue) -> _Table | None:
    """How many inputs each tier has, and with the truth how many of them are wrong."""
    if queue.decisions is None or queue.policy is None:
        return None
    tiers = queue.decisions["tier"].to_numpy()
    wrong = _wrong(queue)
    columns = ["tier", "inputs", "share"] + ([] if wrong is None else ["wrong", "share wrong"])
    rows = []
    for name in queue.policy.tiers:
        inside = tiers == name
        n = int(inside.sum())
        row = [name, f"{n:,}", _percent(n / len(tiers))]
        if wrong is not None:
            bad = int(wrong[inside].sum())
            row += [f"{bad:,}", _percent(bad / n) if n else "–"]
        rows.append(row)
    return _Table(columns, rows)


def _counts(queue: _Queue) -> list[tuple[str, str, float]]:
    """Each predicted label with how many inputs it has, and that in per cent of the most frequent one's."""
    if not queue.of_classes:
        return []
    names = [str(label) for label in labels_of(queue.prediction)]
    n = np.bincount(predicted_codes(queue.prediction), minlength=len(names))
    return [(name, f"{count:,}", round(100 * count / n.max(), 1)) for name, count in zip(names, n, strict=True)]


def _score_tables(scores: MCScores) -> list[tuple[str, _Table]]:
    if scores.task == "classification":
        rows = [[words, _number(getattr(scores, name))] for name, words in MEANINGS.items()]
        tables = [
            ("Over all inputs", _Table(["score", "value"], rows)),
            ("How well each measure of doubt finds the errors", _measure_table(scores)),
            ("By label", _Table.of(cast(pd.DataFrame, scores.by_label))),
        ]
        return tables
    values = [name for name in ("rmse", "mae", "log_density", "crps") if getattr(scores, name) is not None]
    columns = {name: getattr(scores, name) for name in values}
    by_output = pd.DataFrame({"output": range(1, len(columns["rmse"]) + 1), **columns})
    return [
        ("By output", _Table.of(by_output)),
        ("Intervals", _Table.of(cast(pd.DataFrame, scores.by_interval))),
        ("How well each measure of doubt orders the errors", _measure_table(scores)),
    ]


def _measure_table(scores: MCScores) -> _Table:
    table = scores.by_measure.assign(measure=[name.replace("_", " ") for name in scores.by_measure["measure"]])
    upper = {"auroc": "AUROC", "aupr": "AUPR", "aurc": "AURC", "excess_aurc": "excess AURC"}
    return _Table.of(table.rename(columns=upper))


# The queue ------------------------------------------------------------------------------------------------


def _data(queue: _Queue, n_shown: int) -> dict[str, Any]:
    """What the page's script makes the cards from."""
    prediction = queue.prediction
    pictures, small = _thumbnails(queue.images, queue.order)
    names = [str(one) for one in labels_of(prediction)] if queue.of_classes else _output_names(prediction)
    makes_row = _class_rows(queue) if queue.of_classes else _value_rows(queue)
    rows = []
    for place, (row, picture) in enumerate(zip(makes_row, pictures, strict=True), start=1):
        rows.append({"place": place, **row, "image": picture})
    return {
        "rows": rows,
        "names": names,
        "tiers": [] if queue.policy is None else list(queue.policy.tiers),
        "is_share": queue.of_classes,
        "small": small,
        "page": n_shown,
    }


def _class_rows(queue: _Queue) -> Iterable[dict[str, Any]]:
    prediction = queue.prediction
    labels = [str(one) for one in labels_of(prediction)]
    codes = predicted_codes(prediction)
    ranked = np.argsort(-prediction.mean, axis=1, kind="stable")[:, :MOST_BARS]
    parts = [cast(Array, getattr(prediction, name)) for name in UNITS]
    for i in queue.order:
        bars = [
            [
                int(k),
                f"{prediction.mean[i, k]:.2f}",
                *(round(float(part[i, k]), 3) for part in (prediction.mean, prediction.lower, prediction.upper)),
            ]
            for k in ranked[i]
        ]
        total, aleatoric, epistemic = (part[i] for part in parts)
        doubt = f"entropy {total:.2f} nats: {aleatoric:.2f} aleatoric, {epistemic:.2f} epistemic"
        if queue.measure not in UNITS:
            doubt += f"; {_measure_words(queue.measure)} {queue.doubt[i]:.3g}"
        truth = None if queue.truth is None else int(queue.truth[i])
        yield {
            "head": f"{labels[codes[i]]} ({cast(Array, prediction.confidence)[i]:.2f})",
            "predicted": int(codes[i]),
            "truth": truth,
            "wrong": truth is not None and truth != int(codes[i]),
            "doubt": doubt,
            "bars": bars,
            **_place_of(queue, i),
        }


def _value_rows(queue: _Queue) -> Iterable[dict[str, Any]]:
    """Each output as a dot with its interval, on a scale from the least to the greatest of all inputs."""
    prediction = queue.prediction
    lower, upper = _bounds(prediction)
    mean, lower, upper = (part.reshape(len(prediction), -1)[:, :MOST_BARS] for part in (prediction.mean, lower, upper))
    low = lower.min(axis=0)
    width = np.maximum(upper.max(axis=0) - low, np.finfo(np.float64).tiny)
    seen = None if queue.truth is None else queue.truth.reshape(len(prediction), -1)
    for i in queue.order:
        scaled = [np.round((part[i] - low) / width, 3) for part in (mean, lower, upper)]
        bars = [[k, f"{mean[i, k]:.4g}", *(float(part[k]) for part in scaled)] for k in range(len(low))]
        observed = "" if seen is None else f"; observed {', '.join(f'{one:.4g}' for one in seen[i, :MOST_BARS])}"
        yield {
            "head": ", ".join(f"{one:.4g}" for one in mean[i]),
            "predicted": None,
            "truth": None,
            "wrong": False,
            "doubt": f"{_measure_words(queue.measure)} {queue.doubt[i]:.4g}{observed}",
            "bars": bars,
            **_place_of(queue, i),
        }


def _place_of(queue: _Queue, i: int) -> dict[str, Any]:
    found: dict[str, Any] = {"name": queue.names[i], "tier": None, "reason": ""}
    if queue.decisions is not None and queue.policy is not None:
        found["tier"] = queue.policy.tiers.index(queue.decisions["tier"].iat[i])
        found["reason"] = queue.decisions["reason"].iat[i]
    return found


def _queue(
    prediction: MCPrediction, images: object, y: object, policy: MCPolicy | None, measure: str | None, first: int
) -> _Queue:
    decisions = None if policy is None else mc_decide(policy, prediction)
    measure = measure or (usual_measure(prediction) if policy is None else policy.measures[0])
    doubt = measured(prediction, measure)
    truth = None
    if y is not None:
        truth = true_codes(y, prediction) if _is_classes(prediction) else true_values(y, prediction)
    rows = None if images is None else as_image_rows(images, len(prediction))
    return _Queue(
        prediction=prediction,
        measure=measure,
        doubt=doubt,
        order=np.argsort(-doubt, kind="stable"),
        first=first,
        truth=truth,
        decisions=decisions,
        policy=policy,
        images=rows,
        names=_names(prediction, rows, first),
    )


def _is_classes(prediction: MCPrediction) -> bool:
    return prediction.task == "classification"


def _names(prediction: MCPrediction, images: Rows | None, first: int) -> list[str]:
    """Ids if there are any, else the inputs' numbers; with the names of image files behind."""
    n = len(prediction)
    names = [f"input {i + first}" for i in range(n)]
    if prediction.ids is not None:
        names = [f"id {one}" for one in prediction.ids]
    files = getattr(images, "paths", None)
    if files is None:
        return names
    return [f"{name}, {Path(file).parent.name}/{Path(file).name}" for name, file in zip(names, files, strict=True)]


def _wrong(queue: _Queue) -> Array | None:
    if queue.truth is None or not queue.of_classes:
        return None
    return predicted_codes(queue.prediction) != queue.truth


def _bounds(prediction: MCPrediction) -> tuple[Array, Array]:
    """The interval of a new observation where the model tells its noise, else that of its mean."""
    if prediction.pred_lower is None or prediction.pred_upper is None:
        return prediction.lower, prediction.upper
    return prediction.pred_lower, prediction.pred_upper


def _output_names(prediction: MCPrediction) -> list[str]:
    n = prediction.mean[:1].size
    return ["value"] if n == 1 else [f"output {place}" for place in range(1, n + 1)]


# Thumbnails -----------------------------------------------------------------------------------------------


def _thumbnails(images: Rows | None, order: Array) -> tuple[list[str | None], bool]:
    """Each image in the order given, as what follows `data:image/`; and whether they are so small as to be enlarged."""
    if images is None:
        return [None] * len(order), False
    scale, small = Scale.of(images), max(images.shape[1:3]) <= THUMBNAIL
    # of large image files only so much is decoded as a thumbnail needs
    rows = images.within(THUMBNAIL) if isinstance(images, ImageFiles) else images
    found: list[str | None] = []
    with ThreadPoolExecutor(ENCODERS) as pool:
        for start in range(0, len(order), BATCH):
            found += pool.map(lambda one: _thumbnail(one, scale, small), rows.take(order[start : start + BATCH]))
    return found, small


def _thumbnail(pixels: Array, scale: Scale, small: bool) -> str:
    """PNG where it stays as it is or can be seen through, else JPEG."""
    from PIL import Image

    # image by image: one fits into the processor's cache, a batch does not
    pixels = scale.applied(pixels[None])[0] * np.float32(255)
    pixels += np.float32(0.5)
    image = Image.fromarray(pixels.astype(np.uint8))
    if max(image.size) > THUMBNAIL:
        # first by a whole number, which is quick, then smoothly
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR, reducing_gap=1.0)
    file = io.BytesIO()
    kind = "png" if small or image.mode == "RGBA" else "jpeg"
    image.save(file, kind, **({"quality": QUALITY} if kind == "jpeg" else {}))
    return f"{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


# Words ----------------------------------------------------------------------------------------------------


def _measure_words(measure: str) -> str:
    words = measure.replace("_", " ")
    return f"{words} ({UNITS[measure]})" if measure in UNITS else words


def _bar_words(queue: _Queue) -> str:
    level = f"{100 * queue.prediction.level:g} %"
    if queue.of_classes:
        words = f"Bars: mean probability of the most probable labels; lines: the {level} interval of the draws."
        return words if queue.truth is None else f"{words} Bold: in truth."
    return f"Dots: the mean; lines: the {level} interval, on a scale from the least to the greatest of all inputs."


def _number(value: object) -> str:
    if isinstance(value, (bool, np.bool_, str)):
        return str(value)
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    number = float(cast(float, value))
    return "–" if np.isnan(number) else f"{number:.4g}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


# What comes in --------------------------------------------------------------------------------------------


def _checked_path(path: str | os.PathLike[str]) -> Path:
    target = check_path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"`path` must end in .html; got {shown(str(path))}.")
    if not target.parent.is_dir():
        raise ValueError(f"`path` must be in a folder that exists; got {shown(str(path))}.")
    return target


def _monitor_words(monitor: object) -> str | None:
    if monitor is None or isinstance(monitor, str):  # R has the words already
        return monitor
    words = getattr(monitor, "words", None)
    if not callable(words):
        raise TypeError(f"`monitor` must be what `mc_monitor()` returns; got {shown(type(monitor).__name__)}.")
    return str(words())


def _check_extras() -> None:
    try:
        import jinja2  # noqa: F401  (only whether it is there)
        import PIL  # noqa: F401
    except ImportError as error:
        raise ImportError("Reports need jinja2 and Pillow; run `pip install mcdropout[report]`.") from error
