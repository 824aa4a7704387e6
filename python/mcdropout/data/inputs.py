"""The inputs of a model: one tensor or several, by position or by name, with constants."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import shown

Part = slice | Tensor  # selects inputs: a slice, or positions

Path = tuple[int | str, ...]  # of an array: its position or keyword, then its name inside a mapping

Casts = Mapping[Path, torch.dtype]  # types that the model needs instead of those of `x`

Kinds = tuple[tuple[Path, torch.dtype], ...]


@dataclass(frozen=True)
class Inputs:
    """Some inputs as the model is called with them: `model(*args, **kwargs, **constants)`.

    Each of `args` and `kwargs` is a tensor, None, or a mapping of these. Their tensors have one entry for each input;
    `constants` are the same for all inputs.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    n: int
    constants: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, part: Part) -> Inputs:
        """The selected inputs."""
        n = len(range(*part.indices(self.n))) if isinstance(part, slice) else len(part)
        return self.changed(lambda _, value: value[part], n)

    def changed(self, change: Callable[[Path, Tensor], Tensor], n: int | None = None) -> Inputs:
        """The inputs with every tensor changed, except the constants; `n` is the new number of inputs."""
        args = tuple(_changed((place,), value, change) for place, value in enumerate(self.args))
        kwargs = {name: _changed((name,), value, change) for name, value in self.kwargs.items()}
        return Inputs(args, kwargs, self.n if n is None else n, self.constants)

    def each_tensor(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """The inputs with every tensor changed, without regard to its path."""
        return self.changed(lambda _, value: change(value))

    @property
    def arrays(self) -> dict[Path, Tensor]:
        """The tensors that have one entry for each input, by their paths."""
        tensors: dict[Path, Tensor] = {}

        def note(path: Path, value: Tensor) -> Tensor:
            tensors[path] = value
            return value

        self.changed(note)
        return tensors

    @property
    def nbytes(self) -> int:
        """Size of all tensors that have one entry for each input."""
        return sum(value.nbytes for value in self.arrays.values())

    def clone(self) -> Inputs:
        """A copy that the model may change in place."""
        constants = _changed((), self.constants, lambda _, value: value.clone())
        return self.with_constants(constants).each_tensor(Tensor.clone)

    def with_constants(self, constants: dict[str, Any]) -> Inputs:
        """The inputs with these constants."""
        return Inputs(self.args, self.kwargs, self.n, constants)

    def noised(self, generator: torch.Generator) -> Inputs:
        """The inputs with noise on floating tensors; the noise of an input does not depend on the number of inputs."""

        def add(_: Path, value: Tensor) -> Tensor:
            if not value.is_floating_point():
                return value
            noise = [torch.randn(value.shape[1:], generator=generator, dtype=torch.float32) for _ in range(self.n)]
            return value + torch.stack(noise).to(value)

        return self.changed(add)

    def cast(self, casts: Casts) -> Inputs:
        """The inputs in the types that the model needs."""
        if not casts:
            return self

        def cast(path: Path, value: Tensor) -> Tensor:
            dtype = casts.get(path)
            if dtype == torch.int64 and value.is_floating_point():
                _check_whole(value, self.name(path))
            return value if dtype is None else value.to(dtype)

        return self.changed(cast)

    @property
    def kinds(self) -> Kinds:
        """The type of each array: the casts depend on it."""
        return tuple((path, value.dtype) for path, value in self.arrays.items())

    @property
    def signature(self) -> tuple[Any, ...]:
        """Shapes and types of one input: the stochastic calls of a model may depend on them."""
        return tuple((path, tuple(value.shape[1:]), value.dtype) for path, value in self.arrays.items())

    @property
    def shapes(self) -> str:
        """The shapes of one input in words."""
        return ", ".join(_shape_words(value) for value in self.arrays.values())

    def name(self, path: Path) -> str:
        """The name of an array in messages."""
        words = [word for word in path if isinstance(word, str)]
        if words or len(self.arrays) == 1:
            return f"`{words[-1]}`" if words else "`x`"
        return f"`x`'s array number {int(path[0]) + 1}"

    def cycled(self, n: int) -> Inputs:
        """The first n inputs, repeated if there are fewer."""
        return self[torch.arange(n) % self.n]


def _changed(path: Path, value: Any, change: Callable[[Path, Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(path, value)
    if isinstance(value, Mapping):
        return {name: _changed((*path, name), part, change) for name, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_changed((*path, place), part, change) for place, part in enumerate(value))
    return value


def _shape_words(x: Tensor) -> str:
    sizes = ", ".join(map(str, ("input", *x.shape[1:])))
    kind = "truth values" if x.dtype == torch.bool else "numbers" if x.is_floating_point() else "whole numbers"
    if x.ndim == 1:
        return f"({sizes}) of single {kind}"
    return f"({sizes})" if x.is_floating_point() else f"({sizes}) of {kind}"


@dataclass(frozen=True)
class Takes:
    """The arguments that a model accepts by keyword."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    anything: bool = True  # whether it accepts any other keyword too
    positional: tuple[str, ...] = ()  # those of both that may be given by position, in their order
    mapping: bool = False  # whether one argument may be a mapping; its keys are not argument names

    @classmethod
    def of(cls, forward: Callable[..., Any]) -> Takes:
        """The arguments in the signature of a function; any keyword if it has no signature."""
        try:
            parameters = inspect.signature(forward).parameters
        except (TypeError, ValueError):
            return cls()
        by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        named = [parameter for parameter in parameters.values() if parameter.kind in by_keyword]
        return cls(
            tuple(parameter.name for parameter in named if parameter.default is parameter.empty),
            tuple(parameter.name for parameter in named if parameter.default is not parameter.empty),
            any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()),
            tuple(parameter.name for parameter in named if parameter.kind is parameter.POSITIONAL_OR_KEYWORD),
        )

    def __contains__(self, name: str) -> bool:
        return self.anything or name in self.required or name in self.optional

    def is_argument(self, x: Mapping[str, Any]) -> bool:
        """Whether a mapping is one argument, not several by keyword."""
        return self.mapping and not any(name in self for name in x)

    def check(self, names: Iterable[str], argument: str) -> None:
        """Refuse names that the model does not take."""
        unknown = next((name for name in names if name not in self), None)
        if unknown is not None:
            known = ", ".join((*self.required, *self.optional)) or "none"
            raise ValueError(f"`{argument}` must have names that `model` takes ({known}); got {shown(unknown)}.")


def _check_whole(x: Tensor, name: str) -> None:
    fractional = x[x != x.trunc()]
    if len(fractional):
        raise ValueError(f"{name} must hold whole numbers, because `model` needs them there; got {fractional[0]:g}.")


def as_constants(constants: Any, takes: Takes, dtype: torch.dtype) -> dict[str, Any]:
    """The keyword arguments of a model besides its inputs; arrays become tensors, floating ones of the model's type.

    Raises ValueError for a value that is not a mapping by name, and for names that the model does not take.
    """
    if constants is None or (isinstance(constants, list | tuple) and not constants):  # R passes list() as an empty list
        return {}
    if not isinstance(constants, Mapping) or not all(isinstance(name, str) for name in constants):
        raise ValueError(f"`constants` must give names to what `model` takes beside `x`; got {shown(constants)}.")
    takes.check(constants, "constants")
    return {name: _as_constant(value, dtype) for name, value in constants.items()}


def _as_constant(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "buifc":
        value = torch.from_numpy(value.astype(value.dtype.newbyteorder("="), order="C"))
    if isinstance(value, Mapping):
        return {name: _as_constant(part, dtype) for name, part in value.items()}
    if type(value) in (tuple, list):
        parts = [_as_constant(part, dtype) for part in value]
        return parts if type(value) is list else tuple(parts)
    if isinstance(value, Tensor):
        return value.detach().to(dtype) if value.is_floating_point() else value.detach()
    return value


def check_given_once(constants: Iterable[str], inputs: Inputs, takes: Takes) -> None:
    """Refuse constants that have the name of an input, given by position or by keyword."""
    input_names = {*takes.positional[: len(inputs.args)], *inputs.kwargs}
    twice = next((name for name in constants if name in input_names), None)
    if twice is not None:
        raise ValueError(f"`constants` must not name what `x` gives; got {shown(twice)}.")


def placed_constants(constants: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The constants with all tensors on a device."""
    return _changed((), constants, lambda _, value: value.to(device))
