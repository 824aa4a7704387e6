"""What threads and forked processes share, and settings that are restored: locks, backends, warnings, gradients."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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


class _Filter(tuple[Any, ...]):
    """A filter of the module `warnings` that equals only itself."""

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = tuple.__hash__


@contextmanager
def warnings_ignored(category: type[Warning] = Warning) -> Iterator[None]:
    """Ignore warnings of a category inside the block.

    `warnings.catch_warnings()` restores the filters that it found. If the blocks of two threads overlap, it restores
    those of the other thread, and warnings stay off. This function adds one filter and removes the same filter.
    """
    found: Any = warnings.filters
    ours = _Filter(("ignore", None, category, None, 0))
    found.insert(0, ours)
    try:
        yield
    finally:
        for filters in (found, warnings.filters):  # a thread inside `catch_warnings()` has replaced the list
            _remove(filters, ours)


def _remove(filters: Any, ours: _Filter) -> None:
    with suppress(ValueError):
        filters.remove(ours)


def _remove_all() -> None:
    """Remove the filters that other threads had added when this process was forked."""
    for entry in [entry for entry in warnings.filters if isinstance(entry, _Filter)]:
        _remove(warnings.filters, entry)


IN_CHILD.append(_remove_all)


@contextmanager
def gradients_kept() -> Iterator[None]:
    """After the block torch records gradients as before, also if Ctrl-C came while torch changed that."""
    before = _are_gradients_recorded()
    try:
        yield
    finally:
        if _are_gradients_recorded() != before:
            sys.modules["torch"].set_grad_enabled(before)


def _are_gradients_recorded() -> bool:
    """Whether torch records gradients in this thread, as it does from its import on."""
    function = getattr(sys.modules.get("torch"), "is_grad_enabled", None)  # missing while another thread imports torch
    return function is None or function()
