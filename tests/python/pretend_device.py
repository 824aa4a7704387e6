"""A pretend accelerator: its tensors are on "pretend:0", are computed on the host, and do not mix with host tensors.

A backend is registered for a whole process, so `compute/test_on_devices.py` runs `device_cases.py` in a separate one.
`CROSSINGS` counts the calls at which the host would wait for a GPU.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from mcdropout.engine import fused, masks, randomness

CROSSINGS: Counter[str] = Counter()  # "asked": Python numbers read; "fetched" and "sent": tensors copied
COPIES = ("aten::copy_", "aten::_copy_from")
# These accept an index tensor of the host, as on CUDA.
INDEXING = ("aten::index", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")
PYTHON_RESULTS = ("aten::_local_scalar_dense", "aten::item", "aten::equal", "aten::is_nonzero")

_setup_privateuseone_for_python_backend("pretend")
HERE = torch.device("pretend:0")


class PretendTensor(torch.Tensor):
    """A tensor of the device. `raw` is the host tensor with its numbers."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor, requires_grad: bool = False) -> PretendTensor:
        tensor: Any = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=HERE,
            requires_grad=requires_grad,
        )
        tensor.raw = raw
        return tensor

    raw: torch.Tensor

    def __init__(self, raw, requires_grad=False):
        pass

    def tolist(self):
        CROSSINGS["fetched"] += 1
        return self.raw.tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError("a tensor of this device has no NumPy array; copy it to the host first")

    def __repr__(self, **kwargs):
        return f"PretendTensor({self.raw!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def is_pretend(device):
    return device is not None and torch.device(device).type == "pretend"


def unwrap(x):
    return x.raw if isinstance(x, PretendTensor) else x


def wrap(x):
    return PretendTensor(x) if isinstance(x, torch.Tensor) and not isinstance(x, PretendTensor) else x


def run(func, args, kwargs):
    """Run one operation on the host. Its tensors must all be of the device, unless the operation copies or indexes."""
    name = func._schema.name
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
    device_tensors = [tensor for tensor in tensors if isinstance(tensor, PretendTensor)]
    host_tensors = [tensor for tensor in tensors if not isinstance(tensor, PretendTensor) and tensor.dim() > 0]
    if name == "aten::_to_copy":
        return copy_to(func, args[0], kwargs)
    if name in COPIES:
        if len(device_tensors) == 1:
            CROSSINGS["sent" if isinstance(args[0], PretendTensor) else "fetched"] += 1
        func(*tree_map(unwrap, args), **kwargs)
        return args[0]
    if device_tensors and host_tensors:
        if name not in INDEXING:
            shape = tuple(host_tensors[0].shape)
            raise RuntimeError(f"Expected all tensors to be on the same device: {name} got a host tensor, {shape}")
        CROSSINGS["sent"] += 1
    device = kwargs.get("device")
    host_kwargs = {**kwargs, "device": torch.device("cpu")} if is_pretend(device) else kwargs
    result = func(*tree_map(unwrap, args), **tree_map(unwrap, host_kwargs))
    if name in PYTHON_RESULTS:
        CROSSINGS["asked"] += bool(device_tensors)
        return result
    if name.endswith("_") and args and isinstance(args[0], PretendTensor) and result is args[0].raw:
        return args[0]  # in place
    return tree_map(wrap, result) if device_tensors or is_pretend(device) else result


def copy_to(func, x, kwargs):
    """The copy of `x` on the device that the arguments name, or on its own device."""
    options = {name: value for name, value in kwargs.items() if name not in ("device", "non_blocking", "pin_memory")}
    to_pretend = is_pretend(kwargs.get("device", x.device))
    if to_pretend != isinstance(x, PretendTensor):
        CROSSINGS["sent" if to_pretend else "fetched"] += 1
    result = func(unwrap(x), **options)
    if to_pretend:
        return PretendTensor(result)
    return result.clone() if result is unwrap(x) else result


def computed_on_the_host(operation):
    def create(*args, dtype=None, layout=None, device=None, pin_memory=None, **kwargs):
        return PretendTensor(operation(*args, dtype=dtype, device="cpu", **kwargs))

    return create


all_operations = torch.library.Library("_", "IMPL")
all_operations.fallback(lambda func, *args, **kwargs: run(func, args, kwargs), "PrivateUse1")
# autocast does not change these tensors
all_operations.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
factories = torch.library.Library("aten", "IMPL")
for name in ("arange", "arange.start", "arange.start_step", "linspace", "eye", "eye.m"):
    packet, _, overload = name.partition(".")
    operation = getattr(getattr(torch.ops.aten, packet), overload or "default")
    factories.impl(name, computed_on_the_host(operation), "PrivateUse1")

device_module: Any = type(torch.get_device_module("pretend"))
device_module.get_rng_state = lambda self, device=None: torch.get_rng_state()  # the device uses the host's generator
device_module.set_rng_state = lambda self, state, device=None: None
device_module.manual_seed = lambda self, seed: None
device_module.synchronize = lambda self, device=None: None
device_module.get_amp_supported_dtype = lambda self: [torch.bfloat16, torch.float16, torch.float32]
# These tensors support neither inference mode nor TorchScript.
torch.inference_mode = lambda *args, **kwargs: torch.no_grad()
modules: list[Any] = [fused, masks, randomness]
for module in modules:
    module.native = lambda function: function
