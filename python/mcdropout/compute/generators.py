"""The global random generators of torch, NumPy and Python: their states, saved and restored."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .devices import current_device
from .forks import shared_lock


def generator_states(device: torch.device) -> list[Tensor]:
    """States of the generators that a model on the device may draw from: the host's, and the device's own."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        card: Any = torch.get_device_module(device)
        states.append(card.get_rng_state(*_named(device)))
    return states


def restore_generators(states: list[Tensor], device: torch.device) -> None:
    """Set the generators to the states that they had."""
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        card: Any = torch.get_device_module(device)
        card.set_rng_state(states[1], *_named(device))


def seed_generators(seed: int, device: torch.device) -> None:
    """Start both from `seed`, and those of no other device, as `torch.manual_seed()` would."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        card: Any = torch.get_device_module(device)
        with current_device(device):
            card.manual_seed(seed)


def _named(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)  # of Apple's there is one


GENERATORS = shared_lock()  # torch's global generators are lent to one at a time


@contextmanager
def other_generators_kept(
    start: int | None = None, waits: bool = True
) -> Iterator[Callable[[Callable[[], object]], tuple[str, ...]]]:
    """Put Python's and NumPy's global generators back if the block moves them, begun at `start` if that is given.

    What is given to the block is a function that names those that it has moved. All threads share them, and what others
    drew is not to come again, so it runs a part of the block some times more: what does not move each time is theirs.
    """
    ours: set[str] = set()

    def moved(again: Callable[[], object]) -> tuple[str, ...]:
        ours.update(_moved(before))
        for _ in range(TIMES_AGAIN):
            if ours:
                now = _other_states()
                again()
                ours.intersection_update(_moved(now))
        return tuple(sorted(ours))

    with OTHERS_WATCHED if waits else nullcontext():  # else two would mix theirs, and put back each other's
        before = _other_states()
        try:
            if start is not None:
                random.seed(start)
                np.random.seed(start % 2**32)
            yield moved
        finally:
            if start is not None or ours:
                random.setstate(before[0])
                np.random.set_state(before[1])


TIMES_AGAIN = 3

OTHERS_WATCHED = shared_lock()


def _other_states() -> tuple[Any, Any]:
    return random.getstate(), np.random.get_state()


def _moved(before: tuple[Any, Any]) -> set[str]:
    """Which of the two are not as they were."""
    now = _other_states()
    same = now[0] == before[0], all(map(np.array_equal, now[1], before[1]))
    return {name for name, one in zip(("Python's `random`", "`numpy.random`"), same, strict=True) if not one}
