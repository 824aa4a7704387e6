"""The exceptions of this package."""

from __future__ import annotations


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
