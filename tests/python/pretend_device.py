"""A pretend accelerator: tensors that lie on "pretend:0", compute on the host, and refuse to meet the host's own.

A backend is registered for a whole process: `compute/test_on_devices.py` runs `device_cases.py` in one of its own.
`CROSSINGS` counts what a GPU would make the host wait for.
"""

from collections import Counter

import torch
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from mcdropout.engine import fused, masks, randomness

CROSSINGS: Counter[str] = Counter()  # "asked" for a number, "fetched" and "sent" tensors
COPIES = ("aten::copy_", "aten::_copy_from")
INDEXED = ("aten::index", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")  # by the host's, as CUDA
ANSWERS = ("aten::_local_scalar_dense", "aten::item", "aten::equal", "aten::is_nonzero")

_setup_privateuseone_for_python_backend("pretend")
HERE = torch.device("pretend:0")


class Pretended(torch.Tensor):
    """A tensor of the device; `raw` is where its numbers are."""

    @staticmethod
    def __new__(cls, raw, requires_grad=False):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=HERE,
            requires_grad=requires_grad,
        )
        made.raw = raw
        return made

    raw: torch.Tensor

    def __init__(self, raw, requires_grad=False):
        pass

    def tolist(self):
        CROSSINGS["fetched"] += 1
        return self.raw.tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError("a tensor of a device has no NumPy array; copy it to the host first")

    def __repr__(self, **kwargs):
        return f"Pretended({self.raw!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def is_here(device):
    return device is not None and torch.device(device).type == "pretend"


def unwrapped(x):
    return x.raw if isinstance(x, Pretended) else x


def wrapped(x):
    return Pretended(x) if isinstance(x, torch.Tensor) and not isinstance(x, Pretended) else x


def run(func, args, kwargs):
    """One operation: on the host, for tensors that are all of the device, or are copied from or to it."""
    name = func._schema.name
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
    ours = [one for one in tensors if isinstance(one, Pretended)]
    strange = [one for one in tensors if not isinstance(one, Pretended) and one.dim() > 0]
    if name == "aten::_to_copy":
        return copied(func, args[0], kwargs)
    if name in COPIES:
        if len(ours) == 1:
            CROSSINGS["sent" if isinstance(args[0], Pretended) else "fetched"] += 1
        func(*tree_map(unwrapped, args), **kwargs)
        return args[0]
    if ours and strange:
        if name not in INDEXED:
            shape = tuple(strange[0].shape)
            raise RuntimeError(f"Expected all tensors to be on the same device: {name} got one of the host's, {shape}")
        CROSSINGS["sent"] += 1
    device = kwargs.get("device")
    given = {**kwargs, "device": torch.device("cpu")} if is_here(device) else kwargs
    result = func(*tree_map(unwrapped, args), **tree_map(unwrapped, given))
    if name in ANSWERS:
        CROSSINGS["asked"] += bool(ours)
        return result
    if name.endswith("_") and args and isinstance(args[0], Pretended) and result is args[0].raw:
        return args[0]  # in place
    return tree_map(wrapped, result) if ours or is_here(device) else result


def copied(func, x, kwargs):
    given = {name: value for name, value in kwargs.items() if name not in ("device", "non_blocking", "pin_memory")}
    to_here = is_here(kwargs.get("device", x.device))
    if to_here != isinstance(x, Pretended):
        CROSSINGS["sent" if to_here else "fetched"] += 1
    result = func(unwrapped(x), **given)
    if to_here:
        return Pretended(result)
    return result.clone() if result is unwrapped(x) else result


def made_on_the_host(operation):
    def make(*args, dtype=None, layout=None, device=None, pin_memory=None, **kwargs):
        return Pretended(operation(*args, dtype=dtype, device="cpu", **kwargs))

    return make


everything = torch.library.Library("_", "IMPL")
everything.fallback(lambda func, *args, **kwargs: run(func, args, kwargs), "PrivateUse1")
# autocast leaves these tensors as they are
everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
factories = torch.library.Library("aten", "IMPL")
for one in ("arange", "arange.start", "arange.start_step", "linspace", "eye", "eye.m"):
    packet, _, overload = one.partition(".")
    factories.impl(
        one, made_on_the_host(getattr(getattr(torch.ops.aten, packet), overload or "default")), "PrivateUse1"
    )

module = type(torch.get_device_module("pretend"))
module.get_rng_state = lambda self, device=None: torch.get_rng_state()  # it draws from the host's generator
module.set_rng_state = lambda self, state, device=None: None
module.manual_seed = lambda self, seed: None
module.synchronize = lambda self, device=None: None
module.get_amp_supported_dtype = lambda self: [torch.bfloat16, torch.float16, torch.float32]
torch.inference_mode = lambda *args, **kwargs: torch.no_grad()  # these tensors know no inference mode
# nor TorchScript
for module in (fused, masks, randomness):
    setattr(module, "native", lambda function: function)  # noqa: B010
