"""Passes on one to three inputs that record the stochastic calls of a model."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..compute.forks import warnings_ignored
from ..compute.streams import generators_watched, seeded_generators
from ..data.inputs import Inputs
from .axes import n_slices_with_own_randomness
from .calls import NUMBERS, Shape, StochasticCall
from .comparison import alike
from .interception import KEYED, StochasticMode, without_dropout
from .operations import drops
from .replica import Replica, explained, replicate, with_gradients_if_asked
from .site import Call, DropCall, is_random, owner_of, tensors_in

LAYERS = {F.linear, F.conv1d, F.conv2d, F.conv3d}


@dataclass(frozen=True)
class Trial:
    """The values that replace a model's random numbers in a probe.

    They are drawn from `seed` and the name of the call, the same for an input whatever inputs follow. With `high` they
    are all as low or as high as possible, and with `keeps` all decisions are 0 or 1.
    """

    seed: int = 0
    high: bool | None = None
    keeps: float | None = None

    def numbers(self, name: str, drop: StochasticCall, shape: Shape) -> Tensor:
        """Random numbers, or decisions, in float64."""
        if drop.kind == "keep" and self.keeps is not None:
            return torch.full(shape, self.keeps, dtype=torch.float64)
        if self.high is not None:
            extremes = (0.0, 1 - 2**-8) if drop.kind != "normals" else (-1.0, 1.0)
            return torch.full(shape, extremes[self.high], dtype=torch.float64)
        seed = zlib.crc32(f"{self.seed} {name}".encode())
        uniforms = torch.from_numpy(np.random.default_rng(seed).random(int(torch.Size(shape).numel()))).view(shape)
        if drop.kind == "keep":
            return (uniforms >= drop.rate).double()
        return torch.special.ndtri(uniforms.clamp(1e-9, 1 - 1e-9)) if drop.kind == "normals" else uniforms


USUAL = Trial()

OTHERS = Trial(1), Trial(2), *(Trial(high=high, keeps=keeps) for high in (False, True) for keeps in (0.0, 1.0))

MOST_NUMBERS = 1000  # calls for random numbers in a pass; a loop that waits for another number would not end


class ProbeMode(StochasticMode):
    """Records the stochastic calls, the uses of their results, and the sizes of all results; drops nothing.

    originals: ids of the weights of the user's model, which a replica must not use. trial: replaces random numbers.
    """

    handlers = KEYED

    def __init__(self, replica: Replica, originals: set[int] | None = None, trial: Trial = USUAL) -> None:
        super().__init__(replica)
        self.originals, self.trial = originals or set(), trial
        self.started_from, self.fixed = torch.get_rng_state(), set[str]()
        self.drawn_to: Tensor | None = None  # the state of torch's generator after numbers that a seed fixes
        self.found: dict[str, Call] = {}
        self.results: dict[int, tuple[str, Tensor]] = {}  # of dropouts and fusable calls, by identity
        self.uses: dict[str, list[Any]] = {}  # the functions, or names of dropouts, that use each of these results
        self.bytes: dict[str, int] = {}  # of each of these results; "" is the largest other one after the first site
        self.layers = [0, 0]  # linear layers and convolutions before the first call that drops, and after it
        self.dropped = False
        self.prefix_bytes = 0  # of the largest result before the first site

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if self.originals and any(id(argument) in self.originals for argument in args):
            raise TypeError(
                "`model` reaches its weights past its modules (through a function that holds on to the model or to one "
                "of them), so it cannot be sampled without changing it; make that function a method of a module."
            )
        counted = self.counted_name(func)
        if self.results and not drops(func):
            for tensor in tensors_in((args, kwargs or {})):
                self._note_use(tensor, counted or func)
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

    def apply(self, drop: StochasticCall, x: Tensor) -> Tensor:
        name = self.calls.next(is_random(drop))
        order = tuple(sorted(range(x.ndim), key=lambda axis: -x.stride(axis)))
        self.found[name] = Call(name, drop, x, order, mapped=n_slices_with_own_randomness())
        self.dropped = self.dropped or drop.samples
        self._note_use(x, name)
        if drop.kind == "weights":
            return x
        if is_random(drop):
            if self.trial.high is not None and len(self.found) > MOST_NUMBERS:
                raise RuntimeError("there is no end of random numbers")
            result = self.trial.numbers(name, drop, tuple(x.shape)).to(x)
        else:
            result = without_dropout(drop, x.view_as(x))
        self._note_result(name, result)
        return result

    def by_torch(self, operation: str, run: Callable[[], Tensor], own: torch.Generator | None) -> Tensor:
        name = self.calls.next(numbers=True)
        state = None if own is None else own.get_state()
        if own is not None and state is not None:
            self.generators.append((own, state))
        with seeded_generators(0):
            result = run()
        drop = StochasticCall(operation, math.nan, True, tuple(result.shape), "generator")
        self.found[name] = Call(name, drop, result, tuple(range(result.ndim)), state)
        self.dropped = True
        return result


def without_effect(found: Mapping[str, DropCall], output: Any, run: Callable[[Trial], Any]) -> set[str]:
    """The calls for random numbers, if the output does not depend on the numbers; else none.

    Some models draw a number in each pass and use it only in training, or not at a rate of 0.
    """
    names = {name for name, call in found.items() if call.drop.kind in NUMBERS}
    if not names:
        return names
    with suppress(Exception):
        return names if all(alike(output, run(trial), 1e-6) for trial in OTHERS) else set()
    return set()


def probe_calls(
    replica: Replica, inputs: Inputs, originals: set[int] | None = None, trial: Trial = USUAL
) -> tuple[ProbeMode, Any]:
    """Run a replica on a few inputs, and record its stochastic calls and its output."""

    def work() -> tuple[ProbeMode, Any]:
        mode = ProbeMode(replica, originals, trial)
        with replica.predicting(), mode, warnings_ignored():  # those about more inputs come again when they are sampled
            return mode, replica.run(inputs.clone())

    with explained(replica, inputs, ", as one to three are tried"):
        return with_gradients_if_asked(replica, work)


def noised_calls(replica: Replica, head: Callable[[int], Inputs]) -> tuple[dict[str, Call], dict[str, Call]]:
    """The calls on one and on three inputs, with noise added that makes all inputs different."""
    calls = []
    for n_inputs in (1, 3):
        generator = torch.Generator().manual_seed(0)
        calls.append(probe_calls(replica, head(n_inputs).noised(generator))[0].found)
    return calls[0], calls[1]


def calls_in_training(
    model: nn.Module, device: torch.device, inputs: Inputs
) -> tuple[dict[str, Call], tuple[str, ...]]:
    """The stochastic calls in training, and the generators other than torch's from which the model draws then.

    All training flags are set, except those of layers that keep statistics. No calls if such a pass fails.
    """
    replica = replicate(model, device)  # a separate replica, because a pass in training may change buffers
    for module in replica.root.modules():
        module.training = not isinstance(module, _NormBase) and "running_mean" not in module._buffers

    def run(trial: Trial) -> tuple[ProbeMode, Any]:
        mode = ProbeMode(replica, trial=trial)

        def work() -> Any:
            nonlocal mode
            mode = ProbeMode(replica, trial=trial)
            with replica.predicting(), mode:
                return replica.run(inputs.clone())

        with warnings_ignored(), suppress(Exception):  # some models need targets in training; they show no calls here
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
    """Paths of the modules whose stochastic calls only training shows, and those of them that only drop.

    hidden: calls in training that are to be sampled. plain: calls in prediction. idle: calls in prediction without
    effect.
    """
    seen = {name for name, call in plain.items() if call.drop.samples and name not in idle}
    active = {name: call.drop for name, call in hidden.items() if call.drop.active and call.drop.samples}
    raised = sorted({owner_of(name) for name in active if name not in seen})
    unlike = {owner_of(name) for name, call in in_training.items() if call.drop.kind not in ("scale", "alpha")}
    return raised, [path for path in raised if path not in unlike]
