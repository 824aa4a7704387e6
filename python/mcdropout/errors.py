"""The exceptions of this package, and interrupts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

# What code raises that builds an object from the parts in a damaged file.
DAMAGED = (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError, OverflowError)


class NoStochasticSites(ValueError):
    """The model has nothing to sample: no dropout with a rate above 0."""


class IdenticalDraws(ValueError):
    """All draws are the same, so their spread would say nothing."""


class OutOfMemory(MemoryError):
    """Memory ran out, or a result would not fit in it."""


class ForkedProcess(RuntimeError):
    """The process was forked, and a library that computes cannot work in a forked process."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"{what} cannot work in a process that was forked off one that used it; start processes by "
            '`multiprocessing`\'s "spawn" or "forkserver", in R by `parallel::makeCluster()` or callr.'
        )

    def __reduce__(self) -> tuple[type[ForkedProcess], tuple[str]]:
        """Copies are made of the argument: Python would take the whole sentence for it."""
        return type(self), (self.what,)


class UnreadableFile(ValueError):
    """A file that this package did not write, that is cut short or changed, or that a newer version wrote."""


class UnwritableFile(OSError, ValueError):
    """A file that the system cannot write: the disk is full, the folder is read-only, the name is too long."""


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Raise KeyboardInterrupt if the block was interrupted, also where another error came after the interrupt.

    Ctrl-C may come while torch changes its stack of modes. Torch then fails on the way out of the block, and its error
    would be taken for one of the model.
    """
    handled = sys.exc_info()[1]  # what the caller handles is no interrupt of this block
    try:
        yield
    except Exception as error:
        behind = error.__context__
        while behind is not None and behind is not handled:
            if isinstance(behind, KeyboardInterrupt):
                raise behind from None
            behind = behind.__context__
        raise
