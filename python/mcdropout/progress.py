"""How a long run tells how far it is: a bar, or the caller's own function."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from tqdm.auto import tqdm

from .checks import check_flag

Progress = bool | Callable[[int, int, str], object]


class Report(Protocol):
    """Is told how many more are done and, where it changes, what is being done."""

    def __call__(self, more: int, text: str = "") -> None: ...


@contextmanager
def reporting(
    progress: Progress, total: int | None, unit: str, text: str = "", done: int = 0, every: float = 0
) -> Iterator[Report]:
    """What tells of progress: a bar, the caller's function of (done, total, text), or nothing.

    total: None where nobody knows it, which the caller's function sees as 0. done: what is done already. every: seconds
    between two calls of the caller's function.
    """
    if callable(progress):
        last = -math.inf

        def tell(more: int, text: str = text) -> None:
            nonlocal done, last
            done += more
            now = time.perf_counter()
            if now - last >= every or done == total:
                last = now
                progress(done, total or 0, text)

        yield tell
        return
    show = check_flag(progress, "progress")
    # seconds: a log file wants few lines
    pause = 0.2 if sys.stderr is not None and sys.stderr.isatty() else 5.0
    with tqdm(
        total=total, initial=done, desc=text, unit=unit, leave=False, delay=1.0, mininterval=pause, disable=not show
    ) as bar:

        def move(more: int, text: str = "") -> None:
            if text:
                bar.set_description_str(text, refresh=False)
            bar.update(more)

        yield move
