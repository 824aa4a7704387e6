"""Progress of long runs: a bar, or a function of the caller."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from tqdm.auto import tqdm

from .checks import check_flag
from .compute.forks import shared_lock

Progress = bool | Callable[[int, int, str], object]


class Report(Protocol):
    """Called with the number of units that were completed since the last call, and with a text if it changes."""

    def __call__(self, more: int, text: str = "") -> None: ...


class Bar(tqdm):
    """A bar with a lock of its own.

    The lock of tqdm is shared with forked processes. If one of them is killed while it holds the lock, the others wait
    for ever. Making that lock also sets the start method of `multiprocessing` for the whole process.
    """


Bar.set_lock(shared_lock())


@contextmanager
def reporting(
    progress: Progress, total: int | None, unit: str, text: str = "", done: int = 0, every: float = 0
) -> Iterator[Report]:
    """Report progress by a bar, by the caller's function of (done, total, text), or not at all.

    total: None if it is not known; the caller's function gets 0 then. done: units completed before. every: seconds
    between two calls of the caller's function.
    """
    if callable(progress):
        last = -math.inf

        def call(more: int, text: str = text) -> None:
            nonlocal done, last
            done += more
            now = time.perf_counter()
            if now - last >= every or done == total:
                last = now
                progress(done, total or 0, text)

        yield call
        return
    if not check_flag(progress, "progress"):
        yield lambda more, text="": None
        return
    # seconds between two updates; a log file gets a line for each
    pause = 0.2 if sys.stderr is not None and sys.stderr.isatty() else 5.0
    with Bar(total=total, initial=done, desc=text, unit=unit, leave=False, delay=1.0, mininterval=pause) as bar:

        def move(more: int, text: str = "") -> None:
            if text:
                bar.set_description_str(text, refresh=False)
            bar.update(more)

        yield move
