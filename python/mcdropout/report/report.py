"""`mc_report()`: write a report."""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from .. import containers, disk
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

PAGE = 100  # cards that are shown and printed at first, and that each press of the button adds


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

    The report has a summary, the scores (with `y`), the policy in words, the tier of each input, the state of a monitor
    and the review queue. The queue shows every input, the most uncertain first, with its image and with its most
    probable labels as bars with the interval of the draws. It has filters by tier, label and name. The page is made for
    screens, phones and paper. It prints the cards that are shown, and says how many cards it leaves out.

    Args:
        prediction: The result of `mc_predict()`.
        images: All images that were predicted, as for `mc_plot_probabilities()`. The report contains thumbnails. It
            also shows the names of image files.
        y: The true label of each input, or the observed values.
        policy: The result of `mc_triage()`.
        path: The file to write. Its name ends in .html.
        monitor: The result of `mc_monitor()`.
        measure: The measure of uncertainty that sorts the queue. By default the first measure of the policy. Without a
            policy it is the predictive entropy; for values the standard deviation, with the noise if the model has it.
        title: The title of the page.
        n_shown: The number of cards that are shown at first.

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
    contents = ReportContents(prediction, images, y, policy, monitor, measure)
    return write_report(contents, path=path, title=title, n_shown=n_shown)


@dataclass(frozen=True)
class ReportContents:
    """What a report is about: arguments of `mc_report()`, not yet checked."""

    prediction: MCPrediction
    images: object
    y: object
    policy: MCPolicy | None
    monitor: object
    measure: str | None
    first: int = 0  # the number of the first input: 0 in Python, 1 in R


def write_report(contents: ReportContents, *, path: str | os.PathLike[str], title: str, n_shown: int) -> Path:
    """Check the contents and write the report."""
    prediction = check_prediction(contents.prediction)
    target = _checked_path(path)
    _check_extras()
    if not isinstance(title, str):
        raise ValueError(f"`title` must be text; got {shown(title)}.")
    n_shown = check_count(n_shown, "n_shown")
    drift = monitor_words(contents.monitor)
    queue = make_queue(prediction, contents.images, contents.y, contents.policy, contents.measure, contents.first)
    scores = None if contents.y is None else mc_scores(prediction, contents.y)
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
    """The hash by which the security policy of the page recognises its own style and script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _version() -> str:
    import mcdropout

    return mcdropout.__version__


def _checked_path(path: str | os.PathLike[str]) -> Path:
    target = check_path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"`path` must end in .html; got {shown(str(path))}.")
    disk.check_target(target)
    return target


def _check_extras() -> None:
    try:
        import jinja2  # noqa: F401  (tests only that it is installed)
        import PIL  # noqa: F401
    except ImportError as error:
        raise ImportError("Reports need jinja2 and Pillow; run `pip install mcdropout[report]`.") from error
