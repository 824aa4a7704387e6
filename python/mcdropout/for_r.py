"""Functions that only R calls. `R/bridge.R` finds all others by their public names.

Torch is imported only by the functions that need it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import files
from .checks import shown
from .compute.out_of_memory import explains_out_of_memory
from .data.images import ImageFiles, mc_read_images
from .data.labels import Label, as_labels
from .data.rows import ArrayRows
from .report.report import ReportContents, write_report

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from .networks.frozen import FrozenNetwork
    from .networks.network import MCNetwork
    from .predictions.outputs import CountedFromOne


def rows_with_columns(x: np.ndarray, columns: Sequence[str]) -> ArrayRows:
    """Rows of a table whose columns have names."""
    return ArrayRows(x, columns)


def labels_and_codes(y: Any, labels: Sequence[Label] | None) -> tuple[np.ndarray, tuple[Label, ...]]:
    """Labels as codes, and what each code means."""
    return as_labels(y, labels)


@explains_out_of_memory("mc_read_images")
def image_files(
    paths: Sequence[str], y: Sequence[str] | None, labels: Sequence[str] | None, size: Sequence[int], color: str
) -> ImageFiles:
    """Images on disk that are read when they are needed."""
    return ImageFiles(paths, y=y, labels=labels, size=size, color=color)


@explains_out_of_memory("mc_read_images")
def read_images(path: str, **options: Any) -> ImageFiles:
    """`mc_read_images()`. Refuses names that are not UTF-8, of which R would silently lose characters."""
    images = mc_read_images(path, **options)
    _check_unicode(images.paths, "Rename that file or folder.")
    return images


@explains_out_of_memory("mc_load")
def load(path: str) -> Any:
    """`mc_load()`. Refuses labels that are not Unicode, of which R would silently lose characters."""
    thing = files.mc_load(path)
    _check_unicode(getattr(thing, "labels", None) or (), "Python can open it.")
    return thing


def _check_unicode(names: Sequence[Label], way_out: str) -> None:
    for name in names:
        written = str(name).encode("utf-8", "backslashreplace").decode()
        if written != str(name):
            raise ValueError(f"`path` must hold names in UTF-8 only; got {shown(written)}. {way_out}")


def output_number(number: int) -> CountedFromOne:
    """The position of an output, counted from 0, that messages show counted from 1."""
    from .predictions.outputs import CountedFromOne

    return CountedFromOne(number)


@explains_out_of_memory("mc_save")
def model_to_bytes(model: MCNetwork | FrozenNetwork) -> bytes:
    """The content of the file that `mc_save()` would write of a network."""
    return files.model_to_bytes(model)


@explains_out_of_memory("mc_load")
def model_from_bytes(content: bytes) -> MCNetwork | FrozenNetwork:
    """The network whose bytes `model_to_bytes()` returned."""
    return files.model_from_bytes(content)


@explains_out_of_memory("mc_save")
def learnt_to_text(learnt: files.Learnt) -> str:
    """A policy, calibration, conformal predictor or monitor as JSON."""
    return files.text_of(learnt)


@explains_out_of_memory("mc_load")
def learnt_from_text(text: str) -> files.Learnt:
    """The object whose text `learnt_to_text()` returned."""
    return files.from_text(text)


@explains_out_of_memory("mc_weights_table")
def weights_table(model: Any, n_weights: int, level: float) -> pd.DataFrame:
    """`mc_weights_table()` with numbers counted from 1."""
    from .networks.weights import weights_of

    return weights_of(model, n_weights=n_weights, level=level, first=1)


@explains_out_of_memory("mc_report")
def report(
    prediction: Any,
    images: Any,
    y: Any,
    policy: Any,
    path: str | os.PathLike[str],
    monitor: Any,
    measure: Any,
    **page: Any,
) -> None:
    """`mc_report()` with inputs counted from 1, and the words of a monitor.

    page: the further arguments of `write_report()`.
    """
    contents = ReportContents(prediction, images, y, policy, monitor, measure, first=1)
    write_report(contents, path=path, **page)


def after_fork() -> None:
    """Make this process, which R has forked, able to compute; see `compute.forks`."""
    forks = sys.modules.get("mcdropout.compute.forks")
    if forks is not None:
        forks.in_forked_child()
