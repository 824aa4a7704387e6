"""Keras's own functions of random numbers, intercepted for as long as a pass runs.

Layers of the user's own draw by these functions. Each asks whether the call comes from a replica (`numbers_met`).
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
from .layers import mask_shape_of
from .loading import keras_source, load_keras
from .passes import GIVEN, Pass, PassOwner, Run

TORCHS_OWN = "torch's generator"

PASSING = threading.local()  # `replica`: whose pass a thread is in

PATCHED = shared_lock()

PATCHES: dict[Any, list[Any]] = {}  # by module: how many passes run, and its own functions


def _in_forked_child() -> None:
    """None of the passes that ran goes on here, so Keras has its own functions back."""
    for module, passes in PATCHES.items():
        _put_back(module, passes)
    PATCHES.clear()


def _put_back(module: Any, passes: list[Any]) -> None:
    for name, function in passes[1].items():
        setattr(module, name, function)


IN_CHILD.append(_in_forked_child)


@contextmanager
def numbers_met(replica: PassOwner) -> Iterator[None]:
    """Inside, what this thread asks Keras's functions of random numbers for is met by the replica's pass."""
    module = import_module(f"{keras_source(load_keras())}.backend").random
    with PATCHED:
        passes = PATCHES.setdefault(module, [0, {}])
        passes[0] += 1
        if passes[0] == 1:
            passes[1] = {name: getattr(module, name) for name in RANDOM if hasattr(module, name)}
            for name, function in passes[1].items():
                setattr(module, name, _asking(function, RANDOM[name]))
    before, PASSING.replica = getattr(PASSING, "replica", None), replica
    try:
        yield
    finally:
        PASSING.replica = before
        with PATCHED:
            passes[0] -= 1
            if passes[0] == 0:
                _put_back(module, passes)


def _asking(function: Callable[..., Any], handler: Callable[..., Any]) -> Callable[..., Any]:
    """A function of Keras's that lets the replica, whose pass calls it, answer."""
    signature = inspect.signature(function)

    @wraps(function)
    def asking(*args: Any, **kwargs: Any) -> Any:
        replica = getattr(PASSING, "replica", None)
        if replica is None:
            return function(*args, **kwargs)
        on, path = replica.now.on, replica.now.path[-1] if replica.now.path else ""
        bound = signature.bind(*args, **kwargs)
        if isinstance(bound.arguments.get("seed"), int):
            on.fixed.add(f"{function.__name__} of a fixed seed in {path or 'itself'}")  # the same in every pass
            with _disable_current_modes():
                return function(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments

        def run(seed: int | None) -> Any:
            with _disable_current_modes():  # Keras seeds torch's generator and puts it back: nothing for us to watch
                return function(**{**given, "seed": given["seed"] if seed is GIVEN else seed})

        PASSING.replica = None  # what the function calls itself is its own business
        try:
            return handler(on, path, run, **given)
        finally:
            PASSING.replica = replica

    return asking


def _dropout_asked(on: Pass, path: str, run: Run, inputs: Any, rate: Any, noise_shape: Any, seed: Any) -> Any:
    drop = StochasticCall("dropout", float(rate), True, mask_shape_of(path, inputs, noise_shape))
    return on.apply(path, drop, inputs) if drop.rate > 0 else inputs


@dataclass(frozen=True)
class NumbersCall:
    """One call of a Keras function of random numbers."""

    on: Pass
    path: str  # of the layer that calls
    run: Run  # what Keras does itself
    shape: Any
    dtype: Any

    def keyed(self, operation: str, kind: str, compute_result: Callable[[Any], Any], rate: float = math.nan) -> Any:
        """`compute_result(numbers)` of keyed numbers of this kind, or what Keras draws itself."""
        keras = load_keras()
        sizes = tuple(int(size) for size in self.shape)
        drop = StochasticCall(operation, rate, True, sizes, kind)
        numbers = self.on.numbers(self.on.named(self.path), drop, keras.ops.zeros(sizes, keras.config.floatx()))
        if numbers is GIVEN or isinstance(numbers, int):
            return self.run(numbers)
        return keras.ops.cast(compute_result(numbers), self.dtype or keras.config.floatx())


def _uniform_asked(on: Pass, path: str, run: Run, shape: Any, minval: Any, maxval: Any, dtype: Any, seed: Any) -> Any:
    call = NumbersCall(on, path, run, shape, dtype)
    return call.keyed("uniform", "uniforms", lambda u: u * (maxval - minval) + minval)


def _normal_asked(on: Pass, path: str, run: Run, shape: Any, mean: Any, stddev: Any, dtype: Any, seed: Any) -> Any:
    call = NumbersCall(on, path, run, shape, dtype)
    return call.keyed("normal", "normals", lambda z: z * stddev + mean)


def _truncated_asked(on: Pass, path: str, run: Run, shape: Any, mean: Any, stddev: Any, dtype: Any, seed: Any) -> Any:
    call = NumbersCall(on, path, run, shape, dtype)
    return call.keyed("truncated_normal", "normals", lambda z: _truncated(z) * stddev + mean)


def _truncated(normal: Any) -> Any:
    """Numbers of a standard normal distribution, as those of one that is cut off at -2 and 2."""
    ops, root = load_keras().ops, math.sqrt(2)
    return root * ops.erfinv(math.erf(root) * ops.erf(normal / root))


def _binomial_asked(
    on: Pass, path: str, run: Run, shape: Any, counts: Any, probabilities: Any, dtype: Any, seed: Any
) -> Any:
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
    """Numbers of no simple form: Keras draws them, by a seed for each draw."""

    def asked(on: Pass, path: str, run: Run, **given: Any) -> Any:
        return on.by_keras(on.named(path), StochasticCall(operation, math.nan, True, (), "generator"), run)

    return asked


RANDOM: dict[str, Callable[..., Any]] = {
    "dropout": _dropout_asked,
    "uniform": _uniform_asked,
    "normal": _normal_asked,
    "binomial": _binomial_asked,
    "truncated_normal": _truncated_asked,
    **{name: _left_to_keras(name) for name in ("categorical", "randint", "shuffle", "gamma", "beta")},
}
