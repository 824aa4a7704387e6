"""Find and intercept the stochastic operations of a torch model, without touching the model.

A model is sampled in `eval()`, so batch norm and everything else behave as in prediction; the stochastic operations
alone (`operations`) are met by a torch function mode, which brings in keyed masks instead. Layers and functional calls
are covered alike. Work happens on a replica that shares the user's weights: flags, hooks and buffers of the user's
model are never written.

A site is named by the path of the module that calls and by the how-many-th call of that module in one pass it is:
"features.3[0]". Sites are found by probes on one to three inputs: code that skips a dropout when not training
shows itself in the probe with the training flags up, and only the modules that own such a call keep the flag up.
"""

from __future__ import annotations

import re
import threading
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .checks import NoStochasticSites
from .inputs import Inputs
from .operations import ALPHA, HANDLERS, STOCHASTIC_DEPTH, Drop, Shape


@dataclass(frozen=True)
class Site:
    """A place where randomness enters, and the mask that a single input needs there."""

    name: str
    operation: str
    rate: float
    kind: str  # see `operations.KINDS`
    shape: Shape  # of the mask for one input
    axis: int | None  # the axis that grows with the number of inputs; None where none does
    inputs_outermost: bool  # along that axis: all of input 1, all of input 2, ...; else 1 2 3 1 2 3 ...
    order: Shape  # axes from the outermost to the innermost in memory
    dtype: torch.dtype

    @property
    def n_elements(self) -> int:
        """Decisions in the mask of one input."""
        return int(torch.Size(self.shape).numel())


class CallNames(threading.local):
    """Names each stochastic call of a pass by the module that makes it; every thread has passes of its own."""

    def __init__(self) -> None:
        self.path: list[tuple[str, nn.Module]] = []
        self.counts: Counter[str] = Counter()

    def start(self) -> None:
        """A new pass begins."""
        self.path.clear()
        self.counts.clear()

    def next(self) -> str:
        """The name of the call being made now."""
        path = self.path[-1][0] if self.path else ""
        self.counts[path] += 1
        return f"{path}[{self.counts[path] - 1}]"


@dataclass
class Replica:
    """A stand-in for the user's model: the same weights, its own flags, buffers and hooks."""

    root: nn.Module
    calls: CallNames
    device: torch.device
    precision: str = "float32"

    def run(self, inputs: Inputs) -> Any:
        """What the model returns for these inputs."""
        return self.root(*inputs.args, **inputs.kwargs)

    @contextmanager
    def predicting(self, inference: bool = True) -> Iterator[None]:
        """No gradients, and the wished precision; `inference` False where writes in place are to be counted."""
        reduced = self.precision != "float32"
        dtype = getattr(torch, self.precision) if reduced else None
        no_gradients = torch.inference_mode() if inference else torch.no_grad()
        with no_gradients, torch.autocast(self.device.type, dtype=dtype, enabled=reduced):
            yield


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
        calls.path.append((path, module))

    def leave(*_: object) -> None:
        calls.path.pop()

    module.register_forward_pre_hook(enter, prepend=True)
    module.register_forward_hook(leave, always_call=True)


# ---- interception ---------------------------------------------------------------------------------------------


class StochasticMode(TorchFunctionMode):
    """Hands what every stochastic call would drop to `meet`; everything else runs as it is.

    One object serves one pass.
    """

    def __init__(self, calls: CallNames) -> None:
        super().__init__()
        self.calls = calls
        calls.start()

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        handler = HANDLERS.get(func)
        if handler is None:
            return func(*args, **(kwargs or {}))
        return handler(self, func, *args, **(kwargs or {}))

    def meet(self, drop: Drop, x: Tensor) -> Tensor:
        """What becomes of `x`; here: nothing is dropped."""
        self.calls.next()
        return _kept_whole(drop, x)

    def pass_over(self) -> None:
        """A call that drops nothing still counts, so that the names of the next ones do not depend on it."""
        self.calls.next()

    def module(self) -> nn.Module | None:
        """The module whose code is running."""
        return self.calls.path[-1][1] if self.calls.path else None


def _kept_whole(drop: Drop, x: Tensor) -> Tensor:
    return x if drop.kind in ("scale", "alpha") else torch.ones_like(x)


@dataclass(frozen=True)
class Call:
    """One stochastic call as a probe sees it."""

    name: str
    drop: Drop
    x: Tensor
    order: Shape


class ProbeMode(StochasticMode):
    """Notes the stochastic calls and the size of the largest intermediate result; drops nothing."""

    def __init__(self, calls: CallNames) -> None:
        super().__init__(calls)
        self.found: dict[str, Call] = {}
        self.largest = 0  # bytes of the largest result at or after the first call

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        if self.found and type(result) is Tensor:
            self.largest = max(self.largest, result.numel() * result.element_size())
        return result

    def meet(self, drop: Drop, x: Tensor) -> Tensor:
        name = self.calls.next()
        order = tuple(sorted(range(x.ndim), key=lambda axis: -x.stride(axis)))
        self.found[name] = Call(name, drop, x, order)
        return _kept_whole(drop, x)


class SampleMode(StochasticMode):
    """Applies the masks of one draw (or, under vmap, of many) at their sites."""

    def __init__(self, calls: CallNames, sites: dict[str, Site], masks: dict[str, Tensor], n_inputs: int) -> None:
        super().__init__(calls)
        self.sites, self.masks, self.n_inputs = sites, masks, n_inputs
        self.unknown: set[str] = set()

    def meet(self, drop: Drop, x: Tensor) -> Tensor:
        before = self.calls.counts.copy()
        name = self.calls.next()
        if name in self.sites:
            self.at_site(before)
            return dropped(x, self.masks[name], self.sites[name], self.n_inputs)
        if drop.active and 0 < drop.rate < 1 and drop.operation != STOCHASTIC_DEPTH:
            self.unknown.add(name)
        return _kept_whole(drop, x)

    def at_site(self, counts: Counter[str]) -> None:
        """A site is reached, after so many calls."""


def dropped(x: Tensor, mask: Tensor, site: Site, n_inputs: int) -> Tensor:
    """`x` under its mask: a factor for dropout, 0 or 1 for alpha dropout, the result itself otherwise.

    A mask made for one input meets an axis of n_inputs * k entries as k entries repeated for each input.
    """
    shape = x.shape
    if site.axis is not None and mask.shape[site.axis] not in (1, shape[site.axis]):
        if site.inputs_outermost:
            x, mask = x.unflatten(site.axis, (n_inputs, -1)), mask.unsqueeze(site.axis)
        else:
            x, mask = x.unflatten(site.axis, (-1, n_inputs)), mask.unsqueeze(site.axis + 1)
    result = _applied(x, mask, site)
    return result if result.shape == shape else result.reshape(shape)


def _applied(x: Tensor, mask: Tensor, site: Site) -> Tensor:
    if site.kind == "scale":
        return x * mask
    if site.kind == "alpha":
        keep = 1 - site.rate
        a = (keep * (1 + site.rate * ALPHA**2)) ** -0.5  # keeps mean 0 and variance 1 (Klambauer et al., 2017)
        return x * (a * mask) + (a * ALPHA * (1 - mask) - a * ALPHA * site.rate)
    return torch.zeros_like(x) + mask


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


def probe(model: nn.Module, replica: Replica, head: Callable[[int], Inputs], stochastic_depth: bool = True) -> Probe:
    """Find the sites of `model`; `head(n)` gives n inputs as the model gets them.

    Raises NoStochasticSites where nothing would be sampled.
    """
    hidden = _calls_in_training(model, replica.device, head(1))
    if not stochastic_depth:
        hidden = {name: call for name, call in hidden.items() if call.drop.operation != STOCHASTIC_DEPTH}
    with random_state_kept() as random_state_changed:
        raised = _raise_flags(replica, hidden, _calls(replica, head(1))[0].found)
        modes, output = [], None
        for n_inputs in (1, 2, 3):
            mode, output = _calls(replica, head(n_inputs))
            modes.append(mode)
    sites = {}
    for name, call in modes[0].found.items():
        active = call.drop.active or (name in hidden and hidden[name].drop.active)
        wanted = stochastic_depth or call.drop.operation != STOCHASTIC_DEPTH
        if active and wanted and call.drop.rate > 0:
            sites[name] = _site([mode.found.get(name) for mode in modes])
    if all(site.rate == 1 for site in sites.values()):
        raise NoStochasticSites(
            "`model` has no dropout with a rate above 0, so every draw would be the same; "
            "add `torch.nn.Dropout` layers and train again."
        )
    return Probe(replica, sites, modes[0].largest, output, 3, random_state_changed(), raised)


def _calls(replica: Replica, inputs: Inputs) -> tuple[ProbeMode, Any]:
    mode = ProbeMode(replica.calls)
    with replica.predicting(), mode:
        return mode, replica.run(inputs)


def _calls_in_training(model: nn.Module, device: torch.device, inputs: Inputs) -> dict[str, Call]:
    """The stochastic calls with every training flag up but the normalisation layers'; {} where that pass fails."""
    replica = replicate(model, device)  # a replica of its own: a training pass may change buffers
    for module in replica.root.modules():
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
        replica.run(inputs)
    return mode.found


def _raise_flags(replica: Replica, hidden: dict[str, Call], seen: dict[str, Call]) -> list[str]:
    """Put up the training flag of the modules whose dropping only training shows; their paths."""
    owners = {
        name.rsplit("[", 1)[0]
        for name, call in hidden.items()
        if call.drop.active and call.drop.rate > 0 and (name not in seen or seen[name].drop.rate == 0)
    }
    for path in owners:
        replica.root.get_submodule(path).training = True
    return sorted(owners)


def _site(calls: list[Call | None]) -> Site:
    """A site from its calls on one, two and three inputs."""
    first, last = calls[0], calls[-1]
    assert first is not None
    shapes = [None if call is None else call.drop.mask_shape for call in calls]
    axis = _input_axis(first.name, shapes)
    return Site(
        name=first.name,
        operation=first.drop.operation,
        rate=first.drop.rate,
        kind="scale" if first.drop.kind == "alpha" and first.drop.rate == 1 else first.drop.kind,  # as torch: all 0
        shape=first.drop.mask_shape,
        axis=axis,
        inputs_outermost=axis is None or last is None or _inputs_outermost(first, last, axis),
        order=first.order if last is None else last.order,
        dtype=first.x.dtype,
    )


def _input_axis(name: str, shapes: list[Shape | None]) -> int | None:
    """The axis that has k, 2k and 3k entries for one, two and three inputs; None if nothing grows."""
    if len(set(shapes)) == 1:
        return None
    one = shapes[0]
    if one is not None and all(shape is not None and len(shape) == len(one) for shape in shapes):
        grown = [axis for axis in range(len(one)) if len({shape[axis] for shape in shapes if shape}) > 1]
        if len(grown) == 1 and all(shape and shape[grown[0]] == n * one[grown[0]] for n, shape in enumerate(shapes, 1)):
            return grown[0]
    words = ", ".join("none" if shape is None else str(shape) for shape in shapes)
    raise ValueError(
        f"`model` has a dropout at {name} where inputs cannot be told apart: its shapes for one, two and three inputs "
        f"are {words}; one axis must grow with the inputs."
    )


def _inputs_outermost(one: Call, three: Call, axis: int) -> bool:
    """How three inputs of k entries each lie along an axis: 1 1 2 2 3 3 (True) or 1 2 3 1 2 3.

    Seen from where the first input's entries, known from the probe on it alone, come to lie.
    """
    size = one.x.shape[axis]
    if size == 1:
        return True
    alone, together = one.x.float(), three.x.float()
    outermost = together.narrow(axis, 0, size)
    innermost = together.unflatten(axis, (size, 3)).select(axis + 1, 0)
    distances = [float((place - alone).abs().nan_to_num().sum()) for place in (outermost, innermost)]
    return distances[0] <= distances[1]


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
    sites = found.sites.values()
    return pd.DataFrame(
        {
            "site": [site.name for site in sites],
            "operation": [site.operation for site in sites],
            "rate": [site.rate for site in sites],
            "shape": [_shape_text(site) for site in sites],
        }
    )


def _shape_text(site: Site) -> str:
    """The mask of one input, without the axis that counts the inputs."""
    kept = [size for axis, size in enumerate(site.shape) if axis != site.axis or size > 1]
    return " x ".join(str(size) for size in kept) or "1"
