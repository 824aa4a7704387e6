"""The random generators of torch, NumPy and Python: their states, saved and restored."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .devices import current_device
from .forks import shared_lock

FIRST_LOCK = shared_lock()

LOCK: ContextVar[Any] = ContextVar("LOCK", default=FIRST_LOCK)  # of the global generators, see `generators_held()`

N_REPEATS = 3  # runs that show whether a block moves a generator, or another thread does


def generator_states(device: torch.device) -> list[Tensor]:
    """States of the global generators that a model on the device may use: the host's, and the device's own."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        gpu: Any = torch.get_device_module(device)
        states.append(gpu.get_rng_state(*_device_argument(device)))
    return states


def restore_generators(states: list[Tensor], device: torch.device) -> None:
    """Give the global generators the states that `generator_states()` returned."""
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        gpu: Any = torch.get_device_module(device)
        gpu.set_rng_state(states[1], *_device_argument(device))


def seed_generators(seed: int, device: torch.device) -> None:
    """Start these generators from `seed`; `torch.manual_seed()` would also start those of other devices."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        gpu: Any = torch.get_device_module(device)
        with current_device(device):
            gpu.manual_seed(seed)


def _device_argument(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)  # Apple's functions take no device


@contextmanager
def generators_held() -> Iterator[None]:
    """Other threads wait for the end of this block before they change global generators of torch, Python or NumPy.

    There is one lock for all generators, because two threads that take two locks in different orders wait for ever. A
    thread that works for this block, such as a worker of a prediction that a layer makes, must not wait for its end:
    such threads inherit the context of this block, in which another lock is used.
    """
    with LOCK.get():
        token = LOCK.set(shared_lock())
        try:
            yield
        finally:
            LOCK.reset(token)


@contextmanager
def torch_generators_kept(device: torch.device) -> Iterator[None]:
    """Restore torch's global generators after the block; other threads wait until then."""
    with generators_held():
        states = generator_states(device)
        try:
            yield
        finally:
            restore_generators(states, device)


@contextmanager
def generator_kept(generator: torch.Generator | None, seed: int) -> Iterator[None]:
    """Start a generator, if there is one, from `seed`, and restore it after the block."""
    if generator is None:
        yield
        return
    state = generator.get_state()
    try:
        generator.manual_seed(seed)
        yield
    finally:
        generator.set_state(state)


@contextmanager
def other_generators_kept(
    seed: int | None = None, waits: bool = True
) -> Iterator[Callable[[Callable[[], object]], tuple[str, ...]]]:
    """Restore the global generators of Python and NumPy after the block, if the block moves them.

    The block gets a function that names the generators which the block has moved. All threads share these generators,
    and the draws of other threads must not be repeated. So the function runs a part of the block again: a generator
    that does not move every time was moved by another thread.

    seed: Start both generators from this number, and restore them in any case. waits: Wait for other blocks to end.
    """
    moved_by_block: set[str] = set()

    def names_of_moved(again: Callable[[], object]) -> tuple[str, ...]:
        moved_by_block.update(_moved_since(states))
        for _ in range(N_REPEATS):
            if moved_by_block:
                states_now = _other_states()
                again()
                moved_by_block.intersection_update(_moved_since(states_now))
        return tuple(sorted(moved_by_block))

    # without the lock two blocks would mix their draws and restore each other's states
    with generators_held() if waits else nullcontext():
        states = _other_states()
        try:
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed % 2**32)
            yield names_of_moved
        finally:
            if seed is not None or moved_by_block:
                random.setstate(states[0])
                np.random.set_state(states[1])


def _other_states() -> tuple[Any, Any]:
    return random.getstate(), np.random.get_state()


def _moved_since(states: tuple[Any, Any]) -> set[str]:
    """Names of the generators whose states have changed."""
    states_now = _other_states()
    unchanged = {
        "Python's `random`": states_now[0] == states[0],
        "`numpy.random`": all(map(np.array_equal, states_now[1], states[1])),
    }
    return {name for name, same in unchanged.items() if not same}
