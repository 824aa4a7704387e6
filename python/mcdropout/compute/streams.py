"""Random numbers of torch from generators of this package, so that the global generators do not change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .devices import CPU
from .generators import (
    generator_kept,
    generator_states,
    other_generators_kept,
    restore_generators,
    seed_generators,
    torch_generators_kept,
)


@contextmanager
def seeded_generators(start: int, own: torch.Generator | None = None) -> Iterator[None]:
    """Start torch, and a generator that the model holds, from `start`; the model's generator is restored afterwards."""
    with generator_kept(own, start), OwnStream(start):
        yield


@contextmanager
def random_state_kept() -> Iterator[Callable[[], bool]]:
    """Keep torch's global generators unchanged, for all threads; gives a function that says whether the block drew."""
    with OwnStream(0) as stream:
        yield lambda: stream.has_drawn


@contextmanager
def generators_watched() -> Iterator[Callable[[Callable[[], object]], tuple[str, ...]]]:
    """Keep all global generators unchanged; gives a function that names the sources of random numbers that were used.

    The function runs a part of the block again, as that of `other_generators_kept()` does.
    """
    with random_state_kept() as torch_has_drawn, other_generators_kept() as names_of_moved:
        yield lambda again: (*names_of_moved(again), *(("compiled code",) if torch_has_drawn() else ()))


class OwnStream(TorchDispatchMode):
    """Inside, all random numbers of torch in this thread come from generators of this object, started from `seed`.

    They are the numbers that the global generators would give from this seed. The global generators, which all threads
    share, do not change. Some operations accept no generator, such as fused dropout on a GPU. For these, the global
    generators get the states of this object's generators for the time of one operation.

    seed: None continues from the state of the host's global generator.
    """

    def __init__(self, seed: int | None) -> None:
        super().__init__()
        self.start(seed)

    def start(self, seed: int | None) -> None:
        """Start again from a seed."""
        self.seed = seed
        self.generators: dict[torch.device, torch.Generator | _State] = {}
        self.starts: dict[torch.device, Tensor] = {}

    @property
    def has_drawn(self) -> bool:
        """Whether anything was drawn since the start."""
        return any(
            not torch.equal(generator.get_state(), self.starts[device]) for device, generator in self.generators.items()
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if not _draws(func) or _argument(func, "generator", args, kwargs) is not None:
            return func(*args, **kwargs)
        device = _device_of(args, kwargs)
        if device.type == "meta" or _argument(func, "dropout_p", args, kwargs) == 0:
            return func(*args, **kwargs)
        overload, generator = _with_generator(func), self.generator(device)
        if overload is not None and isinstance(generator, torch.Generator):
            named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False))
            place = next((at for at, name in enumerate(named) if name == "generator"), len(args))
            return overload(*args[:place], **{**dict(list(named.items())[place:]), **kwargs, "generator": generator})
        with self:  # the parts of the operation may accept a generator
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        with self.lent(device):
            return func(*args, **kwargs)

    def drawn(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The result of a torch function inside this mode; the most common functions on a CPU skip the mode's overhead.

        A function that creates a tensor needs the keyword `device`.
        """
        device = args[0].device if args and isinstance(args[0], Tensor) else kwargs.get("device")
        result = self._quickly(func, args, kwargs) if device == CPU and "generator" not in kwargs else None
        if result is not None:
            return result
        with self:
            return func(*args, **kwargs)

    def _quickly(self, func: Any, args: tuple, kwargs: dict) -> Tensor | None:
        generator: Any = self.generator(CPU)
        if func in WITH_GENERATOR:
            return func(*args, **kwargs, generator=generator)
        if func is torch.randn_like and len(args) == 1 and not kwargs:
            return torch.empty_like(args[0]).normal_(generator=generator)
        if func is F.dropout and not kwargs["inplace"]:
            if not kwargs["training"] or kwargs["p"] == 0:
                return args[0]
            if 0 < kwargs["p"] < 1:
                keep = 1 - kwargs["p"]
                return args[0] * torch.empty_like(args[0]).bernoulli_(keep, generator=generator).div_(keep)
        return None

    def generator(self, device: torch.device) -> torch.Generator | _State:
        """This object's generator for a device; only a state where torch has no separate generators."""
        if device not in self.generators:
            try:
                generator = torch.Generator(device)
                generator.set_state(torch.get_rng_state()) if self.seed is None else generator.manual_seed(self.seed)
            except RuntimeError:
                generator = _State(self.seed, device)
            self.generators[device], self.starts[device] = generator, generator.get_state()
        return self.generators[device]

    @contextmanager
    def lent(self, device: torch.device) -> Iterator[None]:
        """Inside, the global generators continue from this object's states, and their draws move this object on."""
        generators = [self.generator(place) for place in dict.fromkeys((CPU, device))]
        with torch_generators_kept(device):
            restore_generators([generator.get_state() for generator in generators], device)
            try:
                yield
            finally:
                for generator, state in zip(generators, generator_states(device), strict=True):
                    generator.set_state(state)


class _State:
    """A state of a device's global generator, for devices without separate generators."""

    def __init__(self, seed: int | None, device: torch.device) -> None:
        with torch_generators_kept(device):
            if seed is not None:
                seed_generators(seed, device)
            self.state = generator_states(device)[1]

    def get_state(self) -> Tensor:
        return self.state

    def set_state(self, state: Tensor) -> None:
        self.state = state


class OwnDraws(TorchFunctionMode):
    """The same random numbers as its `stream`, with less overhead: it intercepts only functions that may draw."""

    def __init__(self, stream: OwnStream) -> None:
        super().__init__()
        self.stream = stream

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return self.stream.drawn(func, *args, **kwargs or {}) if may_draw(func) else func(*args, **kwargs or {})


WITH_GENERATOR = {torch.rand, torch.randn, torch.randint, Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_}

DRAWING = (
    *("rand", "dropout", "bernoulli", "normal", "uniform", "multinomial", "poisson", "binomial", "exponential"),
    *("cauchy", "geometric", "gamma", "dirichlet", "rrelu", "gumbel", "fractional", "attention", "sdp", "lowrank"),
    *("lobpcg", "lstm", "gru", "rnn", "softmax_with_shape"),
)  # words in the names of torch functions that may draw


@cache
def may_draw(func: Any) -> bool:
    """Whether a torch function may draw, by its name; an operator of another library always may."""
    name = getattr(func, "__name__", "")
    return any(word in name for word in DRAWING) or isinstance(
        func, torch._ops.OpOverload | torch._ops.OpOverloadPacket
    )


@cache
def _draws(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


@cache
def _with_generator(func: Any) -> Any:
    """The operation, or its overload, that accepts a generator; None where there is none."""
    name = "generator" if func._overloadname == "default" else f"{func._overloadname}_generator"
    for overload in (func, getattr(func.overloadpacket, name, None)):
        if overload is not None and any(argument.name == "generator" for argument in overload._schema.arguments):
            return overload
    return None


def _argument(func: Any, name: str, args: tuple, kwargs: dict) -> Any:
    """The value of an operation's argument; None where the operation has no such argument."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            return args[place] if place < len(args) else kwargs.get(name, argument.default_value)
    return None


def _device_of(args: tuple, kwargs: dict) -> torch.device:
    """The device of an operation."""
    tensor = next((value for value in args if isinstance(value, Tensor)), None)
    return torch.device(kwargs.get("device") or "cpu") if tensor is None else tensor.device
