"""Find and intercept the stochastic operations of a torch model, without touching the model.

A model is sampled in `eval()`, so batch norm and everything else behave as in prediction; the dropout calls alone
are met by a torch function mode, which multiplies by keyed masks instead. Layers and functional calls are covered
alike. Work happens on a replica that shares the user's weights: flags, hooks and buffers of the user's model are
never written.

A site is named by the path of the module that calls and by the how-many-th call of that module in one pass it is:
"features.3[0]". Sites are found by probes on one to three inputs: code that skips a dropout when not training
shows itself in the probe with the training flags up, and only the modules that own such a call keep the flag up.
"""

from __future__ import annotations

import re
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .checks import NoStochasticSites

Shape = tuple[int, ...]

ALPHA = -1.7580993408473766  # SELU's value at minus infinity, where alpha dropout sends a dropped unit

# What each function drops: single elements or whole channels, to 0 or to SELU's floor.
PLAIN = (F.dropout, torch.dropout, torch.dropout_)
CHANNELS = (F.dropout1d, F.dropout2d, F.dropout3d, torch.feature_dropout, torch.feature_dropout_)
ALPHAS = (F.alpha_dropout, torch.alpha_dropout, torch.alpha_dropout_)
ALPHA_CHANNELS = (F.feature_alpha_dropout, torch.feature_alpha_dropout, torch.feature_alpha_dropout_)
DROPOUTS = frozenset((*PLAIN, *CHANNELS, *ALPHAS, *ALPHA_CHANNELS))
IN_PLACE = frozenset((torch.dropout_, torch.feature_dropout_, torch.alpha_dropout_, torch.feature_alpha_dropout_))
UNBATCHED_AXES = {
    F.dropout1d: 2,
    F.dropout3d: 4,
}  # axes of an input without a batch axis, where torch allows one


@dataclass(frozen=True)
class Call:
    """One dropout call as a probe sees it."""

    name: str
    operation: str
    rate: float
    active: bool  # whether torch would have sampled here
    alpha: bool
    mask_shape: Shape
    order: Shape  # axes from the outermost to the innermost in memory
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class Site:
    """A place where randomness enters, and the mask that a single input needs there."""

    name: str
    operation: str
    rate: float
    alpha: bool
    shape: Shape  # of the mask for one input
    axis: int | None  # the axis that grows with the number of inputs; None where none does
    order: Shape
    dtype: torch.dtype

    @property
    def n_elements(self) -> int:
        """Decisions in the mask of one input."""
        return int(torch.Size(self.shape).numel())


@dataclass
class Replica:
    """A stand-in for the user's model: the same weights, its own flags, buffers and hooks."""

    module: nn.Module
    calls: CallNames
    device: torch.device
    precision: str = "float32"

    @contextmanager
    def predicting(self) -> Iterator[None]:
        """No gradients, and the wished precision."""
        reduced = self.precision != "float32"
        dtype = getattr(torch, self.precision) if reduced else None
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=dtype, enabled=reduced):
            yield


class CallNames:
    """Names each dropout call of a pass by the module that makes it."""

    def __init__(self) -> None:
        self.path: list[str] = []
        self.counts: Counter[str] = Counter()

    def start(self) -> None:
        """A new pass begins."""
        self.path.clear()
        self.counts.clear()

    def next(self) -> str:
        """The name of the call being made now."""
        path = self.path[-1] if self.path else ""
        self.counts[path] += 1
        return f"{path}[{self.counts[path] - 1}]"


# ---- the replica ----------------------------------------------------------------------------------------------


def replicate(model: nn.Module, device: torch.device, precision: str = "float32") -> Replica:
    """A replica in eval mode on `device`: parameters shared (or copied to the device), buffers its own."""
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            "`model` is a TorchScript module, whose dropout calls are compiled in and cannot be sampled; "
            "pass the original `torch.nn.Module`."
        )
    model = _unwrapped(model)
    tensors: dict[int, Tensor] = {}
    copies = {id(module): _bare_copy(module, device, tensors) for module in model.modules()}
    for copy in copies.values():
        _point_to_copies(copy, copies)
    calls = CallNames()
    root = copies[id(model)]
    for path, module in root.named_modules():
        _announce(module, path, calls)
        module.training = False
    return Replica(root, calls, device, precision)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside torch.compile, DataParallel and DistributedDataParallel."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _bare_copy(module: nn.Module, device: torch.device, tensors: dict[int, Tensor]) -> nn.Module:
    copy = module.__class__.__new__(module.__class__)
    copy.__dict__ = dict(module.__dict__)
    copy.__dict__["_parameters"] = {
        name: _moved(parameter, device, tensors) for name, parameter in module._parameters.items()
    }
    copy.__dict__["_buffers"] = {
        name: _moved(buffer, device, tensors, clone=True) for name, buffer in module._buffers.items()
    }
    for name, value in module.__dict__.items():
        if name.endswith("_hooks") or "_hooks_" in name:
            copy.__dict__[name] = value.copy()
    return copy


def _moved(tensor: Tensor | None, device: torch.device, seen: dict[int, Tensor], clone: bool = False) -> Tensor | None:
    """The tensor on `device`, detached; tied tensors stay tied."""
    if tensor is None:
        return None
    if id(tensor) not in seen:
        moved = tensor.detach().to(device)
        seen[id(tensor)] = moved.clone() if clone else moved
    return seen[id(tensor)]


def _point_to_copies(copy: nn.Module, copies: dict[int, nn.Module]) -> None:
    """Replace every reference to an original module, also in plain attributes and bound methods."""
    for name, value in copy.__dict__.items():
        if not name.endswith("_hooks"):
            copy.__dict__[name] = _with_copies(value, copies)


def _with_copies(value: Any, copies: dict[int, nn.Module]) -> Any:
    if isinstance(value, nn.Module):
        return copies.get(id(value), value)
    if type(value) in (list, tuple):
        return type(value)(_with_copies(one, copies) for one in value)
    if type(value) is dict:
        return {key: _with_copies(one, copies) for key, one in value.items()}
    if isinstance(value, types.MethodType) and id(value.__self__) in copies:
        return types.MethodType(value.__func__, copies[id(value.__self__)])
    return value


def _announce(module: nn.Module, path: str, calls: CallNames) -> None:
    """Let the module say when it starts and ends, so that calls know whose they are."""

    def enter(*_: object) -> None:
        calls.path.append(path)

    def leave(*_: object) -> None:
        calls.path.pop()

    module.register_forward_pre_hook(enter, prepend=True)
    module.register_forward_hook(leave, always_call=True)


# ---- interception ---------------------------------------------------------------------------------------------


class DropoutMode(TorchFunctionMode):
    """Hands every dropout call to `meet`; everything else runs as it is."""

    def __init__(self, calls: CallNames) -> None:
        super().__init__()
        self.calls = calls

    def __enter__(self) -> DropoutMode:
        self.calls.start()
        return super().__enter__()

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func not in DROPOUTS:
            return func(*args, **(kwargs or {}))
        x, rate, active, in_place = _arguments(func, *args, **(kwargs or {}))
        result = self.meet(func, self.calls.next(), x, rate, active)
        return x.copy_(result) if in_place and result is not x else result

    def meet(self, func: Any, name: str, x: Tensor, rate: float, active: bool) -> Tensor:
        """What the call gives; here: nothing is dropped."""
        return x


def _arguments(
    func: Any,
    input: Tensor,
    p: float = 0.5,
    training: bool | None = None,
    inplace: bool = False,
    train: bool | None = None,
) -> tuple[Tensor, float, bool, bool]:
    """(x, rate, active, in place) of any dropout function; torch's own names for its arguments."""
    given = training if train is None else train
    default = func not in (
        F.alpha_dropout,
        F.feature_alpha_dropout,
    )  # these two are off unless told otherwise
    return input, float(p), default if given is None else bool(given), inplace or func in IN_PLACE


class ProbeMode(DropoutMode):
    """Notes the dropout calls and the size of the largest intermediate result; drops nothing."""

    def __init__(self, calls: CallNames) -> None:
        super().__init__(calls)
        self.found: dict[str, Call] = {}
        self.largest = 0  # bytes of the largest result at or after the first call

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        if self.found and type(result) is Tensor:
            self.largest = max(self.largest, result.numel() * result.element_size())
        return result

    def meet(self, func: Any, name: str, x: Tensor, rate: float, active: bool) -> Tensor:
        self.found[name] = Call(
            name=name,
            operation=func.__name__.rstrip("_"),
            rate=rate,
            active=active,
            alpha=func in ALPHAS or func in ALPHA_CHANNELS,
            mask_shape=_mask_shape(func, x),
            order=tuple(sorted(range(x.ndim), key=lambda axis: -x.stride(axis))),
            dtype=x.dtype,
            device=x.device,
        )
        return x


def _mask_shape(func: Any, x: Tensor) -> Shape:
    """Shape of the mask for `x`: its own for elements, (batch, channel, 1, ...) for channels."""
    shape = tuple(x.shape)
    if func not in CHANNELS and func not in ALPHA_CHANNELS:
        return shape
    kept = 1 if UNBATCHED_AXES.get(func) == x.ndim else 2
    return shape[:kept] + (1,) * (x.ndim - kept)


class SampleMode(DropoutMode):
    """Applies the masks of one draw (or, under vmap, of many) at their sites."""

    def __init__(self, calls: CallNames, sites: dict[str, Site], masks: dict[str, Tensor], n_inputs: int) -> None:
        super().__init__(calls)
        self.sites, self.masks, self.n_inputs = sites, masks, n_inputs
        self.unknown: set[str] = set()

    def meet(self, func: Any, name: str, x: Tensor, rate: float, active: bool) -> Tensor:
        if name not in self.sites:
            if active and rate > 0:
                self.unknown.add(name)
            return x * 0 if active and rate == 1 else x
        site = self.sites[name]
        return dropped(x, self.masks[name], site, self.n_inputs)


def dropped(x: Tensor, mask: Tensor, site: Site, n_inputs: int) -> Tensor:
    """`x` under its mask: a factor for dropout, 0 or 1 for alpha dropout.

    A mask made for one input meets an axis of n_inputs * k entries as k entries repeated, input by input.
    """
    shape = x.shape
    if site.axis is not None and mask.shape[site.axis] not in (1, shape[site.axis]):
        x = x.unflatten(site.axis, (n_inputs, -1))
        mask = mask.unsqueeze(site.axis)
    if not site.alpha:
        return (x * mask).reshape(shape) if x.shape != shape else x * mask
    keep = 1 - site.rate
    a = (keep * (1 + site.rate * ALPHA**2)) ** -0.5  # keeps mean 0 and variance 1 (Klambauer et al., 2017)
    result = x * (a * mask) + (a * ALPHA * (1 - mask) - a * ALPHA * site.rate)
    return result.reshape(shape)


# ---- finding the sites ----------------------------------------------------------------------------------------


@dataclass
class Probe:
    """What the probes found out about a model."""

    replica: Replica
    sites: dict[str, Site]
    bytes_per_row: int  # largest intermediate result of one input in one draw
    output: Any  # of the last probe, on `n_inputs` inputs, nothing dropped
    n_inputs: int
    own_randomness: bool  # the model itself draws from torch's global generator
    raised: list[str]  # modules whose training flag is up while sampling


NORMALISATION = re.compile("norm", re.IGNORECASE)


def probe(model: nn.Module, replica: Replica, take: Callable[[int], Tensor]) -> Probe:
    """Find the sites of `model`; `take(n)` gives n inputs as the model gets them.

    Raises NoStochasticSites where nothing would be sampled.
    """
    hidden = _calls_in_training(model, replica.device, take(1))
    with random_state_kept() as random_state_changed:
        raised = _raise_flags(replica, hidden, _calls(replica, take(1))[0].found)
        modes, output = [], None
        for n_inputs in (1, 2, 3):
            mode, output = _calls(replica, take(n_inputs))
            modes.append(mode)
    found = [mode.found for mode in modes]
    active = {name for name, call in found[0].items() if call.active or _active(hidden, name)}
    sites = {name: _site([calls[name] for calls in found if name in calls]) for name in found[0] if name in active}
    sites = {name: site for name, site in sites.items() if 0 < site.rate < 1}
    if not sites:
        raise NoStochasticSites(
            "`model` has no dropout with a rate above 0, so every draw would be the same; "
            "add `torch.nn.Dropout` layers and train again."
        )
    return Probe(replica, sites, modes[0].largest, output, 3, random_state_changed(), raised)


def _calls(replica: Replica, x: Tensor) -> tuple[ProbeMode, Any]:
    mode = ProbeMode(replica.calls)
    with replica.predicting(), mode:
        return mode, replica.module(x)


def _active(hidden: dict[str, Call], name: str) -> bool:
    return name in hidden and hidden[name].active


def _calls_in_training(model: nn.Module, device: torch.device, x: Tensor) -> dict[str, Call]:
    """The dropout calls with every training flag up but the normalisation layers'; {} where that pass fails."""
    replica = replicate(model, device)  # a replica of its own: a training pass may change buffers
    for module in replica.module.modules():
        module.training = NORMALISATION.search(type(module).__name__) is None
    mode = ProbeMode(replica.calls)
    with (
        random_state_kept(),
        torch.inference_mode(),
        warnings.catch_warnings(),
        suppress(Exception),  # some models want targets when training: then eval is all there is to see
        mode,
    ):
        warnings.simplefilter("ignore")
        replica.module(x)
    return mode.found


def _raise_flags(replica: Replica, hidden: dict[str, Call], seen: dict[str, Call]) -> list[str]:
    """Put up the training flag of the modules whose calls only training shows; their paths."""
    owners = {_owner(name) for name, call in hidden.items() if call.active and call.rate > 0 and name not in seen}
    for path in owners:
        replica.module.get_submodule(path).training = True
    return sorted(owners)


def _owner(name: str) -> str:
    return name.rsplit("[", 1)[0]


def _site(calls: list[Call]) -> Site:
    """A site from its calls on one, two and three inputs."""
    first = calls[0]
    return Site(
        name=first.name,
        operation=first.operation,
        rate=first.rate,
        alpha=first.alpha,
        shape=first.mask_shape,
        axis=_input_axis(first.name, [call.mask_shape for call in calls]),
        order=calls[-1].order,
        dtype=first.dtype,
    )


def _input_axis(name: str, shapes: list[Shape]) -> int | None:
    """The axis that has k, 2k and 3k entries for one, two and three inputs; None if nothing grows."""
    if len(shapes) == 3 and len(set(shapes)) == 1:
        return None
    one = shapes[0]
    if len(shapes) == 3 and len({len(shape) for shape in shapes}) == 1:
        grown = [axis for axis in range(len(one)) if len({shape[axis] for shape in shapes}) > 1]
        if len(grown) == 1 and all(shape[grown[0]] == n * one[grown[0]] for n, shape in enumerate(shapes, 1)):
            return grown[0]
    raise ValueError(
        f"`model` has a dropout at {name} whose input cannot be told apart by inputs: its shapes for one, two and "
        f"three inputs are {', '.join(str(shape) for shape in shapes)}; one axis must grow with the inputs."
    )


@contextmanager
def random_state_kept() -> Iterator[Callable[[], bool]]:
    """Put torch's global generator back if the block moved it; gives a function that says whether it did."""
    before = torch.get_rng_state()
    moved = False
    try:
        yield lambda: moved
    finally:
        moved = not torch.equal(before, torch.get_rng_state())
        if moved:
            torch.set_rng_state(before)


def sites_table(found: Probe) -> pd.DataFrame:
    """One row per site: where, what, at which rate, the mask of one input."""
    return pd.DataFrame(
        {
            "site": [site.name for site in found.sites.values()],
            "operation": [site.operation for site in found.sites.values()],
            "rate": [site.rate for site in found.sites.values()],
            "shape": [_shape_text(site) for site in found.sites.values()],
        }
    )


def _shape_text(site: Site) -> str:
    """The mask of one input, without the axis that counts the inputs."""
    kept = [size for axis, size in enumerate(site.shape) if axis != site.axis or size > 1]
    return " x ".join(str(size) for size in kept) or "1"
