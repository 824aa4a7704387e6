"""Forked processes: locks, threads and backends after a fork."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch

from ..errors import ForkedProcess

CANNOT_FORK = ("tensorflow", "jax")  # wait for ever in a process forked off one that has them

LEFT_BEHIND: set[str] = set()  # of them, those that this process was forked off with

LOCKS: WeakSet[Any] = WeakSet()  # which nobody holds in a process that is forked off

IN_CHILD: list[Callable[[], object]] = []  # what else such a process does first


def in_forked_child() -> None:
    """Make a process that was just forked off able to compute: with one thread of torch.

    The others were not copied, and what is shared out among them would be waited for for ever. Python calls this by
    itself; R's `parallel::mclapply()` forks past it, so the R package calls it.
    """
    LEFT_BEHIND.update(name for name in CANNOT_FORK if name in sys.modules)
    torch.set_num_threads(1)
    for lock in LOCKS:
        lock._at_fork_reinit()  # as `threading` does with its own
    for one in IN_CHILD:
        one()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=in_forked_child)


def check_can_go_on(backend: str) -> None:
    """Refuse a backend of Keras's that this process was forked off with."""
    if backend in LEFT_BEHIND:
        raise ForkedProcess(f"Keras's backend {backend}")


def shared_lock() -> threading.RLock:
    """A lock that is free in a process that is forked off, whoever held it."""
    made = threading.RLock()
    LOCKS.add(made)
    return made
