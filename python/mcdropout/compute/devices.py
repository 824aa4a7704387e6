"""Devices: their names, and how much work a device gets at once."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor

from ..checks import shown
from ..errors import ForkedProcess

CACHES_PER_PIECE = 128  # pieces of a GPU are this many times larger than a core's cache: each piece costs some launches

CHUNKS_PER_GPU = 64  # a chunk needs several times its largest result, and torch keeps blocks for later use


def chunk_bytes(device: torch.device, on_cpu: int) -> int:
    """Bytes of the largest intermediate result of a chunk.

    On a GPU: a fixed share of the total memory, because small chunks leave most of a GPU unused. The free memory does
    not matter, so that two runs agree to the bit. On a CPU: `on_cpu`, so that a chunk stays in cache.
    """
    gpu: Any = None if device.type == "cpu" else torch.get_device_module(device)
    if hasattr(gpu, "get_device_properties"):
        return max(on_cpu, gpu.get_device_properties(device).total_memory // CHUNKS_PER_GPU)
    if hasattr(gpu, "recommended_max_memory"):  # Apple's
        return max(on_cpu, gpu.recommended_max_memory() // CHUNKS_PER_GPU)
    return on_cpu


def piece_size(device: torch.device, in_cache: int) -> int:
    """Size of a piece that is computed at once; `in_cache` is the size that fits the cache of a CPU core."""
    return in_cache if device.type == "cpu" else in_cache * CACHES_PER_PIECE


def for_float64(device: torch.device) -> torch.device:
    """The device that computes in float64 and in 64-bit integers: Apple's GPUs have no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def current_device(device: torch.device) -> AbstractContextManager[Any]:
    """Make the device the current one of this thread; kernels from outside torch run on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def empty_cache(device: torch.device) -> None:
    """Return unused memory blocks, which torch keeps for later and which may have the wrong sizes, to the device."""
    if device.type != "cpu":
        gpu: Any = torch.get_device_module(device)
        if hasattr(gpu, "empty_cache"):
            gpu.empty_cache()


def is_on_host(x: Tensor) -> bool:
    """Whether Python can read a number of this tensor at once: on a GPU it first waits for all running work."""
    return x.is_cpu


CPU = torch.device("cpu")


def as_device(device: object) -> torch.device:
    """The torch device: "auto" is the first GPU if there is one, else the CPU.

    Raises ValueError for a device that is not available.
    """
    import torch

    if isinstance(device, str) and device == "auto":
        device = "cuda" if has_gpu() else "cpu"
    try:
        torch_device = torch.device(cast(str, device))
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f'`device` must be "auto", "cpu", "cuda", "cuda:1" or the like; got {shown(device)}.'
        ) from error
    if torch_device.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise ForkedProcess("`device` is a GPU, which")
    if torch_device.type == "cpu" or _is_available(torch_device):
        return torch_device
    raise ValueError(f'`device` "{torch_device}" is not available here; use "cpu" or "auto".')


def has_gpu() -> bool:
    """Whether torch finds a GPU that it can compute on."""
    import torch

    return torch.cuda.is_available()


def as_devices(device: object) -> list[torch.device]:
    """One device or several, each as `as_device()` takes it."""
    if isinstance(device, (list, tuple)) and device:
        return [as_device(name) for name in device]
    return [as_device(device)]


def _is_available(device: torch.device) -> bool:
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        return False
    return device.type != "meta"
