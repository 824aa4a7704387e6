"""Find and intercept the stochastic operations of a torch model, without touching the model.

A model is sampled in `eval()`, so batch norm and everything else behave as in prediction; the stochastic operations
alone (`operations`) are met by a torch function mode, which brings in keyed masks instead. Layers and functional calls
are covered alike. Work happens on a replica that shares the user's weights: flags, hooks and buffers of the user's
model are never written.

A site is named by the path of the module that calls and by the how-many-th call of that module in one pass it is:
"features.3[0]". Its masks are keyed by its place among the sites, which other names leave as it is. Sites are found
by probes on one to three inputs: code that skips a dropout when not training shows itself in the probe with the
training flags up, and only the modules that own such a call keep the flag up.
"""

from __future__ import annotations

import copy
import math
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode

from .checks import NoStochasticSites
from .devices import chosen, generator_states, put_back
from .inputs import Inputs
from .operations import ALPHA, HANDLERS, NUMBERS, RANDOM, RELUS, STOCHASTIC_DEPTH, Drop, Shape, Variational, drops
from .precision import cast_arguments
from .randomness import other_generators_kept, seeded_generators


@dataclass(frozen=True)
class Site:
    """A place where randomness enters, and the mask that a single input needs there."""

    name: str
    operation: str
    rate: float
    kind: str  # see `operations.KINDS`
    shape: Shape  # of the mask for one input
    x_shape: Shape  # of what is met, for one input
    axis: int | None  # the axis that grows with the number of inputs; None where none does
    inputs_outermost: bool  # along that axis: all of input 1, all of input 2, ...; else 1 2 3 1 2 3 ...
    order: Shape  # axes from the outermost to the innermost in memory
    dtype: torch.dtype
    place: int = 0  # which of the sites it is, in the order in which a pass meets them

    layer: Variational | None = None  # whose weights are drawn, of kind "weights"

    @property
    def key(self) -> str:
        """What its masks are keyed by.

        Its place and not its name, so that two models with the same operations in the same order draw the same
        masks, whoever named their parts.
        """
        return str(self.place)

    @property
    def n_elements(self) -> int:
        """Decisions in the mask of one input."""
        return int(torch.Size(self.shape).numel())

    @property
    def channels_innermost(self) -> bool:
        """Whether channels, axis 1, lie together in memory."""
        n_axes = len(self.shape)
        return n_axes > 2 and self.order == (0, *range(2, n_axes), 1)

    @property
    def factor(self) -> float:
        """What a decision to keep becomes."""
        if self.kind == "scale" and self.rate < 1:
            return 1 / (1 - self.rate)
        # any number that is at least the rate; so short that bfloat16 holds it
        return 1 - 2**-7 if self.kind == "uniform" else 1.0

    def at_rate(self, rate: float) -> Site:
        """With another rate, where torch scales what is kept: what the model itself makes of its decisions stays."""
        return replace(self, rate=rate) if self.kind in ("scale", "alpha", "gaussian") else self


NORMAL_KINDS = ("gaussian", "noise", "normals")  # made of normal numbers, not of decisions


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
    generators: list[tuple[torch.Generator, Tensor]] = field(default_factory=list)  # of the model's own, as first met

    def run(self, inputs: Inputs) -> Any:
        """What the model returns for these inputs."""
        return self.root(*inputs.args, **inputs.kwargs)

    @contextmanager
    def predicting(self, inference: bool = True) -> Iterator[None]:
        """No gradients; `inference` False where writes in place are to be counted."""
        with (
            torch.inference_mode(inference),
            torch.no_grad(),
            torch.autocast(self.device.type, enabled=False),
            chosen(self.device),
        ):
            yield

    @contextmanager
    def generators_kept(self) -> Iterator[None]:
        """Behind the block generators of the model's own are as its probes met them."""
        try:
            yield
        finally:
            for generator, state in reversed(self.generators):
                generator.set_state(state)
            self.generators.clear()


# ---- the replica ----------------------------------------------------------------------------------------------


def replicate(model: nn.Module, device: torch.device, precision: str = "float32") -> Replica:
    """A replica in eval mode on `device`: parameters shared (or copied to the device), buffers its own."""
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            "`model` is a TorchScript module, whose dropout calls are compiled in and cannot be sampled; "
            "pass the original `torch.nn.Module`."
        )
    model = _unwrapped(model)
    memo: dict[int, Any] = {}
    for tensor in model.parameters():
        memo[id(tensor)] = tensor.detach().to(device)
    for tensor in model.buffers():
        memo[id(tensor)] = tensor.detach().to(device).clone()
    pairs = [(module, module.__class__.__new__(module.__class__)) for module in model.modules()]
    memo |= {id(module): twin for module, twin in pairs}
    for module, twin in pairs:
        twin.__dict__ = {name: _copied(value, memo) for name, value in module.__dict__.items()}
    calls = CallNames()
    root = memo[id(model)]
    for path, module in root.named_modules():
        _announce(module, path, calls)
        module.training = False
    return Replica(root, calls, device, precision)


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """A copy of an attribute, its modules and tensors replaced by the replica's; shared where it cannot be copied."""
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # locks, open files, tensors with a history
        return value


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside torch.compile, DataParallel and DistributedDataParallel."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _announce(module: nn.Module, path: str, calls: CallNames) -> None:
    """Let the module say when it starts and ends, so that calls know whose they are."""

    def enter(*_: object) -> None:
        calls.path.append((path, module))

    def leave(*_: object) -> None:
        calls.path.pop()

    module.register_forward_pre_hook(enter, prepend=True)
    module.register_forward_hook(leave, always_call=True)


# ---- interception ---------------------------------------------------------------------------------------------


KEYED = {**HANDLERS, **RANDOM}
COUNTED = {**dict.fromkeys(RELUS, "relu"), F.conv2d: "convolution", F.max_pool2d: "pool"}
CPU = torch.device("cpu")
LAYERS = {F.linear, F.conv1d, F.conv2d, F.conv3d}


class StochasticMode(TorchFunctionMode):
    """Hands what every stochastic call would drop to `meet`; everything else runs as it is.

    One object serves one pass.
    """

    handlers = HANDLERS  # the ordinary prediction leaves random numbers of the model's own to torch

    def __init__(self, replica: Replica) -> None:
        super().__init__()
        self.calls, self.device, self.generators = replica.calls, replica.device, replica.generators
        self.reduced = None if replica.precision == "float32" else getattr(torch, replica.precision)
        self.counted: Counter[str] = Counter()
        self.calls.start()

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if self.reduced is not None:
            args, kwargs = cast_arguments(func, args, kwargs, self.reduced)
        handler = self.handlers.get(func)
        if handler is None:
            return func(*args, **kwargs)
        return handler(self, func, *args, **kwargs)

    def meet(self, drop: Drop, x: Tensor) -> Tensor:
        """What becomes of `x`; here: nothing is dropped."""
        self.calls.next()
        return _kept_whole(drop, x)

    def by_torch(self, operation: str, run: Callable[[], Tensor], own: torch.Generator | None) -> Tensor:
        """What `run` draws, from torch's generator or from one of the model's own."""
        self.calls.next()
        return run()

    def pass_over(self) -> None:
        """A call that drops nothing still counts, so that the names of the next ones do not depend on it."""
        self.calls.next()

    def counted_name(self, func: Any) -> str | None:
        """The name of a call that may wait for those after it, by its number; None of one that never does."""
        kind = COUNTED.get(func)
        if kind is not None:
            self.counted[kind] += 1
        return None if kind is None else f"{kind} {self.counted[kind]}"

    def module(self) -> nn.Module | None:
        """The module whose code is running."""
        return self.calls.path[-1][1] if self.calls.path else None


Middle = tuple[float, float]
MIDDLE: Middle = 0.5, 0.0  # what stands for each uniform, and for each normal number where none is drawn


def _kept_whole(drop: Drop, x: Tensor, middle: Middle = MIDDLE) -> Tensor:
    if drop.kind in NUMBERS:
        return torch.full_like(x, middle[NUMBERS.index(drop.kind)])
    if drop.kind == "keep" and drop.operation != STOCHASTIC_DEPTH:
        return torch.full_like(x, float(drop.rate <= 0.5))  # the more likely
    return x if drop.kind in ("scale", "alpha", "weights") else torch.ones_like(x)


class DropCall(Protocol):
    """A call that drops or draws, of whatever library."""

    @property
    def drop(self) -> Drop: ...


@dataclass(frozen=True)
class Call:
    """One stochastic call as a probe sees it."""

    name: str
    drop: Drop
    x: Tensor
    order: Shape
    own: Tensor | None = None  # state of the model's own generator, where it draws from one


def tensors_in(given: Any) -> list[Tensor]:
    """A tensor, or those of a tuple, list or mapping, however deep."""
    if isinstance(given, Tensor):
        return [given]
    parts = given.values() if isinstance(given, dict) else given if isinstance(given, (tuple, list)) else ()
    return [one for part in parts for one in tensors_in(part)]


class ProbeMode(StochasticMode):
    """Notes the stochastic calls, what uses their results, and the sizes of all results; drops nothing.

    `originals`: ids of the user's own weights, which a replica has no business with. `middle` stands for each random
    number.
    """

    handlers = KEYED

    def __init__(self, replica: Replica, originals: set[int] | None = None, middle: Middle = MIDDLE) -> None:
        super().__init__(replica)
        self.originals, self.middle = originals or set(), middle
        self.found: dict[str, Call] = {}
        self.results: dict[int, tuple[str, Tensor]] = {}  # of dropouts and counted calls, by their identity
        self.uses: dict[str, list[Any]] = {}  # what takes the result of each: a function, or a dropout's name
        self.bytes: dict[str, int] = {}  # of each such result; under "" the largest of the others after the first site
        self.layers = [0, 0]  # linear layers and convolutions before the first call that drops, and after it
        self.dropped = False
        self.prefix_bytes = 0  # of the largest result before the first site

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if self.originals and any(id(one) in self.originals for one in args):
            raise TypeError(
                "`model` reaches its weights past its modules (through a function that holds on to the model or to one "
                "of them), so it cannot be sampled without changing it; make that function a method of a module."
            )
        counted = self.counted_name(func)
        if self.results and not drops(func):
            for one in tensors_in((args, kwargs or {})):
                self._note_use(one, counted or func)
        if func in LAYERS:
            self.layers[self.dropped] += 1
        result = super().__torch_function__(func, types, args, kwargs)
        if counted is not None and args and result is not args[0]:
            self._note_result(counted, result)
        if type(result) is Tensor and not self.dropped:
            self.prefix_bytes = max(self.prefix_bytes, result.nbytes)
        elif type(result) is Tensor:
            name = self.results[id(result)][0] if id(result) in self.results else ""
            self.bytes[name] = max(self.bytes.get(name, 0), result.nbytes)
        return result

    def _note_result(self, name: str, result: Tensor) -> None:
        self.results[id(result)], self.uses[name] = (name, result), []

    def _note_use(self, x: Tensor, use: Any) -> None:
        if id(x) in self.results:
            self.uses[self.results[id(x)][0]].append(use)

    def meet(self, drop: Drop, x: Tensor) -> Tensor:
        name = self.calls.next()
        order = tuple(sorted(range(x.ndim), key=lambda axis: -x.stride(axis)))
        self.found[name] = Call(name, drop, x, order)
        self.dropped = self.dropped or drop.samples
        self._note_use(x, name)
        if drop.kind == "weights":
            return x
        result = _kept_whole(drop, x.view_as(x), self.middle)
        self._note_result(name, result)
        return result

    def by_torch(self, operation: str, run: Callable[[], Tensor], own: torch.Generator | None) -> Tensor:
        name = self.calls.next()
        state = None if own is None else own.get_state()
        if own is not None and state is not None:
            self.generators.append((own, state))
        with seeded_generators(0, self.device):
            result = run()
        drop = Drop(operation, math.nan, True, tuple(result.shape), "generator")
        self.found[name] = Call(name, drop, result, tuple(range(result.ndim)), state)
        self.dropped = True
        return result


class SampleMode(StochasticMode):
    """Applies the masks of one draw (or, under vmap, of many) at their sites."""

    handlers = KEYED

    def __init__(self, replica: Replica, sites: dict[str, Site], masks: dict[str, Tensor], n_inputs: int) -> None:
        super().__init__(replica)
        self.sites, self.masks, self.n_inputs = sites, masks, n_inputs
        self.unknown: set[str] = set()

    def meet(self, drop: Drop, x: Tensor) -> Tensor:
        before = self.calls.counts.copy()
        name = self.calls.next()
        if name in self.sites:
            self.at_site(before)
            if self.sites[name].kind == "generator":
                with seeded_generators(int(self.masks[name]), self.device):
                    return _drawn_by_torch(drop, x)
            return self.drop(x, self.sites[name])
        if drop.active and drop.samples and drop.rate != 1 and drop.operation != STOCHASTIC_DEPTH:
            self.unknown.add(name)
        return _kept_whole(drop, x)

    def by_torch(self, operation: str, run: Callable[[], Tensor], own: torch.Generator | None) -> Tensor:
        before = self.calls.counts.copy()
        name = self.calls.next()
        if name not in self.sites:
            self.unknown.add(name)
            with seeded_generators(0, self.device):
                return run()
        self.at_site(before)
        with seeded_generators(int(self.masks[name]), self.device, own):
            return run()

    def at_site(self, counts: Counter[str]) -> None:
        """A site is reached, after so many calls."""

    def drop(self, x: Tensor, site: Site) -> Tensor:
        """What becomes of `x` at a site."""
        self.check_shape(x, site)
        return dropped(x, self.masks[site.name], site, self.n_inputs)

    def check_shape(self, x: Tensor, site: Site, n_draws: int = 1) -> None:
        """The mask of a site is laid out for what the probes met there."""
        rows = self.n_inputs * n_draws
        wanted = tuple(size * rows if axis == site.axis else size for axis, size in enumerate(site.x_shape))
        if tuple(x.shape) != wanted:
            raise ValueError(
                f"`model` meets its dropout at {site.name} with shape {tuple(x.shape)} where its first inputs gave "
                f"{wanted}; inputs of one call must all take the same way through it."
            )


def _drawn_by_torch(drop: Drop, x: Tensor) -> Tensor:
    """Random numbers for a call that cannot be keyed by its inputs."""
    if drop.kind == "keep":
        return torch.empty_like(x).bernoulli_(1 - drop.rate)
    return torch.rand_like(x) if drop.kind == "uniforms" else torch.randn_like(x)


def mask_numbers(made: Tensor, site: Site) -> Tensor:
    """The 0 or 1 of each decision, or each normal number, as the number that the site applies."""
    made = made.to(site.dtype)
    if site.kind in NUMBERS:
        return made
    if site.kind == "gaussian":
        return made.mul_((site.rate / (1 - site.rate)) ** 0.5).add_(1)  # as much spread as dropout at this rate has
    return made.mul_(site.rate if site.kind == "noise" else site.factor)


def dropped(x: Tensor, mask: Tensor, site: Site, n_inputs: int) -> Tensor:
    """`x` under its mask: a factor for dropout, 0 or 1 for alpha dropout, the result itself otherwise.

    A mask made for one input meets an axis of n_inputs * k entries as k entries repeated for each input.
    """
    if site.kind == "weights":
        return mask
    shape = x.shape
    if site.axis is not None and mask.shape[site.axis] not in (1, shape[site.axis]):
        if site.inputs_outermost:
            x, mask = x.unflatten(site.axis, (n_inputs, -1)), mask.unsqueeze(site.axis)
        else:
            x, mask = x.unflatten(site.axis, (-1, n_inputs)), mask.unsqueeze(site.axis + 1)
    result = applied(x, mask, site)
    return result if result.shape == shape else result.reshape(shape)


def applied(x: Tensor, mask: Tensor, site: Site) -> Tensor:
    """`x` under a mask that broadcasts to it."""
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
    """What the probes found out about a model, for inputs of one shape."""

    sites: dict[str, Site]
    bytes: dict[str, int]  # of these results for one input in one draw; under "" the largest of the others
    output: Any  # of the last probe, on `n_inputs` inputs, nothing dropped
    n_inputs: int
    own_randomness: tuple[str, ...]  # what the model draws that cannot be keyed by input, "multinomial in head"
    training_randomness: tuple[str, ...]  # what it draws when training alone, and that is left out
    training_noise: tuple[str, ...]  # normal numbers among them that `gaussian_noise` would let in
    passed_over: frozenset[str]  # stochastic calls that are no sites
    alone: bool  # it draws from Python's or NumPy's generator, where nobody else may draw meanwhile
    raised: list[str]  # modules whose training flag is up while sampling
    sole_uses: dict[str, Any]  # of dropouts and counted calls whose result one call takes: its name, or its function
    layers: tuple[int, int]  # linear layers and convolutions before the first site, and after it
    prefix_bytes: int  # of the largest result before the first site, for one input
    mixes_inputs: bool  # an input's output, nothing dropped, depends on what inputs come with it

    def largest(self, without: frozenset[str]) -> int:
        """Bytes of the largest intermediate result from the first site on, the results of some calls left out."""
        return max((size for name, size in self.bytes.items() if name not in without), default=0)


def probe(
    model: nn.Module,
    replica: Replica,
    head: Callable[[int], Inputs],
    stochastic_depth: bool = True,
    gaussian_noise: bool = False,
) -> Probe:
    """Find the sites of `model`, and put up the flags that they need in `replica`.

    `head(n)` gives n inputs as the model gets them. Raises NoStochasticSites where nothing would be sampled, and
    ValueError where what is dropped cannot be told apart by inputs, or where training changes more than dropout.
    """
    in_training, others_in_training = _calls_in_training(model, replica.device, head(1))
    originals = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    tolerance = 1e-3 if replica.precision == "float32" else 5e-2
    with other_generators_kept() as others_moved, replica.generators_kept():
        plain, plain_output = _calls(replica, head(3), originals)
        idle = without_effect(plain.found, plain_output, lambda middle: _calls(replica, head(3), middle=middle)[1])

        def is_wanted(drop: Drop) -> bool:
            """Whether a call that acts in training alone is to be sampled."""
            noise, by_torch = drop.kind == "normals", drop.kind == "generator"
            whole_block = drop.operation == STOCHASTIC_DEPTH
            return not by_torch and (gaussian_noise or not noise) and (stochastic_depth or not whole_block)

        hidden = {name: call for name, call in in_training.items() if is_wanted(call.drop)}
        raised = owners_to_raise(hidden, {name: call for name, call in plain.found.items() if name not in idle})
        unlike = {owner_of(name) for name, call in hidden.items() if call.drop.kind not in ("scale", "alpha")}
        plainly = [path for path in raised if path not in unlike]  # these do nothing where nothing is dropped
        raise_flags(replica, plainly)
        output = _calls(replica, head(3), originals)[1] if plainly else plain_output
        if not alike(plain_output, output, tolerance):
            where = ", ".join(path or "itself" for path in plainly)
            raise ValueError(
                f"`model` changes more than its dropout when training, in {where}, so it cannot be sampled as it "
                "predicts; call dropout there whatever `self.training` is, with `training=self.training`."
            )
        raise_flags(replica, raised)
        probes = [_calls(replica, head(n_inputs)) for n_inputs in (1, 2)]
        probes.append(_calls(replica, head(3)) if raised else (plain, plain_output))
        others = others_moved()
    modes, output = [mode for mode, _ in probes], probes[-1][1]
    found = [mode.found for mode in modes]
    sites: dict[str, Site] = {}
    steady = {name for name in found[0] if _repeats_itself([one.get(name) for one in found])}
    passed_over, by_batch, place = set(), [], 0
    for name in dict.fromkeys(name for calls in found for name in calls):
        calls = [one.get(name) for one in found]
        drop = next(call.drop for call in calls if call is not None)
        first = f"{owner_of(name)}[0]"  # where inputs are looped over, only this call is in every probe
        active = drop.active or any(one in hidden and hidden[one].drop.active for one in (name, first))
        # normal numbers that act in training alone are met where a dropout beside them has put up the flag
        acts = drop.kind != "normals" or name in hidden or (name in plain.found and name not in idle)
        if not (active and drop.samples and acts) or name in idle - hidden.keys() or name in steady:
            passed_over.add(name)
            continue
        if stochastic_depth or drop.operation != STOCHASTIC_DEPTH:
            sites[name] = site_of(name, place, calls, lambda: _noised_calls(replica, head))
            if sites[name].kind == "generator" and len({call and call.drop.mask_shape for call in calls}) > 1:
                by_batch.append(where_of(name, drop))
        place += 1
    left_out = {
        name: call.drop
        for name, call in in_training.items()
        if is_random(call.drop) and call.drop.samples and name not in sites and name not in steady
    }
    noise = tuple(where_of(name, drop) for name, drop in left_out.items() if drop.kind == "normals")
    rest = tuple(where_of(name, drop) for name, drop in left_out.items() if drop.kind != "normals")
    rest += tuple(one for one in others_in_training if one not in others)
    if all(site.rate == 1 for site in sites.values()):
        raise NoStochasticSites(nothing_to_sample(noise, (*others, *rest)))
    sole_uses = {name: uses[0] for name, uses in modes[0].uses.items() if len(uses) == 1}
    sole_uses = {name: use for name, use in sole_uses.items() if all(mode.uses.get(name) == [use] for mode in modes)}
    before, after = modes[0].layers
    own = (*by_batch, *others)
    steadily = not others and not any(site.kind == "generator" for site in sites.values())
    return Probe(
        sites,
        modes[0].bytes,
        output,
        3,
        own,
        rest,
        noise,
        frozenset(passed_over),
        bool(others),
        raised,
        sole_uses,
        (before, after),
        modes[0].prefix_bytes,
        steadily and not alike(probes[0][1], _firsts(output, 3), tolerance),
    )


def nothing_to_sample(
    noise: tuple[str, ...],
    others: tuple[str, ...],
    layers: str = "torch.nn.Dropout",
    numbers: str = "`torch.rand` or `torch.bernoulli`",
) -> str:
    """Why there is nothing, and what can be done about it."""
    if noise:
        return (
            "`model` has no dropout with a rate above 0, but draws normal numbers when training, by "
            f"{', '.join(noise)}; set `gaussian_noise` to true to sample them."
        )
    if others:
        return (
            "`model` has no dropout with a rate above 0, and what it draws itself, by "
            f"{', '.join(others)}, cannot be sampled; draw it by {numbers}."
        )
    return (
        "`model` has no dropout with a rate above 0, so every draw would be the same; "
        f"add `{layers}` layers and train again."
    )


def is_random(drop: Drop) -> bool:
    """Whether the model draws random numbers itself: what it makes of them is not known."""
    return drop.kind in (*NUMBERS, "generator") or (drop.kind == "keep" and drop.operation != STOCHASTIC_DEPTH)


def owner_of(name: str) -> str:
    """The path of the module that makes a call."""
    return name.rsplit("[", 1)[0]


def where_of(name: str, drop: Drop) -> str:
    """What a call is, and whose."""
    return f"{drop.operation} in {owner_of(name) or 'itself'}"


def _repeats_itself(calls: list[Call | None]) -> bool:
    """Whether a call draws from a generator of the model's own that starts anew in each pass."""
    states = [call.own for call in calls if call is not None and call.own is not None]
    return len(states) > 1 and all(torch.equal(states[0], state) for state in states)


ENDS: tuple[Middle, Middle] = (0.0, -1.0), (1 - 2**-8, 1.0)


def without_effect(found: Mapping[str, DropCall], output: Any, run: Callable[[Middle], Any]) -> set[str]:
    """The calls that make random numbers, if the output is the same whatever these are.

    Some models draw a number in each pass and look at it only when training, or never at a rate of 0.
    """
    names = {name for name, call in found.items() if call.drop.kind in NUMBERS}
    if not names:
        return names
    with suppress(Exception):
        return names if all(alike(output, run(middle), 1e-6) for middle in ENDS) else set()
    return set()


def _calls(
    replica: Replica, inputs: Inputs, originals: set[int] | None = None, middle: Middle = MIDDLE
) -> tuple[ProbeMode, Any]:
    mode = ProbeMode(replica, originals, middle)
    with replica.predicting(), mode:
        try:
            return mode, replica.run(inputs.clone())
        except (RuntimeError, LookupError, AttributeError, TypeError, ValueError) as error:
            if str(error).startswith("`"):  # in words of ours
                raise
            text = (str(error).strip() or "no words").splitlines()[0].rstrip(".")
            shapes = ", ".join(str(("input", *shape)).replace("'", "") for shape in inputs.signature if shape)
            raise ValueError(
                f"`model` fails on inputs of shape {shapes}: {type(error).__name__}, {text}; give it what it takes."
            ) from error


def _noised_calls(replica: Replica, head: Callable[[int], Inputs]) -> tuple[dict[str, Call], dict[str, Call]]:
    """The calls on one and on three inputs that differ for sure, since the same noise is added to those of both."""
    found = []
    for n_inputs in (1, 3):
        generator = torch.Generator().manual_seed(0)
        found.append(_calls(replica, head(n_inputs).noised(generator))[0].found)
    return found[0], found[1]


def _firsts(output: Any, n: int) -> Any:
    """The first input's part of an output on `n` inputs."""
    if isinstance(output, Tensor):
        return output[:1] if output.ndim and len(output) == n else output
    if isinstance(output, Mapping):
        return {name: _firsts(one, n) for name, one in output.items()}
    return [_firsts(one, n) for one in output] if isinstance(output, (tuple, list)) else output


SCARCER = 16.0  # so many times too few numbers below t that one of them came out small by chance: 1 in about so many
SMALL = 1e-2  # smaller numbers are rounded as this one is, where there are numbers of 1 or more


def alike(one: Any, other: Any, tolerance: float) -> bool:
    """Whether two outputs, of whatever parts, hold the same numbers up to rounding, each on a scale of its own."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return same_numbers(one, other, tolerance)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(alike(one[name], other[name], tolerance) for name in one)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(alike(*pair, tolerance) for pair in zip(one, other, strict=True))
    return True


def same_numbers(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Whether two tensors hold the same numbers up to `tolerance`, each on a scale of its own.

    Infinities are the same where they are equal, and NaN where both are NaN.
    """
    if one.shape != other.shape:
        return False
    one, other = one.detach().cpu().double(), other.detach().cpu().double()
    apart = (one != other) & ~(one.isnan() & other.isnan())
    if not bool(apart.any()):
        return True
    size = torch.maximum(one.abs(), other.abs())
    return bool(((one - other).abs()[apart] <= tolerance * _scales(size, size[apart])).all())


def _scales(sizes: Tensor, some: Tensor) -> Tensor:
    """For `some` of the sizes of many numbers, how large the numbers are of which each is one.

    A sum that comes out small is rounded as its large parts are, so it is held on the scale of the larger numbers if
    there are so many that some can be expected to be so small: of n numbers up to s about n * t / s are below t. So
    neither a few huge numbers nor the logits of many impossible classes are a scale for the others.
    """
    sizes = sizes[sizes.isfinite() & (sizes > 0)]
    if len(sizes) == 0:
        return torch.zeros_like(some)
    octaves = torch.frexp(sizes).exponent
    lowest = octaves.min()
    counts = torch.bincount(octaves - lowest)
    places = torch.arange(len(counts))
    ends = torch.ldexp(torch.ones(len(counts), dtype=torch.float64), places + lowest)  # sizes of an octave are below
    dense = counts.cumsum(0) / ends
    may_belong = (dense * SCARCER >= dense[:, None]) & (counts > 0)  # (octave, octave up to which its like may reach)
    scales = ends[torch.where(may_belong, places, 0).amax(dim=1)]
    found = scales[(torch.frexp(some).exponent - lowest).clamp(0, len(counts) - 1)]
    return found.clamp(min=SMALL * min(1.0, float(sizes.max())))


def _calls_in_training(
    model: nn.Module, device: torch.device, inputs: Inputs
) -> tuple[dict[str, Call], tuple[str, ...]]:
    """The stochastic calls with every training flag up but those of layers that keep statistics; {} if that fails.

    Also which generators besides torch's the model then draws from.
    """
    replica = replicate(model, device)  # a replica of its own: a training pass may change buffers
    for module in replica.root.modules():
        module.training = not isinstance(module, _NormBase) and "running_mean" not in module._buffers

    def run(middle: Middle) -> tuple[ProbeMode, Any]:
        mode = ProbeMode(replica, middle=middle)
        with torch.inference_mode(), warnings.catch_warnings(), mode:
            warnings.simplefilter("ignore")
            with suppress(Exception):  # some models want targets when training: then eval is all there is to see
                return mode, replica.run(inputs.clone())
        return mode, None

    with other_generators_kept() as others_moved, replica.generators_kept():
        mode, output = run(MIDDLE)
        others = others_moved()
        idle = set() if output is None else without_effect(mode.found, output, lambda middle: run(middle)[1])
    return {name: call for name, call in mode.found.items() if name not in idle}, others


def owners_to_raise(hidden: Mapping[str, DropCall], seen: Mapping[str, DropCall]) -> list[str]:
    """Paths of the modules whose dropping only training shows."""
    owners = {
        owner_of(name)
        for name, call in hidden.items()
        if call.drop.active and call.drop.samples and (name not in seen or not seen[name].drop.samples)
    }
    return sorted(owners)


def raise_flags(replica: Replica, paths: list[str]) -> None:
    """Put up the training flag of these modules."""
    for path in paths:
        replica.root.get_submodule(path).training = True


def site_of(
    name: str,
    place: int,
    calls: list[Call | None],
    noised: Callable[[], tuple[dict[str, Call], dict[str, Call]]],
) -> Site:
    """A site from its calls on one, two and three inputs."""
    kind, axis = next(call.drop.kind for call in calls if call is not None), None
    try:
        if kind != "generator":
            axis = _input_axis(name, [None if call is None else call.drop.mask_shape for call in calls])
    except ValueError:
        if not is_random(next(call.drop for call in calls if call is not None)):
            raise
        kind = "generator"
    made = [call for call in calls if call is not None]  # all of them, else `_input_axis` has refused
    first, last = made[0], made[-1]
    outermost = True
    if axis is not None and first.drop.mask_shape[axis] > 1:
        outermost = _inputs_outermost(first, last, axis)
        if outermost is None:
            one, three = noised()
            outermost = _inputs_outermost(one[name], three[name], axis) if name in one and name in three else None
        if outermost is None and is_random(first.drop):
            outermost = True  # made from sizes alone, in which inputs come first as a rule
        if outermost is None:
            raise ValueError(
                f"`model` has a dropout at {name} where inputs cannot be told apart: {first.x.shape[axis]} entries for "
                "each lie along one axis, and they are all the same."
            )
    return Site(
        name=name,
        operation=first.drop.operation,
        rate=first.drop.rate,
        kind="scale" if kind == "alpha" and first.drop.rate == 1 else kind,  # as torch: all 0
        shape=first.drop.mask_shape,
        x_shape=tuple(first.x.shape),
        axis=axis,
        inputs_outermost=outermost,
        order=last.order,
        dtype=first.x.dtype,
        place=place,
        layer=first.drop.layer,
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


def _inputs_outermost(one: Call, three: Call, axis: int) -> bool | None:
    """How three inputs of k entries each lie along an axis: 1 1 2 2 3 3 (True) or 1 2 3 1 2 3; None for a tie.

    Seen from where the first input's entries, known from the probe on it alone, come to lie.
    """
    size = one.x.shape[axis]
    alone, together = one.x.double(), three.x.double()
    outermost = together.narrow(axis, 0, size)
    innermost = together.unflatten(axis, (size, 3)).select(axis + 1, 0)
    first, second = (float((place - alone).abs().nan_to_num().sum()) for place in (outermost, innermost))
    if abs(first - second) <= 1e-3 * max(first, second):
        return None
    return first < second


@contextmanager
def random_state_kept(device: torch.device = CPU) -> Iterator[Callable[[], bool]]:
    """Put torch's generators back if the block moved them; gives a function that says whether it did."""
    before = generator_states(device)
    moved = False

    def has_moved() -> bool:
        return moved or not all(map(torch.equal, before, generator_states(device)))

    try:
        yield has_moved
    finally:
        moved = has_moved()
        if moved:
            put_back(before, device)


def at_rate(sites: dict[str, Site], rate: float) -> dict[str, Site]:
    """The sites at another rate, as far as they can be."""
    changed = {name: site.at_rate(rate) for name, site in sites.items()}
    if all(site is sites[name] for name, site in changed.items()):
        operations = ", ".join(dict.fromkeys(site.operation for site in sites.values()))
        raise NoStochasticSites(
            f"`model` has no dropout whose rate could be another: what is sampled there is {operations}."
        )
    return changed


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


LOWEST, HIGHEST = 0.1, 0.7  # rates of a classifier outside of which its spread says little


def advice_on(found: Probe, classifier: bool) -> list[str]:
    """What is likely to make the spread of the draws say little, one sentence each."""
    advice = []
    before, after = found.layers
    if before > 1 and after <= 1:
        advice.append(
            "`model` has dropout before its last layer alone, so the draws differ in that layer only and doubt about "
            "all before it goes unseen; add dropout after the other layers and train again."
        )
    sites = [site for site in found.sites.values() if site.operation != STOCHASTIC_DEPTH and classifier]
    for bad, words in (
        (
            [site for site in sites if site.rate < LOWEST],
            f"under {LOWEST}, where the draws of a classifier hardly differ",
        ),
        ([site for site in sites if site.rate > HIGHEST], f"over {HIGHEST}, where little of a classifier is left"),
    ):
        if bad:
            names = ", ".join(f"{site.name} ({site.rate:g})" for site in bad[:3])
            more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
            advice.append(
                f"`model` has dropout rates {words}: {names}{more}; `mc_compare_rates()` tells which predicts best."
            )
    return advice
