"""Free memory of the machine, the container and the process."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from traceback import clear_frames
from typing import Any

from ..checks import MAX_SEED

SIZES = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}

LEAST_CHECKED = 16 << 20  # for less, free memory is not asked for: that takes as long as a small prediction


def free_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process can still get: the least of what the machine, the container and limits allow.

    root: The folder of Linux's `proc` and `sys`.
    """
    if os.name == "nt":
        return _free_on_windows()
    return min([_free_on_machine(root), *_left_by_cgroups(root), *_left_by_limits(root)])


def check_free(n_bytes: int) -> None:
    """Raise MemoryError for so many bytes if they are not free. Without it, a container may end the process."""
    if n_bytes > LEAST_CHECKED and n_bytes > free_memory():
        raise MemoryError(f"Unable to allocate {n_bytes} bytes")


def free_frames(error: BaseException | None) -> None:
    """Free the local variables of the frames of an error.

    An error may live longer than its handler: in a reference cycle (a context manager of Python 3.13 makes one) or
    because somebody stores it. Its traceback would keep all tensors of the failed pass alive.
    """
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def in_words(n_bytes: float) -> str:
    """An amount of memory in the unit that suits it."""
    unit, size = next((unit, size) for unit, size in SIZES.items() if n_bytes >= size or unit == "KiB")
    return f"{n_bytes / size:.1f} {unit}"


def _free_on_machine(root: Path) -> int:
    try:
        return _numbers(root / "proc/meminfo")["MemAvailable"] * 1024
    except (OSError, KeyError):  # macOS, which counts pages
        size, all_pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
        free = [_macos_number(f"vm.page_{name}_count") for name in ("free", "speculative", "purgeable")]
        return size * (all_pages if None in free else sum(pages for pages in free if pages is not None))


def _macos_number(name: str) -> int | None:
    """A number of macOS's kernel; None where there is no such number."""
    if sys.platform != "darwin":
        return None
    number, size = ctypes.c_uint64(0), ctypes.c_size_t(8)
    failed = ctypes.CDLL(None).sysctlbyname(name.encode(), ctypes.byref(number), ctypes.byref(size), None, 0)
    return None if failed else number.value


def _left_by_cgroups(root: Path) -> list[int]:
    """Bytes left by the limits of this process's control groups and of their parents, of version 1 or 2."""
    try:
        lines = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return []
    left = []
    for _, controllers, path in lines:
        if controllers == "":
            mount, limit, used, inactive = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount, limit = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
            used, inactive = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        group = Path(path.lstrip("/"))  # the path on the machine; a container may see this group as its root
        for ancestor in (group, *group.parents):
            folder = root / mount / ancestor
            try:
                limit_text = (folder / limit).read_text().strip()
                if limit_text.isdigit():
                    used_bytes = int((folder / used).read_text())
                    # the system frees the cache of inactive files when a process needs memory
                    cache_bytes = _numbers(folder / "memory.stat").get(inactive, 0)
                    left.append(max(0, int(limit_text) - used_bytes + cache_bytes))
            except OSError:  # the root group has no such file
                continue
    return left


def _left_by_limits(root: Path) -> list[int]:
    """Bytes left by the limits of the process itself (`ulimit -v`, `-d`)."""
    try:
        import resource

        used = _numbers(root / "proc/self/status")
        limits = {"VmSize": resource.RLIMIT_AS, "VmData": resource.RLIMIT_DATA}
        soft_limits = {name: resource.getrlimit(limit)[0] for name, limit in limits.items()}
        return [
            max(0, soft_limit - used[name] * 1024)
            for name, soft_limit in soft_limits.items()
            if soft_limit != resource.RLIM_INFINITY
        ]
    except (ImportError, OSError, KeyError):
        return []


def _numbers(path: Path) -> dict[str, int]:
    """The numbers in the lines `name number` or `name: number unit` of a kernel file, by name."""
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
    kernel: Any = ctypes.windll.kernel32  # type: ignore[attr-defined]  # only on Windows
    if not kernel.GlobalMemoryStatusEx(ctypes.byref(status)):
        return MAX_SEED  # no answer: nothing is refused
    return min(status.free, status.commit_left, status.space_left)
