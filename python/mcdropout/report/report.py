"""`mc_report()`: write a report."""

from __future__ import annotations

import base64
import hashlib
import os
from importlib import resources
from pathlib import Path

from .. import containers
from ..checks import check_count, check_path, shown
from ..decisions.policy import MCPolicy
from ..evaluation.result import MCScores
from ..evaluation.scores import mc_scores
from ..predictions.prediction import MCPrediction
from ..predictions.truth import check_prediction, labels_of
from ..predictions.uncertainty import label_of
from .queue import Queue, make_queue
from .rows import data
from .tables import counts, score_tables, tier_table
from .words import bar_words, key_facts, lead, monitor_words

TITLE = "How sure the predictions are"

PAGE = 100  # cards that are shown at first and printed, and added by a press of the button


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
    """Write a report of a prediction: one HTML file that needs no network and no other file.

    It has a summary; with `y` the scores; the policy in words, and the tier of each input; the state of a monitor; and
    the
    review queue: every input, the most uncertain first, with its image, its most probable labels as bars with the
    interval
    of the draws, and filters by tier, label and name. It is made for the screen, the phone and paper: it prints the
    cards
    that are shown, and says how many it leaves out.

    Args:
        prediction: What `mc_predict()` returned.
        images: All images that were predicted, as for `mc_plot_probabilities()`. They are put in as thumbnails. Of
            image files, the names are shown too.
        y: The true label of each input, or the values observed.
        policy: What `mc_triage()` returned.
        path: The file to write, which ends in .html.
        monitor: What `mc_monitor()` returned.
        measure: The measure of uncertainty that sorts the queue. By default the policy's first, else the predictive
            entropy; for values the standard deviation with the noise where the model has it.
        title: The title of the page.
        n_shown: Cards that are shown at first.

    Returns:
        The path.

    Raises:
        ValueError: For images or `y` of another length, and a path that does not end in .html.
        ImportError: Without jinja2 and Pillow.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(300, 4))
        >>> y = np.where(x[:, 0] > 0, "yes", "no")
        >>> net = mcd.mc_fit(
        ...     mcd.mc_mlp(4, ["no", "yes"], seed=1), x, y, epochs=5, learning_rate=0.02, seed=1, progress=False
        ... )
        >>> prediction = mcd.mc_predict(net, x, 20, seed=1, progress=False)
        >>> mcd.mc_report(prediction, y=y, path="report.html").name
        'report.html'
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
    drift = monitor_words(monitor)
    queue = make_queue(prediction, images, y, policy, measure, first)
    scores = None if y is None else mc_scores(prediction, y)
    containers.write_text(target, _page(queue, scores, drift, title, n_shown))
    return target


def _page(queue: Queue, scores: MCScores | None, drift: str | None, title: str, n_shown: int) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    style, script = (_template(name) for name in ("report.css", "report.js"))
    environment = Environment(
        loader=PackageLoader("mcdropout.report"), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template("report.html").render(
        title=title,
        lead=lead(queue),
        facts=key_facts(queue, scores),
        tiers=tier_table(queue),
        counts=counts(queue),
        scores=[] if scores is None else score_tables(scores),
        notes=() if scores is None else scores.notes,
        policy=None if queue.policy is None else queue.policy.words().removeprefix("# "),
        drift=None if drift is None else drift.removeprefix("# "),
        order=f"The most uncertain first, by {label_of(queue.measure)}. {bar_words(queue)}",
        tier_names=() if queue.policy is None else queue.policy.tiers,
        labels=[str(label) for label in labels_of(queue.prediction)] if queue.of_classes else (),
        with_truth=queue.truth is not None,
        page=n_shown,
        data=data(queue, n_shown),
        origin=repr(queue.prediction),
        version=_version(),
        style=Markup(style),
        style_hash=_hash(style),
        script=Markup(script),
        script_hash=_hash(script),
    )


def _template(name: str) -> str:
    return (resources.files("mcdropout") / "report" / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What the page's security policy knows its own style and script by."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _version() -> str:
    import mcdropout

    return mcdropout.__version__


def _checked_path(path: str | os.PathLike[str]) -> Path:
    target = check_path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"`path` must end in .html; got {shown(str(path))}.")
    if not target.parent.is_dir():
        raise ValueError(f"`path` must be in a folder that exists; got {shown(str(path))}.")
    return target


def _check_extras() -> None:
    try:
        import jinja2  # noqa: F401  (only whether it is there)
        import PIL  # noqa: F401
    except ImportError as error:
        raise ImportError("Reports need jinja2 and Pillow; run `pip install mcdropout[report]`.") from error
