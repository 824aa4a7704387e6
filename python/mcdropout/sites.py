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
import re
import threading
import types
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C._functorch import (  # torch has no public way to ask this, and its stubs leave it out
    CVmapInterpreterPtr,  # pyright: ignore[reportAttributeAccessIssue]
    RandomnessType,  # pyright: ignore[reportAttributeAccessIssue]
    TransformType,  # pyright: ignore[reportAttributeAccessIssue]
    is_batchedtensor,
    peek_interpreter_stack,  # pyright: ignore[reportAttributeAccessIssue]
)
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.overrides import TorchFunctionMode

from .checks import NoStochasticSites
from .devices import chosen
from .inputs import Inputs, Path
from .operations import ALPHA, HANDLERS, NUMBERS, RANDOM, RELUS, STOCHASTIC_DEPTH, Drop, Shape, Variational, drops
from .precision import cast_arguments, rounding
from .randomness import OwnStream, other_generators_kept, seeded_generators

T = TypeVar("T")


ALL_EXPERTS = "and in a mixture of experts each must get them all, and its result a weight"


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
        return 1.0

    def at_rate(self, rate: float) -> Site:
        """With another rate, where torch scales what is kept: what the model itself makes of its decisions stays."""
        return replace(self, rate=rate) if self.kind in RATED_KINDS else self


DROPPING = re.compile("dropout|drop_?path|stochastic_?depth|attention_forward", re.IGNORECASE)
RATED_KINDS = ("scale", "alpha", "gaussian")  # of operations whose whole working follows from their rate
NORMAL_KINDS = ("gaussian", "noise", "normals")  # made of normal numbers, not of decisions


NUMBERED = "numbers "


class CallNames(threading.local):
    """Names each stochastic call of a pass by the module that makes it; every thread has passes of its own."""

    def __init__(self) -> None:
        self.path: list[tuple[str, nn.Module]] = []
        self.counts: Counter[str] = Counter()

    def start(self) -> None:
        """A new pass begins."""
        self.path.clear()
        self.counts.clear()

    def next(self, numbers: bool = False) -> str:
        """The name of the call being made now; calls for numbers, of which there may be any number, count apart."""
        name = self.coming(numbers)
        self.counts[name.rsplit("[", 1)[0] + NUMBERED * numbers] += 1
        return name

    def coming(self, numbers: bool = False) -> str:
        """The name that it will have."""
        path = self.path[-1][0] if self.path else ""
        return f"{path}[{NUMBERED * numbers}{self.counts[path + NUMBERED * numbers]}]"


@dataclass
class Replica:
    """A stand-in for the user's model: the same weights, its own flags, buffers and hooks."""

    root: nn.Module
    calls: CallNames
    device: torch.device
    precision: str = "float32"
    generators: list[tuple[torch.Generator, Tensor]] = field(default_factory=list)  # of the model's own, as first met
    gradients: bool = False  # the model asks for gradients in its working
    passed_over: frozenset[str] = frozenset()  # stochastic calls that are no sites
    fixed: frozenset[str] = frozenset()  # random numbers that the model fixes by a seed of torch's generator

    def run(self, inputs: Inputs) -> Any:
        """What the model returns for these inputs."""
        return self.root(*inputs.args, **inputs.kwargs, **inputs.constants)

    @contextmanager
    def predicting(self) -> Iterator[None]:
        """No gradients but where the model asks for some itself.

        Inference mode would be no quicker, and neither lets the model turn gradients on nor counts writes in place.
        """
        with (
            torch.inference_mode(False),
            torch.set_grad_enabled(self.gradients),
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


def with_gradients_if_asked(replica: Replica, work: Callable[[], T]) -> T:
    """What `work` makes with the replica; with gradients from now on if that fails for want of them."""
    try:
        return work()
    except RuntimeError as error:
        if replica.gradients or "does not require grad" not in str(error):
            raise
    replica.gradients = True
    return work()


def replicate(model: nn.Module, device: torch.device, precision: str = "float32") -> Replica:
    """A replica in eval mode on `device`: parameters shared (or copied to the device), buffers its own."""
    model = unwrapped(model)
    memo: dict[int, Any] = {}
    for tensor in model.parameters():
        memo[id(tensor)] = tensor.detach().to(device)
    for tensor in model.buffers():
        memo[id(tensor)] = tensor.detach().to(device).clone()
    for path, script in _scripts(model):
        memo[id(script)] = _script_without_dropout(path, script, device)
    pairs = [
        (module, _bare(type(module)))
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule) and unwrapped(module) is module
    ]
    memo |= {id(module): twin for module, twin in pairs}
    memo |= {id(module): memo[id(unwrapped(module))] for module in model.modules() if unwrapped(module) is not module}
    for module, twin in pairs:
        _check_graph(module)
        twin.__dict__ = {name: _copied(_uncompiled(value), memo) for name, value in module.__dict__.items()}
        twin.__dict__ |= {name: one.__get__(twin) for name, one in _compiled_methods(type(module)).items()}
        twin.__dict__["_compiled_call_impl"] = None  # of `module.compile()`: it would run the user's module
    calls = CallNames()
    root = memo[id(model)]
    for path, module in root.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):
            _announce(module, path, calls)
            module.training = False
    return Replica(root, calls, device, precision)


def _bare(kind: Any) -> Any:
    """An object without attributes; not by the class's own making, by which a graph would lose its code."""
    try:
        return object.__new__(kind)
    except TypeError:  # it is a dict or the like too
        return kind.__new__(kind)


def _uncompiled(value: Any) -> Any:
    """The function inside one of `torch.compile()`, which masks cannot reach; anything else as it is."""
    isfunction = isinstance(value, (types.FunctionType, types.MethodType))
    return getattr(value, "_torchdynamo_orig_callable", value) if isfunction else value


@cache
def _compiled_methods(kind: type) -> dict[str, Any]:
    """Methods of a class that `torch.compile()` decorates, by their names, as they were written."""
    methods = {name: value for one in reversed(kind.__mro__) for name, value in vars(one).items()}
    return {name: _uncompiled(value) for name, value in methods.items() if _uncompiled(value) is not value}


def _scripts(model: nn.Module) -> list[tuple[str, Any]]:
    """The TorchScript modules, without those inside of others."""
    found: list[tuple[str, Any]] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}." if outer else "") for outer, _ in found)
        if isinstance(module, torch.jit.ScriptModule) and not inside:
            found.append((path, module))
    return found


def _script_without_dropout(path: str, script: Any, device: torch.device) -> Any:
    """A copy of a TorchScript module that drops nothing; nothing can be done about one that does."""
    if "dropout" in str(getattr(script, "inlined_graph", "")):
        where = f"holds a TorchScript module at {path}" if path else "is a TorchScript module"
        raise TypeError(
            f"`model` {where}, whose dropout calls are compiled in and cannot be sampled; pass the original "
            "`torch.nn.Module`."
        )
    with torch.no_grad():  # else the copies would have a history
        return copy.deepcopy(script).to(device).eval()


def _check_graph(module: nn.Module) -> None:
    """A graph of `torch.fx` is as good as the modules it calls, unless it has fixed by itself what drops."""
    graph = getattr(module, "graph", None)
    nodes = [node for node in getattr(graph, "nodes", ()) if getattr(node, "op", "") == "call_function"]
    if any(isinstance(node.target, torch._ops.OpOverload) for node in nodes):
        raise TypeError(
            "`model` is or holds a graph of `torch.export`, which has fixed what drops and what batch norm does, so it "
            "cannot be sampled; pass the original `torch.nn.Module`."
        )
    if any(map(_fixed_as_off, nodes)):
        raise TypeError(
            "`model` is or holds a graph that was traced in eval mode, which has fixed its functional dropout as off, "
            "so it cannot be sampled; put it in train mode before it is traced, or pass the original `torch.nn.Module`."
        )


def _fixed_as_off(node: Any) -> bool:
    """Whether a call in a graph is a dropout that was told that the model is not training."""
    if not DROPPING.search(getattr(node.target, "__name__", "")):
        return False
    given = {**dict(zip(("input", "p"), node.args, strict=False)), **node.kwargs}
    rate = given.get("p", given.get("dropout_p", 0.5))
    told = given.get("training", given.get("train", node.args[-1]))  # where not by its name, then at the end
    return told is False and rate != 0


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """A copy of an attribute, its modules and tensors replaced by the replica's; shared where it cannot be copied."""
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # locks, open files, tensors with a history
        return value


def unwrapped(model: nn.Module) -> nn.Module:
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
        if self.device.type == "cuda" and func in LOOKUPS:
            _check_on_device(*LOOKUPS[func](*args, **kwargs))
        handler = self.handlers.get(func)
        if handler is None:
            return func(*args, **kwargs)
        return handler(self, func, *args, **kwargs)

    def meet(self, drop: Drop, x: Tensor) -> Tensor:
        """What becomes of `x`; here: nothing is dropped."""
        self.calls.next(is_random(drop))
        return _kept_whole(drop, x)

    def by_torch(self, operation: str, run: Callable[[], Tensor], own: torch.Generator | None) -> Tensor:
        """What `run` draws, from torch's generator or from one of the model's own."""
        self.calls.next(numbers=True)
        return run()

    def pass_over(self) -> None:
        """A call that drops nothing still counts, so that the names of the next ones do not depend on it."""
        self.calls.next()

    def is_fixed(self) -> bool:
        """Whether the model has fixed by a seed what the call being made now gives; then it is passed over."""
        return False

    def drew_fixed(self) -> None:
        """Such a call has been made."""

    def counted_name(self, func: Any) -> str | None:
        """The name of a call that may wait for those after it, by its number; None of one that never does."""
        kind = COUNTED.get(func)
        if kind is not None:
            self.counted[kind] += 1
        return None if kind is None else f"{kind} {self.counted[kind]}"

    def module(self) -> nn.Module | None:
        """The module whose code is running."""
        return self.calls.path[-1][1] if self.calls.path else None


@dataclass(frozen=True)
class Trial:
    """What stands for a model's own random numbers in a probe.

    They are drawn by `seed` and the name of the call, the same for an input whatever comes behind it; or they are all
    as low or as high as can be, and decisions all 0 or all 1.
    """

    seed: int = 0
    high: bool | None = None
    keeps: float | None = None

    def numbers(self, name: str, drop: Drop, shape: Shape) -> Tensor:
        """Random numbers, or decisions, in float64."""
        if drop.kind == "keep" and self.keeps is not None:
            return torch.full(shape, self.keeps, dtype=torch.float64)
        if self.high is not None:
            extremes = (0.0, 1 - 2**-8) if drop.kind != "normals" else (-1.0, 1.0)
            return torch.full(shape, extremes[self.high], dtype=torch.float64)
        seed = zlib.crc32(f"{self.seed} {name}".encode())
        drawn = torch.from_numpy(np.random.default_rng(seed).random(int(torch.Size(shape).numel()))).view(shape)
        if drop.kind == "keep":
            return (drawn >= drop.rate).double()
        return torch.special.ndtri(drawn.clamp(1e-9, 1 - 1e-9)) if drop.kind == "normals" else drawn


USUAL = Trial()
OTHERS = Trial(1), Trial(2), *(Trial(high=high, keeps=keeps) for high in (False, True) for keeps in (0.0, 1.0))
MOST_NUMBERS = 1000  # calls that make them in a pass: a loop that waits for another number would not end
REST = "[...]"  # the site of calls that not every pass makes, as where a model draws until a number suits it


def _kept_whole(drop: Drop, x: Tensor) -> Tensor:
    if drop.kind in NUMBERS:
        return torch.full_like(x, 0.5 if drop.kind == "uniforms" else 0.0)
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
    mapped: int | None = None  # how many slices `torch.func.vmap` maps it over, each with randomness of its own


def tensors_in(given: Any) -> list[Tensor]:
    """A tensor, or those of a tuple, list or mapping, however deep."""
    if isinstance(given, Tensor):
        return [given]
    parts = given.values() if isinstance(given, dict) else given if isinstance(given, (tuple, list)) else ()
    return [one for part in parts for one in tensors_in(part)]


class ProbeMode(StochasticMode):
    """Notes the stochastic calls, what uses their results, and the sizes of all results; drops nothing.

    `originals`: ids of the user's own weights, which a replica has no business with. `trial` stands for each random
    number.
    """

    handlers = KEYED

    def __init__(self, replica: Replica, originals: set[int] | None = None, trial: Trial = USUAL) -> None:
        super().__init__(replica)
        self.originals, self.trial = originals or set(), trial
        self.started_from, self.fixed = torch.get_rng_state(), set[str]()
        self.drawn_to: Tensor | None = None  # where numbers that a seed fixes have left torch's generator
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

    def is_fixed(self) -> bool:
        state = torch.get_rng_state()
        if torch.equal(state, self.started_from):
            return False
        fresh = torch.Generator().manual_seed(torch.initial_seed()).get_state()
        if not torch.equal(state, fresh) and not (self.drawn_to is not None and torch.equal(state, self.drawn_to)):
            return False  # another thread has drawn
        self.fixed.add(self.calls.next(numbers=True))
        return True

    def drew_fixed(self) -> None:
        self.drawn_to = torch.get_rng_state()

    def _note_result(self, name: str, result: Tensor) -> None:
        self.results[id(result)], self.uses[name] = (name, result), []

    def _note_use(self, x: Tensor, use: Any) -> None:
        if id(x) in self.results:
            self.uses[self.results[id(x)][0]].append(use)

    def meet(self, drop: Drop, x: Tensor) -> Tensor:
        name = self.calls.next(is_random(drop))
        order = tuple(sorted(range(x.ndim), key=lambda axis: -x.stride(axis)))
        self.found[name] = Call(name, drop, x, order, mapped=_mapped_apart())
        self.dropped = self.dropped or drop.samples
        self._note_use(x, name)
        if drop.kind == "weights":
            return x
        if is_random(drop):
            if self.trial.high is not None and len(self.found) > MOST_NUMBERS:
                raise RuntimeError("there is no end of random numbers")
            result = self.trial.numbers(name, drop, tuple(x.shape)).to(x)
        else:
            result = _kept_whole(drop, x.view_as(x))
        self._note_result(name, result)
        return result

    def by_torch(self, operation: str, run: Callable[[], Tensor], own: torch.Generator | None) -> Tensor:
        name = self.calls.next(numbers=True)
        state = None if own is None else own.get_state()
        if own is not None and state is not None:
            self.generators.append((own, state))
        with seeded_generators(0):
            result = run()
        drop = Drop(operation, math.nan, True, tuple(result.shape), "generator")
        self.found[name] = Call(name, drop, result, tuple(range(result.ndim)), state)
        self.dropped = True
        return result


class CarefulMode(StochasticMode):
    """A pass with nothing dropped that says what is wrong with whole numbers: where torch would say little.

    first: position of the first of `inputs` among all. floated: where whole numbers were made floating.
    """

    def __init__(
        self, replica: Replica, inputs: Inputs, first: int = 0, floated: frozenset[Path] = frozenset()
    ) -> None:
        super().__init__(replica)
        self.inputs, self.first, self.floated = inputs, first, floated

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in LOOKUPS:
            ids, lowest, highest = LOOKUPS[func](*args, **(kwargs or {}))
            if isinstance(ids, Tensor) and ids.dtype in WHOLE_NUMBERS:
                self._check_range(ids, lowest, highest)
        masks = MASKS[func](*args, **(kwargs or {})) if self.floated and func in MASKS else ()
        for one in masks:
            if isinstance(one, Tensor) and not self.floated.isdisjoint(self._places(one)):
                # it would be added to the scores, where truth values hide
                raise TypeError("masks of attention are truth values or floating point numbers")
        return super().__torch_function__(func, types, args, kwargs)

    def meet(self, drop: Drop, x: Tensor) -> Tensor:
        if drop.kind in ("scale", "alpha") and drop.rate > 0 and not x.is_floating_point():
            raise TypeError("dropout takes floating point numbers alone")
        return super().meet(drop, x)

    def _check_range(self, ids: Tensor, lowest: int, highest: int) -> None:
        path = self.calls.path[-1][0] if self.calls.path else ""
        check_looked_up(ids, (lowest, highest), path, self.inputs, lambda: self._places(ids), self.first)

    def _places(self, x: Tensor) -> list[Path]:
        """The inputs of which this is a view."""
        memory = x.untyped_storage().data_ptr()
        return [path for path, one in self.inputs.arrays.items() if one.untyped_storage().data_ptr() == memory]


def check_looked_up(
    ids: Tensor, ends: tuple[int, int], path: str, inputs: Inputs, places: Callable[[], list[Path]], first: int
) -> None:
    """Name the first number that cannot be looked up; `places` finds the inputs that the numbers are.

    path: of the layer that looks them up. first: position of the first of `inputs` among all.
    """
    lowest, highest = ends
    wrong = ((ids < lowest) | (ids > highest)).flatten().nonzero()
    if not len(wrong):
        return
    where = f"`{path}`" if path else "a table"
    value = int(ids.flatten()[wrong[0, 0]])
    per_input, rest = divmod(ids.numel(), len(inputs))
    number = "" if rest else f" in input number {first + int(wrong[0, 0]) // per_input + 1}"
    whose = places()
    if not whose and len(inputs.arrays) > 1:
        raise ValueError(
            f"`model` must find whole numbers from {lowest} to {highest} in what it looks up in {where}; "
            f"got {value}{number}."
        )
    name = inputs.name(whose[0] if whose else next(iter(inputs.arrays)))
    raise ValueError(
        f"{name} must hold whole numbers from {lowest} to {highest}, which `model` looks up in {where}; "
        f"got {value}{number}."
    )


WHOLE_NUMBERS = (torch.int64, torch.int32)


def _looked_up(input: Any, weight: Tensor, *_: Any, **__: Any) -> tuple[Any, int, int]:
    return input, 0, len(weight) - 1


def _indexed(table: Tensor, index: Any) -> tuple[Any, int, int]:
    return index, -len(table) if table.ndim else 0, len(table) - 1 if table.ndim else 0


def _selected(table: Tensor, dim: int, index: Tensor) -> tuple[Any, int, int]:
    return index, 0, table.shape[dim] - 1


def _made_one_hot(tensor: Tensor, num_classes: int = -1) -> tuple[Any, int, int]:
    return (None if num_classes < 0 else tensor), 0, num_classes - 1


# what is looked up, and from where to where it may go
LOOKUPS: dict[Any, Callable[..., tuple[Any, int, int]]] = {
    F.embedding: _looked_up,
    F.embedding_bag: _looked_up,
    F.one_hot: _made_one_hot,
    Tensor.__getitem__: _indexed,
    torch.index_select: _selected,
    Tensor.index_select: _selected,
}


def _check_on_device(ids: Any, lowest: int, highest: int) -> None:
    """Refuse, as torch does on the host, what cannot be looked up: on a GPU it would end all work of this process."""
    if isinstance(ids, Tensor) and ids.is_cuda and ids.dtype in WHOLE_NUMBERS and not is_batchedtensor(ids):
        if bool(((ids < lowest) | (ids > highest)).any()):
            raise IndexError("index out of range in self")


def _masks_of_heads(*_: Any, key_padding_mask: Any = None, attn_mask: Any = None, **__: Any) -> tuple[Any, ...]:
    return key_padding_mask, attn_mask


def _mask_of_scores(query: Any, key: Any, value: Any, attn_mask: Any = None, *_: Any, **__: Any) -> tuple[Any, ...]:
    return (attn_mask,)


MASKS: dict[Any, Callable[..., tuple[Any, ...]]] = {
    F.multi_head_attention_forward: _masks_of_heads,
    F.scaled_dot_product_attention: _mask_of_scores,
}


class SampleMode(StochasticMode):
    """Applies the masks of one draw (or, under vmap, of many) at their sites."""

    handlers = KEYED

    def __init__(self, replica: Replica, sites: dict[str, Site], masks: dict[str, Tensor], n_inputs: int) -> None:
        super().__init__(replica)
        self.passed_over, self.fixed = replica.passed_over, replica.fixed
        self.sites, self.masks, self.n_inputs = sites, masks, n_inputs
        self.unknown: set[str] = set()
        self.unknown_numbers: set[str] = set()

    def meet(self, drop: Drop, x: Tensor) -> Tensor:
        before = self.calls.counts.copy()
        name = self.calls.next(is_random(drop))
        if name in self.sites and self.sites[name].operation == drop.operation:
            self.at_site(before)
            if self.sites[name].kind == "generator":
                with seeded_generators(int(self.masks[name])):
                    return _drawn_by_torch(drop, x)
            return self.drop(x, self.sites[name])
        if is_random(drop) and name not in self.passed_over and REST in self.sites:
            return self._drawn_past_all_sites(name, drop, x, before)
        if drop.active and drop.samples and drop.rate != 1 and drop.operation != STOCHASTIC_DEPTH and x.numel() > 0:
            self.unknown.add(name)
        return _kept_whole(drop, x)

    def is_fixed(self) -> bool:
        fixed = bool(self.fixed) and self.calls.coming(numbers=True) in self.fixed
        if fixed:
            self.calls.next(numbers=True)
        return fixed

    def _drawn_past_all_sites(self, name: str, drop: Drop, x: Tensor, counts: Counter[str]) -> Tensor:
        """Random numbers where no probe had seen the call, or not each."""
        self.at_site(counts)
        if self.sites[REST].kind == "start":
            self.unknown_numbers.add(where_of(name, drop))
        start = int(self.masks[REST])  # fails where there are many draws, so that one after the other is drawn
        with seeded_generators((start + zlib.crc32(name.encode())) % 2**63):
            return _drawn_by_torch(drop, x)

    def by_torch(self, operation: str, run: Callable[[], Tensor], own: torch.Generator | None) -> Tensor:
        before = self.calls.counts.copy()
        name = self.calls.next(numbers=True)
        if name not in self.sites:
            self.unknown.add(name)
            with seeded_generators(0):
                return run()
        self.at_site(before)
        with seeded_generators(int(self.masks[name]), own):
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
                f"{wanted}; inputs of one call must all take the same way through it, {ALL_EXPERTS}."
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
    keeps_state: bool = field(default=False, kw_only=True)  # it depends on the batch before
    fixed: frozenset[str] = field(default=frozenset(), kw_only=True)  # numbers that the model fixes by a seed

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
    tolerance = max(1e-3, rounding(replica.precision, replica.device))
    with generators_watched() as others_moved, replica.generators_kept():
        plain, plain_output = _calls(replica, head(3), originals)
        idle = without_effect(plain.found, plain_output, lambda trial: _calls(replica, head(3), trial=trial)[1])

        def is_wanted(drop: Drop) -> bool:
            """Whether a call that acts in training alone is to be sampled."""
            noise, by_torch = drop.kind == "normals", drop.kind == "generator"
            whole_block = drop.operation == STOCHASTIC_DEPTH
            return not by_torch and (gaussian_noise or not noise) and (stochastic_depth or not whole_block)

        hidden = {name: call for name, call in in_training.items() if is_wanted(call.drop)}
        raised, plainly = owners_to_raise(hidden, plain.found, idle, in_training)
        raise_flags(replica, plainly)
        last = _calls(replica, head(3), originals) if plainly else (plain, plain_output)
        if not alike(plain_output, last[1], tolerance):
            where = ", ".join(path or "itself" for path in plainly)
            raise ValueError(
                f"`model` changes more than its dropout when training, in {where}, so it cannot be "
                "sampled as it predicts; call dropout there whatever `self.training` is, with `training=self.training`."
            )
        raise_flags(replica, raised)
        held = _held(replica)
        probes = [_calls(replica, head(1))]
        kept_something = _differ(held, _held(replica))
        again = _calls(replica, head(1))[1] if kept_something else probes[0][1]
        probes.append(_calls(replica, head(2)))
        probes.append(last if raised == plainly else _calls(replica, head(3)))
        others = others_moved(lambda: _calls(replica, head(3)))
    modes, output = [mode for mode, _ in probes], probes[-1][1]
    found = [mode.found for mode in modes]
    sites: dict[str, Site] = {}
    steady = {name for name in found[0] if _repeats_itself([one.get(name) for one in found])}
    passed_over, by_batch, irregular, place = set(), [], [], 0
    for name in dict.fromkeys(name for calls in found for name in calls):
        calls = [one.get(name) for one in found]
        if all(call is None or call.x.numel() == 0 for call in calls):  # as where no input goes to an expert
            continue
        drop = next(call.drop for call in calls if call is not None)
        first = f"{owner_of(name)}[0]"  # where inputs are looped over, only this call is in every probe
        active = drop.active or any(one in hidden and hidden[one].drop.active for one in (name, first))
        # normal numbers that act in training alone are met where a dropout beside them has put up the flag
        acts = drop.kind != "normals" or name in hidden or (name in plain.found and name not in idle)
        if not (active and drop.samples and acts) or name in idle - hidden.keys() or name in steady:
            passed_over.add(name)
            continue
        if is_random(drop) and drop.kind != "generator" and None in calls:
            irregular.append(where_of(name, drop))
            continue
        if stochastic_depth or drop.operation != STOCHASTIC_DEPTH:
            _check_mapped(name, calls)
            sites[name] = site_of(name, place, calls, lambda: _noised_calls(replica, head))
            if sites[name].kind == "generator" and len({call and call.drop.mask_shape for call in calls}) > 1:
                by_batch.append(where_of(name, drop))
        place += 1
    if irregular or any(site.kind in NUMBERS for site in sites.values()):
        sites[REST] = rest_of_numbers(place, irregular)
        by_batch += dict.fromkeys(irregular)
    fixed = frozenset.intersection(*(frozenset(mode.fixed) for mode in modes))
    replica.passed_over, replica.fixed = frozenset(passed_over), fixed
    left_out = {
        name: call.drop
        for name, call in in_training.items()
        if is_random(call.drop) and call.drop.operation != STOCHASTIC_DEPTH and call.drop.samples
        if name not in sites and name not in steady and where_of(name, call.drop) not in irregular
    }
    noise = tuple(where_of(name, drop) for name, drop in left_out.items() if drop.kind == "normals")
    rest = tuple(where_of(name, drop) for name, drop in left_out.items() if drop.kind != "normals")
    rest += tuple(one for one in others_in_training if one not in others)
    if sites and all(site.rate == 1 for site in sites.values()):
        raise NoStochasticSites(
            "`model` has no dropout but of rate 1, which drops all of its input, so every draw would be the same; set "
            "a rate below 1 and train again."
        )
    if not sites:
        raise NoStochasticSites(nothing_to_sample(noise, (*others, *rest)))
    sole_uses = {name: uses[0] for name, uses in modes[0].uses.items() if len(uses) == 1}
    sole_uses = {name: use for name, use in sole_uses.items() if all(mode.uses.get(name) == [use] for mode in modes)}
    before, after = modes[0].layers
    own = (*by_batch, *others)
    # an input's numbers are the same beside others only where these come behind it
    steadily = not others and all(map(_is_steady, sites.values()))
    if steadily and not kept_something and not alike(probes[0][1], _firsts(output, 3), tolerance):
        steadily = alike(probes[0][1], _calls(replica, head(1))[1], tolerance)
        own = own if steadily else (*own, "what no call of torch's shows")
    return Probe(
        sites,
        modes[0].bytes,
        output,
        3,
        own,
        rest,
        noise,
        frozenset(passed_over),
        bool(others) or not set(own) <= {*by_batch},
        raised,
        sole_uses,
        (before, after),
        modes[0].prefix_bytes,
        steadily and not alike(probes[0][1], _firsts(output, 3), tolerance),
        fixed=fixed,
        keeps_state=steadily and not alike(probes[0][1], again, tolerance),
    )


def rest_of_numbers(place: int, irregular: list[str]) -> Site:
    """The site of random numbers that not all passes ask for, of which `irregular` are known."""
    operation = irregular[0].split(" in ")[0] if irregular else ""
    kind = "generator" if irregular else "start"
    return Site(REST, operation, math.nan, kind, (1,), (1,), None, True, (0,), torch.float32, place)


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


def _mapped_apart() -> int | None:
    """Over how many slices the code that runs is mapped, if these are to have randomness of their own."""
    inner = peek_interpreter_stack()
    if inner is None or inner.key() != TransformType.Vmap:
        return None
    mapping = CVmapInterpreterPtr(inner)
    return mapping.batchSize() if mapping.randomness() == RandomnessType.Different else None


def _check_mapped(name: str, calls: list[Call | None]) -> None:
    """Refuse what is mapped over anything but the inputs: a mask knows of no slices."""
    sizes = [None if call is None else call.mapped for call in calls]
    if sizes not in ([None] * len(sizes), [1, 2, 3]):
        raise ValueError(
            f'`model` has a dropout at {name} inside `torch.func.vmap` with `randomness="different"`, where slices '
            "that are not the inputs would want masks of their own; map over the inputs alone, or drop outside of it."
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


def _is_steady(site: Site) -> bool:
    """Whether a probe finds the same numbers here for an input alone and for the first of several."""
    return site.kind != "generator" and (
        site.kind not in (*NUMBERS, "keep") or site.axis is None or (site.axis == 0 and site.inputs_outermost)
    )


def without_effect(found: Mapping[str, DropCall], output: Any, run: Callable[[Trial], Any]) -> set[str]:
    """The calls that make random numbers, if the output is the same whatever these are.

    Some models draw a number in each pass and look at it only when training, or never at a rate of 0.
    """
    names = {name for name, call in found.items() if call.drop.kind in NUMBERS}
    if not names:
        return names
    with suppress(Exception):
        return names if all(alike(output, run(trial), 1e-6) for trial in OTHERS) else set()
    return set()


def _held(replica: Replica) -> list[tuple[Any, int]]:
    """The tensors, each with the number of writes to it, and the numbers that modules have in attributes."""
    values = [value for module in replica.root.modules() for value in vars(module).values()]
    tensors = [one for value in values for one in tensors_in(value)]
    numbers = [value for value in values if isinstance(value, (int, float))]
    return [*((one, 0 if one.is_inference() else one._version) for one in tensors), *((one, 0) for one in numbers)]


def _differ(before: list[tuple[Any, int]], after: list[tuple[Any, int]]) -> bool:
    """Whether a pass has changed what modules hold."""
    pairs = zip(before, after, strict=False)
    return len(before) != len(after) or any(one is not other or n != m for (one, n), (other, m) in pairs)


def _mixes(module: nn.Module) -> bool:
    """Whether it is a batch norm that knows of no statistics but its batch's."""
    return isinstance(module, _BatchNorm) and module.running_mean is None


def _calls(
    replica: Replica, inputs: Inputs, originals: set[int] | None = None, trial: Trial = USUAL
) -> tuple[ProbeMode, Any]:
    def work() -> tuple[ProbeMode, Any]:
        mode = ProbeMode(replica, originals, trial)
        with replica.predicting(), mode, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of so few inputs; what is true of the user's comes when they are drawn
            return mode, replica.run(inputs.clone())

    with explained(replica, inputs, ", as one to three are tried"):
        return with_gradients_if_asked(replica, work)


@contextmanager
def explained(replica: Replica, inputs: Inputs, why: str = "") -> Iterator[None]:
    """What a model says of inputs that it does not take becomes one sentence."""
    try:
        yield
    except (RuntimeError, LookupError, AttributeError, TypeError, ValueError, AssertionError) as error:
        out_of_memory = isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
        if out_of_memory or str(error).startswith("`"):  # in words of ours
            raise
        if type(error).__module__.startswith("torch._dynamo"):
            raise TypeError(
                "`model` calls a function that `torch.compile()` has compiled, which cannot be sampled; let it call "
                "the original function."
            ) from error
        norms = [path for path, one in replica.root.named_modules() if _mixes(one)]
        if norms:
            why += f" (train the batch norm at {norms[0] or 'its root'} with `track_running_stats=True`)"
        n = f"{len(inputs)} inputs" if len(inputs) > 1 else "one input"
        raise ValueError(
            f"`model` fails on {n} of shape {inputs.shapes}: {first_line(error)}; it must take inputs of this "
            f"shape, and any number of them{why}."
        ) from error


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return f"{type(error).__name__}, {(str(error).strip() or 'no words').splitlines()[0].rstrip('.')}"


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
    if one.is_complex() and other.is_complex():
        one, other = torch.view_as_real(one), torch.view_as_real(other)
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

    def run(trial: Trial) -> tuple[ProbeMode, Any]:
        mode = ProbeMode(replica, trial=trial)

        def work() -> Any:
            nonlocal mode
            mode = ProbeMode(replica, trial=trial)
            with replica.predicting(), mode:
                return replica.run(inputs.clone())

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with suppress(Exception):  # some models want targets when training: then eval is all there is to see
                output = with_gradients_if_asked(replica, work)
                return mode, output
        return mode, None

    with generators_watched() as others_moved, replica.generators_kept():
        mode, output = run(USUAL)
        others = others_moved(lambda: run(USUAL))
        idle = set() if output is None else without_effect(mode.found, output, lambda trial: run(trial)[1])
    return {name: call for name, call in mode.found.items() if name not in idle}, others


def owners_to_raise(
    hidden: Mapping[str, DropCall],
    plain: Mapping[str, DropCall],
    idle: set[str],
    in_training: Mapping[str, DropCall],
) -> tuple[list[str], list[str]]:
    """Paths of the modules whose dropping only training shows; then those that do nothing where nothing is dropped.

    hidden: calls in training that are to be sampled. plain: those in prediction. idle: of these, without effect.
    """
    seen = {name for name, call in plain.items() if call.drop.samples and name not in idle}
    active = {name: call.drop for name, call in hidden.items() if call.drop.active and call.drop.samples}
    raised = sorted({owner_of(name) for name in active if name not in seen})
    unlike = {owner_of(name) for name, call in in_training.items() if call.drop.kind not in ("scale", "alpha")}
    return raised, [path for path in raised if path not in unlike]


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
    calls = [None if call is None or call.x.numel() == 0 else call for call in calls]
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
    if first.drop.kind in ("scale", "alpha") and not first.x.is_floating_point():
        raise ValueError(f"`model` has a dropout at {name} of whole numbers, which torch cannot drop; give it others.")
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
        f"are {words}; one axis must grow with the inputs, {ALL_EXPERTS}."
    )


def _inputs_outermost(one: Call, three: Call, axis: int) -> bool | None:
    """How three inputs of k entries each lie along an axis: 1 1 2 2 3 3 (True) or 1 2 3 1 2 3; None for a tie.

    Seen from where the first input's entries, known from the probe on it alone, come to lie.
    """
    size = one.x.shape[axis]
    alone, together = one.x.double(), three.x.double()
    outermost = together.narrow(axis, 0, size)
    innermost = together.unflatten(axis, (size, 3)).select(axis + 1, 0)
    first, second = (_apart(place, alone) for place in (outermost, innermost))
    if abs(first - second) <= 1e-3 * max(first, second):
        return None
    return first < second


def _apart(one: Tensor, other: Tensor) -> float:
    """How far numbers lie apart, each by its own size: large ones say no more than small ones."""
    gap = (one - other).abs() / torch.maximum(one.abs(), other.abs())
    return float(gap.nan_to_num(nan=0.0).sum())  # 0 / 0, and where both are infinite


@contextmanager
def random_state_kept() -> Iterator[Callable[[], bool]]:
    """Keep torch's generators as they are, for all threads; gives a function that says whether the block drew."""
    with OwnStream(0) as stream:
        yield lambda: stream.has_drawn


def at_rate(sites: dict[str, Site], rate: float) -> dict[str, Site]:
    """The sites at another rate, as far as they can be."""
    changed = {name: site.at_rate(rate) for name, site in sites.items()}
    if all(site is sites[name] for name, site in changed.items()):
        operations = ", ".join(dict.fromkeys(site.operation for site in sites.values()))
        raise NoStochasticSites(
            f"`model` has no dropout whose rate could be another: what is sampled there is {operations}."
        )
    return changed


@contextmanager
def generators_watched() -> Iterator[Callable[[Callable[[], object]], tuple[str, ...]]]:
    """Keep all generators as they are; gives a function that names what drew, besides calls that are met.

    The function is given a part of the block to run again, as that of `other_generators_kept()` is.
    """
    with random_state_kept() as torch_has_drawn, other_generators_kept() as others_moved:
        yield lambda again: (*others_moved(again), *(("compiled code",) if torch_has_drawn() else ()))


def sites_table(found: Probe) -> pd.DataFrame:
    """One row per site: where, what, at which rate, the mask of one input."""
    sites = [site for site in found.sites.values() if site.kind != "start"]
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


def caveats_on(found: Probe) -> list[str]:
    """What the spread of the draws leaves out, and what else it depends on, one sentence each."""
    caveats = []
    if found.own_randomness:
        caveats.append(
            "`model` draws random numbers of its own besides dropout that cannot be keyed by input, by "
            f"{', '.join(found.own_randomness)}; they depend on `batch_size` too."
        )
    if found.training_randomness:
        caveats.append(
            "`model` draws random numbers of its own when training, besides dropout, by "
            f"{', '.join(found.training_randomness)}; they are left out."
        )
    if found.training_noise:
        caveats.append(
            f"`model` draws normal numbers when training, by {', '.join(found.training_noise)}; they are left out "
            "unless `gaussian_noise` is true."
        )
    if found.mixes_inputs:
        caveats.append(
            "`model` gives an input other numbers when other inputs come with it, so results depend on `batch_size`; "
            "leave out what looks at the whole batch."
        )
    if found.keeps_state:
        caveats.append(
            "`model` keeps something of one batch for the next, so results depend on `batch_size`; let its `forward` "
            "start anew each time."
        )
    return caveats


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
    sites = [site for site in found.sites.values() if site.kind in RATED_KINDS and classifier]
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
