"""Copies between the host and a GPU that run in parallel with the GPU's work."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the host's memory to the device.

    The copy to a CUDA device starts from pinned memory and has its own stream, so it runs in parallel with earlier
    work of the device. Later work of the device waits for it.
    """
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    computing, copying = torch.cuda.current_stream(device), _copy_stream(device)
    with torch.cuda.stream(copying):
        copy = x.pin_memory().to(device, non_blocking=True)
    computing.wait_stream(copying)
    copy.record_stream(computing)  # the next copy must not get this memory before the work is done
    return copy


@cache
def _copy_stream(device: torch.device) -> Any:
    return torch.cuda.Stream(device)


def to_host_async(tensors: dict[str, Tensor]) -> Callable[[], dict[str, np.ndarray]]:
    """Start to copy tensors of one device to the host; the returned function waits for the copy and gives arrays.

    A CUDA device copies all tensors at once into pinned memory, after the work that it already has.
    """
    device = next(iter(tensors.values())).device
    if device.type != "cuda":
        arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
        return lambda: arrays
    packed = pack(tensors)
    host = torch.empty(packed.shape, dtype=torch.uint8, pin_memory=True)
    host.copy_(packed, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(device))
    forms = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}

    def arrived() -> dict[str, np.ndarray]:
        done.synchronize()
        return unpack(host, forms)

    return arrived


def pack(tensors: dict[str, Tensor]) -> Tensor:
    """Tensors as one array of bytes, the widest types first, so that each tensor starts at a multiple of its width."""
    by_width = sorted(tensors.values(), key=lambda tensor: -tensor.itemsize)
    # Not view(-1): a column of one number is contiguous with any stride, and a view of bytes needs a stride of 1.
    flat = [tensor.contiguous().as_strided((tensor.numel(),), (1,)) for tensor in by_width]
    return torch.cat([tensor.view(torch.uint8) for tensor in flat])


def unpack(packed: Tensor, forms: dict[str, tuple[torch.Size, torch.dtype]]) -> dict[str, np.ndarray]:
    """The packed tensors as arrays, by name; `forms` are their shapes and types in their order."""
    arrays, start = {}, 0
    for name, (shape, dtype) in sorted(forms.items(), key=lambda form: -form[1][1].itemsize):
        end = start + shape.numel() * dtype.itemsize
        arrays[name] = packed[start:end].view(dtype).view(shape).numpy()
        start = end
    return arrays
