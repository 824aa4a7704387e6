"""Forked processes: locks, threads and backends after a fork."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from ..errors import ForkedProcess

CANNOT_FORK = ("tensorflow", "jax")  # these wait for ever in a process that was forked after they were imported

BROKEN_BY_FORK: set[str] = set()  # those of `CANNOT_FORK` that were imported when this process was forked

LOCKS: WeakSet[Any] = WeakSet()  # released in a forked process

IN_CHILD: list[Callable[[], object]] = []  # functions that a forked process calls first


def in_forked_child() -> None:
    """Make a process that was just forked able to compute, with one thread of torch.

    A fork does not copy torch's other threads, and torch would wait for them for ever. Python calls this function
    after its own forks. It does not notice the forks of R's `parallel::mclapply()`, so the R package calls it there.
    """
    BROKEN_BY_FORK.update(name for name in CANNOT_FORK if name in sys.modules)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    for lock in LOCKS:
        lock._at_fork_reinit()  # as `threading` does with its own locks
    for function in IN_CHILD:
        function()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=in_forked_child)


def check_can_go_on(backend: str) -> None:
    """Refuse a backend of Keras that was imported before this process was forked."""
    if backend in BROKEN_BY_FORK:
        raise ForkedProcess(f"Keras's backend {backend}")


def shared_lock() -> threading.RLock:
    """A lock that is free in a forked process, also where a thread held it during the fork."""
    lock = threading.RLock()
    LOCKS.add(lock)
    return lock
