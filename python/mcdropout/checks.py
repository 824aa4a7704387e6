"""Argument checks: every wording that a user can see about a plain argument, and the exception classes.

Each check returns the value in the form the rest of the package relies on, or raises one sentence:
the argument, what it must be, what came. `R/checks.R` says the same sentences; a bridge test compares them.
"""

from __future__ import annotations

import ctypes
import math
import operator
import os
import secrets
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

PASSED_OVER = (__name__.partition(".")[0], "contextlib")  # whose lines no warning points at
MAX_SEED = 2**53 - 1  # the largest whole number that R's doubles hold exactly


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


def warn(text: str) -> None:
    """Warn of something at the line, outside this package, that called us: it decides whose the warning is."""
    level, frame = 1, sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in PASSED_OVER:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)


def shown(value: object) -> str:
    """`value` as it appears in a message: strings in double quotes, long values shortened."""
    if isinstance(value, np.generic):
        value = value.item()
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    if len(text) <= 80:
        return text
    return f"{text[:38]}...{text[-39:]}" if isinstance(value, str) else text[:77] + "..."  # a path ends in its file


def whole(value: object) -> int | None:
    """`value` as an int if it is a whole number of any type; 50.0 is one, True is not."""
    number = real(value)
    return int(number) if number is not None and number == int(number) else None


def real(value: object) -> int | float | None:
    """`value` as a Python number if it is a finite one of any type; True is not."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        return None
    number = value.item() if isinstance(value, np.generic) else value
    return number if math.isfinite(number) else None


def check_count(value: object, name: str, at_least: int = 1) -> int:
    """A whole number of at least `at_least`."""
    number = whole(value)
    if number is None or number < at_least:
        raise ValueError(f"`{name}` must be a whole number of at least {at_least}; got {shown(value)}.")
    return number


def check_number(
    value: object,
    name: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> float:
    """A finite number within the bounds that are given."""
    number = real(value)
    words: list[str] = []
    fits = number is not None
    for bound, text, holds in (
        (above, "above", operator.gt),
        (at_least, "of at least", operator.ge),
        (below, "below", operator.lt),
        (at_most, "at most", operator.le),
    ):
        if bound is not None:
            words.append(f"{text} {bound}")
            fits = fits and number is not None and holds(number, bound)
    if number is None or not fits:
        wanted = " ".join(["a number", " and ".join(words)]).strip()
        raise ValueError(f"`{name}` must be {wanted}; got {shown(value)}.")
    return float(number)


def check_flag(value: object, name: str) -> bool:
    """True or False, nothing that merely counts as such."""
    if isinstance(value, bool):
        return value
    raise ValueError(f"`{name}` must be true or false; got {shown(value)}.")


def check_choice(value: object, name: str, choices: Sequence[str]) -> str:
    """One of the words in `choices`."""
    if isinstance(value, str) and value in choices:
        return value
    words = ", ".join(f'"{choice}"' for choice in choices)
    raise ValueError(f"`{name}` must be one of {words}; got {shown(value)}.")


def listed(labels: Sequence[object]) -> str:
    """Labels in words, the first ten of them."""
    words = ", ".join(f'"{label}"' for label in labels[:10])
    return words if len(labels) <= 10 else f"{words} and {len(labels) - 10} more"


def check_seed(value: object, name: str = "seed") -> int:
    """A whole number from 0 to 2^53 - 1; None draws one, without touching any global generator."""
    if value is None:
        return secrets.randbelow(2**31)
    number = whole(value)
    if number is not None and 0 <= number <= MAX_SEED:
        return number
    raise ValueError(f"`{name}` must be a whole number from 0 to 2^53 - 1; got {shown(value)}.")


def check_path(value: object, name: str = "path") -> Path:
    """The name of a file or folder."""
    if isinstance(value, (str, os.PathLike)) and str(value):
        return Path(value)
    raise ValueError(f"`{name}` must be a path; got {shown(value)}.")


def check_length(got: int, name: str, wanted: int, of: str) -> None:
    """Two arguments that must be of one length."""
    if got != wanted:
        raise ValueError(f"`{name}` must be as long as `{of}` ({wanted}); got length {got}.")


def free_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that are free, or could be, for this process: the least that machine, container and limits leave.

    `root`: where Linux's `proc` and `sys` lie.
    """
    if os.name == "nt":
        return _free_on_windows()
    return min([_free_on_machine(root), *_left_by_cgroups(root), *_left_by_limits(root)])


def _free_on_machine(root: Path) -> int:
    try:
        return _numbers(root / "proc/meminfo")["MemAvailable"] * 1024
    except (OSError, KeyError):  # macOS, which counts pages
        size, all_pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
        free = [_macos_number(f"vm.page_{name}_count") for name in ("free", "speculative", "purgeable")]
        return size * (all_pages if None in free else sum(one for one in free if one is not None))


def _macos_number(name: str) -> int | None:
    """A number that macOS's kernel tells; None where there is no such number."""
    if sys.platform != "darwin":
        return None
    found, size = ctypes.c_uint64(0), ctypes.c_size_t(8)
    failed = ctypes.CDLL(None).sysctlbyname(name.encode(), ctypes.byref(found), ctypes.byref(size), None, 0)
    return None if failed else found.value


def _left_by_cgroups(root: Path) -> list[int]:
    """What the limits of this process's control groups, and of those around them, leave; of either version."""
    try:
        lines = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return []
    left = []
    for _, controllers, path in lines:
        if controllers == "":
            mount, limit, used, file = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount, limit = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
            used, file = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        group = Path(path.lstrip("/"))  # as the machine names it: a container may see it as the root of its own
        for one in (group, *group.parents):
            folder = root / mount / one
            try:
                most = (folder / limit).read_text().strip()
                if most.isdigit():
                    held = int((folder / used).read_text())
                    # files that were read lately are given up when memory is wanted
                    left.append(max(0, int(most) - held + _numbers(folder / "memory.stat").get(file, 0)))
            except OSError:  # the root has no limit, and no such file
                continue
    return left


def _left_by_limits(root: Path) -> list[int]:
    """What the limits of the process itself (`ulimit -v`, `-d`) leave."""
    try:
        import resource

        used = _numbers(root / "proc/self/status")
        limits = {"VmSize": resource.RLIMIT_AS, "VmData": resource.RLIMIT_DATA}
        most = {name: resource.getrlimit(limit)[0] for name, limit in limits.items()}
        return [max(0, most[name] - used[name] * 1024) for name in most if most[name] != resource.RLIM_INFINITY]
    except (ImportError, OSError, KeyError):
        return []


def _numbers(path: Path) -> dict[str, int]:
    """The lines `name number` or `name: number unit` of a file of the kernel's."""
    words = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdigit()}


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of Windows."""

    _fields_ = [("length", ctypes.c_uint32), ("load", ctypes.c_uint32)] + [
        (name, ctypes.c_uint64)
        for name in ("physical", "free", "commit", "commit_left", "space", "space_left", "extended")
    ]


def _free_on_windows() -> int:
    status = _MemoryStatus(ctypes.sizeof(_MemoryStatus))
    kernel: Any = ctypes.windll.kernel32  # type: ignore[attr-defined]  # of Windows alone
    if not kernel.GlobalMemoryStatusEx(ctypes.byref(status)):
        return MAX_SEED  # no answer: nothing is refused
    return min(status.free, status.commit_left, status.space_left)
