"""Free memory, and what happens when it runs out."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import clear_frames
from typing import Any

from ..checks import MAX_SEED


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


@contextmanager
def out_of_memory_passed_over() -> Iterator[None]:
    """Go on behind the block if it runs out of memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        let_go_of_what_it_made(error)


def let_go_of_what_it_made(error: BaseException | None) -> None:
    """Free what the frames of a failed pass hold.

    An error may outlive its handling, in a cycle (as of a context manager in Python 3.13) or with who has kept it, and
    its traceback would hold on to all that the pass had made.
    """
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
