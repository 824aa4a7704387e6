"""Devices: their names, and how much work one of them gets at once."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor

from ..checks import shown
from ..errors import ForkedProcess

CACHES_PER_PIECE = 128  # a GPU works on so many times what stays in a core's cache: each piece costs it some launches

CHUNKS_PER_CARD = 64  # of what a chunk works on the largest result is a part, and torch keeps blocks for later


def chunk_bytes(device: torch.device, on_cpu: int) -> int:
    """Bytes of the largest intermediate result of a chunk.

    On a card a share of its whole memory, free or not, so that two runs agree to the bit: as much as it holds, since
    small pieces leave most of it idle. `on_cpu` elsewhere, where a piece is to stay in cache.
    """
    card: Any = None if device.type == "cpu" else torch.get_device_module(device)
    if hasattr(card, "get_device_properties"):
        return max(on_cpu, card.get_device_properties(device).total_memory // CHUNKS_PER_CARD)
    if hasattr(card, "recommended_max_memory"):  # Apple's
        return max(on_cpu, card.recommended_max_memory() // CHUNKS_PER_CARD)
    return on_cpu


def piece_size(device: torch.device, in_cache: int) -> int:
    """How much is worked on in one go, of which `in_cache` stays in the cache of a core."""
    return in_cache if device.type == "cpu" else in_cache * CACHES_PER_PIECE


def for_float64(device: torch.device) -> torch.device:
    """Where float64 and 64-bit words are worked with: Apple's GPUs have no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def current_device(device: torch.device) -> AbstractContextManager[Any]:
    """Inside, the device is the current one, which kernels from outside torch ask for; every thread has its own."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def empty_cache(device: torch.device) -> None:
    """Hand blocks that torch keeps for later, and that may be of the wrong sizes, back to the device."""
    if device.type != "cpu":
        card: Any = torch.get_device_module(device)
        if hasattr(card, "empty_cache"):
            card.empty_cache()


def is_on_host(x: Tensor) -> bool:
    """Whether Python may ask for a number of this tensor: elsewhere the answer waits for all work that is under way."""
    return x.is_cpu


CPU = torch.device("cpu")


def as_device(device: object) -> torch.device:
    """The torch device: "auto" is the first GPU if there is one, else the CPU.

    Raises ValueError for a device that is not here.
    """
    import torch

    if device == "auto":
        device = "cuda" if has_gpu() else "cpu"
    try:
        found = torch.device(cast(str, device))
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f'`device` must be "auto", "cpu", "cuda", "cuda:1" or the like; got {shown(device)}.'
        ) from error
    if found.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise ForkedProcess("`device` is a GPU, which")
    if found.type == "cpu" or _answers(found):
        return found
    raise ValueError(f'`device` "{found}" is not available here; use "cpu" or "auto".')


def has_gpu() -> bool:
    """Whether torch finds a GPU that it can compute on."""
    import torch

    return torch.cuda.is_available()


def as_devices(device: object) -> list[torch.device]:
    """One device or several, each as `as_device()` takes it."""
    if isinstance(device, (list, tuple)) and device:
        return [as_device(one) for one in device]
    return [as_device(device)]


def _answers(device: torch.device) -> bool:
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        return False
    return device.type != "meta"
