"""Copies between the host and a GPU that run beside the GPU's work."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host's memory on the device.

    To a CUDA device from pinned memory on a stream of its own, so that it travels while the device works on what came
    before; what follows on the device waits for it there.
    """
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    here, beside = torch.cuda.current_stream(device), _copying(device)
    with torch.cuda.stream(beside):
        copy = x.pin_memory().to(device, non_blocking=True)
    here.wait_stream(beside)
    copy.record_stream(here)  # its memory is not given to the next copy before it has been used
    return copy


@cache
def _copying(device: torch.device) -> Any:
    return torch.cuda.Stream(device)


def to_host_async(tensors: dict[str, Tensor]) -> Callable[[], dict[str, np.ndarray]]:
    """Start to copy tensors of one device to the host; what is returned waits for them and gives arrays.

    From a CUDA device all in one, into pinned memory, behind what the device has been asked to compute.
    """
    device = next(iter(tensors.values())).device
    if device.type != "cuda":
        arrays = {name: one.cpu().numpy() for name, one in tensors.items()}
        return lambda: arrays
    packed = pack(tensors)
    host = torch.empty(packed.shape, dtype=torch.uint8, pin_memory=True)
    host.copy_(packed, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(device))
    forms = {name: (one.shape, one.dtype) for name, one in tensors.items()}

    def arrived() -> dict[str, np.ndarray]:
        done.synchronize()
        return unpack(host, forms)

    return arrived


def pack(tensors: dict[str, Tensor]) -> Tensor:
    """Tensors as one run of bytes, those of the widest numbers first, so that each starts where it may."""
    by_width = sorted(tensors.values(), key=lambda one: -one.itemsize)
    # Not view(-1): a column of one number is contiguous whatever its stride, and bytes are seen in a stride of 1 only.
    flat = [tensor.contiguous().as_strided((tensor.numel(),), (1,)) for tensor in by_width]
    return torch.cat([tensor.view(torch.uint8) for tensor in flat])


def unpack(packed: Tensor, forms: dict[str, tuple[torch.Size, torch.dtype]]) -> dict[str, np.ndarray]:
    """Arrays of what was packed, by name; `forms` are the tensors' shapes and types in their order."""
    arrays, start = {}, 0
    for name, (shape, dtype) in sorted(forms.items(), key=lambda form: -form[1][1].itemsize):
        end = start + shape.numel() * dtype.itemsize
        arrays[name] = packed[start:end].view(dtype).view(shape).numpy()
        start = end
    return arrays
