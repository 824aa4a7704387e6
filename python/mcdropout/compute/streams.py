"""Random numbers of torch that come from generators of our own, so that the global ones stay as they are."""

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
from .generators import GENERATORS, generator_states, restore_generators, seed_generators


@contextmanager
def seeded_generators(start: int, own: torch.Generator | None = None) -> Iterator[None]:
    """Inside, torch and a generator of the model's own begin at `start`; afterwards the latter is as before."""
    before = None if own is None else own.get_state()
    try:
        if own is not None:
            own.manual_seed(start)
        with OwnStream(start):
            yield
    finally:
        if own is not None and before is not None:
            own.set_state(before)


class OwnStream(TorchDispatchMode):
    """Inside, all that torch draws in this thread comes from generators of this object's own, started from `seed`.

    The numbers are those of the global generators started from there, but these, which all threads share, stay as they
    are. Only what takes no generator, as fused dropout on a GPU does, has them lent for that one operation. `seed`
    None: as the host's global generator would go on.
    """

    def __init__(self, seed: int | None) -> None:
        super().__init__()
        self.start(seed)

    def start(self, seed: int | None) -> None:
        """Start from another seed, wherever the generators are."""
        self.seed = seed
        self.generators: dict[torch.device, torch.Generator | _State] = {}
        self.starts: dict[torch.device, Tensor] = {}

    @property
    def has_drawn(self) -> bool:
        """Whether anything was drawn since the start."""
        return any(not torch.equal(one.get_state(), self.starts[device]) for device, one in self.generators.items())

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if not _draws(func) or _argument(func, "generator", args, kwargs) is not None:
            return func(*args, **kwargs)
        device = _device_of(args, kwargs)
        if device.type == "meta" or _argument(func, "dropout_p", args, kwargs) == 0:
            return func(*args, **kwargs)
        drawing, generator = _with_generator(func), self.generator(device)
        if drawing is not None and isinstance(generator, torch.Generator):
            named = dict(zip((one.name for one in func._schema.arguments), args, strict=False))
            place = next((at for at, name in enumerate(named) if name == "generator"), len(args))
            return drawing(*args[:place], **{**dict(list(named.items())[place:]), **kwargs, "generator": generator})
        with self:  # it may be made of others
            made = func.decompose(*args, **kwargs)
        if made is not NotImplemented:
            return made
        with self.lent(device):
            return func(*args, **kwargs)

    def drawn(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a function of torch's gives inside; the commonest on a CPU are computed as torch does, which is quick.

        A function that makes a tensor says where by the keyword `device`.
        """
        device = args[0].device if args and isinstance(args[0], Tensor) else kwargs.get("device")
        made = self._quickly(func, args, kwargs) if device == CPU and "generator" not in kwargs else None
        if made is not None:
            return made
        with self:
            return func(*args, **kwargs)

    def _quickly(self, func: Any, args: tuple, kwargs: dict) -> Tensor | None:
        generator: Any = self.generator(CPU)
        if func in TAKING_GENERATORS:
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
        """Our generator of a device; its state alone where torch makes none."""
        if device not in self.generators:
            try:
                made = torch.Generator(device)
                made.set_state(torch.get_rng_state()) if self.seed is None else made.manual_seed(self.seed)
            except RuntimeError:
                made = _State(self.seed, device)
            self.generators[device], self.starts[device] = made, made.get_state()
        return self.generators[device]

    @contextmanager
    def lent(self, device: torch.device) -> Iterator[None]:
        """Inside, the global generators go on where ours are; afterwards they are as they were, and ours go on."""
        own = [self.generator(one) for one in dict.fromkeys((CPU, device))]
        with GENERATORS:
            before = generator_states(device)
            restore_generators([one.get_state() for one in own], device)
            try:
                yield
            finally:
                for one, state in zip(own, generator_states(device), strict=True):
                    one.set_state(state)
                restore_generators(before, device)


class _State:
    """The state of a device's global generator, for devices that have no other."""

    def __init__(self, seed: int | None, device: torch.device) -> None:
        with GENERATORS:
            before = generator_states(device)
            if seed is not None:
                seed_generators(seed, device)
            self.state = generator_states(device)[1]
            restore_generators(before, device)

    def get_state(self) -> Tensor:
        return self.state

    def set_state(self, state: Tensor) -> None:
        self.state = state


class OwnDraws(TorchFunctionMode):
    """As its `stream`, for code that is run often: looks at those functions alone that may draw."""

    def __init__(self, stream: OwnStream) -> None:
        super().__init__()
        self.stream = stream

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return self.stream.drawn(func, *args, **kwargs or {}) if may_draw(func) else func(*args, **kwargs or {})


TAKING_GENERATORS = {torch.rand, torch.randn, torch.randint, Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_}

DRAWING = (
    *("rand", "dropout", "bernoulli", "normal", "uniform", "multinomial", "poisson", "binomial", "exponential"),
    *("cauchy", "geometric", "gamma", "dirichlet", "rrelu", "gumbel", "fractional", "attention", "sdp", "lowrank"),
    *("lobpcg", "lstm", "gru", "rnn", "softmax_with_shape"),
)  # words in the names of torch functions that may draw


@cache
def may_draw(func: Any) -> bool:
    """Whether the name of a torch function says that it may draw; operators of others' libraries do not tell."""
    name = getattr(func, "__name__", "")
    return any(word in name for word in DRAWING) or isinstance(
        func, torch._ops.OpOverload | torch._ops.OpOverloadPacket
    )


@cache
def _draws(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


@cache
def _with_generator(func: Any) -> Any:
    """The operation, or its twin, that takes a generator; None where there is none."""
    twins = ("generator",) if func._overloadname == "default" else (f"{func._overloadname}_generator",)
    for one in (func, *(getattr(func.overloadpacket, name, None) for name in twins)):
        if one is not None and any(argument.name == "generator" for argument in one._schema.arguments):
            return one
    return None


def _argument(func: Any, name: str, args: tuple, kwargs: dict) -> Any:
    """What an operation is given under this name; None where it has no such argument."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            return args[place] if place < len(args) else kwargs.get(name, argument.default_value)
    return None


def _device_of(args: tuple, kwargs: dict) -> torch.device:
    """Where an operation works."""
    tensor = next((one for one in args if isinstance(one, Tensor)), None)
    return torch.device(kwargs.get("device") or "cpu") if tensor is None else tensor.device
