"""The exceptions of this package."""

from __future__ import annotations


class NoStochasticSites(ValueError):
    """The model has nothing to sample: no dropout with a rate above 0."""


class IdenticalDraws(ValueError):
    """Every draw came out the same, so the spread would say nothing."""


class OutOfMemory(MemoryError):
    """What was asked for does not fit in memory."""


class ForkedProcess(RuntimeError):
    """The process was forked, and what is to compute cannot go on in such a one."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} cannot work in a process that was forked off one that used it; start processes by "
            '`multiprocessing`\'s "spawn" or "forkserver", in R by `parallel::makeCluster()` or callr.'
        )


class UnreadableFile(ValueError):
    """A file that is not ours, is cut short, or was written by a newer version."""
