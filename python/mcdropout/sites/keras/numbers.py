"""Keras's functions of random numbers, intercepted while a pass runs.

Layers of the user draw by these functions. A call that comes from a replica is handled by the pass of the replica.
"""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from typing import Any

import numpy as np
from torch.utils._python_dispatch import _disable_current_modes  # torch has no public way to do this

from ...compute.forks import IN_CHILD, shared_lock
from ..calls import StochasticCall
from .layer_copies import mask_shape_of
from .loading import keras_source, load_keras
from .passes import MODEL_SEED, Pass, PassOwner, Run

TORCH_GENERATOR = "torch's generator"

RUNNING = threading.local()  # `replica`: the replica whose pass runs in this thread

PATCH_LOCK = shared_lock()

PATCHES: dict[Any, list[Any]] = {}  # by module: the number of running passes, and the original functions


def _in_forked_child() -> None:
    """Restore Keras's functions, because none of the passes of the parent goes on in the child."""
    for module, patch in PATCHES.items():
        _restore(module, patch)
    PATCHES.clear()


def _restore(module: Any, patch: list[Any]) -> None:
    for name, function in patch[1].items():
        setattr(module, name, function)


IN_CHILD.append(_in_forked_child)


@contextmanager
def numbers_intercepted(replica: PassOwner) -> Iterator[None]:
    """Inside, calls of Keras's functions of random numbers in this thread are handled by the replica's pass."""
    module = import_module(f"{keras_source(load_keras())}.backend").random
    with PATCH_LOCK:
        patch = PATCHES.setdefault(module, [0, {}])
        patch[0] += 1
        if patch[0] == 1:
            patch[1] = {name: getattr(module, name) for name in RANDOM if hasattr(module, name)}
            for name, function in patch[1].items():
                setattr(module, name, _intercepted(function, RANDOM[name]))
    before, RUNNING.replica = getattr(RUNNING, "replica", None), replica
    try:
        yield
    finally:
        RUNNING.replica = before
        with PATCH_LOCK:
            patch[0] -= 1
            if patch[0] == 0:
                _restore(module, patch)


def _intercepted(function: Callable[..., Any], handler: Callable[..., Any]) -> Callable[..., Any]:
    """A function of Keras that calls `handler` if a pass of a replica runs."""
    signature = inspect.signature(function)

    @wraps(function)
    def intercepted(*args: Any, **kwargs: Any) -> Any:
        replica = getattr(RUNNING, "replica", None)
        if replica is None:
            return function(*args, **kwargs)
        on, path = replica.now.on, replica.now.path[-1] if replica.now.path else ""
        bound = signature.bind(*args, **kwargs)
        if isinstance(bound.arguments.get("seed"), int):
            on.fixed.add(
                f"{function.__name__} of a fixed seed in {path or 'itself'}"
            )  # these numbers are the same in every pass
            with _disable_current_modes():
                return function(*args, **kwargs)
        bound.apply_defaults()
        arguments = bound.arguments

        def run(seed: int | None) -> Any:
            with _disable_current_modes():  # Keras seeds torch's generator and restores it, so it need not be watched
                return function(**{**arguments, "seed": arguments["seed"] if seed is MODEL_SEED else seed})

        RUNNING.replica = None  # calls inside the function are not intercepted
        try:
            return handler(on, path, run, **arguments)
        finally:
            RUNNING.replica = replica

    return intercepted


def _dropout(on: Pass, path: str, run: Run, inputs: Any, rate: Any, noise_shape: Any, seed: Any) -> Any:
    drop = StochasticCall("dropout", float(rate), True, mask_shape_of(path, inputs, noise_shape))
    return on.apply(path, drop, inputs) if drop.rate > 0 else inputs


@dataclass(frozen=True)
class NumbersCall:
    """One call of a Keras function of random numbers."""

    on: Pass
    path: str  # that of the layer that calls
    run: Run  # what Keras does itself
    shape: Any
    dtype: Any

    def keyed(self, operation: str, kind: str, compute_result: Callable[[Any], Any], rate: float = math.nan) -> Any:
        """`compute_result(numbers)` of keyed numbers of this kind, or what Keras draws itself."""
        keras = load_keras()
        sizes = tuple(int(size) for size in self.shape)
        drop = StochasticCall(operation, rate, True, sizes, kind)
        numbers = self.on.numbers(self.on.named(self.path), drop, keras.ops.zeros(sizes, keras.config.floatx()))
        if numbers is MODEL_SEED or isinstance(numbers, int):
            return self.run(numbers)
        return keras.ops.cast(compute_result(numbers), self.dtype or keras.config.floatx())


def _uniform(on: Pass, path: str, run: Run, shape: Any, minval: Any, maxval: Any, dtype: Any, seed: Any) -> Any:
    call = NumbersCall(on, path, run, shape, dtype)
    return call.keyed("uniform", "uniforms", lambda u: u * (maxval - minval) + minval)


def _normal(on: Pass, path: str, run: Run, shape: Any, mean: Any, stddev: Any, dtype: Any, seed: Any) -> Any:
    call = NumbersCall(on, path, run, shape, dtype)
    return call.keyed("normal", "normals", lambda z: z * stddev + mean)


def _truncated_normal(on: Pass, path: str, run: Run, shape: Any, mean: Any, stddev: Any, dtype: Any, seed: Any) -> Any:
    call = NumbersCall(on, path, run, shape, dtype)
    return call.keyed("truncated_normal", "normals", lambda z: _truncated(z) * stddev + mean)


def _truncated(normal: Any) -> Any:
    """Numbers of the standard normal distribution truncated to [-2, 2], from standard normal numbers."""
    ops, root = load_keras().ops, math.sqrt(2)
    return root * ops.erfinv(math.erf(root) * ops.erf(normal / root))


def _binomial(on: Pass, path: str, run: Run, shape: Any, counts: Any, probabilities: Any, dtype: Any, seed: Any) -> Any:
    ops = load_keras().ops
    if not (np.asarray(ops.convert_to_numpy(counts)) == 1).all():
        return _left_to_keras("binomial")(on, path, run)
    call = NumbersCall(on, path, run, shape, dtype)
    if isinstance(probabilities, (int, float, np.number)):
        rate = 1 - float(probabilities)
        return call.keyed("bernoulli", "keep", lambda kept: kept, rate)
    below = ops.convert_to_tensor(probabilities)
    return call.keyed("bernoulli", "uniforms", lambda u: u < ops.cast(below, u.dtype))


def _left_to_keras(operation: str) -> Callable[..., Any]:
    """The handler of numbers that Keras draws, from a seed for each draw."""

    def handler(on: Pass, path: str, run: Run, **_: Any) -> Any:
        return on.by_keras(on.named(path), StochasticCall(operation, math.nan, True, (), "generator"), run)

    return handler


RANDOM: dict[str, Callable[..., Any]] = {
    "dropout": _dropout,
    "uniform": _uniform,
    "normal": _normal,
    "binomial": _binomial,
    "truncated_normal": _truncated_normal,
    **{name: _left_to_keras(name) for name in ("categorical", "randint", "shuffle", "gamma", "beta")},
}
