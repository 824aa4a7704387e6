"""A replica of a torch model, which is sampled instead of the user's model.

The replica shares the user's weights. Training flags, hooks and buffers of the user's model are never written.
"""

from __future__ import annotations

import copy
import threading
import types
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..compute.devices import current_device
from ..compute.out_of_memory import is_out_of_memory
from ..data.inputs import Inputs
from ..errors import interrupts_kept
from .site import DROPPING, NUMBERED, T


class CallNames(threading.local):
    """Names each stochastic call of a pass by the module that makes it; every thread has its own passes."""

    def __init__(self) -> None:
        self.path: list[tuple[str, nn.Module]] = []
        self.counts: Counter[str] = Counter()

    def start(self) -> None:
        """Start a new pass."""
        self.path.clear()
        self.counts.clear()

    def next(self, numbers: bool = False) -> str:
        """The name of the current call. Calls for random numbers are counted separately from dropouts."""
        name = self.coming(numbers)
        self.counts[name.rsplit("[", 1)[0] + NUMBERED * numbers] += 1
        return name

    def coming(self, numbers: bool = False) -> str:
        """The name that the next call will have."""
        path = self.path[-1][0] if self.path else ""
        return f"{path}[{NUMBERED * numbers}{self.counts[path + NUMBERED * numbers]}]"


@dataclass
class Replica:
    """A copy of the user's model that shares its weights, with its own flags, buffers and hooks."""

    root: nn.Module
    calls: CallNames
    device: torch.device
    precision: str = "float32"
    generators: list[tuple[torch.Generator, Tensor]] = field(
        default_factory=list
    )  # the model's generators, with their first state
    gradients: bool = False  # the model needs gradients in its forward pass
    passed_over: frozenset[str] = frozenset()  # stochastic calls that are no sites
    fixed: frozenset[str] = frozenset()  # random numbers that the model fixes by a seed of torch's generator

    def run(self, inputs: Inputs) -> Any:
        """The result of the model for these inputs."""
        return self.root(*inputs.args, **inputs.kwargs, **inputs.constants)

    @contextmanager
    def predicting(self) -> Iterator[None]:
        """Compute without gradients, unless the model needs them.

        Inference mode would not be faster. It does not allow gradients, and it does not count writes in place.
        """
        with (
            interrupts_kept(),
            torch.inference_mode(False),
            torch.set_grad_enabled(self.gradients),
            torch.autocast(self.device.type, enabled=False),
            current_device(self.device),
        ):
            yield

    @contextmanager
    def generators_kept(self) -> Iterator[None]:
        """After the block, the model's generators have the state that they had before its probes."""
        try:
            yield
        finally:
            for generator, state in reversed(self.generators):
                generator.set_state(state)
            self.generators.clear()


def with_gradients_if_asked(replica: Replica, work: Callable[[], T]) -> T:
    """The result of `work` with the replica; if it fails without gradients, they are computed from now on."""
    try:
        return work()
    except RuntimeError as error:
        if replica.gradients or "does not require grad" not in str(error):
            raise
    replica.gradients = True
    return work()


def replicate(model: nn.Module, device: torch.device, precision: str = "float32") -> Replica:
    """A replica in eval mode on `device`. Parameters are shared, or copied to the device; buffers are copied."""
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
    memo |= {id(module): replica for module, replica in pairs}
    memo |= {id(module): memo[id(unwrapped(module))] for module in model.modules() if unwrapped(module) is not module}
    for module, replica in pairs:
        _check_graph(module)
        replica.__dict__ = {name: _copied(_uncompiled(value), memo) for name, value in module.__dict__.items()}
        replica.__dict__ |= {name: method.__get__(replica) for name, method in _compiled_methods(type(module)).items()}
        replica.__dict__["_compiled_call_impl"] = None  # made by `module.compile()`; it would run the user's module
    calls = CallNames()
    root = memo[id(model)]
    for path, module in root.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):
            _announce(module, path, calls)
            module.training = False
    return Replica(root, calls, device, precision)


def _bare(kind: Any) -> Any:
    """An object without attributes. The `__new__` of the class is avoided, because a graph would lose its code."""
    try:
        return object.__new__(kind)
    except TypeError:  # the class is also a built-in type, such as dict
        return kind.__new__(kind)


def _uncompiled(value: Any) -> Any:
    """The original of a function that `torch.compile()` has compiled, since masks cannot reach compiled code."""
    isfunction = isinstance(value, (types.FunctionType, types.MethodType))
    return getattr(value, "_torchdynamo_orig_callable", value) if isfunction else value


@cache
def _compiled_methods(kind: type) -> dict[str, Any]:
    """The originals of the methods of a class that `torch.compile()` decorates, by their names."""
    methods = {name: value for base in reversed(kind.__mro__) for name, value in vars(base).items()}
    return {name: _uncompiled(value) for name, value in methods.items() if _uncompiled(value) is not value}


def _scripts(model: nn.Module) -> list[tuple[str, Any]]:
    """The outermost TorchScript modules, with their paths."""
    scripts: list[tuple[str, Any]] = []
    for path, module in model.named_modules():
        is_inside = any(path.startswith(f"{outer}." if outer else "") for outer, _ in scripts)
        if isinstance(module, torch.jit.ScriptModule) and not is_inside:
            scripts.append((path, module))
    return scripts


def _operations(block: Any) -> Iterator[str]:
    """The names of all operations of a TorchScript graph, as in `aten::dropout`."""
    for node in block.nodes():
        yield node.kind()
        for inner in node.blocks():
            yield from _operations(inner)


def _script_without_dropout(path: str, script: Any, device: torch.device) -> Any:
    """A copy of a TorchScript module without dropout. Raises TypeError for one with dropout."""
    graph = getattr(script, "inlined_graph", None)  # its text is not searched, because it has names of files too
    if graph is not None and any("dropout" in operation for operation in _operations(graph)):
        where = f"holds a TorchScript module at {path}" if path else "is a TorchScript module"
        raise TypeError(
            f"`model` {where}, whose dropout calls are compiled in and cannot be sampled; pass the original "
            "`torch.nn.Module`."
        )
    with torch.no_grad():  # else the copies would belong to the graph of gradients
        return copy.deepcopy(script).to(device).eval()


def _check_graph(module: nn.Module) -> None:
    """Raise TypeError for a graph of `torch.fx` in which the graph itself fixes what drops."""
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
    """Whether a call in a graph is a dropout with `training=False`."""
    if not DROPPING.search(getattr(node.target, "__name__", "")):
        return False
    arguments = {**dict(zip(("input", "p"), node.args, strict=False)), **node.kwargs}
    rate = arguments.get("p", arguments.get("dropout_p", 0.5))
    training = arguments.get("training", arguments.get("train", node.args[-1]))  # the last argument if it has no name
    return training is False and rate != 0


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """A copy of an attribute with the modules and tensors of the replica; the attribute itself if copying fails."""
    if type(value) in (dict, OrderedDict) and not value:  # a module has a dozen of them, and `deepcopy` is slow
        return memo.setdefault(id(value), type(value)())
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # locks, open files, tensors that belong to a graph of gradients
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
    """Record when the module starts and ends, so that calls inside are named by it."""

    def enter(*_: object) -> None:
        calls.path.append((path, module))

    def leave(*_: object) -> None:
        calls.path.pop()

    module.register_forward_pre_hook(enter, prepend=True)
    module.register_forward_hook(leave, always_call=True)


def _mixes(module: nn.Module) -> bool:
    """Whether a module is a batch norm without running statistics."""
    return isinstance(module, _BatchNorm) and module.running_mean is None


@contextmanager
def explained(replica: Replica, inputs: Inputs, why: str = "") -> Iterator[None]:
    """Turn the error of a model for inputs that it does not take into one sentence."""
    try:
        yield
    except (RuntimeError, LookupError, AttributeError, TypeError, ValueError, AssertionError) as error:
        if is_out_of_memory(error) or str(error).startswith("`"):  # an error of this package
            raise
        if type(error).__module__.startswith("torch._dynamo"):
            raise TypeError(
                "`model` calls a function that `torch.compile()` has compiled, which cannot be sampled; let it call "
                "the original function."
            ) from error
        norms = [path for path, module in replica.root.named_modules() if _mixes(module)]
        if norms:
            why += f" (train the batch norm at {norms[0] or 'its root'} with `track_running_stats=True`)"
        n = f"{len(inputs)} inputs" if len(inputs) > 1 else "one input"
        raise ValueError(
            f"`model` fails on {n} of shape {inputs.shapes}: {first_line(error)}; it must take inputs of this "
            f"shape, and any number of them{why}."
        ) from error


def first_line(error: Exception) -> str:
    """The type and the first line of an error."""
    return f"{type(error).__name__}, {(str(error).strip() or 'no words').splitlines()[0].rstrip('.')}"


def raise_flags(replica: Replica, paths: list[str]) -> None:
    """Set the training flag of these modules."""
    for path in paths:
        replica.root.get_submodule(path).training = True
